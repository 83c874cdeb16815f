"""What must stay along a path, and what an objective may look at."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from fipray.border import checked, described
from fipray.errors import NetworkError, UsageError
from fipray.geometry import Euclidean, FisherRao, KroneckerMetric, Metric, OutputGeometry, StreamedMetric
from fipray.geometry.keeps import Kept, Outputs, values_of
from fipray.geometry.metric import Precision
from fipray.geometry.stacked import StackedMetric, products
from fipray.networks import Network
from fipray.networks.arrays import AnyWeights, Inputs
from fipray.paths.batch import OUTPUTS, Batch, Part
from fipray.paths.examples import Examples

PROBLEM_ARGUMENTS = ("anchors", "held_out", "geometry", "keeps", "sets", "others", "tasks", "memory")  # but the network


@checked
@dataclass(frozen=True, init=False, eq=False)
class Problem:
    """What must stay along a path: quantities of a network on given inputs. Batches are drawn from it.

    Args:
        network: the base network, at the weights where paths begin; a module is copied (`Network.of`).
        anchors: inputs [N, ...] from which steps draw batches on which the function must stay. None where no path is
            traced, only objectives evaluated.
        held_out: inputs [M, ...] on which staying is judged; no step sees them.
        geometry: embedding of the outputs that must stay; short for `keeps={"outputs": Outputs(geometry)}`. FisherRao
            by default.
        keeps: kept quantities by name, where they are others than the outputs on the anchors.
        sets: inputs by name, for kept quantities on inputs of their own (`Kept.on`, `Kept.held_out`).
        others: weights [P] of further networks of the same architecture, for objectives that look at them.
        tasks: what further tasks are learned from, by name, for objectives that learn them.
        memory: metrics on inputs that are gone, for objectives that hold them.

    Raises:
        DataError: for inputs that cannot be used, or on which what is kept is not finite.
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
    ) -> None:
        network = network if isinstance(network, Network) else Network.of(network)
        keeps = dict(keeps) if keeps else {OUTPUTS: Outputs(geometry or FisherRao())}
        _, main = outputs_on_anchors(keeps)
        if geometry is not None and main is not None and main.geometry != geometry:
            raise UsageError(
                f"two geometries are given for the same outputs, {geometry!r} and {main.geometry!r}: leave out geometry"
            )
        embedding = main.geometry if main is not None else geometry or Euclidean()
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
            object.__setattr__(self, name, value)
        self._check_weights()
        judged_by = embedding if main is not None or geometry is not None else None
        for name, inputs in (("anchors", anchors), ("held_out", held_out)):
            if inputs is not None:
                network.check(inputs.inputs if isinstance(inputs, Batch) else inputs, judged_by)
            if isinstance(inputs, Tensor):
                inputs = self.batch(inputs, held_out=name == "held_out")
            object.__setattr__(self, name, inputs)
        for name, batch in (("anchors", self.anchors), ("held-out inputs", self.held_out)):
            if batch is not None:
                batch.check(name)

    @property
    def start(self) -> Tensor:
        """The weights [P] where paths begin."""
        return self.network.weights

    @cached_property
    def length(self) -> float:
        """`|w0|`, of the start's weights that may change."""
        mask = self.network.mask
        return float(torch.linalg.vector_norm(self.start if mask is None else self.start * mask))

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all kept quantities, the outputs on the anchors first."""
        first, _ = outputs_on_anchors(self.keeps)
        return tuple(sorted(self.keeps, key=lambda name: name != first))

    @checked
    def batch(self, inputs: Inputs, *, held_out: bool = False) -> Batch:
        """Inputs [N, ...] with the values at which kept quantities must stay on them.

        Args:
            inputs: those on which the outputs must stay, and every quantity that names no set of its own.
            held_out: take the sets of such quantities on which they are judged, not those on which steps keep them.
        """
        reference: Any = self.geometry.embed(self.network.outputs(self.start, inputs))
        if not isinstance(reference, Tensor) or reference.ndim != 2 or len(reference) != len(inputs):
            raise UsageError(
                f"{type(self.geometry).__name__}.embed() returned {described(reference)} for {len(inputs)} outputs; "
                "expected a tensor [N, C'], a row for each"
            )
        own, main = outputs_on_anchors(self.keeps)
        parts = [self._part(name, kept, inputs, held_out) for name, kept in self.keeps.items() if name != own]
        return Batch(inputs, reference, keeps_outputs=main is not None, parts=tuple(parts))

    def metric(
        self, weights: Tensor, batch: Batch, *, chunk: int | None = None, precision: Precision = "full"
    ) -> Metric | StreamedMetric | StackedMetric:
        """The metric of all that is kept, at `weights` [P] on a batch; its rows are those of `batch.target`.

        Args:
            chunk: inputs that are held in memory at once; a larger batch is streamed. For outputs alone.
            precision: of the layers' products, see `Metric`.

        Raises:
            UsageError: where several quantities are kept on more inputs than a chunk.
        """
        if batch.is_plain:
            given = (self.network, weights, batch.inputs, self.geometry)
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
        """`|q_n(w) - t_n|^2` [N] of each kept quantity on a batch, by its name, without a graph."""
        found = {}
        if batch.keeps_outputs:
            with torch.no_grad():
                embedded = self.geometry.embed(self.network.outputs(weights, batch.inputs))
                found[self.names[0]] = (embedded - batch.reference).square().sum(1)
        for part in batch.parts:
            value = values_of(part.kept, self.network, weights, part.inputs)
            found[part.name] = (value - part.target).square().sum(1)
        return found

    def distances(self, weights: Tensor, batch: Batch) -> dict[str, float]:
        """The functional distance `sqrt(mean_n |q_n(w) - t_n|^2)` of each kept quantity on a batch, by its name."""
        return {name: float(squares.mean().sqrt()) for name, squares in self.squares(weights, batch).items()}

    def task(self, name: str) -> Examples:
        """Raises UsageError for a name that no task has."""
        if name not in self.tasks:
            there = ", ".join(map(repr, self.tasks)) or "none"
            raise UsageError(f"there is no task {name!r} to learn; there are: {there}")
        return self.tasks[name]

    def _check_weights(self) -> None:
        for number, weights in enumerate((self.start, *self.others)):
            self.network.named(weights)  # refuses weights of another network
            if broken := int((~torch.isfinite(weights)).sum()):
                said = f"{broken} of {len(weights)} weights are NaN or infinite"
                if number == 0:
                    raise NetworkError(f"{said} in the network: train or load it again")
                raise UsageError(f"{said} in network {number} of the others: leave it out")
        for metric in self.memory:
            if metric.num_weights != self.network.num_weights:
                raise UsageError(
                    f"memory holds a metric of {metric.num_weights} weights, and {self.network.num_weights} move here: "
                    "give what was remembered of this network"
                )

    def _part(self, name: str, kept: Kept, inputs: Tensor, held_out: bool) -> Part:
        wanted = kept.held_out or kept.on if held_out else kept.on
        if wanted and wanted not in self.sets:
            there = ", ".join(map(repr, self.sets)) or "none"
            raise UsageError(f"the kept quantity {name!r} is on the set {wanted!r}; the sets are: {there}")
        own = self.sets[wanted] if wanted else inputs
        self.network.check(own)
        if not products(self.network, self.start, kept, own[:2]).depends:
            raise UsageError(
                f"the kept quantity {name!r} does not depend on the weights: compute it in torch from the network that "
                "it is given, without detach(), no_grad() or numpy"
            )
        return Part(name, kept, own, kept.target(values_of(kept, self.network, self.start, own)))


def anchors_and_held_out(problem: Problem) -> tuple[Batch, Batch]:
    """Both of them. Raises UsageError for a problem that lacks one."""
    if problem.anchors is None or problem.held_out is None:
        lacking = "anchors" if problem.anchors is None else "held_out"
        raise UsageError(f"the problem has no {lacking}: give both, Problem(network, anchors=..., held_out=...)")
    return problem.anchors, problem.held_out


def total(distances: Mapping[str, float]) -> float:
    """The functional distance of several kept quantities: their squares add up."""
    found = list(distances.values())
    return found[0] if len(found) == 1 else math.hypot(*found)


def outputs_on_anchors(keeps: Mapping[str, Kept]) -> tuple[str, Outputs | None]:
    """The first kept outputs that name no set of their own, with their name; ("", None) where there are none."""
    for name, kept in keeps.items():
        if isinstance(kept, Outputs) and not kept.on and not kept.held_out:
            return name, kept
    return "", None
