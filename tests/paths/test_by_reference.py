"""Paths on anchors that are read by reference."""

from __future__ import annotations

import hashlib

import pytest
import torch
from torch import Tensor, nn

import fipray as fip
from fipray.errors import DataError, UsageError
from fipray.networks import Deferred
from fipray.paths import augmented
from fipray.paths.start_outputs import KEPT_ANCHORS


class Values:
    """Source of a tensor; `is_fresh` adds noise that depends on index and seed, as random transforms do."""

    def __init__(self, values: Tensor, *, is_fresh: bool = False) -> None:
        self.values, self.shape, self.dtype, self.is_fresh = values, tuple(values.shape), values.dtype, is_fresh
        self.largest = 0

    def read(self, indices: Tensor, seed: int) -> Tensor:
        self.largest = max(self.largest, len(indices))
        if not self.is_fresh:
            return self.values[indices]
        seeds = [int(hashlib.sha256(f"{seed} {index}".encode()).hexdigest()[:8], 16) for index in indices.tolist()]
        noise = [torch.randn(self.shape[1:], generator=torch.Generator().manual_seed(each)) for each in seeds]
        return self.values[indices] + 0.1 * torch.stack(noise)


@pytest.fixture
def module() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).eval()


@pytest.fixture
def values() -> Tensor:
    return torch.randn(3000, 4, generator=torch.Generator().manual_seed(1))


SETTINGS = fip.Settings(num_steps=8, batch_size=32, save_at=fip.SaveAt(4, solver_state=True))


def test_path_by_reference_is_bit_for_bit_the_one_in_memory(module, values):
    paths = [
        fip.trace(fip.Problem(module, made(values[:2000]), made(values[2000:])), fip.objectives.Sparsify(0.5), SETTINGS)
        for made in (lambda some: some, lambda some: Deferred(Values(some)))
    ]
    for one, other in zip(paths[0].points, paths[1].points, strict=True):
        assert torch.equal(one.weights, other.weights)
        assert one.functional_distance == other.functional_distance
        assert one.functional_distance_held_out == other.functional_distance_held_out


def test_path_reads_no_more_than_a_chunk_at_a_time(module, values):
    sources = Values(values[:2000]), Values(values[2000:])
    problem = fip.Problem(module, *map(Deferred, sources))
    fip.trace(problem, fip.objectives.Sparsify(0.5), SETTINGS)
    assert max(source.largest for source in sources) <= 1024


@pytest.mark.parametrize("is_fresh", [False, True], ids=["fixed", "fresh"])
def test_path_by_reference_is_resumed_as_the_uninterrupted_one(module, values, is_fresh):
    def problem() -> fip.Problem:
        return fip.Problem(module, Deferred(Values(values, is_fresh=is_fresh)), values[:100])

    whole = fip.trace(problem(), fip.objectives.Sparsify(0.5), SETTINGS)
    paused = fip.trace(problem(), fip.objectives.Sparsify(0.5), SETTINGS, until=5)
    resumed = fip.trace(problem(), fip.objectives.Sparsify(0.5), SETTINGS, resume=paused.points)
    for one, other in zip(whole.points, resumed.points, strict=True):
        assert torch.equal(one.weights, other.weights)


def test_inputs_that_are_transformed_anew_have_the_outputs_of_the_start_on_what_was_drawn(module, values):
    problem = fip.Problem(module, Deferred(Values(values, is_fresh=True)), values[:100])
    generator = torch.Generator().manual_seed(3)
    first, second = problem.anchors.draw(16, generator), problem.anchors.draw(16, generator)
    assert isinstance(problem.anchors.reference, Deferred)
    for batch in (first, second, problem.anchors.first(16)):
        assert type(batch.inputs) is type(batch.reference) is Tensor
        expected = problem.geometry.embed(problem.network.outputs(problem.start, batch.inputs))
        assert torch.equal(batch.reference, expected)
    again = problem.anchors.draw(16, torch.Generator().manual_seed(3))
    assert torch.equal(first.inputs, again.inputs), "the same draw is transformed alike"
    whole = [problem.anchors.draw(3000, generator).inputs for _ in range(2)]
    assert not torch.equal(*whole), "another draw is transformed anew"


def test_outputs_of_the_start_are_computed_for_each_draw_where_anchors_are_many(module, values):
    many = Deferred(Values(values[:1].expand(KEPT_ANCHORS + 1, 4)))
    problem = fip.Problem(module, many, values[:100])
    assert isinstance(problem.anchors.reference, Deferred)
    assert problem.anchors.reference.shape == (KEPT_ANCHORS + 1, 3)
    few = fip.Problem(module, many[:1000], values[:100])
    assert type(few.anchors.reference) is Tensor
    path = fip.trace(problem, fip.objectives.Sparsify(0.3), SETTINGS)
    assert path.outcome.kind == "completed"
    with pytest.raises(UsageError, match="uncertainty sampling needs the outputs of the start on all anchors"):
        fip.trace(problem, fip.objectives.Sparsify(0.3), SETTINGS, uncertainty_fraction=0.5)


def test_draws_are_right_where_another_size_than_expected_is_asked_for(module, values):
    drawn = []
    for anchors in (values, Deferred(Values(values))):
        generator = torch.Generator().manual_seed(5)
        batch = fip.Problem(module, anchors, values[:100]).anchors
        drawn.append([batch.draw(size, generator) for size in (8, 8, 16, 4000, 8)])
    for one, other in zip(*drawn, strict=True):
        assert torch.equal(one.inputs, other.inputs)
        assert torch.equal(one.reference, other.reference)
        assert one.seed == other.seed


def test_kept_quantities_and_tasks_on_deferred_inputs_are_those_in_memory(module, values):
    found = []
    for made in (lambda some: some, lambda some: Deferred(Values(some))):
        problem = fip.Problem(
            module,
            made(values[:500]),
            made(values[500:600]),
            keeps={"outputs": fip.keeps.Outputs(), "far": fip.keeps.Outputs(fip.Euclidean(1.0), on="far")},
            sets={"far": made(3 * values[600:900])},
            tasks={"signs": fip.Examples(made(values[900:]), (values[900:, 0] > 0).long())},
        )
        path = fip.trace(problem, fip.objectives.LearnTask("signs", batch_size=16), SETTINGS)
        found.append(path.points[-1])
    assert torch.equal(found[0].weights, found[1].weights)
    assert found[0].distances == found[1].distances


def test_augmentations_of_a_path_are_those_in_memory_and_refused_where_they_do_not_fit():
    images = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    shifted = (fip.augmentations.Shifted(2, 1),)
    assert torch.equal(augmented(Deferred(Values(images)), shifted), augmented(images, shifted))
    many = Deferred(Values(images[:1].expand(2**23, 1, 8, 8)))
    assert augmented(many, ()) is many
    with pytest.raises(DataError, match=r"8,388,608 that are read by reference would take 2.1 GB.*augments=True"):
        augmented(many, shifted)
