"""AutoAttack (Croce & Hein 2020), run by the library pyautoattack."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fipray.border import checked
from fipray.errors import UsageError
from fipray.registry import spec
from fipray.robustness.attacks.attack import BuiltInAttack
from fipray.robustness.attacks.search import Search
from fipray.robustness.margin import Classifier, check_counts, checked_outputs
from fipray.robustness.threat_models import ThreatModel

STANDARD = ("apgd-ce", "apgd-t", "fab-t", "square")
# DLR divides by a difference to the third largest logit, its targeted version (in apgd-t) to the fourth as well.
_FEWEST_CLASSES = {"apgd-ce": 2, "apgd-dlr": 3, "apgd-t": 4, "fab": 2, "fab-t": 2, "square": 2}
_logger = logging.getLogger(__name__)
_SMALLEST_SIDE = 5  # pixels: smaller images have no tiling in Square's l2 version


@spec("auto_attack")
@checked
@dataclass(frozen=True)
class AutoAttack(BuiltInAttack):
    """The standard AutoAttack, or some of its parts.

    The parts run in the order given, each on the examples that withstood the ones before. Each stops at an example once
    it is fooled, whatever `until_fooled` is, so its inputs transfer poorly to other networks. The targeted parts aim at
    9 classes, or at all wrong ones where there are fewer.

    Needs a threat model with finite bounds. The library works in float32; its results are projected on the threat model
    afterwards, which changes them by rounding errors at most. Inputs that are not images [N, C, H, W] are reshaped:
    [N, H, W] to one channel, others to the image closest to a square that their size allows. Only Square uses the
    positions of pixels.

    Args:
        attacks: parts, one or more of "apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t", "square".
        num_steps: steps of APGD and FAB in each restart, at least 1.
        num_queries: queries of Square in each restart, at least 1.
        num_restarts: restarts of each part, at least 1; the standard has one.

    Raises:
        UsageError: for unknown parts and counts below 1. The attack itself raises it if pyautoattack is not installed,
            for infinite bounds, for too few classes for a part, and for images too small for Square in l2.
    """

    attacks: tuple[str, ...] = STANDARD
    num_steps: int = 100
    num_queries: int = 5000
    num_restarts: int = 1

    def __post_init__(self) -> None:
        unknown = [name for name in self.attacks if name not in _FEWEST_CLASSES]
        if unknown or not self.attacks:
            raise UsageError(
                f"unknown attacks {self.attacks!r}: give a tuple of one or more of {', '.join(_FEWEST_CLASSES)}"
            )
        check_counts(num_steps=self.num_steps, num_queries=self.num_queries, num_restarts=self.num_restarts)

    @property
    def name(self) -> str:
        if self == AutoAttack():
            return "autoattack"
        efforts = (self.num_queries if part == "square" else self.num_steps for part in self.attacks)
        parts = "+".join(f"{part}-{effort}" for part, effort in zip(self.attacks, efforts, strict=True))
        return parts if self.num_restarts == 1 else f"{parts}x{self.num_restarts}"

    @torch.no_grad()
    def _adversarial(self, search: Search) -> Tensor:
        inputs, labels, threat_model = search.inputs, search.labels, search.threat_model
        shape = _image_shape(inputs.shape[1:])
        num_classes = checked_outputs(search.classifier, inputs, labels).shape[1]
        self._check(num_classes, shape, threat_model)
        # Drawn even where nothing is attacked, so that later draws do not depend on epsilon.
        seed = int(torch.randint(2**31, (), generator=search.generator, device=search.generator.device))
        if threat_model.epsilon == 0:
            return search.worst
        lower, width = threat_model.lower, threat_model.upper - threat_model.lower

        def outputs(images: Tensor) -> Tensor:
            return search.classifier(lower + width * images.to(inputs.dtype).view(-1, *inputs.shape[1:]))

        def differentiable(images: Tensor) -> Tensor:
            if torch.is_grad_enabled() and images.requires_grad:
                return _ByInputs.apply(images, outputs)
            return outputs(images).float().clone()

        # The library knows images in [0, 1] alone, so inputs and epsilon are scaled to that.
        # Clamped, as clean inputs may exceed the bounds by rounding errors.
        images = ((inputs - lower) / width).clamp(0, 1).float().reshape(-1, *shape)
        library = self._library(differentiable, images, threat_model, num_classes, seed)
        with _undisturbed(images.device):
            found, _ = library.run_standard_evaluation(images, labels, batch_size=len(images))
        changed = (found != images).flatten(1).any(1)
        made = search.worst
        # Examples that the library left alone keep their exact values: scaling back would round them.
        back = (lower + width * found[changed].to(inputs.dtype)).view(-1, *inputs.shape[1:])
        made[changed] = threat_model.project(back, inputs[changed])
        return made

    def _check(self, num_classes: int, shape: tuple[int, ...], threat_model: ThreatModel) -> None:
        if not (math.isfinite(threat_model.lower) and math.isfinite(threat_model.upper)):
            raise UsageError(
                f"AutoAttack needs finite bounds, and the threat model's are [{threat_model.lower:g}, "
                f"{threat_model.upper:g}]: give finite ones, or attack with PGD and TargetedPGD"
            )
        unfit = [part for part in self.attacks if _FEWEST_CLASSES[part] > num_classes]
        if unfit:
            others = ", ".join(part for part in STANDARD if _FEWEST_CLASSES[part] <= num_classes)
            raise UsageError(
                f"{' and '.join(f'{part} needs {_FEWEST_CLASSES[part]} classes' for part in unfit)}, and the "
                f"classifier has {num_classes}: choose others, such as {others}"
            )
        if "square" in self.attacks and threat_model.norm == "l2" and min(shape[1:]) < _SMALLEST_SIDE:
            raise UsageError(
                f"square in l2 needs images of {_SMALLEST_SIDE} pixels a side or more, and these are "
                f"{shape[1]} x {shape[2]}: leave it out of the attacks"
            )

    def _library(
        self, outputs: Classifier, images: Tensor, threat_model: ThreatModel, num_classes: int, seed: int
    ) -> Any:
        """Set up the library's AutoAttack with these settings, without its output."""
        try:
            import pyautoattack
        except ModuleNotFoundError as error:
            raise UsageError(
                "AutoAttack needs the library pyautoattack, which is not installed: pip install 'fipray[attacks]'"
            ) from error
        library = pyautoattack.AutoAttack(
            outputs,
            attacks=list(self.attacks),
            version="custom",
            eps=threat_model.epsilon / (threat_model.upper - threat_model.lower),
            norm={"linf": "Linf", "l2": "L2"}[threat_model.norm],
            seed=seed,
            device=images.device,
        )
        # It logs to the console, and in libraries only the caller decides what is printed.
        silent = logging.Logger("fipray.silent", logging.CRITICAL + 1)
        library.logger = logging.Logger("fipray.progress", logging.DEBUG)
        library.logger.addHandler(_Stages())
        library.apgd.logger = library.apgd_targeted.logger = silent
        for part in (library.apgd, library.apgd_targeted, library.fab):
            part.n_iter, part.n_restarts = self.num_steps, self.num_restarts
        # The library derives these from its default number of steps when it makes the parts, and not again later.
        for part in (library.apgd, library.apgd_targeted):  # step sizes change at these fractions of the steps
            part.n_iter_2, part.n_iter_min, part.size_decr = (
                max(1, int(fraction * self.num_steps)) for fraction in (0.22, 0.06, 0.03)
            )
        library.square.n_queries, library.square.n_restarts = self.num_queries, self.num_restarts
        # The standard's 9 targets, or all wrong classes where there are fewer.
        library.apgd_targeted.n_target_classes = library.fab.n_target_classes = min(9, num_classes - 1)
        return library


class _Stages(logging.Handler):
    """Passes on which part the library begins and ends, as messages of this module's logger."""

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if message.startswith(("running ", "robust accuracy after ")):
            _logger.info("AutoAttack: %s", message)


class _ByInputs(torch.autograd.Function):
    """Outputs of a classifier in float32, differentiable in the images alone.

    FAB calls backward(), which would otherwise accumulate gradients in the network's weights.
    """

    @staticmethod
    def forward(ctx: Any, images: Tensor, classifier: Classifier) -> Tensor:
        with torch.enable_grad():
            ctx.images = images.detach().requires_grad_()
            # The classifier's graph is private to this function; the caller's begins at the images.
            ctx.outputs = classifier(ctx.images).float()
        return ctx.outputs.detach().clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        # Retained, as FAB takes a gradient for each class from one pass.
        return torch.autograd.grad(ctx.outputs, ctx.images, gradients[0], retain_graph=True)[0], None


@contextmanager
def _undisturbed(device: torch.device) -> Iterator[None]:
    """Restore the global generators and the trace function (of debuggers and coverage), which the library sets."""
    trace = sys.gettrace()
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        sys.settrace(trace)


def _image_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape [C, H, W] of the image as which an input of this shape is given to the library."""
    if len(shape) == 3:
        return shape
    if len(shape) == 2:
        return 1, *shape
    size = math.prod(shape)
    # Square changes square windows, which a long and narrow image would keep small.
    height = next(side for side in range(math.isqrt(size), 0, -1) if size % side == 0)
    return 1, height, size // height
