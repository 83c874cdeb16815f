"""Families of sparse networks, each on one path, of LeNet, ResNet-20 or a network of your own."""

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
    """Settings of pruning paths that suit a network and data set.

    Args:
        radius: initial radius towards 90 % sparsity, in units of |w0|. For another sparsity s it is multiplied by
            `(-log10(1 - s))^1.5`: the fewer weights are pruned, the less has to be recovered. For channels s counts
            twice,
            because a weight between two layers remains only if the channels at both ends do.
        num_steps: steps per sparsity.
        batch_size: inputs per step.
        epsilon: bound (linf) of the attacks in the evaluation.
        stepper: stepper that keeps the function.
        num_stages: of `fip.objectives.Sparsify`.
        shrink: of `fip.objectives.Sparsify`.
        uncertainty_fraction: of `fip.PathSpec`.
        mirrored: whether mirrored images are anchors, too.
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
    """One path through increasingly sparse networks, each recovered and evaluated, without labels; and two baselines.

    The baselines are one-shot magnitude pruning and the scheme of the paper's code, to the highest sparsity.

    Args:
        data: data set.
        data_root: folder that holds the data set; if empty, MNIST and Fashion-MNIST are downloaded.
        network: architecture of the base network.
        base: your own network and data as `module:function`; called without arguments, it returns the trained
            nn.Module and a
            fipray.Data. `data` and `network` are then ignored.
        pattern: "unstructured", "by_layer" (the same sparsity in each layer), "2:4" or "channels".
        sparsities: text such as "0.5,0.9", as fractions of what the pattern counts; empty is the pattern's default.
        saliency: criterion of the pruning mask.
        radius: initial radius towards 90 % sparsity, in units of |w0|; 0 is the default for the network.
        num_steps: steps per sparsity; 0 is the default for the network.
        epsilon: bound (linf) of the attacks; 0 is the default for the data.
        num_examples: test examples that are attacked.
        baselines: whether to add the two baselines.
        seed: seed of training and of all paths.

    Returns:
        The study.
    """
    module, arrays, base_id = (*own(base), "") if base else subject(data, network, data_root, seed)
    settings = _OF_ONE_S_OWN if base else SETTINGS[data, network]
    make, usual = _PATTERNS[pattern]
    levels = levels_of(sparsities) or usual
    if settings.mirrored:
        arrays = replace(arrays, anchors=mirrored(np.asarray(arrays.anchors)))
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
    """Spec of one path through networks of several sparsities.

    Args:
        levels: sparsities in increasing order, 0..1.
        settings: defaults for the network and data.
        pattern: pattern of zeros.
        saliency: criterion of the pruning mask.
        seed: seed of the path.

    Returns:
        The spec, whose steps are divided evenly among the sparsities.
    """
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
    """Images and their mirror images.

    Args:
        images: [N, C, H, W].

    Returns:
        Images [2 N, C, H, W].
    """
    return np.concatenate([images, images[..., ::-1]])


def levels_of(text: str) -> tuple[float, ...]:
    """Parse sparsities.

    Args:
        text: such as "0.5,0.9".

    Returns:
        Sparsities in the given order.

    Raises:
        UsageError: If the text holds anything but numbers.
    """
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise fip.errors.UsageError(
            f"sparsities are numbers between commas, such as 0.5,0.9; {text!r} was given"
        ) from error
