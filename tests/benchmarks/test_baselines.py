"""Baselines train the members that they promise, by the losses and searches of their sources."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from benchmarks.baselines import (
    AdaptiveDiversityPromoting,
    AdversarialDistillation,
    AdversarialTraining,
    Baseline,
    DeepEnsemble,
    Dverge,
    FastGeometricEnsemble,
    OneStep,
    Snapshot,
    Trades,
    Varied,
)
from benchmarks.baselines.adversarial import climb, divergence
from benchmarks.baselines.diversity import features, hidden_layers, log_determinant, mean_entropy
from benchmarks.baselines.optimizers import Adam, Momentum, Orthogonal
from benchmarks.baselines.plain import falling, triangle
from benchmarks.baselines.training import Training, one_cycle, opened
from fipray.errors import DataError, NetworkError, UsageError
from tests.margins import assert_above, assert_below
from tests.problems import generator, normal

SMALL = {"num_steps": 3, "batch_size": 8}
BASELINES = {
    "deep-ensemble": (DeepEnsemble(num_members=2, **SMALL), 2, 6),
    "snapshot": (Snapshot(num_members=2, **SMALL), 2, 6),
    "fast-geometric": (FastGeometricEnsemble(num_members=2, num_steps=4, base_steps=2, batch_size=8), 2, 8),
    "adp": (AdaptiveDiversityPromoting(num_members=2, **SMALL), 2, 3),
    "dverge": (Dverge(num_members=2, base_steps=2, inner_steps=2, **SMALL), 2, 7),
    "adversarial": (
        AdversarialTraining(num_members=2, inner_steps=2, clean_fraction=0.5, averaging=0.9, **SMALL),
        2,
        6,
    ),
    "trades": (Trades(inner_steps=2, averaging=0.9, **SMALL), 1, 3),
    "orthogonal": (AdversarialTraining(inner_steps=2, orthogonal=True, **SMALL), 1, 3),
    "one-step": (OneStep(num_members=2, averaging=0.9, vary=Varied(1), **SMALL), 2, 6),
    "distillation": (AdversarialDistillation(num_members=2, inner_steps=2, vary=Varied(1, True), **SMALL), 2, 6),
}


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3)).double()


def cnn() -> nn.Module:
    """With BatchNorm, whose statistics tell training from evaluation."""
    layers = [nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3)]
    return nn.Sequential(*layers).double()


def seeded(make: object = mlp) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()  # type: ignore[operator]


def data(num_examples: int = 20) -> tuple[Tensor, Tensor]:
    inputs = torch.rand(num_examples, 1, 4, 4, generator=generator(), dtype=torch.float64)
    return inputs, torch.randint(3, (num_examples,), generator=generator())


def loss_of(member: nn.Module, inputs: Tensor, labels: Tensor) -> float:
    return nn.functional.cross_entropy(member(inputs), labels).item()


def state(member: nn.Module) -> Tensor:
    return torch.cat([value.double().flatten() for value in member.state_dict().values()])


@pytest.mark.parametrize("make", [mlp, cnn])
@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_trains_its_members_and_ends_them_in_evaluation_mode(name: str, make):
    baseline, num_members, num_steps = BASELINES[name]
    trained = baseline.train(make, *data(), seed=0)
    assert (len(trained.members), trained.num_steps) == (num_members, num_steps)
    assert trained.processor_seconds > 0
    for member in trained.members:
        assert not any(part.training for part in member.modules())
        assert state(member).isfinite().all()
    assert len({float(state(member).sum()) for member in trained.members}) == num_members


@pytest.mark.parametrize("name", BASELINES)
def test_a_seed_decides_everything_and_leaves_the_global_draws_alone(name: str):
    baseline: Baseline = BASELINES[name][0]
    before = torch.get_rng_state()
    first, again, other = (baseline.train(cnn, *data(), seed=seed).members for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    for one, same, different in zip(first, again, other, strict=True):
        assert torch.equal(state(one), state(same))
        assert not torch.equal(state(one), state(different))


def test_without_base_steps_members_begin_as_they_are_made():
    given = Dverge(num_members=2, base_steps=0, inner_steps=1, num_steps=2, batch_size=8)
    assert given.train(mlp, *data(), seed=0).num_steps == 2
    assert given.train(mlp, *data(), seed=0, seconds=0.02).processor_seconds >= 0.02


@pytest.mark.parametrize("name", BASELINES)
def test_seconds_stand_in_for_the_steps(name: str):
    baseline, num_members, _ = BASELINES[name]
    trained = replace(baseline, num_steps=10**9).train(mlp, *data(), seed=0, seconds=0.05)
    assert len(trained.members) == num_members
    assert trained.processor_seconds >= 0.05


def test_a_network_that_make_gives_is_trained_from_its_weights():
    given = seeded()
    before = state(given).clone()
    (member,) = DeepEnsemble(1, num_steps=1, batch_size=8, rate=1e-9).train(lambda: given, *data(), seed=0).members
    torch.testing.assert_close(state(member), before, atol=1e-8, rtol=0)


def test_the_rate_rises_and_falls_as_the_one_cycle_schedule_of_torch():
    """Its lr_scheduler's formulas, the phases' ends at .3 and at 1."""
    for fraction in (0.0, 0.1, 0.3, 0.5, 1.0):
        phase, first, last = (
            (fraction / 0.3, 1 / 25, 1) if fraction <= 0.3 else ((fraction - 0.3) / 0.7, 1, 1 / 250_000)
        )
        annealed = (1 + math.cos(math.pi * phase)) / 2
        from_momentum, to_momentum = (0.95, 0.85) if fraction <= 0.3 else (0.85, 0.95)
        found = one_cycle(fraction, 2e-3)
        assert found["rate"] == pytest.approx(2e-3 * (last + (first - last) * annealed))
        assert found["momentum"] == pytest.approx(to_momentum + (from_momentum - to_momentum) * annealed)


def test_adam_takes_the_steps_of_its_equations():
    member = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(member.weight, 1.0)
    adam = Adam([member])
    weight, first, second = 1.0, 0.0, 0.0
    for count, (gradient, rate, momentum) in enumerate([(2.0, 0.1, 0.9), (-1.0, 0.2, 0.8), (0.5, 0.1, 0.95)], 1):
        first = momentum * first + (1 - momentum) * gradient
        second = 0.999 * second + 0.001 * gradient**2
        weight -= rate * first / (1 - momentum**count) / (math.sqrt(second / (1 - 0.999**count)) + 1e-8)
        adam.step([torch.full((1, 1), gradient, dtype=torch.float64)], {"rate": rate, "momentum": momentum})
        assert member.weight.item() == pytest.approx(weight, rel=1e-9)


def test_momentum_takes_the_steps_of_its_equations():
    member = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(member.weight, 1.0)
    descent = Momentum(member, momentum=0.9, weight_decay=0.1)
    weight, velocity = 1.0, 0.0
    for gradient, rate in [(2.0, 0.1), (-1.0, 0.2), (0.5, 0.1)]:
        velocity = 0.9 * velocity + gradient + 0.1 * weight
        weight -= rate * velocity
        descent.step([torch.full((1, 1), gradient, dtype=torch.float64)], {"rate": rate})
        assert member.weight.item() == pytest.approx(weight, rel=1e-12)


def test_the_rate_of_a_snapshot_falls_along_half_a_cosine():
    found = [falling(fraction, rate=0.1)["rate"] for fraction in (0, 0.25, 0.5, 1)]
    assert found == pytest.approx([0.1, 0.1 * (1 + math.sqrt(0.5)) / 2, 0.05, 0])


def test_the_rate_of_a_fast_geometric_ensemble_is_least_where_it_takes_a_member():
    whole = [triangle(fraction, high=0.5, low=0.1)["rate"] for fraction in (0, 0.25, 0.5, 0.75, 1)]
    assert whole == pytest.approx([0.1, 0.3, 0.5, 0.3, 0.1])
    first = [triangle(fraction, high=0.5, low=0.1, begin=0.5)["rate"] for fraction in (0, 0.5, 1)]
    assert first == pytest.approx([0.5, 0.3, 0.1])


def test_an_average_of_the_weights_forgets_its_beginning():
    inputs, labels = data()
    member = nn.Linear(1, 1, bias=False).double()

    def loss(_: Tensor, __: Tensor) -> Tensor:
        return -member.weight.sum()

    def ended(num_steps: int, averaging: float) -> float:
        nn.init.zeros_(member.weight)
        with opened(mlp, inputs, labels, seed=0, seconds=None, batch_size=8) as training:
            # The share stands still, whatever the number of steps, so that a longer training continues a shorter one.
            training.one_cycle((member,), loss, iter([1 / 3] * num_steps), rate=0.1, averaging=averaging)
        return member.weight.item()

    first, second, third = (ended(num_steps, 0.0) for num_steps in (1, 2, 3))
    average = 2 / 11 * 0 + 9 / 11 * first  # after step n the decay is min(.24, (1 + n) / (10 + n)): 2/11, .24, .24
    average = 0.24 * average + 0.76 * second
    assert ended(3, 0.24) == pytest.approx(0.24 * average + 0.76 * third)


def test_only_matrices_that_are_wide_enough_move_along_orthogonal_ones():
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(20, 16), nn.Linear(16, 3)).double()
    member = copy.deepcopy(plain)
    adam, own = Adam((plain,)), Orthogonal((member,))
    before = member[0].weight.detach().clone()
    gradients = [normal(*weights.shape, seed=number) for number, weights in enumerate(adam.weights)]
    for optimizer in (adam, own):
        optimizer.step([gradient.clone() for gradient in gradients], {"rate": 0.1, "momentum": 0.9})
    for name in ("0.bias", "1.weight", "1.bias"):
        assert torch.equal(member.get_parameter(name), plain.get_parameter(name))
    step = (member[0].weight - before).detach()
    left, _, right = torch.linalg.svd(gradients[0], full_matrices=False)
    along = torch.linalg.svdvals(step)
    assert float(along.max() / along.min()) < 2.3
    assert float((step * (left @ right)).sum()) < -0.9 * float(step.norm() * 4)  # 4: norm of 16 orthonormal rows
    assert float(step.square().mean().sqrt()) == pytest.approx(0.1 * 0.2, rel=0.4)


def test_batches_go_through_all_the_data_before_any_of_it_comes_again():
    inputs, labels = torch.arange(6.0)[:, None] / 6, torch.zeros(6, dtype=torch.int64)
    training = Training(mlp, inputs, labels, seed=0, seconds=None, batch_size=3)
    epochs = [torch.cat([next(training.batches)[0] for _ in range(2)]).flatten() for _ in range(2)]
    assert not torch.equal(*epochs)
    for epoch in epochs:
        assert torch.equal(epoch.sort().values, inputs.flatten())


def test_batches_are_varied_anew_every_time():
    inputs, labels = torch.zeros(1, 1, 5, 5), torch.zeros(1, dtype=torch.int64)
    inputs[0, 0, 2, 1] = 1.0
    given = torch.Generator()
    training = Training(mlp, inputs, labels, seed=0, seconds=None, batch_size=1, vary=Varied(1, mirrors=True))
    places = {tuple(next(training.batches)[0][0, 0].nonzero()[0].tolist()) for _ in range(300)}
    assert places == {(row, column) for row in (1, 2, 3) for column in range(5)}
    unmirrored = {tuple(Varied(1)(inputs, given)[0, 0].nonzero()[0].tolist()) for _ in range(200)}
    assert unmirrored == {(row, column) for row in (1, 2, 3) for column in (0, 1, 2)}


def test_the_usual_variation_mirrors_colour_images_alone():
    assert Varied.usual(torch.zeros(1, 3, 32, 32)) == Varied(4, mirrors=True)
    assert Varied.usual(torch.zeros(1, 1, 28, 28)) == Varied(1)


@pytest.mark.parametrize("memory", [0.0, 1.0])
def test_a_climb_on_a_linear_function_ends_at_the_corner_that_is_highest(memory: float):
    clean, _ = data()
    slope = normal(*clean.shape)
    found = climb(lambda x: (slope * x).sum(), clean, clean, epsilon=0.1, num_steps=4, memory=memory)
    torch.testing.assert_close(found, (clean + 0.1 * slope.sign()).clamp(0, 1), atol=1e-15, rtol=0)


@pytest.mark.parametrize("recipe", [AdversarialTraining(0.1, inner_steps=3), Trades(0.1, inner_steps=3, noise=1.0)])
def test_inner_inputs_stay_within_epsilon_and_bounds_and_leave_the_network_as_it_was(recipe):
    inputs, labels = data()
    member = seeded(cnn).train()
    before = state(member).clone()
    arguments = (inputs, labels) if isinstance(recipe, AdversarialTraining) else (inputs,)
    found = recipe.worst(member, *arguments, generator())
    assert float((found - inputs).abs().max()) == pytest.approx(0.1, abs=1e-12)
    assert torch.equal(found, found.clamp(0, 1))
    assert torch.equal(state(member), before)
    assert all(part.training for part in member.modules())
    assert all(weights.grad is None for weights in member.parameters())


def test_one_step_goes_from_its_noise_along_the_sign_of_the_gradient_beyond_epsilon():
    inputs, labels = data()
    inputs = 0.4 + 0.2 * inputs  # so that no input ends at a bound
    member, recipe = seeded(), OneStep(0.1, noise=2.0, step=1.0)
    found = recipe.moved(member, inputs, labels, generator())
    noisy = inputs + (2 * torch.rand(inputs.shape, generator=generator(), dtype=inputs.dtype) - 1) * 0.2
    noisy.requires_grad_()
    (slope,) = torch.autograd.grad(nn.functional.cross_entropy(member(noisy), labels), noisy)
    torch.testing.assert_close(found, noisy.detach() + 0.1 * slope.sign())
    assert float((found - inputs).abs().max()) > 0.2
    far = OneStep(5.0).moved(member, inputs, labels, generator())
    assert torch.equal(far, far.clamp(0, 1))


def test_the_loss_of_distillation_is_zero_at_the_teacher_and_a_divergence_off_it():
    inputs, labels = data()
    teacher, member = seeded(), seeded().double()
    recipe = AdversarialDistillation(1e-12, inner_steps=1)
    assert recipe.loss(member, inputs, labels, generator(), teacher).item() == pytest.approx(0, abs=1e-12)
    with torch.no_grad():
        member[1].weight.mul_(1.5)
    p, q = (some(inputs).softmax(1).detach() for some in (teacher, member))
    expected = float((p * (p / q).log()).sum()) / len(inputs)
    assert recipe.loss(member, inputs, labels, generator(), teacher).item() == pytest.approx(expected, rel=1e-6)


def test_distillation_from_its_teacher_keeps_the_teachers_predictions_and_leaves_it_alone():
    given = seeded()
    before = state(given).clone()
    recipe = AdversarialDistillation(0.05, num_steps=20, batch_size=8, inner_steps=2, rate=1e-2)
    (member,) = recipe.train(lambda: copy.deepcopy(given), *data(), seed=0).members
    assert torch.equal(state(given), before)
    assert not torch.equal(state(member), before)
    inputs, _ = data()
    with torch.no_grad():
        moved = float((member(inputs).softmax(1) - given(inputs).softmax(1)).abs().mean())
    assert_below(moved, 0.1)


def test_inner_inputs_raise_the_loss_that_they_were_made_for():
    """By most of what a linear loss would rise by to the corner that is highest."""
    inputs, _ = data()
    member = seeded()
    labels = member(inputs).argmax(1)
    found = AdversarialTraining(0.1).worst(member, inputs, labels, generator())
    at = inputs.clone().requires_grad_()
    (slope,) = torch.autograd.grad(nn.functional.cross_entropy(member(at), labels), at)
    promised = (slope * ((inputs + 0.1 * slope.sign()).clamp(0, 1) - inputs)).sum()
    assert_above((loss_of(member, found, labels) - loss_of(member, inputs, labels)) / promised, 0.4)


def test_the_clean_share_mixes_the_losses():
    inputs, labels = data()
    member = seeded()
    clean, worst, both = (
        AdversarialTraining(0.1, clean_fraction=fraction).loss(member, inputs, labels, generator()).item()
        for fraction in (1 - 1e-12, 0.0, 0.25)
    )
    assert both == pytest.approx(0.25 * clean + 0.75 * worst)
    assert clean == pytest.approx(loss_of(member, inputs, labels))


def test_the_loss_of_trades_is_cross_entropy_and_beta_divergences():
    inputs, labels = data()
    member = seeded()
    recipe = Trades(0.1, beta=3.0, inner_steps=2)
    moved = recipe.worst(member, inputs, generator())
    clean, other = (member(some).softmax(1).detach() for some in (inputs, moved))
    kl = sum(float(p * (p / q).log()) for p, q in zip(clean.flatten(), other.flatten(), strict=True)) / len(inputs)
    expected = float(-clean[range(len(labels)), labels].log().mean()) + 3 * kl
    assert kl > 0
    assert recipe.loss(member, inputs, labels, generator()).item() == pytest.approx(expected)


def test_the_divergence_of_a_distribution_from_itself_is_zero():
    logarithms = normal(5, 4).log_softmax(1)
    assert float(divergence(logarithms, logarithms)) == 0


@pytest.mark.parametrize("num_members", [2, 3])
def test_the_log_determinant_is_that_of_the_wrong_classes_at_length_one(num_members: int):
    outputs = 3 * normal(num_members, 6, 5)
    labels = torch.randint(5, (6,), generator=generator())
    found = log_determinant(outputs, labels)
    for example, label in enumerate(labels.tolist()):
        kept = [number for number in range(5) if number != label]
        vectors = outputs.softmax(2)[:, example, kept]
        vectors = vectors / vectors.norm(dim=1, keepdim=True)
        gram = vectors @ vectors.T + 1e-6 * torch.eye(num_members, dtype=torch.float64)
        assert float(found[example]) == pytest.approx(math.log(float(torch.linalg.det(gram))), abs=1e-8)


def test_the_log_determinant_and_its_gradient_survive_certainty_in_single_precision():
    outputs = torch.zeros(2, 1, 4)
    outputs[:, 0, 0] = 300.0
    outputs[0, 0, 1] = 1.0
    outputs.requires_grad_()
    found = log_determinant(outputs, torch.tensor([0]))
    (gradient,) = torch.autograd.grad(found.sum(), outputs)
    assert found.isfinite().all()
    assert gradient.isfinite().all()
    assert gradient.abs().sum() > 0


def test_the_entropy_is_that_of_the_mean_prediction():
    outputs = normal(3, 4, 5)
    mean = outputs.softmax(2).mean(0)
    torch.testing.assert_close(mean_entropy(outputs), -(mean * mean.log()).sum(1))
    torch.testing.assert_close(mean_entropy(torch.zeros(3, 4, 5)), torch.full((4,), math.log(5)))


def test_the_loss_of_adp_is_the_members_losses_less_the_weighted_diversity():
    outputs = normal(2, 6, 4)
    labels = torch.randint(4, (6,), generator=generator())
    losses = sum(nn.functional.cross_entropy(member, labels) for member in outputs)
    diversity = 2 * mean_entropy(outputs).mean() + 0.5 * log_determinant(outputs, labels).mean()
    torch.testing.assert_close(AdaptiveDiversityPromoting().loss(outputs, labels), losses - diversity)


def test_features_are_what_a_hidden_layer_gives_before_its_activation():
    member = seeded()
    inputs, _ = data()
    assert hidden_layers(member) == [member[1]]
    assert torch.equal(features(member, inputs, 0), member[1](inputs.flatten(1)))
    assert not member[1]._forward_hooks


def test_distilled_inputs_are_near_their_sources_and_nearer_to_the_targets_in_features():
    (inputs, _), member = data(), seeded(cnn).train()
    before = state(member).clone()
    sources, targets = inputs[:10], inputs[10:]
    found = Dverge(epsilon=0.2).distilled(member, sources, targets, 0)
    assert float((found - sources).abs().max()) <= 0.2 + 1e-12
    assert torch.equal(found, found.clamp(0, 1))
    assert torch.equal(state(member), before)
    aim = features(member, targets, 0)
    assert_below((features(member, found, 0) - aim).norm() / (features(member, sources, 0) - aim).norm(), 0.7)


def test_distilled_inputs_of_a_wide_enough_epsilon_have_the_targets_features():
    member = nn.Sequential(nn.Flatten(), nn.Linear(1, 1, bias=False), nn.Linear(1, 2)).double()
    with torch.no_grad():
        member[1].weight.fill_(2.0)
    sources, targets = torch.tensor([[0.2], [0.9]]).double(), torch.tensor([[0.6], [0.5]]).double()
    found = Dverge(epsilon=1.0, inner_steps=4, inner_rate=0.1, memory=0.0).distilled(member, sources, targets, 0)
    torch.testing.assert_close(found, targets)


def test_members_of_dverge_learn_only_from_the_others_inputs():
    members = [seeded(), DeepEnsemble(1, num_steps=2, batch_size=8).train(mlp, *data(), seed=5).members[0]]
    inputs, labels = data()
    recipe = Dverge(inner_steps=2)
    sources, targets, labels = inputs[:10], inputs[10:], labels[:10]
    made = [recipe.distilled(member, sources, targets, 0) for member in members]
    expected = nn.functional.cross_entropy(members[0](made[1]), labels) + nn.functional.cross_entropy(
        members[1](made[0]), labels
    )
    torch.testing.assert_close(recipe.loss(members, sources, labels, targets, 0), expected)


def test_a_network_without_hidden_layers_has_no_features_to_distil():
    with pytest.raises(NetworkError, match="none that is hidden"):
        hidden_layers(nn.Linear(3, 2))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: DeepEnsemble(0), "num_members is 0: give at least 1"),
        (lambda: AdaptiveDiversityPromoting(1), "num_members is 1: give at least 2"),
        (lambda: AdversarialTraining(epsilon=0), "epsilon is 0: give a finite number above 0"),
        (lambda: AdversarialTraining(inner_rate=-1), "inner_rate is -1"),
        (lambda: AdversarialTraining(clean_fraction=1.5), "clean_fraction is 1.5: give a share"),
        (lambda: Trades(beta=math.inf), "beta is inf"),
        (lambda: OneStep(noise=0), "noise is 0"),
        (lambda: AdversarialDistillation(inner_steps=0), "inner_steps is 0"),
        (lambda: Varied(0), "reach is 0: give at least one pixel"),
        (lambda: Snapshot(rate=0), "rate is 0"),
        (lambda: Dverge(base_share=0), "base_steps is 3000 and base_share 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(make, said: str):
    with pytest.raises(UsageError, match=said):
        make()


def test_data_and_seconds_that_cannot_be_are_refused():
    inputs, labels = data()
    with pytest.raises(UsageError, match="seconds is 0"):
        DeepEnsemble().train(mlp, inputs, labels, seed=0, seconds=0)
    with pytest.raises(DataError, match="the inputs range over"):
        DeepEnsemble().train(mlp, 2 * inputs, labels, seed=0)
