"""ONNX files, hub directories and bundles of networks that others use compute the same as the results, to 1e-5.

Slow: torch.export takes seconds for each network.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
import transformers
from torch import Tensor, nn

import fipray as fip
from fipray import analysis
from fipray.errors import RunError, UsageError
from fipray.execution.stages import staged
from fipray.export import Options, export, to_onnx
from fipray.robustness import StackedEnsemble
from tests.export import subjects
from tests.export.test_export import loaded

pytestmark = pytest.mark.slow

NAMES = ["base", "sparse", "sparse@0.25", "both"]


def seeded(make) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make().eval()


def resnet() -> nn.Module:
    def make() -> nn.Module:
        module = torchvision.models.resnet18(num_classes=3)
        module(2 * torch.rand(8, 3, 32, 32))  # statistics of its own
        return module

    return seeded(make)


def vit() -> nn.Module:
    return seeded(lambda: timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, num_classes=3))


SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "num_labels": 3}


def bert() -> nn.Module:
    return seeded(lambda: transformers.BertForSequenceClassification(transformers.BertConfig(vocab_size=60, **SMALL)))


def hf_vit() -> nn.Module:
    config = transformers.ViTConfig(image_size=32, patch_size=8, **SMALL)
    return seeded(lambda: transformers.ViTForImageClassification(config))


NETWORKS = {"lenet": subjects.lenet, "resnet": resnet, "vit": vit, "bert": bert, "hf_vit": hf_vit}


def inputs(kind: str, num: int, seed: int) -> np.ndarray:
    draws = np.random.default_rng(seed)
    if kind == "bert":
        return draws.integers(0, 60, (num, 10))
    return draws.random((num, *((1, 8, 8) if kind == "lenet" else (3, 32, 32))), dtype=np.float32)


@pytest.fixture(scope="module", params=NETWORKS)
def case(request, tmp_path_factory) -> tuple[str, analysis.Results]:
    kind = request.param
    data = fip.Data(inputs(kind, 24, 1), inputs(kind, 8, 2))
    directory = tmp_path_factory.mktemp(kind)
    fip.LocalRunner().run(subjects.study_of(NETWORKS[kind](), data, num_steps=2), directory)
    return kind, analysis.load(directory)


def wanted(kind: str, results: analysis.Results, name: str, x: Tensor) -> Tensor:
    """Outputs of the study's own network."""
    network = fip.Network.of(NETWORKS[kind]())
    weights = torch.stack([torch.from_numpy(results.weights(one)) for one in results.members(name)])
    with torch.no_grad():
        return StackedEnsemble(network, weights)(x) if len(weights) > 1 else network(weights[0], x)


def logits(module: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return fip.export.loader.outputs_of(module(x))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.timeout(600)
def test_all_forms_compute_the_same(case, tmp_path, monkeypatch, name):
    import onnxruntime

    kind, results = case
    x = torch.from_numpy(inputs(kind, 6, 9))
    expected = wanted(kind, results, name, x)
    close = {"rtol": 1e-5, "atol": 1e-5}
    like = f"tests.export.test_exact:{NETWORKS[kind].__name__}" if kind != "lenet" else "tests.export.subjects:lenet"
    with staged("fipray.export", (said := list[str]()).append):
        sentence = export(results.address, name, None, tmp_path / "x.onnx", options=Options(like))
    assert said[2:] == [
        "tracing the network as an ONNX model",
        "writing the ONNX model",
        "comparing the outputs of onnxruntime with those of torch",
    ]
    assert "outputs of onnxruntime differ from torch by at most" in sentence
    session = onnxruntime.InferenceSession(tmp_path / "x.onnx", providers=["CPUExecutionProvider"])
    assert session.get_modelmeta().custom_metadata_map["network"] == name
    for size in (1, 6):
        (found,) = session.run(["outputs"], {"inputs": x[:size].numpy()})
        torch.testing.assert_close(torch.from_numpy(found), expected[:size], **close)
    for layout in ("hf", "bundle"):
        export(results.address, name, None, tmp_path / layout, options=Options(like, layout=layout))
        torch.testing.assert_close(logits(loaded(tmp_path / layout, monkeypatch), x), expected, **close)
    if kind == "resnet":
        state = loaded(tmp_path / "hf", monkeypatch).state_dict()
        first = "members.0.bn1" if name == "both" else "bn1"
        assert torch.equal(state[f"{first}.running_mean"], resnet().bn1.running_mean)
        assert not torch.equal(state[f"{first}.running_mean"], torch.zeros(64))


@pytest.mark.timeout(600)
def test_a_transformers_model_comes_back_by_from_pretrained(tmp_path):
    data = fip.Data(inputs("bert", 24, 1), inputs("bert", 8, 2))
    fip.LocalRunner().run(subjects.study_of(bert(), data, num_steps=2), tmp_path / "r")
    sentence = export(tmp_path / "r", "sparse", None, tmp_path / "out/", options=Options(bert()))
    assert "layout hf: BertForSequenceClassification" in sentence
    back = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    x = torch.from_numpy(inputs("bert", 6, 9))
    found = analysis.load(tmp_path / "r").module("sparse", like=bert())
    assert torch.equal(logits(back, x), logits(found, x))
    assert "library_name: transformers" in Path(tmp_path / "out" / "README.md").read_text()


@pytest.mark.timeout(600)
def test_inputs_by_keyword_such_as_an_attention_mask_reach_the_onnx_model(tmp_path):
    import onnxruntime

    module, draws = bert(), torch.Generator().manual_seed(0)
    x = torch.randint(60, (5, 10), generator=draws)
    mask = (torch.arange(10) < torch.tensor([[10], [3], [5], [7], [1]])).long()
    assert to_onnx(module, {"input_ids": x, "attention_mask": mask}, tmp_path / "x.onnx") < 1e-5
    session = onnxruntime.InferenceSession(tmp_path / "x.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"input_ids": x[:2].numpy(), "attention_mask": mask[:2].numpy()})
    with torch.no_grad():
        expected = module(input_ids=x, attention_mask=mask).logits[:2]
        without = module(input_ids=x).logits[:2]
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(expected, without, atol=1e-4)


@pytest.mark.timeout(600)
def test_networks_that_no_onnx_model_can_follow_are_refused(tmp_path, results):
    levels = logging.getLogger("onnxscript").level
    with pytest.raises(UsageError, match=r"Counted cannot be exported to ONNX \(.*export .safetensors instead"):
        to_onnx(subjects.counted(), torch.rand(4, 64), tmp_path / "x.onnx")
    assert logging.getLogger("onnxscript").level == levels
    assert not list(tmp_path.iterdir())


class Noisy(nn.Module):
    """Network whose outputs differ with every pass, so no copy of it computes the same."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layer(inputs) + torch.rand_like(inputs[:, :3])


@pytest.mark.timeout(600)
def test_a_model_that_computes_something_else_is_not_written(tmp_path):
    with pytest.raises(RunError, match=r"differ from those of torch by .*; nothing was written"):
        to_onnx(Noisy(), torch.rand(4, 4), tmp_path / "x.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.timeout(600)
def test_a_mixture_goes_to_onnx(mixed, tmp_path):
    import onnxruntime

    export(mixed.address, "both", None, tmp_path / "x.onnx", options=Options("tests.export.subjects:lenet"))
    x = subjects.images(6, 9)
    session = onnxruntime.InferenceSession(tmp_path / "x.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(["outputs"], {"inputs": x})
    expected = logits(mixed.module("both", subjects.lenet()), torch.from_numpy(x))
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.timeout(600)
def test_half_precision_becomes_float32_in_onnx(tmp_path):
    draws = np.random.default_rng(0).random((40, 6), dtype=np.float32)
    fip.LocalRunner().run(subjects.study_of(subjects.half(), fip.Data(draws[:30], draws[30:])), tmp_path / "r")
    like = "tests.export.subjects:half"
    sentence = export(tmp_path / "r", "both", None, tmp_path / "x.onnx", options=Options(like))
    assert "weights in torch.bfloat16 became float32" in sentence
    export(tmp_path / "r", "both", None, tmp_path / "b/", options=Options(like))
    export(tmp_path / "r", "sparse", None, tmp_path / "p.safetensors", options=Options(packed=True))
    state = fip.export.read_state(tmp_path / "p.safetensors")
    own = analysis.load(tmp_path / "r").module("sparse", like).state_dict()
    assert all(value.dtype == torch.bfloat16 and torch.equal(state[name], value) for name, value in own.items())


@pytest.mark.timeout(600)
def test_a_slim_module_goes_to_onnx(tmp_path):
    from tests.study import test_variants as variants

    made = variants.study(variants.own_chain(), pattern=fip.sparsity.Structured())
    fip.LocalRunner().run(made, tmp_path / "r")
    like = "tests.study.test_variants:own_chain"
    sentence = export(tmp_path / "r", "sparse", 0.5, tmp_path / "x.onnx", like)
    whole = export(tmp_path / "r", "sparse", 0.5, tmp_path / "y.onnx", options=Options(like))
    assert "variant sparse@0.5" in sentence
    assert "variant sparse@0.5" in whole
    assert (tmp_path / "x.onnx").stat().st_size < (tmp_path / "y.onnx").stat().st_size
