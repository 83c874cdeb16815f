"""What a network is checked for before a path lives on it, on modules in which a fault hides well."""

from __future__ import annotations

import copy
import functools
import pickle
import random
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

import fipray as fip
from benchmarks.kinds import Forward, features, mlp, quantisation_aware
from fipray.errors import DataError, NetworkError, UsageError
from fipray.geometry import FisherRao
from fipray.networks import Network
from fipray.paths import Sparsify
from fipray.paths.objective import check_network

Make = Callable[[], nn.Module]


def checked(module: nn.Module, inputs: Tensor | None = None, **settings: Any) -> None:
    Network.of(module, **settings).check(features(40) if inputs is None else inputs, FisherRao())


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def each(kinds: Mapping[str, Make]):
    return pytest.mark.parametrize("make", kinds.values(), ids=kinds.keys())


# --- the module that was given


def around(wrap: Callable[[nn.Module], Callable[[Tensor], Tensor]]) -> nn.Module:
    """A layer, and what `wrap` makes of the module, which finds the layer there."""
    module = Forward(lambda self, x: self.layer(x) + self.more(x))
    module.more = wrap(module)
    return module


def quietly(module: nn.Module) -> Callable[[Tensor], Tensor]:
    def more(inputs: Tensor) -> Tensor:
        with torch.no_grad():
            return module.layer(inputs)

    return more


def by_default(module: nn.Module) -> Callable[[Tensor], Tensor]:
    return lambda inputs, layer=module.layer: layer(inputs).detach()


def by_weak_reference(module: nn.Module) -> Callable[[Tensor], Tensor]:
    held = weakref.ref(module.layer)
    return lambda inputs: held()(inputs).detach()


def by_its_memory(module: nn.Module) -> Callable[[Tensor], Tensor]:
    weight = module.layer.weight.data
    return lambda inputs: inputs @ weight.T


def by_numpy(module: nn.Module) -> Callable[[Tensor], Tensor]:
    return lambda inputs: inputs @ torch.from_numpy(module.layer.weight.detach().numpy().copy()).T


def by_a_number(module: nn.Module) -> Callable[[Tensor], Tensor]:
    return lambda inputs: inputs[:, :1] * module.layer.weight[0, 0].item()


def in_a_hook() -> nn.Module:
    module = Forward(lambda self, x: self.layer(x))
    module.layer.register_forward_hook(lambda part, given, told: told + given[0] @ module.layer.weight.detach().T)
    return module


def in_a_partial() -> nn.Module:
    return around(lambda module: functools.partial(lambda more, inputs: more(inputs), quietly(module)))


def by_a_global_name() -> nn.Module:
    global MODULE
    MODULE = Forward(lambda self, x: self.layer(x) + MODULE.layer(x).detach())
    return MODULE


REACHED: Mapping[str, Make] = {
    **{
        wrap.__name__: functools.partial(around, wrap)
        for wrap in (quietly, by_default, by_weak_reference, by_its_memory, by_numpy, by_a_number)
    },
    "in a hook": in_a_hook,
    "in a partial": in_a_partial,
    "by a global name": by_a_global_name,
}


@each(REACHED)
def test_a_copy_that_reaches_into_the_module_that_was_given_is_refused(make: Make):
    module = make()
    with pytest.raises(NetworkError, match=r"uses layer\.weight.* of the module that was given"):
        checked(module)


def test_a_frozen_module_reached_by_a_closure_is_refused_when_it_moves():
    module = Forward(lambda self, x: module.layer(x)).requires_grad_(False)
    with pytest.raises(NetworkError, match="of the module that was given"):
        checked(module, moving="*")


def test_what_a_closure_takes_of_the_original_may_be_a_shape_a_dtype_or_a_device():
    def more(inputs: Tensor) -> Tensor:
        weight = module.layer.weight
        return torch.zeros_like(weight.T)[:1, :].sum() + inputs.to(weight)[:, : len(weight)] * weight.shape[0]

    module = Forward(lambda self, x: self.layer(x) + more(x))
    checked(module)


def test_methods_that_a_module_holds_are_those_of_its_copy():
    module = Forward(lambda self, x: self.layer(x) + self.more(x))
    module.more = module.layer.forward
    checked(module)


def test_a_network_can_be_pickled_and_copied():
    network, inputs = Network.of(mlp()), features(3)
    for made in (pickle.loads(pickle.dumps(network)), copy.deepcopy(network)):
        made.check(inputs)
        assert torch.equal(made(made.weights, inputs), network(network.weights, inputs))


# --- random numbers


class Drop(nn.Module):
    """Drops its input, all of it, about never."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs * (torch.rand(()) > 1e-6) if self.training else inputs


def seldom(draw: Callable[[Any], Any], **parts: Any) -> Make:
    return lambda: Forward(lambda self, x: self.layer(x) * (2 if draw(self) < 1e-6 else 1), **copy.deepcopy(parts))


DRAWING: Mapping[str, Make] = {
    "torch": seldom(lambda self: torch.rand(())),
    "bernoulli": lambda: Forward(lambda self, x: self.layer(x) * torch.full((1,), 1 - 1e-6).bernoulli()),
    "random": seldom(lambda self: random.random()),
    "numpy": seldom(lambda self: np.random.rand()),  # noqa: NPY002
    "own of torch": seldom(lambda self: torch.rand((), generator=self.own), own=torch.Generator()),
    "own of numpy": seldom(lambda self: self.own[0].random(), own=[np.random.default_rng(0)]),
    "own of random": seldom(lambda self: self.own.random(), own=random.Random(0)),
    "noise, seldom": lambda: Forward(lambda self, x: self.layer(x + (torch.rand(()) < 1e-6) * torch.randn_like(x))),
    "dropout": lambda: Forward(lambda self, x: functional.dropout(self.layer(x), 1e-6)),
}


@each(DRAWING)
def test_a_forward_that_draws_random_numbers_is_refused_however_seldom_they_matter(make: Make):
    with pytest.raises(NetworkError, match=r"changes between two passes.*draws random numbers"):
        checked(make())


def test_the_layer_that_draws_is_named():
    with pytest.raises(NetworkError, match=r"'1' \(Drop\) draws random numbers"):
        checked(nn.Sequential(mlp(), Drop(), nn.Linear(5, 5)).train())
    checked(nn.Sequential(mlp(), Drop(), nn.Linear(5, 5)).eval())


def test_stochastic_depth_of_libraries_is_named_in_training_mode():
    timm = pytest.importorskip("timm")
    torchvision = pytest.importorskip("torchvision")
    for part in (timm.layers.DropPath(1e-3), torchvision.ops.StochasticDepth(1e-3, "batch")):
        with pytest.raises(NetworkError, match=rf"'1' \({type(part).__name__}\) draws random numbers"):
            checked(nn.Sequential(mlp(), part, nn.Linear(5, 5)).train())


def seeding(self: Any, inputs: Tensor) -> Tensor:
    torch.manual_seed(3)
    return self.layer(inputs) + inputs @ torch.rand(12, 5)


HARMLESS: Mapping[str, Make] = {
    "not used": lambda: Forward(lambda self, x: self.layer(x) * (2 if torch.rand(()) < 0.5 and self.training else 1)),
    "seeded anew": lambda: Forward(seeding),
    "of a generator made anew": lambda: Forward(
        lambda self, x: self.layer(x) + x @ torch.rand(12, 5, generator=torch.Generator().manual_seed(0))
    ),
}


@each(HARMLESS)
def test_draws_that_change_nothing_are_allowed(make: Make):
    checked(make().eval())


def test_a_check_leaves_generators_as_they_were():
    def states() -> tuple[Any, ...]:
        return torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002

    state = torch.get_rng_state()
    before = states()
    for make in (*DRAWING.values(), HARMLESS["seeded anew"]):
        module, inputs = make(), torch.ones(20, 12)
        torch.set_rng_state(state)  # layers draw their weights
        with suppress(NetworkError):
            checked(module, inputs)
        assert states() == before


# --- gradients

BESIDE: Mapping[str, Callable[[Any, Tensor], Tensor]] = {
    "times 0": lambda self, x: 0 * self.more(x),
    "times 0 of sums": lambda self, x: 0.0 * sum(p.sum() for p in self.more.parameters()),
    "behind a closed rectifier": lambda self, x: functional.relu(self.more(x) - 1e6),
    "clamped": lambda self, x: 1e-6 * self.more(x).clamp(1e6, 1e7),
}


@pytest.mark.parametrize("beside", BESIDE.values(), ids=BESIDE.keys())
def test_a_parameter_of_no_effect_is_named_though_autograd_finds_it(beside: Callable[[Any, Tensor], Tensor]):
    module = Forward(lambda self, x: self.layer(x) + beside(self, x), more=nn.Linear(12, 5))
    with pytest.raises(NetworkError, match=r"no output of Forward depends on more\.weight, more\.bias"):
        checked(module)
    checked(module, moving="layer.*")


def test_a_parameter_whose_effect_has_no_gradient_is_named():
    def forward(self: Any, inputs: Tensor) -> Tensor:
        weight = self.layer.weight
        return functional.linear(inputs, (50 * weight).round() / 50 + 0 * weight.sum(), self.layer.bias)

    with pytest.raises(NetworkError, match=r"change with layer\.weight, but autograd does not see it"):
        checked(Forward(forward))


class Reversed(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, inputs: Tensor) -> Tensor:
        return inputs.clone()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return -gradient


PARTLY: Mapping[str, tuple[Callable[[Any, Tensor], Tensor], str]] = {
    "data": (lambda self, x: self.layer(x) + x @ self.layer.weight.data.T, r"by layer\.weight disagree"),
    "a fiftieth": (lambda self, x: self.layer(x) + 0.02 * x @ self.layer.weight.data.T, r"by layer\.weight disagree"),
    "a bias": (lambda self, x: self.layer(x) + self.layer.bias.detach(), r"by layer\.bias disagree"),
    "half way": (
        lambda self, x: self.more(self.layer(x).tanh()) + 0.3 * self.more(self.layer(x).detach()),
        r"by layer\.weight, layer\.bias disagree",
    ),
    "a backward of its own": (lambda self, x: self.more(Reversed.apply(self.layer(x))), r"layer\.weight, layer\.bias"),
}


@pytest.mark.parametrize(("forward", "said"), PARTLY.values(), ids=PARTLY.keys())
def test_an_effect_that_autograd_misses_in_part_is_refused(forward: Callable[[Any, Tensor], Tensor], said: str):
    module = Forward(forward, more=nn.Sequential(nn.Tanh(), nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 5)))
    if "more" not in forward.__code__.co_names:
        del module.more
    with pytest.raises(NetworkError, match=said):
        checked(module)


class Sign(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, inputs: Tensor) -> Tensor:
        return inputs.sign()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return gradient


def straight_through(self: Any, inputs: Tensor) -> Tensor:
    weight = self.layer.weight
    return functional.linear(inputs, weight + ((7 * weight).round() / 7 - weight).detach(), self.layer.bias)


def with_a_codebook(self: Any, inputs: Tensor) -> Tensor:
    code = self.layer(inputs)
    nearest = self.codes[torch.cdist(code, self.codes).argmin(1)]
    return self.more(code + (nearest - code).detach())


def zero_at_first() -> nn.Module:
    module = Forward(lambda self, x: self.layer(x) + self.last(self.more(x).relu()), last=nn.Linear(5, 5), **more())
    nn.init.zeros_(module.last.weight)
    nn.init.zeros_(module.last.bias)
    return module


def more(num_inputs: int = 12) -> dict[str, nn.Module]:
    return {"more": nn.Linear(num_inputs, 5)}


def rounded(values: Tensor) -> Tensor:
    return torch.fake_quantize_per_tensor_affine(values, 0.05, 0, -128, 127)


SOUND: Mapping[str, Make] = {
    "binary weights": lambda: Forward(
        lambda self, x: functional.linear(x, 0.1 * Sign.apply(self.layer.weight)) + self.layer.bias
    ),
    "binary activations": lambda: Forward(lambda self, x: self.more(Sign.apply(self.layer(x))), **more(5)),
    "binary activations beside": lambda: Forward(
        lambda self, x: (lambda h: h + self.more(Sign.apply(h)))(self.layer(x)), **more(5)
    ),
    "fake quantisation beside": lambda: Forward(
        lambda self, x: (lambda h: h + self.more(rounded(h)))(self.layer(x)), **more(5)
    ),
    "straight through": lambda: Forward(straight_through),
    "a codebook": lambda: Forward(with_a_codebook, codes=nn.Buffer(torch.randn(8, 5)), **more(5)),
    "quantisation-aware": lambda: quantisation_aware(False),
    "zero at first": zero_at_first,
    "small": lambda: Forward(lambda self, x: self.layer(x) + 1e-6 * self.more(x), **more()),
    "centred": lambda: Forward(lambda self, x: self.layer(x) - self.layer(x).mean(1, keepdim=True)),
    "InstanceNorm": lambda: nn.Sequential(
        nn.Unflatten(1, (3, 2, 2)), nn.Conv2d(3, 4, 3, padding=1), nn.InstanceNorm2d(4), nn.Flatten(), nn.Linear(16, 5)
    ),
    "deep": lambda: nn.Sequential(nn.Linear(12, 16), *(nn.Sequential(nn.ReLU(), nn.Linear(16, 16)) for _ in range(20))),
    "single inside": lambda: Forward(
        lambda self, x: functional.linear(x.float(), self.layer.weight.float(), self.layer.bias.float())
    ),
    "a vmap inside": lambda: Forward(lambda self, x: torch.func.vmap(self.layer)(x)),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@each(SOUND)
def test_slopes_that_rounding_hides_and_small_effects_are_allowed(make: Make):
    checked(make())


def test_an_expert_that_few_inputs_need_is_no_parameter_of_no_effect():
    module = Forward(lambda self, x: self.layer(x) + functional.relu(x[:, :1] - 1) * self.more(x), **more())
    inputs = features(300).clamp(max=0.5)
    with pytest.raises(NetworkError, match=r"depends on more\.weight"):
        checked(module, inputs)
    inputs[250, 0] = 2
    checked(module, inputs)


def test_inputs_that_are_all_zero_say_nothing_of_a_gradient():
    checked(mlp(), torch.zeros(20, 12))


# --- other inputs of the batch


BATCHED: Mapping[str, Make] = {
    "a normalisation that counts little": lambda: Forward(
        lambda self, x: self.layer(x) + 0.02 * self.norm(self.more(x)),
        norm=nn.BatchNorm1d(5, track_running_stats=False),
        **more(),
    ),
    "a mean": lambda: Forward(lambda self, x: self.layer(x - 0.03 * x.mean(0))),
    "a mean that counts little": lambda: Forward(lambda self, x: self.layer(x - 3e-4 * x.mean(0))),
    "the number of inputs": lambda: Forward(lambda self, x: self.layer(x) * (1 + 1e-3 * len(x))),
    "the place in the batch": lambda: Forward(lambda self, x: self.layer(x) + 0.01 * torch.arange(len(x))[:, None]),
    "a mean in half precision": lambda: Forward(lambda self, x: self.layer(x - 0.03 * x.mean(0))).bfloat16(),
}


@each(BATCHED)
def test_outputs_that_depend_a_little_on_other_inputs_are_refused(make: Make):
    module = make()
    with pytest.raises(NetworkError, match="depend on the other inputs of its batch"):
        checked(module, features(40).to(next(module.parameters()).dtype))


def test_rounding_that_differs_with_the_size_of_the_batch_is_allowed():
    kernel = nn.Sequential(nn.Unflatten(1, (3, 2, 2)), nn.Conv2d(3, 64, 3, padding=1), nn.Flatten(), nn.Linear(256, 5))
    checked(kernel)
    checked(copy.deepcopy(kernel).bfloat16(), features(40).bfloat16())


# --- modes of torch, and what a forward is wrapped in


def test_inference_mode_is_named():
    network, inputs = Network.of(mlp()), features(20)
    with torch.inference_mode():
        made_there, inputs_there = Network.of(mlp()), inputs.clone()
        with pytest.raises(UsageError, match="inference_mode is on"):
            network.check(inputs)
    with pytest.raises(UsageError, match=r"weights of Sequential were made in torch\.inference_mode"):
        made_there.check(inputs)
    with pytest.raises(DataError, match=r"made in torch\.inference_mode.*clone"):
        network.check(inputs_there)
    network.check(inputs)


def test_another_default_device_is_named():
    network, inputs = Network.of(mlp()), features(20)
    with torch.device("meta"), pytest.raises(UsageError, match=r"default device is meta.*set_default_device"):
        network.check(inputs)
    network.check(inputs)


@pytest.mark.filterwarnings("ignore:None of the inputs:UserWarning")
@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing_is_named_in_one_line(reentrant: bool):
    module = Forward(lambda self, x: checkpoint(self.more, self.layer(x), use_reentrant=reentrant), **more(5))
    with pytest.raises(NetworkError, match="uses activation checkpointing") as caught:
        checked(module)
    assert "\n" not in str(caught.value)


# --- masks of a forward's own

MASK = (torch.arange(60) % 3 == 0).float().view(5, 12)
MASKED: Mapping[str, Callable[[Tensor], Tensor]] = {
    "times": lambda weight: weight * MASK,
    "times, the other way": lambda weight: MASK * weight,
    "where": lambda weight: torch.where(MASK > 0, weight, 0.0),
    "filled": lambda weight: weight.masked_fill(MASK == 0, 0),
    "rectified": lambda weight: weight.relu(),
}


@pytest.mark.parametrize("mask", MASKED.values(), ids=MASKED.keys())
def test_pruning_refuses_a_network_whose_forward_has_a_mask_of_its_own(mask: Callable[[Tensor], Tensor]):
    network = Network.of(Forward(lambda self, x: functional.linear(x, mask(self.layer.weight), self.layer.bias)))
    network.check(features(20))
    with pytest.raises(NetworkError, match=r"in the network's forward makes others of layer\.weight zero"):
        check_network(Sparsify(sparsity=0.5), network)


def test_pruning_takes_networks_whose_forward_scales_or_rounds_a_parameter():
    for way in (lambda weight: 2 * weight, rounded, lambda weight: weight.to(torch.float32)):
        network = Network.of(
            Forward(lambda self, x, way=way: functional.linear(x, way(self.layer.weight)) + self.layer.bias)
        )
        network.check(features(20))
        check_network(Sparsify(sparsity=0.5), network)


class Sequences(nn.Module):
    """Logits [N, T, C] of tokens, as a language model has."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.layer = nn.Embedding(7, 5, padding_idx=0), nn.Linear(5, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.layer(self.embedding(tokens))


class TestClassesOfSequences:
    TOKENS = torch.arange(40).view(10, 4) % 7

    def test_where_the_classes_are_has_to_be_said(self):
        network = Network.of(Sequences().double())
        with pytest.raises(NetworkError, match=r"outputs are \[N, 4, 3\], and classes may be in either dimension"):
            network.check(self.TOKENS, FisherRao())
        network.check(self.TOKENS, FisherRao(dim=-1))
        network.check(self.TOKENS, FisherRao(dim=1))
        with pytest.raises(NetworkError, match="3 dimensions, so none of them is dim=3"):
            network.check(self.TOKENS, FisherRao(dim=3))
        with pytest.raises(UsageError, match="dimension 0 of the outputs"):
            FisherRao(dim=0)

    @pytest.mark.parametrize("stepper", [fip.steppers.Natural(), fip.steppers.FirstOrder(beta=0.1)])
    def test_the_distance_is_that_of_the_probabilities_of_each_token(self, stepper):
        network = Network.of(Sequences().double())
        given = {"anchors": self.TOKENS, "held_out": self.TOKENS, "geometry": FisherRao(dim=-1), "num_steps": 3}
        path = fip.trace(
            network, fip.objectives.RandomWalk(), stepper=stepper, radius=fip.radii.Scheduled(0.1), **given
        )
        one, other = (
            2 * network(weights, self.TOKENS).softmax(-1).sqrt().flatten(1)
            for weights in (network.weights, path.end.weights)
        )
        expected = (one - other).square().sum(1).mean().sqrt()
        torch.testing.assert_close(torch.tensor(path.end.functional_distance_held_out).double(), expected)
        assert expected > 0
