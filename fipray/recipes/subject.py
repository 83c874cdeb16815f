"""Base network and data of a recipe: what they are, and whether they suit one."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor, nn

from fipray.border import checked
from fipray.errors import DataError, NetworkError
from fipray.geometry import Euclidean, FisherRao, OutputGeometry, class_logits
from fipray.networks import Compute, Network
from fipray.paths import Examples
from fipray.study import Agreement, Data
from fipray.study.tensors import Tensors, accuracy

_logger = logging.getLogger(__name__)
Kind = Literal["auto", "classes", "values"]
NUM_LOOKED_AT = 512  # held-out inputs on which the outputs are looked at
MOST_TESTED = 2000  # about as many test inputs tell whether a classifier is at chance
FEW = 200  # anchors below which a recipe says that they are few


@checked
@dataclass(frozen=True, eq=False)
class Subject:
    """Base network and data of a recipe.

    Args:
        module: base network, in evaluation mode; for data of several inputs it is packed, see `Data.packed`.
        data: anchors, held-out inputs and, where there are labels, test inputs.
        outputs: "classes" for logits, "values" for regression; "auto" takes a single output without test labels for a
            value, and everything else for classes.
        compute: precision and size of all passes through the network.
    """

    module: nn.Module
    data: Data
    outputs: Kind = "auto"
    compute: Compute = field(default_factory=Compute)

    def __post_init__(self) -> None:
        object.__setattr__(self, "module", self.data.packed(self.module))

    def computed(self, compute: Compute) -> Subject:
        """Choose how passes through the network are computed.

        Args:
            compute: precision, memory format and size of the passes.

        Returns:
            The same network and data.
        """
        return replace(self, compute=compute)

    @cached_property
    def network(self) -> Network:
        return Network.of(self.module).computed(self.compute)

    @cached_property
    def base_outputs(self) -> Tensor:
        """Outputs [N, C] of the base network on the first held-out inputs."""
        inputs = Tensors(self.data, "cpu").held_out(())[:NUM_LOOKED_AT]
        self.network.check(inputs)
        with torch.no_grad():
            return self.network.outputs(self.network.weights, inputs)

    @cached_property
    def is_classifier(self) -> bool:
        """Whether the outputs are logits of classes."""
        if self.outputs != "auto":
            return self.outputs == "classes"
        return self.base_outputs[0].numel() > 1 or self.data.test_labels is not None

    @cached_property
    def geometry(self) -> OutputGeometry:
        """Fisher-Rao for classes; for values Euclidean, in units of their standard deviation over held-out inputs."""
        if self.is_classifier:
            return FisherRao(dim=-1) if self.base_outputs.ndim == 3 else FisherRao()
        scale = float(self.base_outputs.double().flatten(1).var(0, unbiased=False).sum().sqrt())
        return Euclidean(float(f"{scale:.4g}"))

    def check(self) -> None:
        """Refuse what no recipe can work with.

        Raises:
            NetworkError: for outputs that are the same whatever the input, and for a classifier at chance.
            DataError: for fewer than two held-out inputs.
        """
        _logger.info("checking the network on held-out inputs")
        outputs = self.base_outputs
        if len(outputs) < 2:
            raise DataError(
                "a recipe judges by held-out inputs, and there is only one: give more, some hundreds or more"
            )
        if bool((outputs == outputs[:1]).all()):
            raise NetworkError(
                f"the network's outputs are the same on all {len(outputs)} held-out inputs that were tried, so there "
                "is no function to keep: train it, or check that it is given inputs as in training"
            )
        if self.is_classifier and outputs.ndim == 2 and self.data.test_labels is not None:
            self._check_chance()

    def _check_chance(self) -> None:
        labels = self.data.test_labels
        assert labels is not None
        tests = Tensors(self.data, "cpu").tests
        assert tests is not None
        every = max(len(tests.inputs) // MOST_TESTED, 1)  # all over the set, which may be sorted by class
        some = Examples(tests.inputs[::every], tests.labels[::every])
        _logger.info(f"accuracy of the base network on {len(some.inputs):,} test inputs")
        found = accuracy(self.network, self.network.weights, some)
        classes = int(class_logits(self.base_outputs).shape[1])
        # Two standard errors above one in C: a network there cannot be told from a guess.
        chance = 1 / classes
        margin = 2 * (chance * (1 - chance) / len(some.inputs)) ** 0.5
        if found <= chance + margin:
            raise NetworkError(
                f"the base network classifies {found:.1%} of {len(some.inputs)} test inputs correctly, where a guess "
                f"among {classes} classes gives {chance:.1%}: train it first, or check labels, preprocessing and "
                "module.eval()"
            )

    @property
    def remarks(self) -> tuple[str, ...]:
        """Sentences on what a user should know of these data."""
        count = len(self.data.anchors)
        if count >= FEW:
            return ()
        return (f"There are only {count} anchors: on other inputs the function may change more than on these.",)

    def agreement(self, num_examples: int) -> Agreement:
        """Measure of agreement with the base network that fits the outputs.

        Args:
            num_examples: number of held-out inputs.

        Returns:
            The measure.
        """
        if not self.is_classifier:
            return Agreement("values", num_examples=num_examples)
        return Agreement(dim=-1 if self.base_outputs.ndim == 3 else 1, num_examples=num_examples)
