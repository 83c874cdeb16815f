"""`trace` with a progress bar, as `fipray.trace`.

The floors of the mathematics print nothing and know no terminal, so that they can run anywhere. What they offer, a call
after each step and at each saved point, is enough for a bar at the public border.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

from torch import nn

from fipray import paths
from fipray.border import checked
from fipray.networks import Network
from fipray.paths import Objective, Outcome, PathPoint, Problem, Settings, WeightPath
from fipray.printable import printable

if TYPE_CHECKING:
    from rich.console import Console

LINE_SECONDS = 10.0  # between two lines where there is no terminal
_TICK_SECONDS = 1.0


@checked
def trace(
    problem: Problem | Network | nn.Module,
    objective: Objective,
    settings: Settings | None = None,
    *,
    progress: bool = False,
    **given: Any,
) -> WeightPath:
    """Trace one functionally invariant path from `problem.start`.

    All weights may change, or those of some parameters only (`network.only(["head.*"])`).

    Args:
        problem: quantities that must stay, with anchors and held-out inputs. A network or module stands for the problem
            made of it and of the arguments of `Problem` in `given`. Paths from one start should share one problem: it
            holds the outputs of the start on all anchors.
        objective: secondary objective, minimised.
        settings: stepper, radius control, events, numbers of steps and inputs, and so on; None for the defaults.
        progress: True shows a bar on standard error, with steps per second, the time left, what is measured, and the
            functional distance and the objective at the last saved point; in a file or pipe, a line every ten seconds,
            also while no step ends.
        given: arguments of `fipray.paths.trace` (`probes`, `on_point`, `resume`, `until`, `on_step`, `on_stage`);
            arguments of `Problem` and fields of `Settings` by name, in place of either object:
            `trace(module, objective, anchors=x, held_out=y, num_steps=50)`.

    Returns:
        The saved points and the outcome. A path that ends early is no error: `outcome` names the reason. Everything
        measured is finite: a point where something is not ends the path at the point before.

    Raises:
        NetworkError: for a network that the objective does not support.
        UsageError: for a problem without anchors or held-out inputs, for a stepper that ignores the objective, and for
            an objective or a probe that is not finite at the start.
    """
    if not progress:
        return paths.trace(problem, objective, settings, **given)
    num_steps = given.get("num_steps", (settings or Settings()).num_steps)
    stop = num_steps if given.get("until") is None else min(given["until"], num_steps)
    shown = TraceProgress(stop, type(objective).__name__)
    given["on_step"] = _both(shown.step_over, given.get("on_step"))
    given["on_point"] = _both(shown.saved, given.get("on_point"))
    given["on_stage"] = _both(shown.staged, given.get("on_stage"))
    with shown:
        path = paths.trace(problem, objective, settings, **given)
        shown.end(path.outcome)
    return path


def _both(first: Callable[[Any], None], second: Callable[[Any], None] | None) -> Callable[[Any], None]:
    def call(argument: Any) -> None:
        first(argument)
        if second:
            second(argument)

    return call


class TraceProgress:
    """Context manager that shows the progress of one path.

    Args:
        num_steps: step at which the path ends at the latest.
        title: text before the bar.
        console: console to print to; None for standard error.
        clock: monotonic clock, in seconds.
    """

    def __init__(
        self,
        num_steps: int,
        title: str,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        # rich loads when a bar is shown, as in the rest of the library.
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._console = console or Console(stderr=True, highlight=False, soft_wrap=True)
        self._num_steps, self._title, self._clock = num_steps, title, clock
        self._step, self._num_over, self._measures, self._stage = 0, 0, "", ""
        self._has_begun = False  # to walk
        self._first: tuple[int, float] | None = None  # step and time from which the pace is measured
        # Time at which the last step ended, or the first one began; and time since when nothing was said.
        self._began = self._line_began = self._last = self._since = clock()
        # Steps and stages come from the thread that traces, the clock's ticks from another one.
        self._lock, self._is_over = threading.RLock(), threading.Event()
        self._ticker = threading.Thread(target=self._tick, name="progress", daemon=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TextColumn("{task.fields[doing]}"),
            TextColumn("{task.fields[measures]}"),
            console=self._console,
            disable=not self._console.is_terminal and not self._console.is_jupyter,
        )
        self._task = self._bar.add_task(title, total=num_steps, rate="", doing="", measures="")

    def __enter__(self) -> Self:
        self._bar.start()
        self._ticker.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._bar.stop()

    def _tick(self) -> None:
        """Show what is due, also while no step ends."""
        while not self._is_over.wait(_TICK_SECONDS):
            self.show()

    def show(self) -> None:
        """Show how far the path is: on a terminal at once, elsewhere if a line is due."""
        with self._lock:
            now = self._clock()
            rate = ", ".join(part for part in (self._rate(now), self._left(now)) if part)
            self._bar.update(
                self._task, completed=self._step, rate=rate, doing=self._doing(now), measures=self._measures
            )
            if self._bar.disable and now - self._line_began >= LINE_SECONDS:
                self._line_began = now
                self._print(self._line(now))

    def step_over(self, step: int) -> None:
        """Show a finished step.

        Args:
            step: its number.
        """
        with self._lock:
            now = self._clock()
            # A resumed path begins at a later step. The first one counts until the second is over: it may compile the
            # network, but a rate that is too low is better than none where each step takes a minute.
            if self._num_over < 2:
                self._first = (self._step if self._num_over else step - 1, self._last)
            self._num_over += 1
            self._step, self._last, self._since = step, now, now
        self.show()

    def staged(self, stage: str) -> None:
        """Show what happens besides steps.

        Args:
            stage: a few words; empty when steps begin.
        """
        with self._lock:
            self._stage, self._since = stage, self._clock()
            if not stage and not self._has_begun:
                self._last, self._has_begun = self._since, True
        self.show()

    def saved(self, point: PathPoint) -> None:
        """Show the measures of a saved point.

        Args:
            point: the point.
        """
        distance, objective = point.functional_distance_held_out, point.objective_value
        self._measures = f"distance {distance:.3g}, objective {objective:.3g}"
        self.show()

    def end(self, outcome: Outcome) -> None:
        """Show how the path ended.

        Args:
            outcome: its outcome.
        """
        self._stage = ""
        self.show()
        self._print(f"{self._title}: {outcome}; {self._measures} ({self._clock() - self._began:.1f} s)")

    def _print(self, line: str) -> None:
        from rich.text import Text

        self._console.print(Text(printable(line)))

    def _line(self, now: float) -> str:
        step = f"step {self._step} of {self._num_steps}"
        parts = (step, self._rate(now), self._left(now), self._doing(now), self._measures)
        return f"{self._title}: {', '.join(part for part in parts if part)}"

    def _doing(self, now: float) -> str:
        seconds = now - self._since
        if seconds < LINE_SECONDS:
            return self._stage
        return f"{self._stage or 'in the next step'} since {seconds:.0f} s"

    def _rate(self, now: float) -> str:
        pace = self._pace(now)
        return f"{pace:.3g} steps/s" if pace else ""

    def _left(self, now: float) -> str:
        pace = self._pace(now)
        return f"{(self._num_steps - self._step) / pace:.0f} s left" if pace else ""

    def _pace(self, now: float) -> float:
        if self._first is None or now <= self._first[1]:
            return 0.0
        return (self._step - self._first[0]) / (now - self._first[1])
