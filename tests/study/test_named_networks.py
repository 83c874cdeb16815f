"""Networks and data by reference: functions, files, torchvision, timm, Hugging Face, states, normalisation."""

from __future__ import annotations

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import torchvision
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    ViTConfig,
    ViTForImageClassification,
)

import fipray as fip
from fipray.errors import NetworkError, UsageError
from fipray.networks import Normalised, Packed
from fipray.study.parsing import literal, number
from fipray.study.reference import data_of, module_of
from fipray.study.states import load_state
from tests.studies import data as study_data, module as study_module
from tests.study.pictures import folder

FILE = """
import numpy as np
import fipray as fip
from torch import nn

def net(*, width: int = 4):
    return nn.Sequential(nn.Linear(3, width), nn.Dropout(0.5), nn.Linear(width, 2))

class Net(nn.Linear):
    def __init__(self):
        super().__init__(3, 2)

ready = nn.Linear(3, 2)

def nothing():
    return 3

def broken():
    raise RuntimeError("no disk")

def rows(*, num: int = 20):
    return np.linspace(0, 1, num * 3, dtype=np.float32).reshape(num, 3), np.arange(num) % 2

def data():
    return fip.Data(np.zeros((4, 3), dtype=np.float32), np.zeros((2, 3), dtype=np.float32))
"""
TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


@pytest.fixture
def file(tmp_path) -> str:
    path = tmp_path / "my_named_networks.py"
    path.write_text(FILE)
    return str(path)


def seeded(make):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make()


def bert(kind=BertForSequenceClassification):
    return seeded(lambda: kind(BertConfig(vocab_size=30, max_position_embeddings=8, num_labels=3, **TINY))).eval()


def test_networks_are_made_by_functions_classes_and_files(file):
    module = module_of(f"{file}:net?width=7")
    assert module[0].out_features == 7
    assert not any(part.training for part in module.modules())
    assert isinstance(module_of(f"{file}:Net"), nn.Linear)
    assert isinstance(module_of(f"{file}:ready"), nn.Linear)
    found = module_of("tests.studies:module").state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in study_module().state_dict().items())


@pytest.mark.parametrize("wrapped", ["", "module.", "_orig_mod.module."])
@pytest.mark.parametrize("suffix", ["safetensors", "pt", "pth"])
def test_a_state_is_loaded_whatever_prefix_its_names_have(wrapped, suffix, file, tmp_path):
    state = {name: torch.randn_like(tensor) for name, tensor in module_of(f"{file}:net").state_dict().items()}
    named, path = {f"{wrapped}{name}": tensor for name, tensor in state.items()}, tmp_path / f"state.{suffix}"
    if suffix == "safetensors":
        safetensors.torch.save_file(named, path)
    else:
        torch.save({"epoch": 3, "state_dict": named} if suffix == "pth" else named, path)
    found = module_of(f"{file}:net?state={path}").state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())


def test_a_state_of_before_batch_norm_counted_is_loaded(tmp_path):
    norm = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    state = {name: tensor + 1 for name, tensor in norm.state_dict().items() if "num_batches" not in name}
    torch.save(state, tmp_path / "old.pth")
    load_state(norm, str(tmp_path / "old.pth"))
    assert all(torch.equal(norm.state_dict()[name], tensor) for name, tensor in state.items())


def test_states_that_do_not_fit_are_refused_with_names_and_shapes(file, tmp_path):
    path = tmp_path / "state.pt"
    torch.save(module_of(f"{file}:net?width=5").state_dict(), path)
    with pytest.raises(NetworkError, match=r"other shapes than Sequential: 0.weight \(5, 3\) for \(4, 3\)"):
        module_of(f"{file}:net?state={path}")
    with pytest.raises(NetworkError, match=r"it lacks weight, bias, and has 0.weight, 0.bias, 2.weight and 1 more"):
        module_of(f"{file}:Net?state={path}")
    with pytest.raises(UsageError, match=rf"there is no file {tmp_path}/stat.pt; there is {path}"):
        module_of(f"{file}:net?state={tmp_path}/stat.pt")
    torch.save(module_of(f"{file}:net"), path)
    with pytest.raises(UsageError, match="holds Python objects besides tensors"):
        module_of(f"{file}:net?state={path}")
    for content in ({"epoch": 3}, [1]):
        torch.save(content, path)
        with pytest.raises(UsageError, match=r"holds (no|a list, not a) state_dict"):
            module_of(f"{file}:net?state={path}")
    path.write_bytes(b"nothing")
    with pytest.raises(UsageError, match=r"cannot be read as weights|holds Python objects"):
        module_of(f"{file}:net?state={path}")


def test_a_normalisation_is_put_in_front(file):
    module = module_of(f"{file}:ready?mean=1/2&std=1/4")
    inputs = torch.rand(5, 3, generator=torch.Generator().manual_seed(0))
    assert isinstance(module, Normalised)
    assert torch.equal(module(inputs), module.module((inputs - 0.5) / 0.25))
    with pytest.raises(UsageError, match="mean and std must be given together"):
        module_of(f"{file}:ready?mean=1/2")


def test_networks_of_torchvision_are_the_same_in_every_run_and_take_weights_by_name(monkeypatch):
    name = "torchvision:squeezenet1_1?num_classes=3"
    one, other = module_of(name), module_of(name)
    assert one.classifier[1].out_channels == 3
    assert all(torch.equal(tensor, other.state_dict()[key]) for key, tensor in one.state_dict().items())
    # Downloads are replaced, not fipray's own code: the published weights are those of a network made here.
    published = torchvision.models.squeezenet1_1().state_dict()
    monkeypatch.setattr(torchvision.models.SqueezeNet1_1_Weights, "get_state_dict", lambda *_, **__: dict(published))
    whole = module_of("torchvision:squeezenet1_1?weights=DEFAULT")
    assert all(torch.equal(tensor, published[key]) for key, tensor in whole.state_dict().items())
    with pytest.warns(UserWarning, match=r"classifier.1.weight, classifier.1.bias are new and random"):
        part = module_of("torchvision:squeezenet1_1?weights=IMAGENET1K_V1&num_classes=3")
    assert torch.equal(part.features[0].weight, published["features.0.weight"])


def test_networks_of_timm_are_made_by_name_and_from_a_checkpoint(tmp_path):
    name = "test_vit"
    module = seeded(lambda: timm.create_model(name, num_classes=3))
    torch.save(module.state_dict(), tmp_path / "state.pth")
    for option in ("checkpoint", "state"):
        found = module_of(f"timm:{name}?num_classes=3&{option}={tmp_path}/state.pth").state_dict()
        assert all(torch.equal(found[key], tensor) for key, tensor in module.state_dict().items())


@pytest.mark.parametrize("kind", ["bert", "vit"])
def test_networks_of_hugging_face_are_loaded_from_a_directory(kind, tmp_path):
    vit = ViTConfig(image_size=8, patch_size=4, num_labels=3, **TINY)
    module = bert() if kind == "bert" else seeded(lambda: ViTForImageClassification(vit)).eval()
    module.save_pretrained(tmp_path)
    found = module_of(f"hf:{tmp_path}")
    assert type(found) is type(module)
    assert all(torch.equal(found.state_dict()[key], tensor) for key, tensor in module.state_dict().items())


def test_a_network_without_a_classification_head_is_refused(tmp_path):
    bert(BertForMaskedLM).save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="is BertForMaskedLM, which has no classification head"):
        module_of(f"hf:{tmp_path}")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("resnet18", "'resnet18' is no reference: give module:function, .*torchvision:NAME, timm:NAME, hf:NAME"),
        ("torchvision:resnet81", "torchvision has no network 'resnet81'; similar: resnet18"),
        ("torchvision:resnet18?weights=BEST", "resnet18 has no weights 'BEST'; it has: IMAGENET1K_V1"),
        ("torchvision:resnet18?classes=3", "torchvision:resnet18 cannot be made: TypeError: .*'classes'"),
        ("timm:vit_tiny_patch16", "timm has no network 'vit_tiny_patch16'; similar: "),
        ("timm:test_vit?checkpoint=nowhere.pth", "there is no file nowhere.pth"),
        ("tests.studies:modul", "tests.studies has no 'modul'; similar: module"),
        ("tests.studies:module?width=3", "has no parameter 'width'"),
        ("tests.studies:module?width", "must be NAME=VALUE, joined by &; got 'width'"),
        ("FILE:nothing", "returned a int; it must return a torch.nn.Module"),
        ("FILE:broken", "(?s)failed: RuntimeError: no disk.*line 19, in broken"),
        ("FILE:ready?width=3", "is a module and no function, so it takes no option 'width'"),
    ],
)
def test_networks_that_cannot_be_made_are_refused_with_what_there_is(name, sentence, file):
    with pytest.raises(UsageError, match=sentence):
        module_of(name.replace("FILE", file))


def test_data_come_from_functions_files_and_folders(file, tmp_path):
    data = data_of(f"{file}:rows?num=30&num_held_out=5&limit=25")
    assert len(data.anchors) == 15
    assert len(data.held_out) == len(data.test_inputs) == 5
    assert data_of(f"{file}:data").anchors.shape == (4, 3)
    assert data_of("tests.studies:data").digest == study_data().digest
    np.savez(tmp_path / "a.npz", x=data.anchors, y=data.anchor_labels)
    assert data_of(f"{tmp_path}/a.npz?seed=1").digest == fip.Data.of(tmp_path / "a.npz", seed=1).digest
    folder(tmp_path / "pictures")
    assert data_of(f"{tmp_path}/pictures?size=3&limit=9").anchors.shape[1:] == (3, 3, 3)
    for name, sentence in {
        f"{file}:data?limit=3": "returns a Data, and has no parameter 'limit'",
        f"{tmp_path}/a.npz?limits=3": "there is no option 'limits'; there are: num_held_out",
        f"{tmp_path}/a.npz?limit=many": "limit must be a whole number, got 'many'",
        f"{tmp_path}/b.npz": "there is no file or folder",
        f"{file}:nothing": "is a int|is an int|is 3",
    }.items():
        with pytest.raises(UsageError, match=sentence):
            data_of(name)


def test_fractions_are_numbers_at_the_border():
    assert number("8/255") == 8 / 255
    assert number(0.5) == number("0.5") == 0.5
    with pytest.raises(UsageError, match="'8/0' is no number"):
        number("8/0")
    texts = ("true", "none", "3", "0", "8/255", "1e-3", "DEFAULT")
    assert [literal(text) for text in texts] == [True, None, 3, 0, 8 / 255, 1e-3, "DEFAULT"]


def test_a_transformer_with_a_mask_is_pruned_in_a_study_and_comes_back_packed(tmp_path):
    generator = torch.Generator().manual_seed(0)
    mask = torch.ones(50, 6, dtype=torch.int64)
    mask[:, 4:] = 0
    inputs = {"input_ids": torch.randint(0, 30, (50, 6), generator=generator), "attention_mask": mask}
    data = fip.Data.of({**inputs, "labels": torch.arange(50) % 3})
    module = bert()
    path = fip.PathSpec("pruned", fip.objectives.Sparsify(0.2), num_steps=2)
    study = fip.Study("masked", module, data, (path,))
    assert isinstance(study.module, Packed)
    assert data.packed(study.module) is study.module
    order = np.random.default_rng(0).permutation(50)[:30]
    expected = module(**{name: tensor[order] for name, tensor in inputs.items()}).logits
    found = study.module(torch.from_numpy(data.anchors)).logits
    torch.testing.assert_close(found, expected)
    fip.LocalRunner().run(study, tmp_path)
    assert fip.analysis.load(tmp_path).paths["sparsity"].item() == pytest.approx(0.2, abs=0.01)


def test_attacks_on_token_ids_are_refused():
    ids = torch.randint(0, 30, (20, 4), generator=torch.Generator().manual_seed(0))
    ones = torch.ones_like(ids)
    data = fip.Data.of({"input_ids": ids, "attention_mask": ones, "labels": torch.arange(20) % 3})
    threat_model = fip.ThreatModel("linf", 0.1)
    path = fip.PathSpec("p", fip.objectives.RandomWalk(), num_steps=1)
    adversarial = fip.PathSpec("p", fip.objectives.AdversarialDistillation(fip.objectives.Adversary(threat_model)))
    for arguments in (
        {"paths": (path,), "evaluation": fip.Evaluation(threat_model)},
        {"paths": (adversarial,)},
        {"paths": (path,), "measures": {"robust": fip.study.RobustAccuracy(threat_model)}},
    ):
        with pytest.raises(UsageError, match="input_ids and attention_mask are integers, such as token IDs"):
            fip.Study("s", bert(), data, **arguments)
    with pytest.raises(NetworkError, match="the module is packed for"):
        data.packed(Packed(bert(), fip.networks.Layout.of({"input_ids": ids})))
