"""Patterns, saliencies and families of sparse networks against their definitions."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fipray.errors import NetworkError, UsageError
from fipray.geometry import FisherRao, Metric
from fipray.networks import Network, slimmed
from fipray.paths import (
    Adaptive,
    Batch,
    FirstOrder,
    Magnitude,
    MetricDiagonal,
    Natural,
    OptimalBrainSurgeon,
    Problem,
    SaveAt,
    Scheduled,
    SemiStructured,
    Sparsify,
    Structured,
    Unstructured,
    trace,
)
from fipray.paths.sparsity.patterns import _least
from fipray.testing import RestrictedObjectiveContract
from tests.problems import batch, linear, mlp, normal, problem


class TestTheLeastOfManyValues:
    """Above some size, a bound from a sample leaves few values to sort: the choice is that of a full sort."""

    def values(self, count: int = 600_000) -> torch.Tensor:
        return normal(count, 1, seed=3)[:, 0].abs()

    @pytest.mark.parametrize("count", [1, 1000, 200_000, 599_990, 600_000, 700_000])
    def test_they_are_the_first_of_a_full_sort(self, count):
        values = self.values()
        assert torch.equal(_least(values, count).sort()[0], values.argsort()[:count].sort()[0])

    @pytest.mark.parametrize("count", [1, 1000, 50_000, 90_000])
    def test_only_what_is_available_is_chosen(self, count):
        values = self.values()
        available = torch.zeros(len(values), dtype=torch.bool)
        available[::6] = True
        expected = 6 * values[::6].argsort()[:count]
        assert torch.equal(_least(values, count, available).sort()[0], expected.sort()[0])

    def test_equal_values_and_nan_do_not_change_how_many_are_chosen(self):
        values = torch.full((400_000,), 0.5)
        values[:50_000], values[-50_000:] = torch.nan, 0.25
        chosen = _least(values, 70_000)
        assert len(chosen.unique()) == 70_000
        assert int((values[chosen] == 0.25).sum()) == 50_000
        assert not values[chosen].isnan().any()
        assert int(values[_least(values, 380_000)].isnan().sum()) == 30_000

    def test_sorted_and_periodic_values_are_no_exception(self):
        rising = torch.arange(500_000.0)
        for values in (rising, rising.flip(0), rising % 9 + rising / 1e7):
            assert torch.equal(_least(values, 4321).sort()[0], values.argsort()[:4321].sort()[0])


class TestUnstructuredByLayer(RestrictedObjectiveContract):
    objective = Sparsify(0.4, pattern=Unstructured("layer"))


class TestMetricDiagonal(RestrictedObjectiveContract):
    objective = Sparsify(0.4, saliency=MetricDiagonal())


class TestStructured(RestrictedObjectiveContract):
    objective = Sparsify(0.5, pattern=Structured())


class TestSparsifyThroughLevels(RestrictedObjectiveContract):
    objective = Sparsify(0.6, through=(0.2, 0.4))


def convolutional() -> Problem:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 4, 2, stride=2), nn.Flatten(), nn.Linear(16, 3)
        )
    network = Network.of(module.double())
    return Problem(network)


def at_end(objective: Sparsify, where: Problem, inputs: int = 6) -> torch.Tensor:
    return objective.restrict(where, where.start, 1.0, batch(where, 8, inputs))


class TestPatterns:
    @pytest.mark.parametrize("sparsity", [0.13, 0.5, 0.77])
    def test_by_layer_every_layer_has_the_same_sparsity_and_the_network_exactly_the_given_one(self, sparsity):
        where = problem(mlp(6, 9, 7, 4))
        ended = at_end(Sparsify(sparsity, pattern=Unstructured("layer")), where)
        assert int((ended == 0).sum()) == round(sparsity * where.network.num_weights)
        layers = [part for part in where.network.named(ended).values() if part.ndim == 2]
        fraction = round(sparsity * where.network.num_weights) / sum(part.numel() for part in layers)
        for part in layers:
            assert abs(int((part == 0).sum()) - fraction * part.numel()) <= 1

    def test_of_every_group_of_four_the_two_smallest_are_zero(self):
        where = problem(mlp(8, 12, 3))
        named, start = (
            where.network.named(w) for w in (at_end(Sparsify(0.5, pattern=SemiStructured()), where, 8), where.start)
        )
        for name in ("0.weight", "2.weight"):
            groups, before = named[name].view(-1, 4), start[name].view(-1, 4)
            smallest = before.abs().argsort(1)[:, :2]
            assert torch.equal((groups == 0).nonzero()[:, 1].view(-1, 2), smallest.sort(1).values)
            assert torch.equal(groups[groups != 0], before[groups != 0])
        assert torch.equal(named["0.bias"], start["0.bias"])

    def test_groups_lie_along_the_input_channels_of_a_convolution_and_layers_without_groups_stay(self):
        where = convolutional()
        ended = Sparsify(0.5, pattern=SemiStructured()).restrict(where, where.start, 1.0, batch_of_images(where))
        named, start = where.network.named(ended), where.network.named(where.start)
        assert torch.equal(named["0.weight"], start["0.weight"]), "it has two input channels"
        assert bool(((named["2.weight"] == 0).sum(1) == 2).all())

    def test_below_its_own_sparsity_the_groups_of_lowest_saliency_have_their_zeros(self):
        where = problem(linear(8, 6))
        ended = at_end(Sparsify(0.25, pattern=SemiStructured()), where, 8)
        groups = where.network.named(ended)["weight"].view(-1, 4)
        before = where.network.named(where.start)["weight"].view(-1, 4)
        sums = before.abs().sort(1).values[:, :2].sum(1)
        done = (groups == 0).sum(1) == 2
        assert int(done.sum()) == len(groups) // 2
        assert float(sums[done].max()) <= float(sums[~done].min())

    def test_more_zeros_than_the_pattern_has_and_layers_without_groups_are_refused(self):
        with pytest.raises(UsageError, match=r"2 zeros in 4 give a sparsity of at most 0\.5; 0\.6 was asked for"):
            at_end(Sparsify(0.6, pattern=SemiStructured()), problem(mlp(8, 4)), 8)
        with pytest.raises(UsageError, match="4 divides"):
            at_end(Sparsify(0.5, pattern=SemiStructured()), problem(mlp(6, 9)))
        with pytest.raises(UsageError, match="at least 1 and below size; 4 of 4"):
            SemiStructured(4, 4)
        with pytest.raises(UsageError, match="'network' or 'layer'"):
            Unstructured("channel")  # type: ignore[arg-type]

    def test_a_bias_that_is_zero_moves_and_a_weight_that_is_zero_does_not(self):
        where = problem(mlp(6, 9, 4))
        for pattern in (Unstructured(), SemiStructured(1, 3)):
            weights = at_end(Sparsify(0.3, pattern=pattern), where)
            weights[54] = 0  # the first bias
            step = Sparsify(0.3, pattern=pattern).tangent(where, weights)(torch.ones_like(weights))
            layers = torch.cat([torch.full((54,), True), torch.full((9,), False), torch.full((36,), True)])
            assert bool((step[54:63] == 1).all())
            assert torch.equal(step[:99] == 0, (weights[:99] == 0) & layers)


def batch_of_images(where: Problem, size: int = 5) -> Batch:
    return where.batch(normal(size, 2, 4, 4, seed=3))


class TestStructuredByHand:
    @pytest.mark.parametrize("across", ["layer", "network"])
    def test_channels_of_lowest_saliency_are_zeroed_with_the_weights_that_compute_and_read_them(self, across):
        where = problem(mlp(6, 9, 8, 4))
        inputs = batch(where, 8, 6)
        start = where.network.named(where.start)
        sums = [torch.cat([start[f"{i}.weight"], start[f"{i}.bias"][:, None]], 1).abs().sum(1) for i in (0, 2)]
        ended = Sparsify(0.4, pattern=Structured(across)).restrict(where, where.start, 1.0, inputs)
        named = where.network.named(ended)
        present = [named["0.bias"] != 0, named["2.bias"] != 0]
        if across == "layer":
            for here, each, count in zip(present, sums, (4, 3), strict=True):
                assert torch.equal(here, each > each.sort().values[count - 1])
        else:
            together = torch.cat(sums)
            assert torch.equal(torch.cat(present), together > together.sort().values[7 - 1])
        for i, here in enumerate(present):
            own = torch.cat([named[f"{2 * i}.weight"], named[f"{2 * i}.bias"][:, None]], 1)
            assert bool((own[~here] == 0).all())
            assert bool((named[f"{2 * i + 2}.weight"][:, ~here] == 0).all())
        small = slimmed(where.network, ended)
        torch.testing.assert_close(small(inputs.inputs), where.network(ended, inputs.inputs), rtol=1e-12, atol=1e-12)
        assert [small[0].out_features, small[2].out_features] == [int(here.sum()) for here in present]

    def test_a_layer_keeps_a_channel_and_a_network_without_any_to_remove_is_refused(self):
        where = problem(mlp(6, 3, 4))
        ended = at_end(Sparsify(0.99, pattern=Structured()), where)
        assert int((where.network.named(ended)["0.bias"] != 0).sum()) == 1
        with pytest.raises(NetworkError, match="Prune weights instead"):
            at_end(Sparsify(0.5, pattern=Structured()), problem(linear(6, 4)))

    def test_removed_channels_stay_zero_along_a_path(self):
        path = walked(Sparsify(0.5, pattern=Structured()), 30)
        named = problem(mlp(6, 12, 4)).network.named(path.end.weights)
        gone = named["0.bias"] == 0
        assert int(gone.sum()) == 6
        assert bool((named["0.weight"][gone] == 0).all())
        assert bool((named["2.weight"][:, gone] == 0).all())


class TestSaliencies:
    @pytest.mark.parametrize("images", [False, True])
    def test_the_metrics_diagonal_is_that_of_the_dense_metric(self, images):
        where = convolutional() if images else problem(mlp(6, 9, 4))
        inputs = batch_of_images(where) if images else batch(where, 8, 6)
        metric = Metric(where.network, where.start + 0.1, inputs.inputs, where.geometry)
        jacobian = torch.stack(
            [metric.jt(row.view_as(metric.embedded)) for row in torch.eye(metric.embedded.numel()).double()]
        )
        dense = jacobian.T @ jacobian / len(inputs)
        torch.testing.assert_close(metric.diagonal(), dense.diagonal(), rtol=1e-9, atol=1e-13)
        losses = MetricDiagonal().losses(where, where.start, inputs)
        there = Metric(where.network, where.start, inputs.inputs, where.geometry)
        torch.testing.assert_close(losses, where.start.square() * there.diagonal() / 2)

    def test_the_metrics_diagonal_is_the_same_without_layer_products(self):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            module = nn.Sequential(nn.Linear(5, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 3)).double()
        network = Network.of(module)
        metric = Metric(network, network.weights, normal(7, 5, seed=1), FisherRao())
        torch.testing.assert_close(metric.diagonal(), metric.jacobian().square().sum(0) / 7)

    def test_optimal_brain_surgeon_is_the_loss_when_all_other_weights_compensate(self):
        where = problem(mlp(5, 4, 3))
        inputs = batch(where, 8, 5)
        losses = OptimalBrainSurgeon(damping=0.1).losses(where, where.start, inputs)
        metric = Metric(where.network, where.start, inputs.inputs, where.geometry)
        jacobian = metric.jacobian()
        dense = jacobian.T @ jacobian / len(inputs)
        damped = dense + 0.1 * dense.diagonal().mean() * torch.eye(len(dense)).double()
        for i in (0, 7, 20, 33):
            # min d^T A d / 2 where d_i = -w_i, solved for the others
            others = torch.arange(len(dense)) != i
            d = torch.zeros(len(dense)).double()
            d[i] = -where.start[i]
            d[others] = torch.linalg.solve(damped[others][:, others], -damped[others][:, i] * d[i])
            assert float(losses[i]) == pytest.approx(float(d @ damped @ d / 2), rel=1e-6)

    def test_weights_without_effect_are_zeroed_first_however_large(self):
        where = problem(mlp(6, 9, 4))
        inputs = batch(where, 8, 6)
        inputs.inputs[:, 2] = 0
        weights = where.start.clone()
        where.network.named(weights)["0.weight"][:, 2] = 5.0
        ended = Sparsify(9 / 103, saliency=MetricDiagonal()).restrict(where, weights, 1.0, inputs)
        assert bool((where.network.named(ended)["0.weight"][:, 2] == 0).all())
        kept = Sparsify(9 / 103, saliency=Magnitude()).restrict(where, weights, 1.0, inputs)
        assert bool((where.network.named(kept)["0.weight"][:, 2] != 0).all())

    def test_settings_out_of_range_are_refused(self):
        for make in (lambda: MetricDiagonal(0), lambda: OptimalBrainSurgeon(0), lambda: OptimalBrainSurgeon(damping=0)):
            with pytest.raises(UsageError, match="given"):
                make()


def walked(objective: Sparsify, num_steps: int, stepper: object = None, radius: object = None, **settings: object):
    where = problem(mlp(6, 12, 4))
    inputs = normal(60, 6, seed=5)
    return trace(
        where.network,
        anchors=inputs[:40],
        held_out=inputs[40:],
        objective=objective,
        stepper=stepper or FirstOrder(),
        radius=radius or Scheduled(initial=0.05),
        num_steps=num_steps,
        batch_size=20,
        **settings,
    )


class TestFamilies:
    @pytest.mark.parametrize("num_steps", [3, 7, 30, 100])
    def test_a_path_has_a_checkpoint_at_each_sparsity_after_its_recovery(self, num_steps):
        path = walked(Sparsify(0.7, through=(0.3, 0.5)), num_steps, save_at=SaveAt(1))
        count = path.end.weights.numel()
        steps = [point.step for point in path.points]
        assert steps == [0, num_steps // 3, 2 * num_steps // 3, num_steps]
        zeros = [int((point.weights == 0).sum()) for point in path.points[1:]]
        assert zeros == [round(level * count) for level in (0.3, 0.5, 0.7)]

    def test_a_refused_step_at_a_milestone_saves_the_point_before_it(self):
        refusing = Adaptive(initial=1e-3, tolerance=1e-9)
        path = walked(Sparsify(0.6, through=(0.3,)), 20, Natural(), radius=refusing, save_at=SaveAt(1))
        assert path.points[1].step == 10
        count = path.end.weights.numel()
        assert [round(point.sparsity * count) for point in path.points[1:]] == [round(0.3 * count), round(0.6 * count)]

    def test_a_path_resumed_at_any_level_is_bit_for_bit_the_uninterrupted_one(self):
        objective = Sparsify(0.7, through=(0.3, 0.5))
        whole = walked(objective, 30)
        for count in range(1, len(whole.points)):
            again = walked(objective, 30, resume=whole.points[:count])
            assert all(torch.equal(a.weights, b.weights) for a, b in zip(whole.points, again.points, strict=True))

    def test_levels_that_do_not_increase_are_refused(self):
        for through in ((0.5, 0.4), (0.0,), (0.7,), (0.8,)):
            with pytest.raises(UsageError, match="increasing"):
                Sparsify(0.7, through=through)


class TestShrinking:
    def test_chosen_weights_shrink_by_a_fraction_and_are_zero_from_the_end_of_the_ramp(self):
        where = problem(linear(5, 4))
        inputs, objective = batch(where, 8, 5), Sparsify(0.5, ramp=0.5, shrink=0.1)
        half = objective.restrict(where, where.start, 0.25, inputs)
        going = half != where.start
        assert int(going.sum()) == round(objective.sparsity_after(0.25) * len(half))
        torch.testing.assert_close(half[going], 0.9 * where.start[going])
        assert bool((half != 0).all())
        ended = objective.restrict(where, half, 0.5, inputs)
        assert int((ended == 0).sum()) == round(0.5 * len(half))
        assert objective.restrict(where, ended, 1.0, inputs) is ended

    def test_a_path_ends_exactly_sparse(self):
        path = walked(Sparsify(0.7, shrink=0.2), 40)
        assert int((path.end.weights == 0).sum()) == round(0.7 * path.end.weights.numel())

    @pytest.mark.parametrize("shrink", [0.0, 1.0, -0.5])
    def test_fractions_out_of_range_are_refused(self, shrink):
        with pytest.raises(UsageError, match="shrink must be a fraction"):
            Sparsify(0.5, shrink=shrink)
