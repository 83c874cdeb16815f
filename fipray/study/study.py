"""Study: paths from one base network, ensembles of their ends, and how these are evaluated, as data."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from fipray.border import checked
from fipray.errors import DataError, NetworkError, UsageError
from fipray.geometry import FisherRao, Kept, OutputGeometry
from fipray.networks import Compute, Network, copied, form_of, parameter_names
from fipray.paths import check_network, outputs_on_anchors
from fipray.study.arrays import weights_digest
from fipray.study.canonical import digest, to_json
from fipray.study.checks import (
    check_data_of,
    check_events_of,
    check_keeps,
    check_names,
    check_networks_of,
    check_temperatures,
)
from fipray.study.code import Code, architecture_of, code_of, texts_of
from fipray.study.compatibility import (
    check_inputs,
    check_outputs,
    check_perturbed,
    check_state,
    check_threat_models,
    weights_of,
)
from fipray.study.data import Data
from fipray.study.described import ensembles_described, inputs_described
from fipray.study.evaluation import (
    BASE,
    VARIANT,
    AttackSpec,
    Evaluation,
    RobustnessSpec,
    TransferSpec,
    evaluation_jobs,
)
from fipray.study.measures import AnyMeasure, check_measures
from fipray.study.referenced import few
from fipray.study.rehearsal import rehearse_evaluation, rehearse_paths
from fipray.study.rounds import RoundSpec, check, expanded
from fipray.study.specs import EnsembleSpec, PathSpec, check_name, variants_of
from fipray.study.tables import html_table
from fipray.study.tensors import Tensors

Spec = PathSpec | RoundSpec | AttackSpec | RobustnessSpec | TransferSpec
"""Unit of work of a study.

`produces` names the weights or per-example results that it writes, `dependencies` those that it needs.
"""


@checked
@dataclass(frozen=True, eq=False)
class Study:
    """Paths from one base network, ensembles of their ends, and how all of these are evaluated.

    Making one runs every stage once on two inputs (attacks, measures, objectives and steppers of fipray's own), so that
    what cannot work is refused before any worker starts.

    Args:
        name: name of the study: 1 to 64 letters, digits, ".", "_" or "-".
        module: base network. It is copied, and evaluated in its present mode: call `module.eval()` first. For data with
            a layout it is packed, see `Data.packed`.
        data: anchors and held-out inputs, and labelled test inputs for accuracies and attacks.
        paths: specs of the paths, at least one; a path may refer to earlier ones.
        ensembles: specs of the ensembles, whose members are paths or "base".
        evaluation: attacks on the base network, the ends of paths and the ensembles; None for none.
        geometry: output geometry; `Outputs` on the anchors among `keeps` takes its place.
        base_id: identity of the base network in IDs. Empty uses the hash of its weights. Give the hash of a training
            recipe where training again may not reproduce the same bits, so that the study can be resumed; the results
            directory holds the weights.
        parameters: parameters of the function that made the study, recorded in the manifest.
        moving: names of the parameters of the module that the weights contain, or patterns such as "head.*"; empty
            takes all that require gradients. All others are constant.
        keeps: kept quantities by name, with names of `Data.sets` for inputs of their own; empty keeps the outputs.
        measures: measures of each saved point by name: `RobustAccuracy`, or a function as `module:function` that takes
            the module at the point's weights and returns a number.
        networks: other networks of the base network's architecture by name, to which paths refer in
            `PathSpec.networks`: towards which they walk, or from which they differ.
        compute: precision and size of all passes through the network, in steps, attacks and evaluations. Only the
            precision is a part of IDs.

    Raises:
        UsageError: for a name that is used twice or refers to nothing, and for a stage that fails on two inputs.
        DataError: for labels outside the network's classes, and for inputs that the network does not take.
        NetworkError: for a module that is not a function of its weights, and for other networks that differ from the
            base network in more than the weights that move.
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
    measures: Mapping[str, AnyMeasure] = field(default_factory=dict)
    networks: Mapping[str, nn.Module] = field(default_factory=dict)
    compute: Compute = field(default_factory=Compute)
    _identified: dict[str, dict[str, Spec]] = field(default_factory=dict, init=False, repr=False)
    _made_by: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        check_name(self.name, "study")
        object.__setattr__(self, "module", self.data.packed(self.module))
        if not self.paths:
            raise UsageError(f"study {self.name!r} has no paths: give at least one PathSpec")
        check_names(self.paths, self.ensembles)
        for path in self.paths:
            check_data_of(path, self.data)
            check_events_of(path, self.keeps, self.measures)
            check_networks_of(path, self.networks)
        check(self.ensembles, self.paths)
        check_measures(self.measures)
        _, outputs = outputs_on_anchors(self.keeps)
        if outputs is not None:
            # The outputs have one geometry, which IDs, distances and steppers must agree on.
            object.__setattr__(self, "geometry", outputs.geometry)
        check_temperatures(self.ensembles, self.geometry, self.evaluation is not None)
        check_keeps(self.keeps, self.data)
        self._check_network()

    def _check_network(self) -> None:
        network = Network.of(self.module, moving=self.moving or None).computed(self.compute)
        # First the checks whose messages name the cause; the rehearsals at the end would fail on the same mistakes.
        for name, inputs in self.data.inputs.items():
            check_inputs(network, name, few(inputs, 1024), self.geometry)  # bounds the cost
        for path in self.paths:
            try:
                check_network(path.objective, network.only(path.moving) if path.moving else network)
            except NetworkError as error:
                raise NetworkError(f"path {path.name!r}: {error}") from error
        if self.evaluation is not None and self.data.test_inputs is None:
            raise DataError("an evaluation needs test_inputs and test_labels in the data")
        check_state(self.module)
        check_perturbed(self.data, (self.evaluation, *self.paths, *self.measures.values()))
        check_outputs(network, self.data)
        check_threat_models(self.paths, self.evaluation, self.data)
        tensors = Tensors(self.data, "cpu")
        if self.evaluation is not None:
            has_ensembles = any(len(ensemble.members) > 1 for ensemble in self.ensembles)
            rehearse_evaluation(self.evaluation, network, tensors, has_ensembles)
        rehearse_paths(self.paths, network, tensors, self.geometry, self.keeps, self.other_weights)

    def __repr__(self) -> str:
        return f"Study({self._summary})"

    def _repr_html_(self) -> str:
        return html_table(f"Study {self._summary}", self.paths)

    @property
    def _summary(self) -> str:
        if self.evaluation is None:
            judged = "no evaluation"
        else:
            attacks = ", ".join(attack.name for attack in self.evaluation.attacks)
            judged = f"evaluation under {attacks} on {self._num_examples} examples"
        return f"{self.name!r}, {_counted(self.paths, 'path')}, {_counted(self.ensembles, 'ensemble')}, {judged}"

    @cached_property
    def other_weights(self) -> dict[str, Tensor]:
        """Weights [P] of the other networks by name."""
        network = Network.of(self.module, moving=self.moving or None)
        return {name: weights_of(network, name, self.data.packed(one)) for name, one in self.networks.items()}

    @cached_property
    def _layout(self) -> list[tuple[list[str], list[int]]]:
        """Names and shape of each parameter that the weights contain; several names where layers share it."""
        module = copied(self.module, self.module.parameters())
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
        """Digests of the user's own code that affects results, by names such as "mystudy:Shrink.value"."""
        return code_of((*self._shared, self.paths, self.evaluation))

    @property
    def specs(self) -> dict[str, Spec]:
        """All work of the study by ID, dependencies first.

        An ID hashes what determines the result: the spec, its dependencies, the data, the base network, and the user's
        own code as it is now.
        """
        code = digest(*texts_of(self.code))  # may change between two calls, as in a notebook
        if code not in self._identified:
            self._identified[code] = self.identified(code_of)
        return self._identified[code]

    def identified(self, code_of: Callable[[object], Code]) -> dict[str, Spec]:
        """Compute the IDs of all work with given digests of code.

        Args:
            code_of: function from a spec, or from the tuple of module, geometry, kept quantities and measures that all
                specs share, to the digests of its code.

        Returns:
            All work of the study by ID, dependencies first.
        """
        base = digest(*self._material, *texts_of(code_of(self._shared)))
        # IDs of dependencies are hashed too, so that a changed path changes the IDs of all that builds on it.
        ids: dict[str, str] = {}  # by the names that the work produces
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
        if self.evaluation is not None:
            networks = (
                (BASE, BASE, (BASE,)),
                *((path.name, "path", (path.name,)) for path in self.paths),
                *((name, VARIANT, (name,)) for path in self.paths for name in variants_of(path)),
                *((ensemble.name, "ensemble", ensemble.members) for ensemble in self.ensembles),
            )
            # The number that there are: chunks beyond the last test input would be empty, and asking for more examples
            # than there are must not change IDs.
            mixings = {each.name: each.mixing for each in self.ensembles if each.mixing is not None}
            specs += evaluation_jobs(replace(self.evaluation, num_examples=self._num_examples), networks, mixings)
        return specs

    @property
    def _num_examples(self) -> int:
        """Number of examples that are attacked."""
        if self.evaluation is None or self.data.test_inputs is None:
            return 0
        return min(self.evaluation.num_examples, len(self.data.test_inputs))

    @cached_property
    def _material(self) -> tuple[str, ...]:
        """Texts that all IDs of this study hash: base network, its moving parameters, data and geometry."""
        base = self.base_id or weights_digest(self.module)
        # Nothing is added where all parameters move and only outputs are kept: defaults must not change IDs.
        moving = () if self._moves_all else tuple(names[0] for names, _ in self._layout)
        named = [(name, each) for given in (self.keeps, self.measures) for name, each in sorted(given.items())]
        more = [to_json(tuple(named))] if named else []
        more += [f"{name} {weights_digest(self.networks[name])}" for name in sorted(self.networks)]
        # The size of passes and their format in memory change results by rounding alone.
        more += [] if self.compute.precision == "fp32" else [f"precision {self.compute.precision}"]
        return base, architecture_of(self.module), self.data.digest, to_json(self.geometry), *moving, *more

    @property
    def _shared(self) -> tuple[Any, ...]:
        """Objects that affect all work of this study and may be code of the user's own."""
        return self.module, self.geometry, self.keeps, self.measures

    @property
    def path_ids(self) -> dict[str, str]:
        """IDs of the paths by name; for cooperating paths the ID of the last round."""
        return {spec.produces: id for id, spec in self.specs.items() if spec.produces == spec.name}

    @property
    def manifest(self) -> dict[str, Any]:
        """Identity of the study, its parameters and its code, as a results directory records them."""
        # The study's own ID leaves out the user's code: paths of edited code are added to the same directory.
        return {
            "study": self.name,
            "study_id": digest(self.name, digest(*self._material), *self.identified(lambda _: {})),
            "code": self.code,
            "parameters": {
                name: value if isinstance(value, (bool, int, float, str)) else str(value)
                for name, value in self.parameters.items()
            },
            "base_id": self.base_id or weights_digest(self.module),
            "data_id": self.data.digest,
            "parameters_of_module": self._layout,
            "architecture": architecture_of(self.module),
            "form": form_of(self.module),
            "ensembles": ensembles_described(self.ensembles, self.geometry, self.evaluation is not None),
            "inputs": inputs_described(self.data.held_out),
            **({"made_by": self._made_by} if self._made_by else {}),
            "compute": asdict(self.compute),
            "num_jobs": len(self.specs),
        }

    def made_by(self, function: str, parameters: Sequence[str]) -> Study:
        """Name the function that made the study in its manifest, so that its module can be made again.

        Args:
            function: reference as `module:function` or `file.py:function`.
            parameters: its arguments as texts `name=value`.

        Returns:
            Copy of the study with the same IDs.
        """
        named = copy.copy(self)  # not `replace`, which would rehearse the study again
        object.__setattr__(named, "_made_by", {"function": function, "parameters": list(parameters)})
        return named


def _counted(items: tuple[Any, ...], noun: str) -> str:
    return f"{len(items)} {noun}{'' if len(items) == 1 else 's'}"
