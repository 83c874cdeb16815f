"""Options of commands that run something, checked and turned into runner, passes and sinks."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import typer
from pydantic import ByteSize, TypeAdapter, ValidationError

import fipray
from fipray.cli.options import ClusterOptions, ComputeOptions, PlacementOptions, TrackerOptions
from fipray.errors import UsageError

if TYPE_CHECKING:
    from fipray.execution.changed import Changed
    from fipray.execution.listeners import Sink

DEVICES = ("auto", "cuda", "mps", "cpu")
PRECISIONS = ("fp32", "tf32", "bf16")


@contextmanager
def chosen_runner(
    name: str | None, device: str, cluster: ClusterOptions, placement: PlacementOptions
) -> Iterator[fipray.RayRunner | fipray.LocalRunner]:
    """Choose the runner of a command.

    Args:
        name: "ray" or "local"; None for Ray where it is installed.
        device: device of each worker.
        cluster: options of the cluster.
        placement: options of the workers' placement.

    Yields:
        The runner, which stays connected to its cluster inside this context.

    Raises:
        UsageError: for an invalid option.
    """
    runner = _runner(name, device, cluster, placement)
    if isinstance(runner, fipray.LocalRunner):
        yield runner
        return
    with runner.connected():
        # The preflight on the cluster comes first: it takes seconds, and what follows loads torch.
        runner.preflight()
        yield runner


def _runner(
    name: str | None, device: str, cluster: ClusterOptions, placement: PlacementOptions
) -> fipray.RayRunner | fipray.LocalRunner:
    if device not in DEVICES:
        raise UsageError(f"unknown device {device!r}; available: {', '.join(DEVICES)}")
    if name is None:
        name = "ray" if importlib.util.find_spec("ray") else "local"
        if name == "local":
            typer.echo("fipray: Ray is not installed (pip install 'fipray[ray]'): running in this process", err=True)
    if name == "local":
        # The number of threads is the one option that both runners take.
        if replace(cluster, threads_per_worker=None) != ClusterOptions() or placement != PlacementOptions():
            raise UsageError(
                "--runner local runs in this process: it takes no --address, --workers, --gpus-per-worker, "
                "--memory-per-worker, --resource, --label, --placement or --stall-seconds"
            )
        return fipray.LocalRunner(threads=_threads(cluster), device=device)
    if name != "ray":
        raise UsageError(f"unknown runner {name!r}; available: ray, local")
    return _ray_runner(device, cluster, placement)


def given_compute(options: ComputeOptions) -> dict[str, Any]:
    """Collect the options of the passes that are given.

    Args:
        options: options of the command.

    Returns:
        Arguments of `fipray.Compute` by name.

    Raises:
        UsageError: for an invalid option.
    """
    if options.precision not in (None, *PRECISIONS):
        raise UsageError(f"--precision must be one of {', '.join(PRECISIONS)}; got {options.precision!r}")
    if options.micro_batch is not None and options.micro_batch < 1:
        raise UsageError(f"--micro-batch is a number of inputs, at least 1; got {options.micro_batch}")
    return {name: value for name, value in asdict(options).items() if value is not None}


def _threads(cluster: ClusterOptions) -> int:
    return 1 if cluster.threads_per_worker is None else cluster.threads_per_worker


def _ray_runner(device: str, cluster: ClusterOptions, placement: PlacementOptions) -> fipray.RayRunner:
    return fipray.RayRunner(
        address=cluster.address,
        num_workers=cluster.workers,
        gpus_per_worker=cluster.gpus_per_worker,
        threads_per_worker=_threads(cluster),
        memory_per_worker=_num_bytes(placement.memory_per_worker),
        resources_per_worker=_amounts(placement.resource or []),
        labels=_labels(placement.label or []),
        placement=placement.placement,
        stall_seconds=cluster.stall_seconds,
        device=device,
    )


def checked_changed(text: str) -> Changed:
    """Check the option `--changed`.

    Args:
        text: its value.

    Returns:
        The same.

    Raises:
        UsageError: for another value than "stop" and "redo".
    """
    if text not in ("stop", "redo"):
        raise UsageError(f"--changed must be 'stop' or 'redo', got {text!r}")
    return "redo" if text == "redo" else "stop"


def _num_bytes(text: str) -> int:
    try:
        return int(TypeAdapter(ByteSize).validate_strings(text))
    except ValidationError as error:
        raise UsageError(f"--memory-per-worker must be a size such as 500MB or 4GB, got {text!r}") from error


def _labels(texts: list[str]) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for text in texts:
        key, equals, values = text.partition("=")
        if not equals or key in found:
            raise UsageError(f"--label must be KEY=VALUE or KEY=VALUE,VALUE, each key once; got {text!r}")
        found[key] = tuple(values.split(","))
    return found


def _amounts(texts: list[str]) -> dict[str, float]:
    amounts: dict[str, float] = {}
    for text in texts:
        name, _, amount = text.partition("=")
        try:
            amounts[name] = float(amount)
        except ValueError as error:
            raise UsageError(f"--resource must be NAME=AMOUNT, got {text!r}") from error
    return amounts


def sinks_of(trackers: TrackerOptions, into: str) -> list[Sink]:
    """Make the sinks of experiment trackers.

    Args:
        trackers: options of the command.
        into: results directory.

    Returns:
        One sink for each tracker that is asked for.
    """
    from fipray.sinks import MLflowSink, TensorBoardSink, WandbSink

    sinks: list[Sink] = []
    if trackers.tensorboard is not None:
        sinks.append(TensorBoardSink(trackers.tensorboard, into))
    if trackers.mlflow is not None:
        sinks.append(MLflowSink(trackers.mlflow, into))
    if trackers.wandb is not None:
        sinks.append(WandbSink(trackers.wandb, into))
    return sinks
