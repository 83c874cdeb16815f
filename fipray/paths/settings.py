"""Settings of a path."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from fipray.border import checked
from fipray.border.kinds import Seed
from fipray.errors import UsageError
from fipray.paths.augmentations import Augmentation
from fipray.paths.events import Event
from fipray.paths.path import SaveAt
from fipray.paths.radii import Adaptive
from fipray.paths.radius import RadiusControl
from fipray.paths.stepper import Stepper
from fipray.paths.steppers import Natural
from fipray.registry import ADDED, spec


def check_max_seconds(max_seconds: float | None) -> None:
    """Check a time limit.

    Args:
        max_seconds: wall-clock limit in seconds, or None for none.

    Raises:
        UsageError: where it is not above 0.
    """
    if max_seconds is not None and not max_seconds > 0:
        raise UsageError(f"max_seconds is above 0, or None for no limit; {max_seconds} was given")


@spec("settings")
@checked
@dataclass(frozen=True)
class Settings:
    """Settings of a path: everything that determines it except the problem and the objective.

    Args:
        stepper: proposes each step.
        radius: judges each step, and sets the radius of the next one.
        events: conditions under which the path ends early.
        num_steps: number of steps that are proposed, at least 1.
        batch_size: number of anchors in the batch of a step, at least 1; drawn with replacement, or all of them where
            there are no more.
        uncertainty_fraction: fraction of each batch, 0..1, that is drawn by uncertainty sampling
            (`Batch.uncertainty_sampled`). For classifiers.
        variations: changes that should not change the outputs, each applied to the anchors of every batch anew, at
            random: a network that is to predict on `Shifted(copies=1)` inputs what the start predicts on the original
            ones. Further kept quantities, on inputs of their own, see these unchanged.
        averaging: decay, 0 or more and below 1, of a moving average of the weights, which then are the points of the
            path. Steps go on from the weights themselves; after n steps the decay is at most (1 + n) / (10 + n). The
            average of a noisy path is nearer to its middle than any of its points (Izmailov et al. 2018; for robust
            networks Gowal et al. 2020). A restriction, such as a pruning mask, is applied to the average too. 0 takes
            the weights themselves.
        save_at: choice of the points that are measured and kept.
        max_seconds: wall-clock limit in seconds, above 0; None for no limit. It is checked before every step and counts
            the time up to the point from which a path was resumed. The path then ends at its last accepted point with
            an outcome of kind "out of time"; machines of different speed end at different steps.
        seed: seed of the batches and of all other random numbers of the path.

    Raises:
        UsageError: for a number out of range.
    """

    # Instances as defaults are safe to share, because all of these classes are frozen.
    stepper: Stepper = Natural()
    radius: RadiusControl = Adaptive()
    events: tuple[Event, ...] = ()
    num_steps: int = 100
    batch_size: int = 512
    uncertainty_fraction: float = 0.0
    variations: tuple[Augmentation, ...] = field(default=(), metadata=ADDED)
    averaging: float = field(default=0.0, metadata=ADDED)
    save_at: SaveAt = SaveAt()
    max_seconds: float | None = None
    seed: Seed = 0

    def __post_init__(self) -> None:
        # Not `< 1`: NaN fails every comparison and is refused this way.
        if not (self.num_steps >= 1 and self.batch_size >= 1):
            raise UsageError(
                f"num_steps and batch_size are at least 1; {self.num_steps} and {self.batch_size} were given"
            )
        check_max_seconds(self.max_seconds)
        if not 0 <= self.uncertainty_fraction <= 1:
            raise UsageError(
                f"uncertainty_fraction is a fraction of each batch, 0..1; {self.uncertainty_fraction} was given"
            )
        if not 0 <= self.averaging < 1:
            raise UsageError(f"averaging is a decay of 0 or more and below 1; {self.averaging} was given")

    @property
    def settings(self) -> Settings:
        """Copy with the fields of this class only, without those that a subclass adds."""
        return Settings(**{each.name: getattr(self, each.name) for each in fields(Settings)})
