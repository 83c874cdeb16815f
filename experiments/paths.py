"""Paths that the studies share."""

from __future__ import annotations

import fipray as fip


def diverse(members: int, *, num_steps: int, batch_size: int, seed: int) -> tuple[fip.PathSpec, ...]:
    """Paths that turn their input gradients away from those of the base and of the paths before them."""
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
    """The scheme of the paper's released code, and one-shot magnitude pruning."""
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
