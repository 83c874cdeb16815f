"""Settings of a path."""

from __future__ import annotations

from dataclasses import dataclass, fields

from fipray.border import checked
from fipray.border.kinds import Seed
from fipray.errors import UsageError
from fipray.paths.events import Event
from fipray.paths.path import SaveAt
from fipray.paths.radii import Adaptive
from fipray.paths.radius import RadiusControl
from fipray.paths.stepper import Stepper
from fipray.paths.steppers import Natural
from fipray.registry import spec


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

    @property
    def settings(self) -> Settings:
        """Copy with the fields of this class only, without those that a subclass adds."""
        return Settings(**{each.name: getattr(self, each.name) for each in fields(Settings)})
