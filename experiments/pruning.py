"""Families of sparse networks, each on one path: LeNet on MNIST or Fashion-MNIST, ResNet-20, or one's own network."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

import fipray as fip
from experiments.subjects import DataName, NetworkName, own, subject

PatternName = Literal["unstructured", "by_layer", "2:4", "channels"]
SaliencyName = Literal["magnitude", "metric", "surgeon"]


@dataclass(frozen=True)
class Settings:
    """How a path to sparse networks is walked: its first radius in units of |w0|, its batch, the steps for each
    sparsity, and the bound (linf) of the attacks that judge what it passes through.

    radius: on the way to 90 % of zeros; to a sparsity s it is `(-log10(1 - s))^1.5` times as long. The fewer weights
    go, the less there is to make up for, and steps that are too long only lead away. Of whole channels s counts twice:
    a weight between two layers stays where the channels at both of its ends do.

    stepper: what holds the function; num_stages, shrink: of `fip.objectives.Sparsify`; focus: of `fip.PathSpec`;
    mirrored: whether images are anchors also as a mirror shows them.
    """

    radius: float
    batch_size: int
    num_steps: int
    epsilon: float
    stepper: fip.steppers.FirstOrder = fip.steppers.FirstOrder()
    num_stages: int = 100
    shrink: float = 0.0
    uncertainty_fraction: float = 0.0
    mirrored: bool = False


SETTINGS: dict[tuple[str, str], Settings] = {
    ("mnist", "lenet_300_100"): Settings(0.04, 128, 1500, 0.1, uncertainty_fraction=0.5),
    ("mnist", "lenet_5"): Settings(0.04, 128, 1500, 0.1, uncertainty_fraction=0.5),
    ("mnist", "mlpnet"): Settings(0.04, 128, 1500, 0.1, uncertainty_fraction=0.5),
    ("fashion", "lenet_300_100"): Settings(0.04, 128, 1500, 0.05, uncertainty_fraction=0.5),
    ("fashion", "lenet_5"): Settings(0.04, 128, 1500, 0.05, uncertainty_fraction=0.5),
    ("cifar10_subset", "resnet_20"): Settings(
        0.03,
        32,
        400,
        2 / 255,
        stepper=fip.steppers.FirstOrder(temperature=math.inf, batch_statistics=True),
        num_stages=25,
        mirrored=True,
    ),
}
_OF_ONE_S_OWN = Settings(0.03, 128, 1000, 8 / 255)
_PATTERNS: dict[str, tuple[Callable[[], fip.paths.Pattern], tuple[float, ...]]] = {
    "unstructured": (fip.sparsity.Unstructured, (0.5, 0.8, 0.9, 0.95, 0.98, 0.99)),
    "by_layer": (lambda: fip.sparsity.Unstructured("layer"), (0.5, 0.8, 0.9, 0.95, 0.98, 0.99)),
    "2:4": (fip.sparsity.SemiStructured, (0.25, 0.5)),
    "channels": (fip.sparsity.Structured, (0.25, 0.5, 0.75)),
}
_SALIENCIES: dict[str, Callable[[], fip.paths.Saliency]] = {
    "magnitude": fip.sparsity.Magnitude,
    "metric": fip.sparsity.MetricDiagonal,
    "surgeon": fip.sparsity.OptimalBrainSurgeon,
}


def study(
    *,
    data: DataName = "mnist",
    data_root: str = "",
    network: NetworkName = "lenet_300_100",
    base: str = "",
    pattern: PatternName = "unstructured",
    sparsities: str = "",
    saliency: SaliencyName = "magnitude",
    radius: float = 0.0,
    num_steps: int = 0,
    epsilon: float = 0.0,
    num_examples: int = 1000,
    baselines: bool = True,
    seed: int = 0,
) -> fip.Study:
    """One path through networks of rising sparsity, each recovered and judged, from unlabelled inputs alone; beside it
    one-shot pruning by magnitude and the scheme of the paper's released code, to the highest sparsity.

    base: `module:function` of one's own: called without arguments, it returns the trained nn.Module and a fipray.Data,
        and `data` and `network` count for nothing.
    data_root: the folder that holds the data set; where empty, MNIST and Fashion-MNIST are downloaded.
    pattern: "unstructured" anywhere, of all "by_layer" alike, "2:4", or whole "channels".
    sparsities: such as "0.5,0.9"; what they are a fraction of, the pattern says. Empty: those that suit the pattern.
    radius, num_steps, epsilon: first radius on the way to 90 % of zeros, in units of |w0|, steps for each sparsity,
        bound (linf) of the attacks; 0 takes what suits data and network.
    """
    module, arrays, base_id = (*own(base), "") if base else subject(data, network, data_root, seed)
    settings = _OF_ONE_S_OWN if base else SETTINGS[data, network]
    make, usual = _PATTERNS[pattern]
    levels = levels_of(sparsities) or usual
    if settings.mirrored:
        arrays = replace(arrays, anchors=mirrored(arrays.anchors))
    sparse = sparse_path(
        levels,
        replace(settings, radius=radius or settings.radius, num_steps=num_steps or settings.num_steps),
        pattern=make(),
        saliency=_SALIENCIES[saliency](),
        seed=seed,
    )
    one_shot = replace(
        sparse,
        name="one-shot",
        objective=fip.objectives.Sparsify(levels[-1], ramp=1, pattern=make()),
        stepper=fip.steppers.OneShot(),
        num_steps=1,
    )
    published = replace(
        sparse,
        name="published",
        objective=fip.objectives.Sparsify(levels[-1], ramp=None, pattern=make()),
        stepper=fip.steppers.Published(),
        radius=fip.radii.Scheduled(initial=1, final=1),
    )
    threat_model = fip.ThreatModel("linf", epsilon or settings.epsilon)
    return fip.Study(
        name=f"pruning-{'own' if base else f'{data}-{network}'.replace('_', '-')}",
        module=module,
        base_id=base_id,
        data=arrays,
        paths=(sparse, one_shot, published) if baselines else (sparse,),
        evaluation=fip.Evaluation(threat_model, num_examples=num_examples, seed=seed),
        parameters={
            "data": data,
            "network": network,
            "base": base,
            "pattern": pattern,
            "sparsities": ",".join(f"{level:g}" for level in levels),
            "saliency": saliency,
            "radius": radius,
            "num_steps": num_steps,
            "epsilon": threat_model.epsilon,
            "seed": seed,
        },
    )


def sparse_path(
    levels: tuple[float, ...],
    settings: Settings,
    *,
    pattern: fip.paths.Pattern = fip.sparsity.Unstructured(),  # noqa: B008
    saliency: fip.paths.Saliency = fip.sparsity.Magnitude(),  # noqa: B008
    seed: int = 0,
) -> fip.PathSpec:
    """A path through networks of these sparsities, increasing, each with its share of the steps."""
    ends = 2 if isinstance(pattern, fip.sparsity.Structured) else 1
    return fip.PathSpec(
        name="sparse",
        objective=fip.objectives.Sparsify(
            levels[-1],
            through=levels[:-1],
            pattern=pattern,
            saliency=saliency,
            num_stages=settings.num_stages,
            shrink=settings.shrink or None,
        ),
        stepper=settings.stepper,
        radius=fip.radii.Scheduled(
            settings.radius, cycles=tuple((ends * math.log10(1 / (1 - level))) ** 1.5 for level in levels)
        ),
        num_steps=settings.num_steps * len(levels),
        batch_size=settings.batch_size,
        uncertainty_fraction=settings.uncertainty_fraction,
        save_at=fip.SaveAt(len(levels)),
        seed=seed,
    )


def mirrored(images: NDArray[np.generic]) -> NDArray[np.generic]:
    """Images [N, C, H, W] and what a mirror shows of them: [2 N, C, H, W]."""
    return np.concatenate([images, images[..., ::-1]])


def levels_of(text: str) -> tuple[float, ...]:
    """Sparsities from a text such as "0.5,0.9"."""
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise fip.errors.UsageError(
            f"sparsities are numbers between commas, such as 0.5,0.9; {text!r} was given"
        ) from error
