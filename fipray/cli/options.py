"""Options of the commands, and commands whose arguments are groups of options."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Annotated, Any, get_type_hints

import typer

# Panels of the help.
_CLUSTER, _WORKERS, _COMPUTE, _TRACKERS = "Ray cluster", "Workers on Ray", "Passes", "Experiment trackers"


def checked_place(text: str | None) -> str | None:
    """Check the name of a directory, before anything else is done.

    Args:
        text: path or address; None if the option is not given.

    Returns:
        The same text.

    Raises:
        UsageError: if it names no directory, such as an empty string.
    """
    # Imported when called, because this module is loaded for `fipray --help` as well.
    from fipray.records.files import check_place

    if text is not None:
        check_place(text)
    return text


Directory = Annotated[
    str, typer.Argument(callback=checked_place, help="Results directory, or an address such as s3://bucket/results.")
]
Into = Annotated[
    str,
    typer.Option(
        callback=checked_place,
        help="Results directory, or an address such as s3://bucket/results. If it already holds results of this "
        "command, the run resumes.",
    ),
]
ChangedOption = Annotated[
    str,
    typer.Option(
        metavar="stop|redo",
        help="What to do if your own code has changed since the directory was made: stop, or redo the jobs that depend "
        "on it.",
    ),
]
Parameters = Annotated[
    list[str] | None,
    typer.Option(
        "-p",
        "--parameter",
        metavar="NAME=VALUE",
        show_default=False,
        help="Argument of the function. Can be given several times.",
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=_CLUSTER,
        help="Address of a Ray cluster: 'auto' for the cluster on this machine, HOST:PORT, ray://HOST:PORT for Ray's "
        "client, or 'local' for a private session.",
        show_default="RAY_ADDRESS, or else local",
    ),
]


RunnerOption = Annotated[
    str | None,
    typer.Option(
        metavar="ray|local",
        help="'ray' for workers on Ray, 'local' for this process, one job after the other.",
        show_default="ray, or local where Ray is not installed",
    ),
]
DeviceOption = Annotated[
    str,
    typer.Option(
        metavar="auto|cuda|mps|cpu",
        help="Device of each worker; 'auto' is a GPU where there is one, and the CPU elsewhere.",
    ),
]


@dataclass(frozen=True)
class ClusterOptions:
    """Options of a Ray cluster and its workers.

    Args:
        address: address of the cluster; None for RAY_ADDRESS, or else a private session.
        workers: number of workers; None for as many as fit.
        gpus_per_worker: GPUs of each worker; None for one if there are any.
        threads_per_worker: CPU cores of each worker; None for one, and for as many as make a recipe fastest.
        stall_seconds: time without progress after which a worker is killed; None for never.
    """

    address: Address = None
    workers: Annotated[
        int | None, typer.Option(rich_help_panel=_WORKERS, help="Number of workers.", show_default="as many as fit")
    ] = None
    gpus_per_worker: Annotated[
        float | None,
        typer.Option(
            rich_help_panel=_WORKERS,
            help="GPUs of each worker: 0, 1, or a fraction of one, which is then its part of the GPU's memory, too.",
            show_default="1 if there are any",
        ),
    ] = None
    threads_per_worker: Annotated[
        int | None,
        typer.Option(
            rich_help_panel=_WORKERS,
            help="CPU cores of each worker.",
            show_default="1; for a recipe on this machine, as many as make it fastest",
        ),
    ] = None
    stall_seconds: Annotated[
        float | None,
        typer.Option(
            rich_help_panel=_WORKERS,
            metavar="SECONDS",
            help="Kill a worker that finishes no step for this long (three times as long for the first step of a job), "
            "and retry its job.",
            show_default="never",
        ),
    ] = None


@dataclass(frozen=True)
class PlacementOptions:
    """Options of the placement of workers on nodes.

    Args:
        memory_per_worker: memory to reserve for each worker, as text such as "4GB".
        resource: amounts of custom resources, as "NAME=AMOUNT"; None for none.
        label: labels of nodes, as "KEY=VALUE" or "KEY=VALUE,VALUE"; None for all nodes.
        placement: "pack" or "spread".
    """

    memory_per_worker: Annotated[
        str,
        typer.Option(
            rich_help_panel=_WORKERS,
            metavar="SIZE",
            help="Memory to reserve for each worker (not enforced), such as 4GB.",
        ),
    ] = "0"
    # None instead of an empty list, which cannot be the default of a dataclass field.
    resource: Annotated[
        list[str] | None,
        typer.Option(
            rich_help_panel=_WORKERS,
            metavar="NAME=AMOUNT",
            help="Custom resource of each worker. Can be given several times.",
            show_default=False,
        ),
    ] = None
    label: Annotated[
        list[str] | None,
        typer.Option(
            rich_help_panel=_WORKERS,
            metavar="KEY=VALUE[,VALUE]",
            help="Place workers only on nodes with this label, such as ray.io/accelerator-type=A100,H100, the "
            "preferred value first. Can be given several times.",
            show_default=False,
        ),
    ] = None
    placement: Annotated[
        str,
        typer.Option(
            rich_help_panel=_WORKERS,
            help="'pack' to fill a node to half before the next one, 'spread' to use many nodes.",
        ),
    ] = "pack"


@dataclass(frozen=True)
class ComputeOptions:
    """Options of the passes through the network, see `fipray.Compute`.

    Args:
        precision: "fp32", "tf32" or "bf16"; None for that of the study, or of the earlier run of a recipe.
        micro_batch: largest number of inputs in one pass; None likewise.
        channels_last: whether images are in the memory format `channels_last`; None likewise.
        deterministic: whether operations must give the same bits each time; None likewise.
    """

    precision: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_COMPUTE,
            metavar="fp32|tf32|bf16",
            help="Precision of layers: 'tf32' for matrix products of an NVIDIA GPU, 'bf16' for autocast to bfloat16. "
            "Weights and outputs stay in float32. A part of the paths' IDs.",
            show_default="as the study says; for a recipe fp32",
        ),
    ] = None
    micro_batch: Annotated[
        int | None,
        typer.Option(
            rich_help_panel=_COMPUTE,
            metavar="INPUTS",
            help="Largest number of inputs in one pass, with the results of the whole batch to rounding.",
            show_default="the whole batch, halved when memory runs out",
        ),
    ] = None
    channels_last: Annotated[
        bool | None,
        typer.Option(
            rich_help_panel=_COMPUTE,
            help="Give images to the network in the memory format channels_last.",
            show_default="no",
        ),
    ] = None
    deterministic: Annotated[
        bool | None,
        typer.Option(
            rich_help_panel=_COMPUTE,
            help="Use only operations that give the same bits each time, so that a GPU resumes paths bit for bit.",
            show_default="no",
        ),
    ] = None


@dataclass(frozen=True)
class TrackerOptions:
    """Options of experiment trackers.

    Args:
        tensorboard: directory for TensorBoard's files; None for none.
        mlflow: MLflow's tracking URI; None for none.
        wandb: name of a project of Weights & Biases; None for none.
    """

    tensorboard: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_TRACKERS,
            callback=checked_place,
            metavar="DIRECTORY",
            help="Write points of paths and robustness of networks as TensorBoard scalars.",
        ),
    ] = None
    mlflow: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_TRACKERS,
            metavar="URI",
            help="Log every path and every network as an MLflow run, such as in sqlite:///mlflow.db",
        ),
    ] = None
    wandb: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_TRACKERS,
            metavar="PROJECT",
            help="Log every path and every network as a run of Weights & Biases. With WANDB_MODE=offline it writes "
            "files alone, in WANDB_DIR.",
        ),
    ] = None


def add_command(app: typer.Typer, function: Callable[..., None], panel: str, example: str) -> None:
    """Add a function as a command.

    An argument annotated with a dataclass becomes one option per field, which typer itself cannot do. The help text is
    the function's docstring up to its section `Args:`.

    Args:
        app: typer's application.
        function: the command; its other arguments are annotated as typer needs them.
        panel: panel of the help to list it in.
        example: a command line.
    """
    groups: dict[str, Any] = {}
    parameters: list[inspect.Parameter] = []
    # Evaluated: `from __future__ import annotations` leaves strings, which are neither dataclasses nor typer's options.
    for parameter in inspect.signature(function, eval_str=True).parameters.values():
        if is_dataclass(parameter.annotation):
            groups[parameter.name] = parameter.annotation
            parameters += _options(parameter.annotation)
        else:
            # Keyword-only, so that required options may follow optional ones in the help.
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))

    def call(**values: Any) -> None:
        for name, group in groups.items():
            # By field name alone, so the options of a command need distinct names across all of its groups.
            values[name] = group(**{field.name: values.pop(field.name) for field in fields(group)})
        function(**values)

    # Typer reads the signature, so no source code has to be generated.
    vars(call)["__signature__"] = inspect.Signature(parameters)
    help_text = (inspect.getdoc(function) or "").partition("\n\nArgs:")[0]
    app.command(function.__name__, help=help_text, epilog=f"Example: {example}", rich_help_panel=panel)(call)


def _options(group: Any) -> list[inspect.Parameter]:
    # Without extras the `Annotated` is dropped, and with it typer's help texts and callbacks.
    hints = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is MISSING else field.default,
            annotation=hints[field.name],
        )
        for field in fields(group)
    ]
