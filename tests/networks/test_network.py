"""A network is the module, as a pure function of its flat weights."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from fipray.errors import DataError, NetworkError
from fipray.networks import Network
from tests.problems import mlp, normal


def convolutional() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 4))


class Tied(nn.Module):
    """One matrix, used by two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 5), nn.Linear(5, 5)
        self.second.weight = self.first.weight

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(inputs).tanh())


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 2)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(self.layer(inputs), 0.5, training=True)


def test_the_network_at_its_own_weights_gives_the_modules_outputs():
    module = convolutional().eval()
    inputs = torch.randn(7, 1, 8, 8)
    network = Network.of(module)
    assert torch.equal(network(network.weights, inputs), module(inputs))


def test_module_at_carries_the_weights_and_loads_into_the_callers_module():
    module = convolutional().eval()
    network = Network.of(module)
    moved = network.weights + 0.1 * torch.randn(network.num_weights)
    inputs = torch.randn(7, 1, 8, 8)
    module.load_state_dict(network.module_at(moved).state_dict(), strict=True)
    assert torch.equal(module(inputs), network(moved, inputs))


def test_the_callers_module_and_its_statistics_are_never_touched():
    module = convolutional()  # BatchNorm in training mode would move its statistics
    before = {name: value.clone() for name, value in module.state_dict().items()}
    network = Network.of(module)
    network(network.weights + 1, torch.randn(7, 1, 8, 8)).sum()
    network.module_at(network.weights + 1)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert all(parameter.requires_grad for parameter in module.parameters())


def test_batchnorm_uses_its_frozen_statistics_so_one_input_does_not_change_anothers_output():
    network = Network.of(convolutional())
    inputs = torch.randn(7, 1, 8, 8)
    together, alone = network(network.weights, inputs), network(network.weights, inputs[:1])
    torch.testing.assert_close(together[:1], alone)


def test_shared_parameters_appear_once_and_move_together():
    network = Network.of(Tied())
    assert network.num_weights == 25 + 5 + 5
    moved = network.module_at(network.weights + 1)
    assert isinstance(moved, Tied)
    assert moved.first.weight is moved.second.weight
    inputs = torch.randn(3, 5)
    torch.testing.assert_close(network(network.weights + 1, inputs), moved(inputs))


def test_only_the_chosen_parameters_move():
    module = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    network = Network.of(module, moving=["2.*"])
    assert network.num_weights == 3 * 2 + 2
    state = network.module_at(torch.zeros(8)).state_dict()
    assert torch.equal(state["0.weight"], module.state_dict()["0.weight"])
    assert not state["2.weight"].any()


def test_a_name_that_fits_no_parameter_is_refused_with_those_that_are_there():
    with pytest.raises(NetworkError, match=r"'3\.weight'.*0\.weight, 0\.bias"):
        Network.of(nn.Sequential(nn.Linear(4, 3)), moving=["3.weight"])


def test_active_dropout_is_refused_by_its_name():
    module = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5))
    with pytest.raises(NetworkError, match=r"dropout is active in 1.*module\.eval\(\)"):
        Network.of(module)
    Network.of(module.eval())


def test_a_module_whose_output_changes_between_two_passes_is_refused():
    with pytest.raises(NetworkError, match="changes between two passes"):
        Network.of(Noisy()).check(torch.randn(9, 5))


def test_a_module_without_parameters_is_refused():
    with pytest.raises(NetworkError, match="no parameters"):
        Network.of(nn.ReLU())


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_inputs_that_are_not_finite_are_refused_with_their_number(broken: float):
    inputs = normal(6, 4)
    inputs[2, 1] = inputs[4, 0] = broken
    with pytest.raises(DataError, match="2 of 6 inputs hold NaN"):
        mlp(4, 2).check(inputs)


def test_inputs_of_the_wrong_shape_are_refused_with_what_the_module_says():
    with pytest.raises(DataError, match="does not take inputs of shape"):
        mlp(4, 2).check(normal(6, 5))


def test_weights_of_the_wrong_length_are_refused():
    network = mlp(4, 2)
    with pytest.raises(NetworkError, match="has 10 weights"):
        network(normal(11), normal(3, 4))


def test_outputs_in_chunks_equal_outputs_at_once():
    network = mlp(4, 5, 3)
    inputs = normal(10, 4)
    torch.testing.assert_close(network.outputs(network.weights, inputs, chunk=3), network(network.weights, inputs))


@pytest.mark.parametrize("make", [lambda a, b: (a, b), lambda a, b: {"class": a, "place": b}])
def test_a_module_of_several_outputs_is_refused_with_what_to_do(make):
    class Several(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.other = nn.Linear(4, 3), nn.Linear(4, 2)

        def forward(self, inputs):
            return make(self.one(inputs), self.other(inputs))

    with pytest.raises(NetworkError, match=r"Several gives a (tuple|dict) of outputs.*concatenates the heads"):
        Network.of(Several()).check(torch.zeros(5, 4))


@pytest.mark.parametrize("chunk", [None, 1, 2])
def test_a_stack_of_weights_gives_what_each_gives_alone(chunk):
    """To 1e-12: outputs, and gradients in weights and inputs."""
    network, inputs = Network.of(convolutional().double()), normal(5, 1, 8, 8).requires_grad_()
    weights = (network.weights + 0.1 * normal(3, network.num_weights)).requires_grad_()
    together = network.stacked(weights, inputs, chunk=chunk)
    cotangent = normal(*together.shape, seed=2)
    alone = torch.stack([network(one, inputs) for one in weights])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)
    found, expected = (
        torch.autograd.grad((cotangent * outputs).sum(), (weights, inputs)) for outputs in (together, alone)
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(8,), (2, 7), (0, 8)])
def test_what_is_no_stack_of_weights_is_refused(shape):
    with pytest.raises(NetworkError, match=r"is \[M, 8\], M at least 1; a tensor of shape"):
        mlp(3, 2).stacked(torch.zeros(shape).double(), normal(5, 3))


class Halves(nn.Module):
    """A layer in low precision between two in single."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 3)
        self.middle = nn.Linear(8, 8, dtype=dtype)

    def forward(self, inputs):
        return self.last(self.middle(self.first(inputs).to(self.middle.weight.dtype)).float().tanh())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("whole", [False, True])
def test_weights_in_half_precision_have_float32_masters_and_each_layer_its_own_dtype(dtype, whole):
    """Bit for bit: f(w, x) is the module at w, called by itself."""
    module = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).to(dtype) if whole else Halves(dtype)
    inputs = normal(9, 4).to(dtype if whole else torch.float32)
    network = Network.of(module)
    network.check(inputs)
    weights = network.weights + 1e-3 * normal(network.num_weights).float()
    moved = network.module_at(weights)
    outputs = network(weights, inputs)
    assert (network.weights.dtype, outputs.dtype) == (torch.float32, torch.float32)
    assert [p.dtype for p in moved.parameters()] == [p.dtype for p in module.parameters()]
    assert torch.equal(outputs, moved(inputs).float())
    (slope,) = torch.autograd.grad(network(weights.requires_grad_(), inputs).square().sum(), weights)
    assert bool((slope != 0).any())
    assert slope.dtype == torch.float32


def test_a_module_in_half_precision_takes_inputs_in_single_that_are_rounded_to_it():
    module = nn.Linear(4, 3).bfloat16()
    network, inputs = Network.of(module), normal(5, 4).float()
    assert torch.equal(network(network.weights, inputs), module(inputs.bfloat16()).float())


def test_frozen_parameters_are_not_in_the_vector_and_come_out_as_they_were():
    module = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    module[0].requires_grad_(False)
    network = Network.of(module)
    assert [slot.name for slot in network.slots] == ["2.weight", "2.bias"]
    moved = network.module_at(network.weights + 1)
    assert torch.equal(moved[0].weight, module[0].weight)
    assert [p.requires_grad for p in moved.parameters()] == [False, False, True, True]
    assert Network.of(module, moving=["*"]).num_weights == 15 + 8
    with pytest.raises(NetworkError, match=r"are frozen.*moving="):
        Network.of(module.requires_grad_(False))


def test_a_shared_parameter_moves_by_any_of_its_names():
    assert Network.of(Tied(), moving=["second.weight"]).num_weights == 25


def test_a_weight_that_matters_on_some_inputs_alone_is_not_taken_for_unused():
    class Experts(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.other = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, inputs):
            chosen = inputs[:, 0] > 0
            outputs = inputs.new_zeros(len(inputs), 3)
            for which, expert in ((chosen, self.one), (~chosen, self.other)):
                if bool(which.any()):
                    outputs[which] = expert(inputs[which])
            return outputs

    inputs = normal(200, 4).float().abs()
    with pytest.raises(NetworkError, match=r"depends on other\.weight, other\.bias"):
        Network.of(Experts()).check(inputs)
    inputs[150] *= -1
    Network.of(Experts()).check(inputs)


def test_a_path_of_a_part_of_a_network_may_leave_a_head_unused():
    class TwoHeads(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head, self.unused = nn.Linear(4, 4), nn.Linear(4, 3), nn.Linear(4, 2)

        def forward(self, inputs):
            return self.head(self.body(inputs))

    inputs = normal(9, 4).float()
    with pytest.raises(NetworkError, match=r"unused\.weight.*moving=\['body\.\*', 'head\.\*'\]"):
        Network.of(TwoHeads()).check(inputs)
    Network.of(TwoHeads(), moving=["body.*", "head.*"]).check(inputs)
    Network.of(TwoHeads()).only(["body.*"]).check(inputs)


def test_a_geometry_that_gives_all_outputs_one_place_is_refused():
    class Blind:
        def embed(self, outputs):
            return outputs.new_zeros(len(outputs), 2)

    with pytest.raises(NetworkError, match=r"Blind gives different outputs .* distance 0"):
        mlp(4, 2).check(normal(6, 4), Blind())


def test_a_stack_of_weights_leaves_nothing_in_a_module_that_keeps_what_it_computes():
    network = Network.of(prune.l1_unstructured(nn.Linear(4, 3), "weight", 0.5))
    weights = torch.stack([network.weights, 2 * network.weights]).requires_grad_()
    network.stacked(weights, normal(5, 4).float()).sum().backward()
    inputs = normal(5, 4).float()
    torch.testing.assert_close(network.module_at(weights[1])(inputs), network(weights[1], inputs))


def test_a_network_prints_its_module_and_its_weights_in_one_line():
    network = Network.of(nn.Sequential(nn.Linear(40, 30), nn.Linear(30, 2)))
    assert repr(network) == ("Network of Sequential: 1,292 weights, 1,292 of which may move, float32 on cpu")
    assert repr(network.only("1.*")) == "Network of Sequential: 1,292 weights, 62 of which may move, float32 on cpu"
    assert "float64 on cpu" in repr(mlp(4, 2))


def test_a_network_is_an_html_table_whose_text_is_escaped():
    def named(name: str) -> str:
        return Network.of(type(name, (nn.Linear,), {})(3, 2)).only("bias")._repr_html_()

    rows = {"module": "Odd", "weights": "8", "may move": "2", "dtype": "float32", "device": "cpu"}
    expected = "".join(f"<tr><th>{name}</th><td>{value}</td></tr>" for name, value in rows.items())
    assert named("Odd") == f"<table>{expected}</table>"
    assert "<td>&lt;script&gt;&amp;&#x27;\\x1b</td>" in named("<script>&'\x1b")


def test_a_name_that_a_terminal_obeys_is_escaped_in_a_networks_text():
    assert repr(Network.of(type("a\nb", (nn.Linear,), {})(3, 2))).startswith("Network of a\\nb: 8 weights")


def test_the_weights_are_in_memory_once_and_copies_have_their_own():
    network = Network.of(nn.Sequential(nn.Linear(20, 30), nn.Linear(30, 2)))
    own = {one.untyped_storage().data_ptr() for _, part in network.parts() for one in part.parameters()}
    assert own == {network.weights.untyped_storage().data_ptr()}
    with torch.no_grad():
        for parameter in network.module_at(network.weights).parameters():
            parameter.fill_(7.0)
    assert not (network.weights == 7.0).any()


@pytest.mark.parametrize("moved", [False, True])
def test_a_pickled_network_holds_the_weights_once_for_the_vector_and_once_for_the_module(moved):
    network = Network.of(nn.Sequential(*(nn.Linear(30, 30) for _ in range(8))))
    network = network.at(2 * network.weights) if moved else network
    inputs, text = torch.ones(3, 30), pickle.dumps(network)
    assert len(text) < 2 * network.weights.nbytes + 20_000
    again = pickle.loads(text)
    assert torch.equal(again(again.weights, inputs), network(network.weights, inputs))
