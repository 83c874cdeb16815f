"""Jobs that evaluate networks: single attacks, robustness, and the transfer matrix."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from fipray.execution import evaluating
from fipray.execution.evaluating import Evaluator
from fipray.execution.jobs import Job, Tables
from fipray.execution.kinds.kind import JobKind, Report
from fipray.execution.per_example import per_example_results
from fipray.execution.resources import Resources
from fipray.execution.stages import staged
from fipray.printable import epsilon_text
from fipray.study.evaluation import AttackSpec, RobustnessSpec, TransferSpec


def _evaluated(resources: Resources, run: Callable[[Evaluator], Tables]) -> Tables:
    """Run an evaluation; when memory runs out, again with smaller passes. Its draws are seeded, hence the same."""
    with _watched(resources) as evaluator:
        return resources.network.fitting(partial(run, evaluator), evaluating.BATCH_SIZE)


@contextmanager
def _watched(resources: Resources) -> Iterator[Evaluator]:
    """Count forward passes as signs of progress while the evaluator is in use."""
    # Evaluations take no steps, so without these beats a long attack would look like a stalled worker.
    assert resources.evaluator is not None, "a study with an evaluation has labelled test inputs"
    heartbeat = resources.heartbeat
    with (
        heartbeat.at_every_pass(resources.network),
        staged("fipray.robustness", heartbeat.enter),
        staged(evaluating.__name__, heartbeat.enter),
    ):
        yield resources.evaluator


def run_attack(job: Job, spec: AttackSpec, resources: Resources, report: Report | None) -> Tables:
    """Run one attack on a chunk of the test inputs.

    Args:
        job: the attempt.
        spec: the attack.
        resources: network, data and results directory.
        report: ignored.

    Returns:
        A row of `per_example`.
    """
    weights_of = partial(resources.weights, job)
    return _evaluated(resources, lambda evaluator: evaluator.attack(job, spec, weights_of))


def run_robustness(job: Job, spec: RobustnessSpec, resources: Resources, report: Report | None) -> Tables:
    """Compute clean accuracy, robust accuracy and measures of a network or ensemble.

    Args:
        job: the attempt.
        spec: the network or ensemble, and its evaluation.
        resources: network, data and results directory.
        report: ignored.

    Returns:
        Rows of `robustness`, `measures` and `per_example`.
    """
    weights_of = partial(resources.weights, job)
    return _evaluated(resources, lambda evaluator: evaluator.robustness(job, spec, weights_of))


def run_transfer(job: Job, spec: TransferSpec, resources: Resources, report: Report | None) -> Tables:
    """Compute the transfer matrix of all networks and ensembles.

    Args:
        job: the attempt.
        spec: the networks, and their evaluation.
        resources: network, data and results directory.
        report: ignored.

    Returns:
        Rows of `transfer`.
    """
    weights_of = partial(resources.weights, job)
    return _evaluated(resources, lambda evaluator: evaluator.transfer(job, spec, weights_of))


def summarize_attack(tables: Tables) -> str:
    """Summary of an attack: accuracy without and under it.

    Args:
        tables: rows of the job.

    Returns:
        One line.
    """
    row = tables["per_example"][0]
    clean, robust = (sum(row[name]) / len(row[name]) for name in ("clean", "robust"))
    return f"clean accuracy {clean:.1%}, robust accuracy {robust:.1%}"


def summarize_robustness(tables: Tables) -> str:
    """Summary of an evaluation: accuracy without an attack and under the worst one, and what is wrong with it.

    Args:
        tables: rows of the job.

    Returns:
        One line.
    """
    first, *_, worst = tables["robustness"]
    clean, robust, epsilon = first["clean_accuracy"], worst["robust_accuracy"], worst["epsilon"]
    sentence = f"clean accuracy {clean:.2%}, robust accuracy {robust:.1%} at epsilon {epsilon_text(epsilon)}"
    masked = "; gradients may be masked" if worst["warnings"] else ""
    unmeasured = "" if tables.get("measures") else "; no measures, because there are outputs with NaN"
    return sentence + masked + unmeasured


def summarize_transfer(tables: Tables) -> str:
    """Summary of a transfer matrix: its number of entries.

    Args:
        tables: rows of the job.

    Returns:
        One line.
    """
    return f"{len(tables['transfer'])} pairs of networks"


ATTACK: JobKind[AttackSpec] = JobKind(AttackSpec, run_attack, summarize_attack, per_example_results, ("per_example",))
ROBUSTNESS: JobKind[RobustnessSpec] = JobKind(RobustnessSpec, run_robustness, summarize_robustness)
TRANSFER: JobKind[TransferSpec] = JobKind(TransferSpec, run_transfer, summarize_transfer)
