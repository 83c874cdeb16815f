"""Recipe `connect`: a path between two networks along which the function stays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fipray.border import checked
from fipray.border.kinds import Seed
from fipray.errors import NetworkError
from fipray.geometry import functional_distance
from fipray.networks import Network
from fipray.paths import (
    Adaptive,
    Connection,
    Examples,
    LossProfile,
    Problem,
    Settings,
    aligned,
    connect as connected,
    loss_profile,
)
from fipray.paths.problem import anchors_and_held_out
from fipray.recipes.subject import Subject
from fipray.study import Data
from fipray.study.tensors import Tensors, accuracy

NUM_BETWEEN = 9  # places on the straight line at which it is measured
NUM_PLACES = 24  # points of the path that are measured, about as many


@dataclass(frozen=True, repr=False)
class ConnectedNetworks:
    """Path between two networks, beside the straight line.

    Args:
        network: architecture, at the weights of the first network.
        connection: the path.
        line: losses along the straight line between the two networks, aligned where that was possible.
        path: the same losses along the path.
        loss: name of the loss: "error rate", or "functional distance" to the nearer of the two networks.
        alignment: sentence on whether the second network's neurons were permuted.
    """

    network: Network
    connection: Connection
    line: LossProfile
    path: LossProfile
    loss: str
    alignment: str

    def module_at(self, place: float) -> nn.Module:
        """Network on the path.

        Args:
            place: fraction, 0..1, of the points of the path: 0 is the first network and 1 the second.

        Returns:
            A copy of the module with the weights of the nearest point.
        """
        points = self.connection.points
        return self.network.module_at(points[round(min(max(place, 0.0), 1.0) * (len(points) - 1))])

    def describe(self) -> str:
        """Describe the path and its barrier, in plain sentences.

        Returns:
            Text with one sentence a line.
        """
        return "\n".join(
            [
                f"{self.connection.outcome.kind}: {self.connection.outcome.sentence}",
                self.alignment,
                f"The barrier in {self.loss} on held-out inputs is {self.path.barrier:.3g} along the path and "
                f"{self.line.barrier:.3g} on the straight line; the largest values are {self.path.maximum:.3g} and "
                f"{self.line.maximum:.3g}.",
            ]
        )

    def __repr__(self) -> str:
        return self.describe()


@checked
def connect(
    module: nn.Module,
    other: nn.Module,
    data: Data,
    *,
    allowed_distance: float = 0.2,
    num_rounds: int = 12,
    num_steps: int = 25,
    seed: Seed = 0,
) -> ConnectedNetworks:
    """Connect two networks of one architecture by a path along which the function stays, and measure its barrier.

    The hidden neurons of the second network are permuted to fit the first where its architecture allows that (a chain
    of layers). Runs in this process; all points of the path are in memory. Fixed are the batches (at most 1,024
    anchors) and the stepper, that of `fipray.connect`.

    Args:
        module: first network, in evaluation mode.
        other: second network.
        data: anchors, and held-out inputs on which the path is judged; with `held_out_labels` the barrier is one of
            the error rate, without them one of the functional distance to the nearer network.
        allowed_distance: largest functional distance on the last segment, above 0.
        num_rounds: number of rounds of each end, at least 1.
        num_steps: steps of each round, at least 1.
        seed: seed of all batches.

    Returns:
        The path and the losses along it.

    Raises:
        UsageError: for numbers out of range, and for networks of different architectures or equal weights.
    """
    subject = Subject(module, data)
    subject.check()
    tensors = Tensors(data, "cpu")
    problem = Problem(subject.network, tensors.anchors(()), tensors.held_out(()), geometry=subject.geometry)
    far, alignment = _aligned(problem, Network.of(data.packed(other)))
    settings = Settings(
        radius=Adaptive(initial=0.02, tolerance=0.75 * allowed_distance),
        num_steps=num_steps,
        batch_size=min(1024, len(data.anchors)),
        seed=seed,
    )
    connection = connected(problem, far, settings, allowed_distance=allowed_distance, num_rounds=num_rounds)
    loss, name = _loss(subject, problem, far)
    stride = max(1, len(connection.points) // NUM_PLACES)
    points = [*connection.points[:-1:stride], connection.points[-1]]
    line = loss_profile((problem.start, far), loss, num_between=NUM_BETWEEN)
    return ConnectedNetworks(problem.network, connection, line, loss_profile(points, loss), name, alignment)


def _aligned(problem: Problem, other: Network) -> tuple[Tensor, str]:
    """Weights [P] of the other network, permuted where possible, and a sentence."""
    anchors, _ = anchors_and_held_out(problem)
    try:
        found = aligned(problem.network, problem.start, other.weights, anchors.inputs[:512])
    except NetworkError as error:
        return other.weights, f"The second network was not aligned: {error}."
    before, after = (float(torch.linalg.vector_norm(w - problem.start)) for w in (other.weights, found))
    return found, f"The second network was aligned: its distance in weight space fell from {before:.3g} to {after:.3g}."


def _loss(subject: Subject, problem: Problem, far: Tensor) -> tuple[Callable[[Tensor], float], str]:
    _, held_out = anchors_and_held_out(problem)
    labels = Tensors(subject.data, "cpu").held_out_labels
    if labels is not None and subject.is_classifier:
        examples = Examples(held_out.inputs, labels)
        return lambda weights: 1 - accuracy(problem.network, weights, examples), "error rate"
    theirs = problem.geometry.embed(problem.network.outputs(far, held_out.inputs))

    def nearest(weights: Tensor) -> float:
        embedded = problem.geometry.embed(problem.network.outputs(weights, held_out.inputs))
        return min(float(functional_distance(embedded, end)) for end in (held_out.reference, theirs))

    return nearest, "functional distance"
