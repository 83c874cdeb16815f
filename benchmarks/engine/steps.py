"""Plain training steps and steps of paths, prepared to be timed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from experiments.networks import lenet_300_100, resnet_20
from fipray.networks import Compute
from fipray.paths import Adaptive, Batch, FirstOrder, Natural, Objective, Problem, Scheduled, Settings, Sparsify, walk
from fipray.paths.problem import anchors_and_held_out

PATH_STEPS = 400  # of a whole path
NUM_STEPS = 4  # that are timed together, of which `Sparsify` zeroes weights in one; and batches of the anchors
SPARSITY = 0.5
CPU = torch.device("cpu")
Steps = Callable[[int], object]  # takes a number of steps


@dataclass(frozen=True)
class Subject:
    """A network, and the shape of a batch of its inputs."""

    module: Callable[[], nn.Module]
    batch: tuple[int, ...]

    def of(self, size: int) -> Subject:
        """Return the same network with another size of a batch."""
        return replace(self, batch=(size, *self.batch[1:]))

    def on(self, device: torch.device) -> nn.Module:
        """Make the network in evaluation mode, its random weights on the device itself."""
        with device:
            return self.module().eval()

    def inputs(self, device: torch.device = CPU) -> Tensor:
        """Draw random inputs of several batches."""
        size, *shape = self.batch
        return torch.rand(NUM_STEPS * size, *shape, device=device)


def vision(name: str) -> Callable[[], nn.Module]:
    """Network of torchvision by its name, for ImageNet's 1,000 classes."""

    def made() -> nn.Module:
        import torchvision

        return torchvision.models.get_model(name, weights=None)

    return made


def _resnet18() -> nn.Module:
    import torchvision

    return torchvision.models.resnet18(num_classes=10)


def _deit_tiny() -> nn.Module:
    from torchvision.models import VisionTransformer

    return VisionTransformer(224, 16, 12, 3, 192, 768)


SUBJECTS: Mapping[str, Subject] = {
    "lenet": Subject(lenet_300_100, (128, 1, 28, 28)),
    "resnet20": Subject(resnet_20, (32, 3, 32, 32)),
    "resnet18": Subject(_resnet18, (8, 3, 32, 32)),
    "resnet50": Subject(vision("resnet50"), (8, 3, 224, 224)),
    "deit-tiny": Subject(_deit_tiny, (8, 3, 224, 224)),
    "vit-b-16": Subject(vision("vit_b_16"), (8, 3, 224, 224)),
}


class Downwards:
    """Sum of all weights: an objective that costs as good as nothing."""

    def __init__(self) -> None:
        self._slope = torch.ones(())

    def value(self, problem: Problem, weights: Tensor, batch: Batch) -> Tensor:
        return weights.sum()

    def gradient(self, problem: Problem, weights: Tensor, batch: Batch) -> Tensor:
        if self._slope.shape != weights.shape or self._slope.device != weights.device:
            self._slope = torch.ones_like(weights)
        return self._slope


@dataclass(frozen=True)
class PathKind:
    """What makes an objective, and settings of its path."""

    objective: Callable[[], Objective]
    settings: Mapping[str, Any]


PATHS: Mapping[str, PathKind] = {
    "FirstOrder": PathKind(Downwards, {"stepper": FirstOrder(beta=0.1)}),
    "FirstOrder, Sparsify": PathKind(lambda: Sparsify(SPARSITY, ramp=1.0), {"stepper": FirstOrder()}),
    "FirstOrder, Adaptive": PathKind(Downwards, {"stepper": FirstOrder(beta=0.1), "radius": Adaptive(1e-3)}),
    "Natural, 8 iterations": PathKind(Downwards, {"stepper": Natural(iterations=8)}),
}


@dataclass(frozen=True)
class Training:
    """A module with fused Adam, random batches and the module's own probabilities on them, trained by hand.

    Args:
        module: in evaluation mode, on its device.
        compute: precision and memory format, as those of a path.
        batches: pairs of inputs [N, ...] and targets [N, C].
        optimizer: over all parameters.
    """

    module: nn.Module
    compute: Compute
    batches: Sequence[tuple[Tensor, Tensor]]
    optimizer: torch.optim.Optimizer

    @classmethod
    def of(cls, subject: Subject, device: torch.device = CPU, compute: Compute | None = None) -> Training:
        torch.manual_seed(0)
        compute = compute or Compute()
        module = subject.on(device)
        if compute.channels_last:
            module.to(memory_format=torch.channels_last)
        found = cls(module, compute, (), torch.optim.Adam(module.parameters(), 1e-4, fused=True))
        inputs = [compute.arranged(some) for some in subject.inputs(device).split(subject.batch[0])]
        with torch.no_grad():
            return replace(found, batches=[(some, found.outputs(some).softmax(1)) for some in inputs])

    @property
    def device(self) -> torch.device:
        """Device of module and batches."""
        return self.batches[0][0].device

    def outputs(self, inputs: Tensor) -> Tensor:
        """Compute the module's outputs [N, C] in float32."""
        with self.compute.passing(inputs.device.type):
            found: Tensor = self.module(self.compute.arranged(inputs))
        return found.float()

    def steps(self, loss: Callable[[Tensor, Tensor], Tensor] | None = None) -> Steps:
        """Prepare steps on the batches in turn.

        Args:
            loss: of inputs and targets; cross-entropy by default.

        Returns:
            A function of the number of steps.
        """
        loss = loss or (lambda inputs, targets: nn.functional.cross_entropy(self.outputs(inputs), targets))

        def taken(count: int) -> None:
            for number in range(count):
                value = loss(*self.batches[number % len(self.batches)])
                self.optimizer.zero_grad()
                value.backward()
                self.optimizer.step()

        return taken


def path_steps(subject: Subject, kind: PathKind, device: torch.device = CPU, compute: Compute | None = None) -> Steps:
    """Prepare steps of a path.

    Args:
        subject: network and size of the batches.
        kind: objective and settings.
        device: where it is walked.
        compute: precision and memory format.

    Returns:
        A function of the number of steps, below `PATH_STEPS`.

    Raises:
        MemoryError: by the function, where batches had to be divided because memory ran out.
    """
    torch.manual_seed(0)
    inputs = subject.inputs(device)
    problem = Problem(subject.on(device), inputs, inputs[:2], compute=compute)
    anchors, _ = anchors_and_held_out(problem)
    objective = kind.objective()

    def taken(count: int) -> None:
        settings = Settings(
            num_steps=PATH_STEPS, **{"radius": Scheduled(1e-3), "batch_size": subject.batch[0], **kind.settings}
        )
        for _ in walk(problem, anchors, objective, settings, until=count, overwrites=True):
            pass
        if problem.network.micro_batch is not None:  # a path goes on in parts, which are no fair comparison
            raise MemoryError(f"a batch of {subject.batch[0]} inputs did not fit in memory")

    return taken
