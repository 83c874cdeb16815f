"""Effective weights: those that layers compute with, where these are not the parameters themselves."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from fipray.errors import NetworkError
from fipray.networks import Network, computed_weights, effective, footprint_of, refuse_computed_weights, sparsity_of
from tests.problems import mlp, normal

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # of torch, of its old weight_norm


def first_layer(change) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(change(nn.Linear(6, 8)), nn.Tanh(), nn.Linear(8, 3)).double().eval()


def masked(part: nn.Module) -> nn.Module:
    return prune.random_unstructured(prune.l1_unstructured(part, "weight", amount=0.5), "weight", amount=0.25)


WAYS = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "weight_norm, old": nn.utils.weight_norm,
    "spectral_norm, old": nn.utils.spectral_norm,
    "mask": masked,
}


@pytest.mark.parametrize("way", WAYS)
def test_what_a_layer_computes_with_is_what_it_is_at_the_weights(way):
    """To 1e-12: the weight that the moved module's own layer has after a pass."""
    network = Network.of(first_layer(WAYS[way]))
    weights = network.weights + 0.1 * normal(network.num_weights)
    moved = network.module_at(weights)
    moved(normal(2, 6))
    found = effective(network, weights)
    torch.testing.assert_close(found["0.weight"], moved[0].weight.detach(), rtol=1e-12, atol=1e-12)
    assert found.keys() == {"0.weight", "0.bias", "2.weight", "2.bias"}


@pytest.mark.parametrize("way", WAYS)
def test_zeros_are_refused_where_they_would_be_none_in_a_layer(way):
    with pytest.raises(
        NetworkError, match=r"Sparsify sets parameters to zero, but 0\.weight is computed.*remove.*first"
    ):
        refuse_computed_weights(Network.of(first_layer(WAYS[way])), "Sparsify")


@pytest.mark.parametrize("way", ["weight_norm", "orthogonal"])
def test_zeros_are_allowed_once_a_parametrisation_is_removed_or_does_not_move(way):
    module = first_layer(WAYS[way])
    refuse_computed_weights(Network.of(module, moving=["2.*"]), "Sparsify")
    refuse_computed_weights(Network.of(module).only(["2.*"]), "Sparsify")
    parametrize.remove_parametrizations(module[0], "weight")
    assert computed_weights(Network.of(module)) == ()


def test_sparsity_counts_what_a_mask_makes_zero():
    network = Network.of(first_layer(masked))
    zeros = int((network.module_at(network.weights)[0].weight_mask == 0).sum())
    assert zeros > 24
    assert sparsity_of(network, network.weights) == zeros / network.num_weights
    sizes = footprint_of(network, network.weights, normal(2, 6))
    assert sizes.non_zeros == network.num_weights - zeros
    assert sizes.sparsity["0.weight"] == zeros / 48


def test_sparsity_counts_weights_that_round_to_zero():
    network = Network.of(nn.Linear(4, 2, bias=False).half())
    weights = torch.full_like(network.weights, 1e-9)
    assert sparsity_of(network, weights) == 1
    assert bool((network.module_at(weights).weight == 0).all())


def test_sparsity_of_plain_layers_is_that_of_the_vector():
    network = mlp(6, 8, 3)
    weights = network.weights.clone()
    weights[:20] = 0
    assert sparsity_of(network, weights) == 20 / network.num_weights
