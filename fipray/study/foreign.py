"""Domains of Ray Tune and Optuna as domains of a search, recognised by their classes without importing them."""

from __future__ import annotations

from typing import Any

from fipray.errors import UsageError
from fipray.study.space import Choice, Domain, Integers, LogIntegers, LogUniform, Uniform

MOST_STEPS = 1000  # values of a domain with a step, which becomes a choice among all of them
_OURS = (Uniform, LogUniform, Integers, LogIntegers, Choice)


def domain_of(given: Any, name: str) -> Domain:
    """Convert a domain of Ray Tune or Optuna.

    Tune's `uniform`, `loguniform`, `quniform`, `randint`, `lograndint`, `qrandint`, `choice` and `grid_search`, and
    Optuna's `FloatDistribution`, `IntDistribution` and `CategoricalDistribution` are known. A domain with a step
    becomes a choice among its values.

    Args:
        given: the domain; those of `fipray.search` are returned as they are.
        name: name of the searched field, for the message.

    Returns:
        A domain of `fipray.search` with the same values.

    Raises:
        UsageError: for anything else, such as Tune's `randn` or `sample_from`.
    """
    if isinstance(given, _OURS):
        return given
    if isinstance(given, dict) and given.keys() == {"grid_search"}:
        return Choice(tuple(given["grid_search"]))
    package, kind = type(given).__module__.split(".")[0], type(given).__name__
    found = None
    if package == "ray":
        found = _of_tune(given, kind)
    elif package == "optuna":
        found = _of_optuna(given, kind)
    if found is None:
        raise UsageError(
            f"the domain of {name} is {given!r}; expected Uniform, LogUniform, Integers, LogIntegers or Choice of "
            "fipray.search, or a uniform, log-uniform, integer or categorical domain of Ray Tune or Optuna"
        )
    return found


def _of_tune(given: Any, kind: str) -> Domain | None:
    if kind == "Categorical":
        return Choice(tuple(given.categories))
    sampler: Any = getattr(given, "sampler", None)
    step = None
    if sampler is not None and type(sampler).__name__ == "Quantized":
        sampler, step = sampler.sampler, sampler.q
    shape = type(sampler or given.default_sampler_cls()).__name__.strip("_") if kind in ("Float", "Integer") else ""
    is_log = shape == "LogUniform"
    if shape not in ("Uniform", "LogUniform") or (is_log and step):
        return None
    if kind == "Float":
        return _numbers(float(given.lower), float(given.upper), is_log=is_log, step=step)
    # Tune excludes the upper bound of integers, but not of those with a step.
    return _integers(given.lower, given.upper if step else given.upper - 1, is_log=is_log, step=step or 1)


def _of_optuna(given: Any, kind: str) -> Domain | None:
    if kind == "CategoricalDistribution":
        return Choice(tuple(given.choices))
    if kind == "FloatDistribution":
        return _numbers(given.low, given.high, is_log=given.log, step=given.step)
    if kind == "IntDistribution":
        return _integers(given.low, given.high, is_log=given.log, step=given.step)
    return None


def _numbers(low: float, high: float, *, is_log: bool, step: float | None) -> Domain:
    if step:
        # Rounded as decimals, since 3 * 0.1 is no number that anyone would write.
        return _steps([float(f"{low + number * step:.12g}") for number in range(_num_steps(low, high, step))])
    return (LogUniform if is_log else Uniform)(low, high)


def _integers(low: int, high: int, *, is_log: bool, step: int) -> Domain:
    if step != 1:
        return _steps([low + number * step for number in range(_num_steps(low, high, step))])
    return (LogIntegers if is_log else Integers)(low, high)


def _num_steps(low: float, high: float, step: float) -> int:
    return int((high - low) / step + 1e-9) + 1


def _steps(values: list[Any]) -> Choice:
    if len(values) > MOST_STEPS:
        raise UsageError(f"a domain with a step may have {MOST_STEPS} values at most, got {len(values)}: leave it out")
    return Choice(tuple(values))
