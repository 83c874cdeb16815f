"""Quantities that must stay along a path, and the data that objectives use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from fipray.border import checked, described
from fipray.errors import NetworkError, UsageError
from fipray.geometry import Euclidean, FisherRao, KroneckerMetric, Metric, OutputGeometry, StreamedMetric
from fipray.geometry.keeps import Kept, Outputs
from fipray.geometry.keeps.kept import values_of
from fipray.geometry.metric import Precision
from fipray.geometry.stacked import StackedMetric, products
from fipray.networks import Compute, Network
from fipray.networks.arrays import AnyWeights, Inputs
from fipray.paths.batch import OUTPUTS, Batch, Part
from fipray.paths.display import listing, table
from fipray.paths.examples import Examples
from fipray.paths.quantities import outputs_on_anchors
from fipray.paths.start_outputs import kept_outputs


@checked
@dataclass(frozen=True, init=False, eq=False, repr=False)
class Problem:
    """Quantities of a network that must stay along a path, on given inputs, and the data that objectives use.

    Args:
        network: base network, at the weights where paths begin; a module is copied (`Network.of`).
        anchors: inputs [N, ...] from which steps draw the batches on which the function must stay. None where no path
            is traced and only objectives are evaluated.
        held_out: inputs [M, ...] on which the functional distance is reported; no step uses them.
        geometry: embedding of the outputs that must stay; short for `keeps={"outputs": Outputs(geometry)}`. FisherRao
            by default.
        keeps: kept quantities by name; by default the outputs on the anchors.
        sets: inputs by name, for kept quantities on inputs of their own (`Kept.on`, `Kept.held_out`).
        others: weights [P] of further networks of the same architecture, for objectives that compare with them.
        tasks: labelled examples of further tasks by name, for objectives that learn them.
        memory: metrics on inputs that are no longer available, for objectives that penalise displacement under them.
        compute: precision and size of passes through the network; None leaves those of the network.

    Raises:
        DataError: for inputs that cannot be used, or on which a kept quantity is not finite.
        NetworkError: for a module that is no function of its weights, or weights that are not finite.
        UsageError: for a kept quantity that names an unknown set, or does not depend on the weights.
    """

    network: Network
    anchors: Batch | None
    held_out: Batch | None
    geometry: OutputGeometry
    keeps: Mapping[str, Kept]
    sets: Mapping[str, Tensor]
    others: tuple[Tensor, ...]
    tasks: Mapping[str, Examples]
    memory: tuple[KroneckerMetric, ...]

    def __init__(
        self,
        network: Network | nn.Module,
        anchors: Inputs | Batch | None = None,
        held_out: Inputs | Batch | None = None,
        *,
        geometry: OutputGeometry | None = None,
        keeps: Mapping[str, Kept] | None = None,
        sets: Mapping[str, Tensor] | None = None,
        others: Sequence[AnyWeights] = (),
        tasks: Mapping[str, Examples] | None = None,
        memory: Sequence[KroneckerMetric] = (),
        compute: Compute | None = None,
    ) -> None:
        network = network if isinstance(network, Network) else Network.of(network)
        network = network if compute is None else network.computed(compute)
        keeps = dict(keeps) if keeps else {OUTPUTS: Outputs(geometry or FisherRao())}
        _, main = outputs_on_anchors(keeps)
        if geometry is not None and main is not None and main.geometry != geometry:
            raise UsageError(
                f"two geometries are given for the same outputs, {geometry!r} and {main.geometry!r}: leave out geometry"
            )
        embedding = main.geometry if main is not None else geometry or Euclidean()
        # Other networks may come from files in another dtype or on another device.
        alike = tuple(other.detach().to(network.weights) for other in others)
        for name, value in {
            "network": network,
            "geometry": embedding,
            "keeps": keeps,
            "sets": dict(sets or {}),
            "others": alike,
            "tasks": dict(tasks or {}),
            "memory": tuple(memory),
        }.items():
            # The dataclass is frozen. These come before the batches, since `self.batch` below reads them.
            object.__setattr__(self, name, value)
        # Before the inputs: outputs of broken weights would be reported as an error of the data.
        self._check_weights()
        # Without kept outputs nothing is embedded, so outputs need not suit a geometry.
        judged_by = embedding if main is not None or geometry is not None else None
        for name, inputs in (("anchors", anchors), ("held_out", held_out)):
            if inputs is not None:
                network.check(inputs.inputs if isinstance(inputs, Batch) else inputs, judged_by)
            # A batch keeps its reference: a copy with another network still holds the outputs of the first.
            if isinstance(inputs, Tensor):
                inputs = self.batch(inputs, held_out=name == "held_out")
            object.__setattr__(self, name, inputs)
        for name, batch in (("anchors", self.anchors), ("held-out inputs", self.held_out)):
            if batch is not None:
                batch.check(name)

    @property
    def start(self) -> Tensor:
        """Weights [P] at which paths begin."""
        return self.network.weights

    @cached_property
    def length(self) -> float:
        """L2 norm `|w0|` of the start's weights that may change: the unit of radii."""
        mask = self.network.mask
        return float(torch.linalg.vector_norm(self.start if mask is None else self.start * mask))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all kept quantities, the outputs on the anchors first."""
        first, _ = outputs_on_anchors(self.keeps)
        # Sorting is stable, so the others keep the order in which batches hold their parts.
        return tuple(sorted(self.keeps, key=lambda name: name != first))

    @checked
    def batch(self, inputs: Inputs, *, held_out: bool = False) -> Batch:
        """Evaluate the kept quantities at the start, at which they must stay.

        Args:
            inputs: inputs [N, ...] of the outputs, and of every quantity that names no set of its own.
            held_out: take the quantities' own sets of held-out inputs (`Kept.held_out`), not those that steps use.

        Returns:
            The inputs with the values at which the quantities must stay on them.

        Raises:
            DataError: for inputs that the network does not take.
            UsageError: for a kept quantity that names an unknown set, or does not depend on the weights.
        """
        reference: Any = kept_outputs(self.network, self.geometry, inputs, drawn=not held_out)
        if not isinstance(reference, Tensor) or reference.ndim != 2 or len(reference) != len(inputs):
            raise UsageError(
                f"{type(self.geometry).__name__}.embed() returned {described(reference)} for {len(inputs)} outputs; "
                "expected a tensor [N, C'] with one row for each"
            )
        own, main = outputs_on_anchors(self.keeps)
        parts = [self._part(name, kept, inputs, held_out) for name, kept in self.keeps.items() if name != own]
        return Batch(inputs, reference, keeps_outputs=main is not None, parts=tuple(parts))

    def metric(
        self, weights: Tensor, batch: Batch, *, chunk: int | None = None, precision: Precision = "full"
    ) -> Metric | StreamedMetric | StackedMetric:
        """Metric tensor of all kept quantities on a batch, as an operator.

        Args:
            weights: weights [P] at which it is taken.
            batch: inputs; rows of the metric are those of `batch.target`.
            chunk: number of inputs held in memory at once; a larger batch is streamed. None takes the network's
                micro-batch. For batches of outputs only.
            precision: precision of the products in the layers, see `Metric`.

        Returns:
            The metric; nothing is computed before it is applied.

        Raises:
            UsageError: where several quantities are kept on more inputs than a chunk.
        """
        if batch.is_plain:
            given = (self.network, weights, batch.inputs, self.geometry)
            chunk = self.network.micro_batch if chunk is None else chunk
            # A batch that fits is not streamed: a streamed metric repeats the forward pass for every product.
            if chunk is not None and len(batch) > chunk:
                return StreamedMetric(*given, chunk=chunk, precision=precision)
            return Metric(*given, precision=precision)
        if chunk is not None and max(len(batch), *(len(part.inputs) for part in batch.parts)) > chunk:
            raise UsageError(
                f"a batch of several kept quantities is not streamed: take batches of at most chunk={chunk} inputs"
            )
        own: list[tuple[Kept, Tensor]] = [(Outputs(self.geometry), batch.inputs)] if batch.keeps_outputs else []
        parts = [*own, *((part.kept, part.inputs) for part in batch.parts)]
        return StackedMetric(self.network, weights, parts, num_inputs=len(batch), precision=precision)

    def squares(self, weights: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Squared deviations `|q_n(w) - t_n|^2` of each kept quantity, without a graph.

        Args:
            weights: weights [P].
            batch: inputs with the values t at which quantities q must stay.

        Returns:
            A tensor [N] for each quantity, by its name; N is the number of inputs of that quantity.
        """
        found = {}
        if batch.keeps_outputs:
            with torch.no_grad():
                embedded = self.geometry.embed(self.network.outputs(weights, batch.inputs))
                found[self.names[0]] = (embedded - batch.reference).square().sum(1)
        for part in batch.parts:
            given = (part.kept, self.network, weights, part.inputs)
            value = self.network.fitting(partial(values_of, *given), len(part.inputs))
            found[part.name] = (value - part.target).square().sum(1)
        return found

    def distances(self, weights: Tensor, batch: Batch) -> dict[str, float]:
        """Functional distance `sqrt(mean_n |q_n(w) - t_n|^2)` of each kept quantity.

        Args:
            weights: weights [P].
            batch: inputs with the values t at which quantities q must stay.

        Returns:
            Distances by the names of the quantities.
        """
        return {name: float(squares.mean().sqrt()) for name, squares in self.squares(weights, batch).items()}

    def task(self, name: str) -> Examples:
        """Examples of a task.

        Args:
            name: name of the task.

        Returns:
            Its labelled examples.

        Raises:
            UsageError: for an unknown name.
        """
        if name not in self.tasks:
            known = ", ".join(map(repr, self.tasks)) or "none"
            raise UsageError(f"there is no task {name!r} to learn; there are: {known}")
        return self.tasks[name]

    def __repr__(self) -> str:
        return listing("Problem", self._rows())

    def _repr_html_(self) -> str:
        return table("Problem", self._rows())

    def _rows(self) -> dict[str, str]:
        module = next(iter(self.network.parts()))[1]
        moving, weights = self.network.num_moving, self.network.num_weights
        some = "" if moving == weights else f", {moving:,} of which may change"
        rows = {"network": f"{type(module).__name__} with {weights:,} weights{some}"}
        for name in self.names:
            kept = self.keeps[name]
            embedding = f" in {type(kept.geometry).__name__} coordinates" if isinstance(kept, Outputs) else ""
            where = f" on the set {kept.on!r}" if kept.on else ""
            rows[f"keeps {name!r}"] = f"{type(kept).__name__}{embedding}{where}"
        for name, batch in (("anchors", self.anchors), ("held-out inputs", self.held_out)):
            rows[name] = "none" if batch is None else f"{len(batch):,} of shape {list(batch.inputs.shape[1:])}"
        tasks = [f"{name!r} ({len(examples):,} examples)" for name, examples in self.tasks.items()]
        rows["tasks"] = ", ".join(tasks) or "none"
        return rows

    def _check_weights(self) -> None:
        for number, weights in enumerate((self.start, *self.others)):
            self.network.named(weights)  # raises NetworkError for weights of another network
            if broken := int((~torch.isfinite(weights)).sum()):
                said = f"{broken} of {len(weights)} weights are NaN or infinite"
                if number == 0:
                    raise NetworkError(f"{said} in the network: train or load it again")
                raise UsageError(f"{said} in network {number} of the others: leave it out")
        for metric in self.memory:
            if metric.num_weights != self.network.num_weights:
                raise UsageError(
                    f"memory holds a metric of {metric.num_weights} weights, but this network has "
                    f"{self.network.num_weights}: give metrics of this network"
                )

    def _part(self, name: str, kept: Kept, inputs: Tensor, held_out: bool) -> Part:
        wanted = kept.held_out or kept.on if held_out else kept.on
        if wanted and wanted not in self.sets:
            known = ", ".join(map(repr, self.sets)) or "none"
            raise UsageError(f"the kept quantity {name!r} is on the set {wanted!r}; the sets are: {known}")
        own = self.sets[wanted] if wanted else inputs
        self.network.check(own)
        # Two inputs are enough to see whether autograd reaches the weights.
        if not products(self.network, self.start, kept, own[:2]).depends:
            raise UsageError(
                f"the kept quantity {name!r} does not depend on the weights: compute it in torch from the network that "
                "it is given, without detach(), no_grad() or numpy"
            )
        return Part(name, kept, own, kept.target(values_of(kept, self.network, self.start, own)))


def anchors_and_held_out(problem: Problem) -> tuple[Batch, Batch]:
    """Anchors and held-out inputs of a problem.

    Args:
        problem: problem of a path.

    Returns:
        Both batches.

    Raises:
        UsageError: for a problem without one of them.
    """
    if problem.anchors is None or problem.held_out is None:
        missing = "anchors" if problem.anchors is None else "held_out"
        raise UsageError(f"the problem has no {missing}: give both, Problem(network, anchors=..., held_out=...)")
    return problem.anchors, problem.held_out
