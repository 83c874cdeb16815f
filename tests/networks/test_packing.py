"""Several inputs in one tensor, and normalisation inside a module: exact values."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fipray as fip
from fipray.errors import DataError
from fipray.networks import Layout, Network, Normalised, Packed
from tests.problems import needs_studies


def tokens(num: int = 6) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(num, 5, generator=generator) < 0.7
    mask[:, 0] = True
    return {"ids": torch.randint(0, 30, (num, 5), generator=generator), "mask": mask}


def pictures(num: int = 6) -> torch.Tensor:
    return torch.rand(num, 2, 3, 3, generator=torch.Generator().manual_seed(1))


class Reader(nn.Module):
    """Mean of the embeddings of unmasked tokens, and of an image if there is one."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.embedding, self.head, self.eye = nn.Embedding(30, 4), nn.Linear(4, 3), nn.Linear(18, 3)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, image: torch.Tensor | None = None) -> dict:
        assert mask.dtype == torch.bool
        assert ids.dtype == torch.int64
        embedded = (self.embedding(ids) * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return {"logits": self.head(embedded) + (0 if image is None else self.eye(image.flatten(1)))}


def test_inputs_come_out_as_they_went_in():
    for inputs in (tokens(), {**tokens(), "image": pictures()}, {**tokens(), "image": pictures().double()}):
        layout = Layout.of(inputs)
        found = layout.unpack(layout.pack(inputs))
        assert found.keys() == inputs.keys()
        for name, tensor in inputs.items():
            assert found[name].dtype == tensor.dtype
            assert torch.equal(found[name], tensor)


def test_integers_are_packed_as_integers_and_beside_floats_exact_up_to_two_to_the_24():
    large = {"ids": torch.tensor([[2**24, -(2**24), 2**24 - 1]]), "x": torch.rand(1, 2)}
    assert Layout.of({"ids": large["ids"]}).dtype == torch.int64
    layout = Layout.of(large)
    assert layout.dtype == torch.float32
    assert torch.equal(layout.unpack(layout.pack(large))["ids"], large["ids"])
    beyond = {**large, "ids": large["ids"] + 1}
    with pytest.raises(DataError, match="input 'ids' holds integers beyond 16,777,216"):
        layout.pack(beyond)
    wide = {**beyond, "x": large["x"].double()}
    assert torch.equal(Layout.of(wide).unpack(Layout.of(wide).pack(wide))["ids"], beyond["ids"])


@pytest.mark.parametrize("with_image", [False, True])
def test_a_packed_module_gives_the_same_outputs_by_keyword_and_by_place(with_image):
    inputs = {**tokens(), **({"image": pictures().double()} if with_image else {})}
    module = Reader().double().eval()
    module.eye.requires_grad_(with_image)
    expected = module(**inputs)["logits"]
    for given in (inputs, tuple(inputs.values())):
        layout = Layout.of(given)
        network = Network.of(Packed(module, layout))
        found = network(network.weights, layout.pack(given))
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
        network.check(layout.pack(given), fip.FisherRao())


def test_a_packed_module_has_the_gradients_of_its_floats():
    inputs = {**tokens(), "image": pictures().double()}
    module = Reader().double().eval()
    layout = Layout.of(inputs)
    packed = layout.pack(inputs).requires_grad_()
    inputs["image"].requires_grad_()
    (found,) = torch.autograd.grad(Packed(module, layout)(packed)["logits"].sum(), packed)
    (expected,) = torch.autograd.grad(module(**inputs)["logits"].sum(), inputs["image"])
    assert torch.equal(found[:, -18:], expected.flatten(1))
    assert not found[:, :-18].any()


def test_perturbed_token_ids_are_refused():
    inputs = {**tokens(), "image": pictures()}
    layout = Layout.of(inputs)
    module = Packed(Reader().eval(), layout)
    with pytest.raises(DataError, match=r"the input 'ids' holds int64 .* and was perturbed"):
        module(layout.pack(inputs) + 0.1)
    with pytest.raises(DataError, match=r"ids, mask are not exact in torch.bfloat16"):
        module(layout.pack(inputs).bfloat16())


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Layout.of({}), "one or more inputs"),
        (lambda: Layout.of({"x": torch.tensor(1.0)}), "input 'x' must be a tensor"),
        (lambda: Layout.of({"x": torch.zeros(2, 2, dtype=torch.complex64)}), "complex64, which cannot be packed"),
        (lambda: Layout.of(tokens()).pack({"ids": tokens()["ids"]}), "do not have this layout"),
        (lambda: Layout.of(tokens()).pack({**tokens(), "mask": tokens(5)["mask"]}), "one number of examples"),
        (lambda: Layout.of(tokens()).unpack(torch.zeros(2, 3)), r"packed inputs must be \[N, 10\]"),
    ],
)
def test_what_does_not_fit_a_layout_is_refused(make, sentence):
    with pytest.raises(DataError, match=sentence):
        make()


def test_a_normalised_module_computes_what_the_module_does_on_normalised_inputs():
    inputs, mean, std = pictures().double(), (0.25, 0.5), (0.5, 0.125)
    module = nn.Sequential(nn.Flatten(), nn.Linear(18, 3)).double().eval()
    by_hand = torch.stack([(inputs[:, c] - mean[c]) / std[c] for c in range(2)], 1)
    network = Normalised(module, mean, std)
    assert torch.equal(network(inputs), module(by_hand))
    assert torch.equal(Normalised(module, 0.25, 0.5)(inputs), module((inputs - 0.25) / 0.5))
    assert network.mean.dtype == torch.float64
    assert {name.removeprefix("module.") for name in network.state_dict()} == module.state_dict().keys()
    with pytest.raises(DataError, match="a mean of 2 channels"):
        network(torch.zeros(1, 3, 3, 2))
    for wrong in ((mean, (0.5, 0.0)), (mean, 0.5)):
        with pytest.raises(fip.errors.NetworkError, match="std be above 0"):
            Normalised(module, *wrong)


@needs_studies
def test_another_normalisation_is_another_network_in_ids():
    data = fip.Data(*[pictures().numpy()] * 2)
    module = nn.Sequential(nn.Flatten(), nn.Linear(18, 3)).eval()
    path = fip.PathSpec("p", fip.objectives.RandomWalk(), num_steps=1)
    ids = {
        id
        for mean in (0.25, 0.5)
        for id in fip.Study("s", Normalised(module, mean, 0.5), data, (path,)).path_ids.values()
    }
    assert len(ids) == 2
