"""Digests of a network's architecture: part of the IDs of a study, and the same in every process."""

from __future__ import annotations

import collections
import copy
import functools
import os
import pickle
import subprocess
import sys
import threading
import types
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import nn

import fipray as fip
from fipray.study.code import architecture_of, code_of
from tests import studies


def identity(module: nn.Module) -> tuple[str, dict[str, str]]:
    return architecture_of(module), code_of(module)


@dataclass
class Settings:
    scale: float = 1.0
    names: set[str] = field(default_factory=lambda: {"one", "two", "three", "four"})


class Scale:
    __slots__ = ("factor",)

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __call__(self, value):
        return self.factor * value

    def apply(self, value):
        return self(value)


class Hooked:
    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __call__(self, module, inputs, output):
        return self.factor * output


class Net(nn.Module):
    def __init__(self, setting: object = None) -> None:
        super().__init__()
        self.layer, self.setting = nn.Linear(6, 3), setting

    def forward(self, inputs):
        return self.layer(inputs)


def scaled(factor, value):
    return factor * value


def scaling(factor):
    return lambda value: factor * value


def hook(factor, module, inputs, output):
    return factor * output


def hooked(function) -> nn.Module:
    layer = nn.Linear(6, 3)
    layer.register_forward_hook(function)
    return nn.Sequential(layer)


def buffered(value: float) -> nn.Module:
    module = nn.Sequential(nn.Linear(6, 3))
    module.register_buffer("shift", torch.full((3,), value), persistent=False)
    return module


def round_trip(value):
    items = [value]
    items.append(items)
    return items


SETTINGS = {
    "dict": ({"scale": 1.0}, {"scale": 5.0}),
    "order of a dict": ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    "list": ([1, [2]], [1, [3]]),
    "dataclass": (Settings(1.0), Settings(5.0)),
    "tensor": (torch.ones(2), torch.full((2,), 5.0)),
    "sparse tensor": (torch.eye(2).to_sparse(), (5 * torch.eye(2)).to_sparse()),
    "numpy scalar": (np.float32(1), np.float32(5)),
    "array of objects": (np.array([Scale(1.0)], object), np.array([Scale(5.0)], object)),
    "fields of an array": (np.zeros(1, [("a", "f4")]), np.zeros(1, [("b", "f4")])),
    "masked array": (np.ma.array([1, 2], mask=[0, 1]), np.ma.array([1, 2], mask=[1, 0])),
    "object": (Scale(1.0), Scale(5.0)),
    "bound method": (Scale(1.0).apply, Scale(5.0).apply),
    "partial": (functools.partial(scaled, 1.0), functools.partial(scaled, 5.0)),
    "closures": ([scaling(1.0), scaling(5.0)], [scaling(5.0), scaling(1.0)]),
    "functions": ([torch.relu, torch.tanh], [torch.tanh, torch.relu]),
    "namespace": (types.SimpleNamespace(scale=1.0), types.SimpleNamespace(scale=5.0)),
    "ordered dict": (collections.OrderedDict(a=1), collections.OrderedDict(a=2)),
    "default dict": (collections.defaultdict(int), collections.defaultdict(list)),
    "deque": (collections.deque([1]), collections.deque([2])),
    "set": ({"a", "b"}, {"a", "c"}),
    "type": (nn.ReLU, nn.GELU),
    "what holds itself": (round_trip(1.0), round_trip(5.0)),
    "module in a list": ([nn.Softplus(1.0)], [nn.Softplus(5.0)]),
}


@pytest.mark.parametrize(("first", "second"), SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("make", [Net, lambda setting: nn.Sequential(nn.Linear(6, 3), Net(setting))])
def test_the_settings_of_a_module_of_the_users_own_are_part_of_what_it_is(make, first, second):
    assert identity(make(first)) == identity(make(first))
    assert identity(make(first)) != identity(make(second))


INSTALLED = {
    "heads": (lambda: nn.MultiheadAttention(8, 1), lambda: nn.MultiheadAttention(8, 8)),
    "order of a norm": (
        lambda: nn.TransformerEncoderLayer(8, 2, 16),
        lambda: nn.TransformerEncoderLayer(8, 2, 16, norm_first=True),
    ),
    "activation": (
        lambda: nn.TransformerEncoderLayer(8, 2, 16),
        lambda: nn.TransformerEncoderLayer(8, 2, 16, activation="gelu"),
    ),
    "attribute": (lambda: nn.Sequential(nn.ELU(1.0)), lambda: nn.Sequential(nn.ELU(5.0))),
    "partial as a hook": (
        lambda: hooked(functools.partial(hook, 1.0)),
        lambda: hooked(functools.partial(hook, 5.0)),
    ),
    "object as a hook": (lambda: hooked(Hooked(1.0)), lambda: hooked(Hooked(5.0))),
    "bound method as a hook": (lambda: hooked(Hooked(1.0).__call__), lambda: hooked(Hooked(5.0).__call__)),
    "buffer that is in no state": (lambda: buffered(1.0), lambda: buffered(5.0)),
    "order of layers": (lambda: nn.Sequential(nn.ReLU(), nn.Tanh()), lambda: nn.Sequential(nn.Tanh(), nn.ReLU())),
    "weight norm": (
        lambda: nn.utils.parametrizations.weight_norm(nn.Linear(6, 3), dim=0),
        lambda: nn.utils.parametrizations.weight_norm(nn.Linear(6, 3), dim=1),
    ),
    "dtype": (lambda: nn.Linear(6, 3), lambda: nn.Linear(6, 3).double()),
}


@pytest.mark.parametrize(("first", "second"), INSTALLED.values(), ids=INSTALLED)
def test_the_settings_and_hooks_of_installed_modules_are_part_of_what_they_are(first, second):
    assert identity(first()) == identity(first())
    assert identity(first()) != identity(second())


def test_tied_weights_are_another_network_than_equal_ones():
    tied, equal = (nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)) for _ in range(2))
    tied[1].weight = tied[0].weight
    assert identity(tied) != identity(equal)


def test_all_ids_of_a_study_depend_on_the_settings_of_installed_modules_also_beside_a_base_id():
    paths = (fip.PathSpec("p", fip.objectives.GradientDiversity(), fip.steppers.FirstOrder(beta=0.1)),)

    def made(slope: float) -> fip.Study:
        module = nn.Sequential(nn.Linear(6, 3), nn.LeakyReLU(slope)).eval()
        return fip.Study("s", module, studies.data(), paths, base_id="same")

    first, second = made(0.1), made(0.2)
    assert first.specs.keys() == made(0.1).specs.keys()
    assert not first.specs.keys() & second.specs.keys()
    assert first.manifest["study_id"] != second.manifest["study_id"]


@pytest.mark.parametrize(
    "wrap", [torch.compile, nn.DataParallel, copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))]
)
def test_a_wrapper_or_a_copy_of_a_network_is_the_same_network(wrap):
    module = nn.Sequential(nn.Linear(6, 3), nn.TransformerEncoderLayer(3, 1, 4))
    assert architecture_of(wrap(module)) == architecture_of(module)


def test_compilation_in_place_changes_no_network():
    module, compiled = (nn.Sequential(nn.Linear(6, 3)) for _ in range(2))
    compiled.compile()
    assert architecture_of(compiled) == architecture_of(module)


class Recording(nn.Module):
    """Module that stores its last results in attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.calls, self.all = nn.Linear(6, 3), 0, []
        self.last, self.gain, self.told = None, 1.0, {}

    def forward(self, inputs):
        self.calls += 1
        self.last = self.layer(inputs)
        self.all.append(self.last)
        self.told["last"] = self.last
        return self.gain * self.last


def test_what_a_pass_leaves_in_a_module_is_no_setting():
    module = Recording()
    before = identity(module)
    module(torch.ones(1, 6))
    assert identity(module) == before
    module.gain = 5.0
    assert identity(module) != before


def test_what_hooks_collect_is_no_setting():
    found: dict[str, object] = {}
    seen: list[object] = []

    def keep(module, inputs, output):
        found["last"] = output
        seen.append(output)

    module = hooked(keep)
    before = identity(module)
    module(torch.ones(1, 6))
    assert seen
    assert identity(module) == before


class Switched(Net):
    def forward(self, inputs):
        return self.layer(inputs) if self.training else 5 * self.layer(inputs)


def test_the_mode_of_a_module_counts_where_its_code_asks_for_it():
    assert identity(Switched().train()) != identity(Switched().eval())
    assert identity(Net().train()) == identity(Net().eval())


def test_what_cannot_be_looked_into_is_told_by_its_class(tmp_path):
    with open(tmp_path / "a", "w") as one, open(tmp_path / "b", "w") as other:
        assert identity(Net(one)) == identity(Net(other))
    assert identity(Net(threading.Lock())) == identity(Net(threading.Lock()))
    assert identity(Net(threading.Lock())) != identity(Net(threading.RLock()))


class Linear(nn.Linear):
    """Class of the user's own that is parametrized below: torch derives another class from it."""


def test_an_own_class_is_seen_under_a_parametrization():
    module = nn.Sequential(nn.utils.parametrizations.weight_norm(Linear(6, 3)))
    assert type(module[0]).__module__ != __name__
    assert f"{__name__}:Linear" in code_of(module)


def test_deeply_nested_settings_have_an_end():
    deep: list[object] = []
    for _ in range(5000):
        deep = [deep]
    wide: list[object] = [1.0]
    for _ in range(60):
        wide = [wide, wide]
    assert identity(Net([deep, wide])) == identity(Net([deep, wide]))


PROCESS = """
import collections, functools, logging, os, tempfile, threading, warnings, weakref
import numpy as np, torch
from torch import nn
from fipray.study.code import architecture_of, code_of
from fipray.study.arrays import weights_digest

warnings.simplefilter("ignore")


class Scale:
    def __init__(self, factor, owner):
        self.factor, self.owner, self.words = factor, owner, {"one", "two", "three", "four"}

    def __call__(self, value):
        return self.factor * value


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.act = nn.Linear(4, 3), Scale(2.0, self)
        self.functions = [torch.relu, lambda value: value + 1, functools.partial(torch.add, alpha=0.3)]
        self.sets = {frozenset({"a", "b", "c"}), frozenset({"d", "e"})}
        self.types = {nn.Linear, nn.Conv2d, nn.ReLU, nn.GELU}
        self.arrays = [np.float32(3), np.array([{"x", "y", "z"}, self.act], object), torch.ones(2)]
        self.shut = [threading.Lock(), threading.Event(), open(os.devnull), tempfile.NamedTemporaryFile()]
        self.more = [logging.getLogger("own"), weakref.ref(self), torch.Generator(), object(), torch.ops.aten.relu]
        self.layer.register_forward_hook(lambda module, inputs, output: 2 * output)

    def forward(self, inputs):
        return self.act(self.layer(inputs))


torch.manual_seed(0)
layers = nn.Sequential(nn.Linear(4, 4), nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4)))
networks = [Own(), torch.fx.symbolic_trace(nn.Sequential(nn.Linear(4, 4), nn.ReLU())), layers, nn.DataParallel(layers)]
print([(architecture_of(each), sorted(code_of(each).items()), weights_digest(each)) for each in networks])
"""


OTHERS = """
import timm, torch, torchvision, transformers
from fipray.study.code import architecture_of, code_of

sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 20}
networks = [
    torchvision.models.resnet18(),
    timm.create_model("vit_tiny_patch16_224"),
    timm.create_model("swin_tiny_patch4_window7_224"),
    transformers.BertForSequenceClassification(transformers.BertConfig(**sizes)),
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes)),
    torch.compile(torchvision.models.vgg11()),
]
print([(architecture_of(each), code_of(each)) for each in networks])
"""


@pytest.mark.slow
@pytest.mark.parametrize("script", [PROCESS, OTHERS])
def test_equal_networks_are_told_alike_in_every_process(tmp_path, script):
    (tmp_path / "networks.py").write_text(script)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    running = [
        subprocess.Popen(
            [sys.executable, tmp_path / "networks.py"],
            env={**environment, "PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
        )
        for seed in ("1", "2")
    ]
    first, second = (process.communicate()[0] for process in running)
    assert all(process.returncode == 0 for process in running)
    assert first == second
    assert first.count(b"(") >= 4
