"""Exports of a network with adapters hold the whole network, and load without peft where the form allows it."""

from __future__ import annotations

import peft
import pytest
import timm
import torch
import transformers
from torch import nn

import fipray as fip
from fipray import analysis
from fipray.export import Options, export, loader, read_state
from fipray.export.directories import ADAPTERS, pretrained
from tests.adapters import bert, study, tokens


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    into = tmp_path_factory.mktemp("adapters")
    fip.LocalRunner().run(study(), into)
    inputs = torch.as_tensor(tokens(9, 2))
    module = analysis.load(into).module("adapted", like=bert())
    with torch.no_grad():
        return into, inputs, module, module(inputs).logits


@torch.no_grad()
def test_a_hub_directory_is_the_merged_network_with_the_adapters_beside_it(exported, tmp_path):
    into, inputs, module, expected = exported
    said = export(into, "adapted", None, tmp_path / "hub", options=Options(like=bert()))
    assert "BertForSequenceClassification with model.safetensors and config.json" in said
    merged = transformers.BertForSequenceClassification.from_pretrained(tmp_path / "hub").eval()
    torch.testing.assert_close(merged(inputs).logits, expected, rtol=0, atol=1e-6)
    card = (tmp_path / "hub" / "README.md").read_text()
    assert 'network = BertForSequenceClassification.from_pretrained(".").eval()' in card
    adapters = peft.utils.load_peft_weights(str(tmp_path / "hub" / ADAPTERS))
    other = bert(seed=1)
    peft.set_peft_model_state_dict(other, adapters)
    own, loaded = dict(module.named_parameters()), dict(other.named_parameters())
    moving = [name for name, parameter in loaded.items() if parameter.requires_grad]
    assert moving
    assert all(torch.equal(own[name], loaded[name]) for name in moving)


@torch.no_grad()
def test_a_state_file_and_a_bundle_load_into_the_module_with_adapters(exported, tmp_path):
    into, inputs, _, expected = exported
    export(into, "adapted", None, tmp_path / "state.safetensors", options=Options(like=bert()))
    export(into, "adapted", None, tmp_path / "bundle", options=Options(like=bert(), layout="bundle"))
    module = bert(seed=1)
    module.load_state_dict(read_state(tmp_path / "state.safetensors"))
    assert torch.equal(module(inputs).logits, expected)
    assert torch.equal(loader.load(bert(seed=1), tmp_path / "bundle")(inputs).logits, expected)


@pytest.mark.slow
def test_an_onnx_file_computes_what_the_module_with_adapters_does(exported, tmp_path):
    into, *_ = exported
    said = export(into, "adapted", None, tmp_path / "file.onnx", options=Options(like=bert()))
    assert "outputs of onnxruntime differ from torch by at most" in said


def test_adapters_around_a_module_without_a_hub_form_have_none_either():
    module = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=1, num_classes=3)
    adapted = peft.get_peft_model(module, peft.LoraConfig(r=2, target_modules=["qkv"]))
    assert pretrained(adapted) is None
    assert pretrained(nn.Sequential(adapted)) is None
