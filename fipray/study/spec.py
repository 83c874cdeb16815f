"""What to run, as data: one path, one ensemble, and the study that holds them and how they are judged."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from torch import nn

from fipray.border import checked
from fipray.errors import DataError, NetworkError, UsageError
from fipray.geometry import FisherRao, Kept, OutputGeometry
from fipray.networks import Network, copied, parameter_names
from fipray.paths import (
    OUTPUTS,
    Augmentation,
    FunctionalDistanceAbove,
    KroneckerMemory,
    MeasureAbove,
    MeasureBelow,
    Objective,
    Settings,
    check_heeded,
    check_network,
    milestones,
    outputs_on_anchors,
    tasks_of,
)
from fipray.registry import spec
from fipray.study.arrays import state_arrays
from fipray.study.canonical import digest, to_json
from fipray.study.code import Code, architecture_of, code_of, texts_of
from fipray.study.data import Data
from fipray.study.evaluation import (
    BASE,
    VARIANT,
    AttackSpec,
    Evaluation,
    RobustnessSpec,
    TransferSpec,
    evaluation_jobs,
    paths_of,
    variant_of,
)
from fipray.study.measures import ACCURACY, Measure, check_measures
from fipray.study.rehearsal import check_inputs, rehearse
from fipray.study.rounds import RoundSpec, check, expanded

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class _Aim:
    name: str
    objective: Objective


@spec("path")
@checked
@dataclass(frozen=True)
class PathSpec(Settings, _Aim):  # in this order `name` and `objective` come first
    """One path: everything that decides where it goes but the base network and the data, which the study holds.

    Args:
        name: of the path and of the network at its end.
        objective: what improves.
        start: where it begins: "base", the end of a path that stands before this one in the study, by its name, or a
            sparse variant that one passes through, such as "sparse@0.9". What must stay is the function there.
        others: paths that stand before this one in the study; it is traced when they are, and their ends are the other
            networks that its objective looks at.
        anchors: names among the data's `sets`, on which together the function must stay; without any, its `anchors`.
        variations: what more is made of the anchors, such as shifted copies of images; it is not kept, and made again.
        memory: what more it remembers of its start than its start does already of others', for `KroneckerPenalty`.
        held_out: names among the `sets` on which staying is judged; without any, the data's `held_out`.
        moving: names of the parameters whose weights may change on this path, or patterns such as "head.*"; without
            any, all that the study moves.

    Everything else is a setting of the path: see `Settings`. `max_seconds` counts over all attempts, and is
    part of the path's ID, as num_steps is.
    """

    start: str = BASE
    others: tuple[str, ...] = ()
    anchors: tuple[str, ...] = ()
    augmentations: tuple[Augmentation, ...] = ()
    memory: KroneckerMemory | None = None
    held_out: tuple[str, ...] = ()
    moving: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_name(self.name, "path")
        try:
            super().__post_init__()
            check_heeded(self.stepper, self.objective)
        except UsageError as error:
            raise UsageError(f"path {self.name!r}: {error}") from None
        to_json(self)  # refuses what cannot be written down

    @property
    def produces(self) -> str:
        """Name under which other specs depend on the end of this path."""
        return self.name

    @property
    def dependencies(self) -> tuple[str, ...]:
        """Names of the paths that have to be traced before this one."""
        return paths_of((self.start, *self.others))

    @property
    def label(self) -> str:
        """Short description in logs and messages."""
        return f"path {self.name}"

    @property
    def first_step(self) -> int:
        """Step at which the first attempt begins."""
        return 0

    @property
    def last_step(self) -> int:
        """Step at which the path ends unless an event, a limit or an error ends it earlier."""
        return self.num_steps

    @property
    def releases(self) -> tuple[str, ...]:
        """Names of results whose saved solver states are no longer needed once this path is committed."""
        return (self.name,)


@spec("ensemble")
@checked
@dataclass(frozen=True)
class EnsembleSpec:
    """Networks judged together: names of paths, whose ends are the members, or "base".

    rounds: with one or more, the members are paths that are also traced together. In each round every member walks its
        share of its steps, and its objective's others are the other members as the round before left them; in the
        first, where all are at the base, there are none. Members have no `others` of their own, and differ in more than
        their names, such as in their seeds.
    """

    name: str
    members: tuple[str, ...]
    rounds: int = 0

    def __post_init__(self) -> None:
        _check_name(self.name, "ensemble")
        if not self.rounds >= 0:
            raise UsageError(f"ensemble {self.name!r}: rounds are 0 or more; {self.rounds} was given")
        if not self.members:
            raise UsageError(f"ensemble {self.name!r} has no members: name paths of the study, or {BASE!r}")


# Every spec has the properties of `fipray.execution.jobs.JobSpec`.
Spec = PathSpec | RoundSpec | AttackSpec | RobustnessSpec | TransferSpec


@checked
@dataclass(frozen=True, eq=False)
class Study:
    """A set of paths from one base network, what is made of them, and how that is judged.

    module: the base network; it is copied, and evaluated as it is (call `module.eval()` first).
    data: anchors, held-out inputs, and labelled test inputs where accuracies and attacks are wanted.
    base_id: says which base network this is. By default the hash of its weights; give the hash of a training recipe
        where training again may not give the same bits, so that a study can be resumed: the results directory keeps
        the weights.
    parameters: the knobs that made this study, kept in the manifest.
    keeps: kept quantities by name, where others than the outputs must stay; they name sets of the data for inputs of
        their own. Outputs among them take the place of `geometry`.
    measures: what is measured at every kept point, by name: a function as `module:function`, which is called with the
        module at the point's weights and returns a number, or `RobustAccuracy`.
    moving: names of the module's parameters that weights hold, or patterns such as "head.*"; without any, those that
        require gradients. All others stay as they are.

    Raises UsageError for names that are twice there or unknown, DataError for labels outside the network's classes,
    NetworkError for a module that is no function of its weights.
    """

    name: str
    module: nn.Module
    data: Data
    paths: tuple[PathSpec, ...]
    ensembles: tuple[EnsembleSpec, ...] = ()
    evaluation: Evaluation | None = None
    geometry: OutputGeometry = FisherRao()
    base_id: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    moving: tuple[str, ...] = ()
    keeps: Mapping[str, Kept] = field(default_factory=dict)
    measures: Mapping[str, str | Measure] = field(default_factory=dict)
    _identified: dict[str, dict[str, Spec]] = field(
        default_factory=dict, init=False, repr=False
    )  # by the code's digest

    def __post_init__(self) -> None:
        _check_name(self.name, "study")
        if not self.paths:
            raise UsageError(f"study {self.name!r} has no paths: give at least one PathSpec")
        seen, earlier, starts = {BASE}, set[str](), {BASE}
        for path in self.paths:
            _check_new(path.name, seen)
            _check_known(path.name, (path.start,), starts)
            _check_known(path.name, path.others, earlier)
            self._check_data_of(path)
            self._check_events_of(path)
            seen.add(path.name)
            earlier.add(path.name)
            starts |= {path.name, *variants_of(path)}
        members = set(seen)
        for ensemble in self.ensembles:
            _check_new(ensemble.name, seen)
            _check_known(ensemble.name, ensemble.members, members)
            seen.add(ensemble.name)
        check(self.ensembles, self.paths)
        check_measures(self.measures)
        self._take_geometry()
        self._check_network()

    def _take_geometry(self) -> None:
        """Outputs among the kept quantities say how outputs are embedded."""
        _, outputs = outputs_on_anchors(self.keeps)
        if outputs is not None:
            object.__setattr__(self, "geometry", outputs.geometry)
        for name, kept in self.keeps.items():
            if unknown := [each for each in (kept.on, kept.held_out) if each and each not in self.data.sets]:
                there = ", ".join(map(repr, self.data.sets)) or "none"
                raise UsageError(f"the kept quantity {name!r} is on the set {unknown[0]!r}; the data has: {there}")

    def _check_data_of(self, path: PathSpec) -> None:
        for what, named, there in (
            ("anchors", path.anchors, self.data.sets),
            ("held_out", path.held_out, self.data.sets),
            ("memory", path.memory.sets if path.memory else (), self.data.sets),
            ("objective", tasks_of(path.objective), self.data.tasks),
        ):
            if unknown := [name for name in named if name not in there]:
                kind = "task" if what == "objective" else "set"
                raise UsageError(
                    f"path {path.name!r}: {what} names {', '.join(map(repr, unknown))}, and the data has the {kind}s "
                    f"{', '.join(map(repr, there)) or '(none)'}"
                )

    def _check_events_of(self, path: PathSpec) -> None:
        for event in path.events:
            match event:
                case MeasureAbove() | MeasureBelow():
                    what, wanted, there = "measure", event.measure, (ACCURACY, *self.measures)
                case FunctionalDistanceAbove() if event.of:
                    what, wanted, there = "kept quantity", event.of, tuple(self.keeps) or (OUTPUTS,)
                case _:
                    continue
            if wanted not in there:
                raise UsageError(
                    f"path {path.name!r}: an event is about the {what} {wanted!r}; there are: "
                    f"{', '.join(map(repr, there))}"
                )

    def _check_network(self) -> None:
        network = Network.of(self.module, moving=self.moving or None)
        for name, inputs in self.data.inputs.items():
            check_inputs(network, name, inputs[:1024], self.geometry)
        for path in self.paths:
            try:
                check_network(path.objective, network.only(path.moving) if path.moving else network)
            except NetworkError as error:
                raise NetworkError(f"path {path.name!r}: {error}") from error
        if self.evaluation is not None and self.data.test_inputs is None:
            raise DataError("an evaluation needs test_inputs and test_labels in the data")
        rehearse(self, network)

    @cached_property
    def _layout(self) -> list[tuple[list[str], list[int]]]:
        """The names of each parameter that weights hold, more than one where layers share it, and its shape."""
        module = copied(self.module)
        aliases: dict[int, list[str]] = {}
        for name, parameter in module.named_parameters(remove_duplicate=False):
            aliases.setdefault(id(parameter), []).append(name)
        parameters = dict(module.named_parameters())
        moving = [parameters[name] for name in parameter_names(module, self.moving or None)]
        return [(aliases[id(parameter)], list(parameter.shape)) for parameter in moving]

    @property
    def _moves_all(self) -> bool:
        return len(self._layout) == sum(1 for _ in self.module.parameters())

    @property
    def code(self) -> Code:
        """Digests of the user's own code that decides about results, by names such as "mystudy:Shrink.value"."""
        return code_of((*self._decides, self.paths, self.evaluation))

    @property
    def specs(self) -> dict[str, Spec]:
        """All work of the study by id, in an order in which it can be done. An id hashes what decides the result:
        the spec, what it needs, data, base network, and the user's own code as it is now.
        """
        code = digest(*texts_of(self.code))
        if code not in self._identified:
            self._identified[code] = self.identified(code_of)
        return self._identified[code]

    def identified(self, code_of: Callable[[object], Code]) -> dict[str, Spec]:
        """All work by ids in which the code of a spec, or of module and geometry, is what `code_of` says."""
        base = digest(*self._material, *texts_of(code_of(self._decides)))
        ids: dict[str, str] = {}  # by what they make
        result: dict[str, Spec] = {}
        for job in self._work:
            id = digest(base, to_json(job), *texts_of(code_of(job)), *(ids[name] for name in job.dependencies))
            if job.produces:
                ids[job.produces] = id
            result[id] = job
        return result

    @cached_property
    def _work(self) -> list[Spec]:
        specs: list[Spec] = list(expanded(self.paths, self.ensembles))
        if self.evaluation is not None and self.data.test_inputs is not None:
            there = min(self.evaluation.num_examples, len(self.data.test_inputs))
            networks = (
                (BASE, BASE, (BASE,)),
                *((path.name, "path", (path.name,)) for path in self.paths),
                *((name, VARIANT, (name,)) for path in self.paths for name in variants_of(path)),
                *((ensemble.name, "ensemble", ensemble.members) for ensemble in self.ensembles),
            )
            specs += evaluation_jobs(replace(self.evaluation, num_examples=there), networks)
        return specs

    @cached_property
    def _material(self) -> tuple[str, ...]:
        """What all specs of this study share: base network, what moves of it, data and output geometry."""
        base = self.base_id or _weights_digest(self.module)
        held = () if self._moves_all else tuple(names[0] for names, _ in self._layout)
        more = [(name, each) for given in (self.keeps, self.measures) for name, each in sorted(given.items())]
        own = [to_json(tuple(more))] if more else []
        return base, architecture_of(self.module), self.data.digest, to_json(self.geometry), *held, *own

    @property
    def _decides(self) -> tuple[Any, ...]:
        """What decides about all work of this study, and may be code of the user's own."""
        return self.module, self.geometry, self.keeps, self.measures

    @property
    def path_ids(self) -> dict[str, str]:
        """The ids of the paths by their names; of one that is walked in rounds, that of the last."""
        return {spec.produces: id for id, spec in self.specs.items() if spec.produces == spec.name}

    @property
    def manifest(self) -> dict[str, Any]:
        """What says which study a results directory belongs to."""
        return {
            "study": self.name,
            "study_id": digest(self.name, digest(*self._material), *self.identified(lambda _: {})),
            "code": self.code,
            "parameters": {
                name: value if isinstance(value, (bool, int, float, str)) else str(value)
                for name, value in self.parameters.items()
            },
            "base_id": self.base_id or _weights_digest(self.module),
            "data_id": self.data.digest,
            "parameters_of_module": self._layout,
        }


def variants_of(path: PathSpec) -> tuple[str, ...]:
    """The networks that a path passes through at sparsities that it is asked for, by name."""
    return tuple(variant_of(path.name, sparsity) for fraction, sparsity in milestones(path.objective) if fraction < 1)


def _check_name(name: str, what: str) -> None:
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is no name for a {what}: 1 to 64 letters, digits, '.', '_' or '-', the first a letter or a digit"
        )


def _check_new(name: str, seen: set[str]) -> None:
    if name in seen:
        raise UsageError(f"the name {name!r} is there twice; base, paths and ensembles need a name each")


def _check_known(name: str, used: tuple[str, ...], known: set[str]) -> None:
    if unknown := [other for other in used if other not in known]:
        there = ", ".join(sorted(known)) or "nothing yet"
        raise UsageError(f"{name!r} refers to {', '.join(map(repr, unknown))}; it may refer to: {there}")


def _weights_digest(module: nn.Module) -> str:
    hashing = hashlib.sha256()
    for name, array in state_arrays(copied(module).state_dict()).items():
        hashing.update(f"{name} {array.dtype.str} {array.shape}".encode())
        hashing.update(np.ascontiguousarray(array).data)
    return hashing.hexdigest()[:16]
