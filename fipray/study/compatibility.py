"""Checks that base network, data and threat models of a study fit together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fipray.errors import DataError, NetworkError, UsageError
from fipray.geometry import OutputGeometry, num_classes
from fipray.networks import Network, copied
from fipray.networks.parameters import listed
from fipray.robustness import ThreatModel
from fipray.study.data import Data
from fipray.study.evaluation import Evaluation
from fipray.study.specs import PathSpec
from fipray.study.tensors import tensor_of

NUMPY_FLOATS = ("float16", "float32", "float64")
WRITABLE = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)  # and all floats


def check_inputs(network: Network, name: str, inputs: NDArray[np.generic], geometry: OutputGeometry) -> None:
    """Check that the network is a function on inputs of the study.

    Args:
        network: base network.
        name: name of the inputs, for messages.
        inputs: numpy array [N, ...].
        geometry: output geometry, which must accept the outputs.

    Raises:
        DataError: for inputs that the network does not take.
        NetworkError: for a network whose outputs are not a function of its weights and one input each.
    """
    try:
        network.check(tensor_of(inputs), geometry)
    except DataError as error:
        # Floats of another precision are the usual mistake: torch's own message does not say how to convert an array.
        wanted = str(network.weights.dtype).removeprefix("torch.")
        if inputs.dtype.kind != "f" or inputs.dtype.name == wanted or wanted not in NUMPY_FLOATS:
            raise
        raise DataError(
            f"{name} has dtype {inputs.dtype}, but the network's weights have {wanted}: use {name}.astype(np.{wanted}) "
            f"({error})"
        ) from error


def weights_of(network: Network, name: str, module: nn.Module) -> Tensor:
    """Weights of another network of the base network's architecture.

    Args:
        network: base network.
        name: name of the other network, for messages.
        module: the other network.

    Returns:
        Weights [P] on the CPU.

    Raises:
        NetworkError: for another architecture, and for a network that differs in more than the weights that move, such
            as in statistics of BatchNorm.
    """
    own = network.module_at(network.weights, share_frozen=True).state_dict()
    theirs = copied(module, module.parameters()).state_dict()
    shapes = [{key: tuple(value.shape) for key, value in state.items()} for state in (own, theirs)]
    if differing := sorted({key for key, _ in shapes[0].items() ^ shapes[1].items()}):
        raise NetworkError(
            f"network {name!r} is not of the base network's architecture: they differ in {listed(differing)}"
        )
    moving = [slot.name for slot in network.slots]
    aliases = {alias for alias, name in network.aliases() if name in moving}
    fixed = [key for key in own if key not in aliases and not key.endswith("num_batches_tracked")]
    if differing := [key for key in fixed if not torch.equal(own[key], theirs[key].to(own[key]))]:
        raise NetworkError(
            f"network {name!r} differs from the base network in {listed(differing)}, which no path moves: statistics "
            "of BatchNorm are folded into the layers before by torch.nn.utils.fusion.fuse_conv_bn_eval; other "
            "parameters move if they require gradients, or by the study's `moving`"
        )
    return Network.of(module, moving=moving).weights.detach().cpu()


def check_state(module: nn.Module) -> None:
    """Check that the entries of a module's state_dict can be written to files.

    Args:
        module: base network.

    Raises:
        NetworkError: for an entry that is not a dense tensor of real numbers.
    """
    for name, value in module.state_dict().items():
        if not isinstance(value, Tensor):
            raise NetworkError(
                f"{name} in the module's state_dict is a {type(value).__name__}; only tensors can be saved"
            )
        if value.layout != torch.strided or not (value.dtype.is_floating_point or value.dtype in WRITABLE):
            raise NetworkError(
                f"{name} in the module's state_dict is {value.dtype} ({value.layout}), which cannot be saved: "
                "make it a dense tensor of real numbers"
            )


def check_outputs(network: Network, data: Data) -> None:
    """Check that the network is a classifier of the labels, if the data has any.

    Args:
        network: base network.
        data: data of the study.

    Raises:
        DataError: for outputs that are not [N, C], and for labels outside 0..C-1.
    """
    if not data.labels:
        return
    outputs = network.outputs(network.weights, tensor_of(data.anchors[:1]))
    if outputs.ndim != 2:
        raise DataError(
            f"the network's outputs on one input have shape {tuple(outputs.shape)}, but accuracies and attacks need "
            "logits [N, C]: leave out labels and evaluation, or let the network return one row of logits per input"
        )
    classes = num_classes(outputs)
    for name, labels in data.labels.items():
        if (greatest := int(labels.max())) >= classes:
            raise DataError(f"the network has {classes} classes, 0..{classes - 1}, but {name} holds {greatest}")


def check_threat_models(paths: Sequence[PathSpec], evaluation: Evaluation | None, data: Data) -> None:
    """Check that attacks and adversarial objectives perturb inputs within the data's bounds.

    Args:
        paths: specs of the paths.
        evaluation: evaluation of the study; None for none.
        data: data of the study.

    Raises:
        UsageError: for a threat model with other bounds than the data's.
        DataError: for test inputs that are not floats.
    """
    if evaluation is not None:
        if data.test_inputs is not None and data.test_inputs.dtype.kind != "f":
            raise DataError(
                f"test_inputs have dtype {data.test_inputs.dtype}, but attacks need floats: give images, for example, "
                "as .astype(np.float32) with bounds=(0, 255) and a threat model with upper=255, or leave the "
                "evaluation out"
            )
        _check_bounds("the evaluation's threat model", evaluation.threat_model, data)
    for path in paths:
        for threat_model in _threat_models(path.objective):
            _check_bounds(f"path {path.name!r}: the threat model of its objective", threat_model, data)


def check_perturbed(data: Data, specs: Iterable[Any]) -> None:
    """Check that attacks do not perturb several inputs of which some are integers.

    Args:
        data: data of the study.
        specs: evaluation, paths and measures, which may contain threat models.

    Raises:
        DataError: for a threat model where the data's layout has integers.
    """
    integers = () if data.layout is None else data.layout.integers
    if integers and any(True for spec in specs for _ in _threat_models(spec)):
        raise DataError(
            f"{' and '.join(integers)} are integers, such as token IDs and masks, which attacks cannot perturb: leave "
            "out the evaluation and adversarial objectives; accuracy on the test inputs is measured without them"
        )


def _check_bounds(subject: str, threat_model: ThreatModel, data: Data) -> None:
    given = (threat_model.lower, threat_model.upper)
    # Wider bounds would allow inputs that cannot occur; narrower ones would clip the test inputs themselves.
    if given != tuple(map(float, data.bounds)):
        low, high = data.bounds
        raise UsageError(
            f"{subject} allows inputs in {given[0]:g}..{given[1]:g}, but the data's bounds are {low:g}..{high:g}: use "
            f"ThreatModel(..., lower={low:g}, upper={high:g}), or Data(..., bounds={given})"
        )


def _threat_models(value: Any) -> Iterator[ThreatModel]:
    """All threat models in an objective, such as those in the parts of a weighted sum."""
    if isinstance(value, ThreatModel):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from _threat_models(item)
    elif is_dataclass(value):
        for each in fields(value):
            yield from _threat_models(getattr(value, each.name))
