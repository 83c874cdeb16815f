"""Pruning with labels: the sparsity that was asked for, and the updates of their sources."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from benchmarks.baselines.pruning import Gradual, Magnitude, Mask, OneShot, Pruner
from benchmarks.baselines.surgeon import InStages, Surgeon, refitted, saliencies
from benchmarks.baselines.variations import shifted
from fipray.errors import UsageError
from tests.problems import generator, normal

FEW = Surgeon(num_gradients=6, damping=1e-3)
PRUNERS: dict[str, Pruner] = {
    "one-shot": OneShot(),
    "one-shot, refitted": OneShot(Surgeon(num_gradients=6, by_magnitude=True)),
    "gradual": Gradual(num_steps=12, num_stages=4, batch_size=8),
    "gradual, shifted": Gradual(num_steps=12, num_stages=4, batch_size=8, shift=1, frozen=True, weight_decay=1e-2),
    "gradual, distilled": Gradual(num_steps=12, num_stages=4, batch_size=8, temperature=2.0),
    "surgeon": InStages(FEW, num_stages=3),
    "surgeon, gradual": Gradual(FEW, num_steps=12, num_stages=3, batch_size=8),
}


def cnn() -> nn.Module:
    """With BatchNorm, whose statistics tell training from evaluation; 102 parameters, 90 of them weights of layers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 5), nn.Linear(5, 3)]
        module = nn.Sequential(*layers).double()
        for one in module.parameters():
            nn.init.normal_(one)  # a bias of zero would count as pruned
        return module.eval()


def data() -> tuple[Tensor, Tensor]:
    inputs = torch.rand(40, 1, 4, 4, generator=generator(), dtype=torch.float64)
    return inputs, torch.randint(3, (40,), generator=generator())


def state(module: nn.Module) -> Tensor:
    return torch.cat([value.double().flatten() for value in module.state_dict().values()])


def fisher(slopes: Tensor, damping: float) -> Tensor:
    return damping * torch.eye(slopes.shape[1], dtype=slopes.dtype) + slopes.T @ slopes / len(slopes)


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.8])
@pytest.mark.parametrize("name", PRUNERS)
def test_as_many_weights_of_layers_are_zero_as_were_asked_for(name: str, sparsity: float):
    module = cnn()
    before = state(module)
    (pruned,) = PRUNERS[name].prune(module, *data(), sparsity, seed=0).members
    parameters = list(pruned.parameters())
    num_weights = sum(one.numel() for one in parameters)
    assert sum(int((one == 0).sum()) for one in parameters) == round(sparsity * num_weights)
    assert all((one != 0).all() for one in parameters if one.ndim < 2)
    assert not pruned.training
    assert torch.equal(state(module), before)


@pytest.mark.parametrize("name", PRUNERS)
def test_the_seed_decides(name: str):
    first, second = (PRUNERS[name].prune(cnn(), *data(), 0.5, seed=0).members[0] for _ in range(2))
    assert torch.equal(state(first), state(second))


@pytest.mark.parametrize("name", ["gradual", "surgeon", "surgeon, gradual"])
def test_seconds_are_kept(name: str):
    trained = PRUNERS[name].prune(cnn(), *data(), 0.5, seed=0, seconds=0.2)
    assert 0.1 < trained.processor_seconds < 0.4
    zeros = sum(int((one == 0).sum()) for one in trained.members[0].parameters())
    assert zeros == round(0.5 * sum(one.numel() for one in trained.members[0].parameters()))


def test_one_shot_magnitude_takes_the_smallest_weights_over_all_layers():
    module = cnn()
    (pruned,) = OneShot().prune(module, *data(), 0.4, seed=0).members
    mask, after = Mask(module), Mask(pruned).weights
    threshold = mask.weights[mask.prunable].abs().sort().values[round(0.4 * len(after)) - 1]
    assert torch.equal(after, torch.where(mask.prunable & (mask.weights.abs() <= threshold), 0, mask.weights))


def test_more_zeros_than_layers_have_weights_are_refused():
    with pytest.raises(UsageError, match="weights of layers"):
        OneShot().prune(cnn(), *data(), 0.95, seed=0)


def test_what_is_out_stays_out():
    mask = Mask(cnn())
    Magnitude().cut(None, nn.Identity(), mask, 0.3)  # type: ignore[arg-type]
    before = mask.kept.clone()
    mask.tighten(normal(len(before)), 0.6)
    assert not (mask.kept & ~before).any()


def test_distillation_sees_no_labels_and_brings_a_network_nearer_to_the_given_one():
    inputs, labels = data()
    rival = Gradual(num_steps=300, num_stages=4, batch_size=20, rate=3e-2, frozen=True, temperature=2.0)
    (one,), (other,) = (rival.prune(cnn(), inputs, given, 0.5, seed=0).members for given in (labels, 2 - labels))
    assert torch.equal(state(one), state(other))
    (cut,) = OneShot().prune(cnn(), inputs, labels, 0.5, seed=0).members
    with torch.no_grad():
        base, *ends = (member(inputs).log_softmax(1) for member in (cnn(), cut, one))
    far, near = (float((base.exp() * (base - end)).sum()) for end in ends)
    assert near < 0.5 * far


def test_statistics_that_are_frozen_stay():
    moved, stayed = (Gradual(num_steps=4, frozen=frozen).prune(cnn(), *data(), 0.5, seed=0) for frozen in (False, True))
    assert torch.equal(stayed.members[0][1].running_mean, cnn()[1].running_mean)
    assert not torch.equal(moved.members[0][1].running_mean, cnn()[1].running_mean)


def test_saliencies_are_those_of_the_inverse_matrix():
    weights, slopes = normal(9), normal(4, 9, seed=1)
    inverse = torch.linalg.inv(fisher(slopes, 0.01))
    torch.testing.assert_close(saliencies(weights, slopes, 0.01), weights.square() / (2 * inverse.diagonal()))


def test_a_saliency_is_what_the_loss_grows_by_when_the_others_are_refitted():
    weights, slopes, kept = normal(9), normal(4, 9, seed=1), torch.arange(9) != 3
    change = refitted(weights, kept, slopes, 0.01) - weights
    grown = change @ fisher(slopes, 0.01) @ change / 2
    torch.testing.assert_close(grown, saliencies(weights, slopes, 0.01)[3])


@pytest.mark.parametrize("num_gradients", [4, 30])
def test_the_refit_is_the_least_squares_solution_under_the_constraint(num_gradients: int):
    weights, slopes = normal(12), normal(num_gradients, 12, seed=1)
    kept = normal(12, seed=2) > 0
    damping = 0.02
    rows = torch.cat([slopes / num_gradients**0.5, damping**0.5 * torch.eye(12, dtype=torch.float64)])
    solution = torch.linalg.lstsq(rows[:, kept], rows @ weights).solution
    expected = torch.zeros(12, dtype=torch.float64)
    expected[kept] = solution
    torch.testing.assert_close(refitted(weights, kept, slopes, damping), expected)


def test_the_refit_is_the_update_of_the_optimal_brain_surgeon():
    weights, slopes = normal(8), normal(5, 8, seed=1)
    kept = torch.tensor([True, False, True, True, False, True, False, True])
    inverse = torch.linalg.inv(fisher(slopes, 0.05))
    multipliers = torch.linalg.solve(inverse[~kept][:, ~kept], weights[~kept])
    expected = weights - inverse[:, ~kept] @ multipliers
    torch.testing.assert_close(refitted(weights, kept, slopes, 0.05), expected.masked_fill(~kept, 0))


def test_shifted_images_are_pieces_of_the_padded_ones():
    inputs = torch.rand(20, 2, 4, 4, generator=generator())
    moved = shifted(inputs, 1, generator())
    padded = nn.functional.pad(inputs, (1, 1, 1, 1))
    for one, whole in zip(moved, padded, strict=True):
        pieces = [whole[:, i : i + 4, j : j + 4] for i in range(3) for j in range(3)]
        assert any(torch.equal(one, piece) or torch.equal(one, piece.flip(2)) for piece in pieces)
    assert shifted(inputs, 0, generator()) is inputs
