"""Specs of paths that several studies use."""

from __future__ import annotations

import fipray as fip


def diverse(members: int, *, num_steps: int, batch_size: int, seed: int) -> tuple[fip.PathSpec, ...]:
    """Paths whose input gradients differ from those of the base network and of the paths before them.

    Args:
        members: number of paths.
        num_steps: steps per path.
        batch_size: inputs per step.
        seed: seed of the first path; the others count up.

    Returns:
        One spec per path.
    """
    names = tuple(f"diverse-{number}" for number in range(members))
    return tuple(
        fip.PathSpec(
            name=name,
            objective=fip.objectives.GradientDiversity(),
            stepper=fip.steppers.Natural(),
            radius=fip.radii.Adaptive(tolerance=0.15),
            num_steps=num_steps,
            batch_size=batch_size,
            others=names[:number],
            seed=seed + number,
        )
        for number, name in enumerate(names)
    )


def pruning_baselines(sparsity: float, *, num_steps: int, seed: int) -> tuple[fip.PathSpec, ...]:
    """Baselines of pruning: the scheme of the paper's code, and one-shot magnitude pruning.

    Args:
        sparsity: fraction of weights that are zero at the end.
        num_steps: steps of the paper's scheme.
        seed: seed of both.

    Returns:
        Two specs.
    """
    published = fip.PathSpec(
        name="published",
        objective=fip.objectives.Sparsify(sparsity=sparsity, ramp=None),
        stepper=fip.steppers.Published(),
        radius=fip.radii.Scheduled(initial=1, final=1),
        num_steps=num_steps,
        batch_size=200,
        seed=seed,
    )
    one_shot = fip.PathSpec(
        name="one-shot",
        objective=fip.objectives.Sparsify(sparsity=sparsity, ramp=1),
        stepper=fip.steppers.OneShot(),
        num_steps=1,
        seed=seed,
    )
    return published, one_shot
