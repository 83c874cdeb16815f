"""Kinds of modules, each with inputs that it takes: small ones in plain torch, and those of libraries, built small."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations, prune

import fipray as fip
from fipray.geometry import FisherRao, OutputGeometry

NUM_FEATURES, NUM_CLASSES = 12, 5


def features(num: int) -> Tensor:
    return torch.randn(num, NUM_FEATURES)


def images(size: int, channels: int = 3) -> Callable[[int], Tensor]:
    return lambda num: torch.rand(num, channels, size, size)


def tokens(num: int) -> Tensor:
    return torch.randint(1, 50, (num, 9))


@dataclass(frozen=True)
class Kind:
    """Kind of module, with inputs for it and the expected outcome.

    module: makes one; inputs: makes a number of them; outcome: "traced", or words of the message with which it is
    refused.
    """

    module: Callable[[], nn.Module]
    outcome: str = "traced"
    inputs: Callable[[int], Tensor] = features
    geometry: OutputGeometry = FisherRao()
    objective: Any = None  # a random walk


def mlp(num_outputs: int = NUM_CLASSES) -> nn.Sequential:
    return nn.Sequential(nn.Linear(NUM_FEATURES, 8), nn.Tanh(), nn.Linear(8, num_outputs)).eval()


def behind(change: Callable[[nn.Module], nn.Module], part: nn.Module | None = None) -> nn.Sequential:
    """Return a network with a changed first layer."""
    first = change(part or nn.Linear(NUM_FEATURES, 8))
    return nn.Sequential(first, nn.Tanh(), nn.Linear(8, NUM_CLASSES)).eval()


class Forward(nn.Module):
    """A linear layer with a forward of one's own, which is given the module and the inputs."""

    def __init__(self, function: Callable[[Any, Tensor], Any], **parts: Any) -> None:
        super().__init__()
        self.layer = nn.Linear(NUM_FEATURES, NUM_CLASSES)
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, inputs: Tensor) -> Any:
        return self.function(self, inputs)


def with_buffer(module: nn.Module, name: str, value: Tensor) -> nn.Module:
    module.register_buffer(name, value)
    return module


def held_in_a_list() -> nn.Module:
    module = Forward(lambda self, x: self.layer(x) + 0.5 * x @ self.kept[0].T)
    module.kept = [module.layer.weight]
    return module


def cached() -> nn.Module:
    def forward(self: Any, inputs: Tensor) -> Tensor:
        if self.cache is None:
            self.cache = self.layer.weight.detach().clone()
        return inputs @ self.cache.T + self.layer.bias

    return Forward(forward, cache=None)


def in_a_closure() -> nn.Module:
    elsewhere = nn.Linear(NUM_FEATURES, NUM_CLASSES)
    return Forward(lambda self, x: self.layer(x) + elsewhere(x))


def counting(matters: bool) -> nn.Module:
    def forward(self: Any, inputs: Tensor) -> Tensor:
        self.calls += 1
        return self.layer(inputs) * (self.calls if matters else 1)

    return with_buffer(Forward(forward), "calls", torch.zeros(()))


def clipping() -> nn.Module:
    def forward(self: Any, inputs: Tensor) -> Tensor:
        self.layer.weight.data.clamp_(-0.05, 0.05)
        return self.layer(inputs)

    return Forward(forward)


def remembering() -> nn.Module:
    def forward(self: Any, inputs: Tensor) -> Tensor:
        self.last = [self.layer(inputs)]
        return self.last[0]

    return Forward(forward)


def tied() -> nn.Module:
    first, second = nn.Linear(NUM_FEATURES, NUM_FEATURES), nn.Linear(NUM_FEATURES, NUM_FEATURES)
    second.weight = first.weight
    return nn.Sequential(first, nn.Tanh(), second)


def tied_by_memory() -> nn.Module:
    module = nn.Sequential(nn.Linear(NUM_FEATURES, NUM_FEATURES), nn.Linear(NUM_FEATURES, NUM_FEATURES))
    module[1].weight = nn.Parameter(module[0].weight.data)
    return module


def aliased() -> nn.Module:
    module = Forward(lambda self, x: self.layer(x) + x @ self.alias.T)
    return with_buffer(module, "alias", module.layer.weight.data)


def frozen(module: nn.Module) -> nn.Module:
    module[0].requires_grad_(False)
    return module


def asserting() -> nn.Module:
    def forward(self: Any, inputs: Tensor) -> Tensor:
        assert inputs.shape[1] == 128, "wrong width"
        return self.layer(inputs)

    return Forward(forward)


@dataclass
class Output:
    """What a classifier gives beside its logits."""

    logits: Tensor
    hidden: Tensor


@dataclass
class Pair:
    """Two outputs, neither of which is the one that counts."""

    mean: Tensor
    spread: Tensor


class Several(nn.Module):
    """Takes two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(NUM_FEATURES, NUM_CLASSES)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.layer(left + right)


class Recurrent(nn.Module):
    """An embedding, a recurrent layer, and a head on its last output."""

    def __init__(self, kind: type[nn.RNNBase], wrap: Callable[[nn.Module], nn.Module] = lambda part: part) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 6)
        self.recurrent = wrap(kind(6, 8, batch_first=True))
        self.head = nn.Linear(8, NUM_CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.recurrent(self.embedding(inputs))[0][:, -1])


class Complex(nn.Module):
    """The absolute values of a complex linear map."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.1 * torch.randn(NUM_FEATURES, NUM_CLASSES, dtype=torch.cfloat))

    def forward(self, inputs: Tensor) -> Tensor:
        return (inputs.to(torch.cfloat) @ self.weight).abs()


class Half(nn.Module):
    """One layer in low precision, and casts around it."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.first = nn.Linear(NUM_FEATURES, 8, dtype=dtype)
        self.second = nn.Linear(8, NUM_CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.second(self.first(inputs.to(self.first.weight.dtype)).float().tanh())


class Quantising(nn.Module):
    """Fake quantisation of a weight, straight through."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(NUM_FEATURES, NUM_CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        weight = torch.fake_quantize_per_tensor_affine(self.layer.weight, 0.01, 0, -128, 127)
        return functional.linear(inputs, weight, self.layer.bias)


def quantisation_aware(observing: bool) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.ao import quantization

        module = nn.Sequential(nn.Linear(NUM_FEATURES, 8), nn.ReLU(), nn.Linear(8, NUM_CLASSES))
        module.qconfig = quantization.get_default_qat_qconfig("fbgemm")
        quantization.prepare_qat(module.train(), inplace=True)
        module(features(64))
        module.eval()
        if not observing:
            module.apply(quantization.disable_observer)
        return module


def quantised() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.ao.quantization import quantize_dynamic

        return quantize_dynamic(nn.Sequential(nn.LayerNorm(NUM_FEATURES), *mlp()), {nn.Linear})


def old(way: Callable[..., nn.Module], part: nn.Module, *arguments: Any) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that they are old
        return way(part, *arguments)


def masked(part: nn.Module) -> nn.Module:
    return prune.l1_unstructured(part, "weight", amount=0.5)


def sharing() -> nn.Module:
    module = Forward(lambda self, x: self.layer(x))
    module.lock, module.generator = threading.Lock(), (number for number in range(3))
    return module


def uncopyable() -> nn.Module:
    class Refusing(nn.Linear):
        def __deepcopy__(self, memo: Any) -> Any:
            raise RuntimeError("I am one of a kind")

    return behind(lambda part: part, Refusing(NUM_FEATURES, 8))


SMALL: Mapping[str, Kind] = {
    "linear layers": Kind(mlp),
    "without biases": Kind(lambda: nn.Linear(NUM_FEATURES, NUM_CLASSES, bias=False)),
    "GroupNorm": Kind(
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)),
        inputs=images(8),
    ),
    "BatchNorm in training mode": Kind(
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 5)), inputs=images(8)
    ),
    "normalisation by the batch": Kind(
        lambda: behind(lambda part: nn.Sequential(part, nn.BatchNorm1d(8, track_running_stats=False))),
        "depend on the other inputs of its batch",
    ),
    "active dropout": Kind(lambda: nn.Sequential(nn.Dropout(0.5), mlp()), "dropout is active in 0.*eval"),
    "functional dropout": Kind(
        lambda: Forward(lambda self, x: functional.dropout(self.layer(x), 0.5)), "changes between two passes"
    ),
    "attention": Kind(
        lambda: nn.Sequential(
            nn.Unflatten(1, (3, 4)), nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), nn.Flatten()
        ).eval()
    ),
    "LSTM on tokens": Kind(lambda: Recurrent(nn.LSTM), inputs=tokens),
    "GRU on tokens": Kind(lambda: Recurrent(nn.GRU), inputs=tokens),
    "weight_norm": Kind(lambda: behind(parametrizations.weight_norm)),
    "weight_norm, pruned": Kind(
        lambda: behind(parametrizations.weight_norm),
        r"0\.weight is computed from .* by WeightNorm.*remove_parametrizations\(module\.0",
        objective=fip.objectives.Sparsify(sparsity=0.5),
    ),
    "weight_norm with a row of zeros": Kind(
        lambda: behind(lambda part: parametrizations.weight_norm(_with_a_row_of_zeros(part))), "hold NaN or infinity"
    ),
    "weight_norm, old": Kind(lambda: behind(lambda part: old(nn.utils.weight_norm, part))),
    "weight_norm of an LSTM, old": Kind(
        lambda: Recurrent(nn.LSTM, lambda part: old(nn.utils.weight_norm, part, "weight_hh_l0")),
        inputs=tokens,
    ),
    "weight_norm, old, pruned": Kind(
        lambda: behind(lambda part: old(nn.utils.weight_norm, part)),
        r"0\.weight is computed from .* by weight_norm.*remove_weight_norm\(module\.0",
        objective=fip.objectives.Sparsify(sparsity=0.5),
    ),
    "spectral_norm": Kind(lambda: behind(parametrizations.spectral_norm)),
    "spectral_norm in training": Kind(lambda: behind(parametrizations.spectral_norm).train(), "writes into .*_u"),
    "spectral_norm, old": Kind(lambda: behind(lambda part: old(nn.utils.spectral_norm, part))),
    "orthogonal": Kind(lambda: behind(parametrizations.orthogonal)),
    "pruning mask": Kind(lambda: behind(masked)),
    "pruning mask, pruned": Kind(
        lambda: behind(masked),
        r"a pruning mask.*prune\.remove\(module\.0",
        objective=fip.objectives.Sparsify(sparsity=0.5),
    ),
    "tied": Kind(tied),
    "tied by memory": Kind(tied_by_memory, "lie in the same memory"),
    "a buffer in a parameter's memory": Kind(
        aliased, "'alias' of Forward lies in the memory of parameter layer.weight"
    ),
    "a parameter in a list": Kind(held_in_a_list, r"layer\.weight by another way.*'kept' of Forward"),
    "a parameter in a cache": Kind(cached, "by another way"),
    "layers in a list": Kind(
        lambda: Forward(lambda self, x: self.layer(x) + self.more[0](x), more=[nn.Linear(NUM_FEATURES, NUM_CLASSES)]),
        "'more' of Forward, which is none of its parameters.*ModuleList",
    ),
    "layers in a closure": Kind(in_a_closure, "of a closure or another module"),
    "a counter": Kind(lambda: counting(False), "writes into calls"),
    "a buffer written in forward": Kind(lambda: counting(True), "writes into calls"),
    "a parameter written in forward": Kind(clipping, r"writes into its own parameters layer\.weight"),
    "activations left behind": Kind(remembering),
    "an unused head": Kind(
        lambda: Forward(lambda self, x: self.layer(x), head=nn.Linear(3, 2)),
        r"no output .* depends on head\.weight, head\.bias.*moving=\['layer\.\*'\]",
    ),
    "detached": Kind(
        lambda: Forward(lambda self, x: self.layer(x) + self.more(x).detach(), more=nn.Linear(NUM_FEATURES, 5)),
        r"change with more\.weight, more\.bias, but autograd does not see it",
    ),
    "numpy in forward": Kind(
        lambda: Forward(lambda self, x: torch.from_numpy(self.layer(x).numpy())), "autograd cannot follow"
    ),
    "frozen layers": Kind(lambda: frozen(mlp())),
    "all frozen": Kind(lambda: mlp().requires_grad_(False), r"are frozen.*moving="),
    "lock and generator inside": Kind(sharing),
    "refuses copies": Kind(uncopyable, "I am one of a kind"),
    "assertion in forward": Kind(asserting, "does not take inputs .* AssertionError: wrong width"),
    "KeyError in forward": Kind(lambda: Forward(lambda self, x: {}["no"]), "does not take inputs .* KeyError"),
    "several inputs": Kind(Several, "asks for left, right: wrap it"),
    "several inputs in one": Kind(lambda: Forward(lambda self, x: self.layer(x["all"])), "does not take inputs"),
    "dictionary": Kind(lambda: Forward(lambda self, x: {"a": self.layer(x), "b": x}), "gives a dict of outputs"),
    "dictionary with logits": Kind(lambda: Forward(lambda self, x: {"logits": self.layer(x), "b": x})),
    "dataclass": Kind(lambda: Forward(lambda self, x: Pair(self.layer(x), x)), "gives a Pair of outputs"),
    "dataclass with logits": Kind(lambda: Forward(lambda self, x: Output(self.layer(x), x))),
    "one logit": Kind(lambda: mlp(1)),
    "a map of one logit": Kind(lambda: nn.Conv2d(3, 1, 3), inputs=images(8)),
    "a map of classes": Kind(lambda: nn.Conv2d(3, 4, 3), inputs=images(8)),
    "probabilities": Kind(lambda: nn.Sequential(mlp(), nn.Softmax(1)), "are probabilities"),
    "one probability": Kind(lambda: nn.Sequential(mlp(1), nn.Sigmoid()), "are probabilities"),
    "log-probabilities": Kind(lambda: nn.Sequential(mlp(), nn.LogSoftmax(1))),
    "one log-probability": Kind(lambda: nn.Sequential(mlp(1), nn.LogSigmoid()), "never changes its sign"),
    "the same output for all classes": Kind(
        lambda: Forward(lambda self, x: self.layer(x)[:, :1].expand(-1, 3)), "distance 0"
    ),
    "class numbers": Kind(lambda: Forward(lambda self, x: self.layer(x).argmax(1, keepdim=True)), r"are torch\.int64"),
    "complex outputs": Kind(lambda: Forward(lambda self, x: torch.fft.fft(self.layer(x))), r"are torch\.complex64"),
    "no rows": Kind(lambda: Forward(lambda self, x: self.layer(x).sum()), "one row of outputs for each input"),
    "regression": Kind(lambda: mlp(1), geometry=fip.Euclidean()),
    "complex parameters": Kind(Complex, "parameter weight is complex"),
    "float16": Kind(lambda: mlp().half(), inputs=lambda num: features(num).half()),
    "bfloat16": Kind(lambda: mlp().bfloat16(), inputs=lambda num: features(num).bfloat16()),
    "attention in bfloat16": Kind(
        lambda: (
            nn.Sequential(nn.Unflatten(1, (3, 4)), nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), nn.Flatten())
            .bfloat16()
            .eval()
        ),
        inputs=lambda num: features(num).bfloat16(),
    ),
    "float16, casting": Kind(lambda: Half(torch.float16)),
    "bfloat16, casting": Kind(lambda: Half(torch.bfloat16)),
    "float64 and float32": Kind(lambda: Half(torch.float64)),
    "lazy": Kind(lambda: nn.Sequential(nn.LazyLinear(NUM_CLASSES)), "has no shape yet"),
    "on the meta device": Kind(lambda: nn.Linear(NUM_FEATURES, NUM_CLASSES, device="meta"), "meta device"),
    "scripted": Kind(lambda: torch.jit.script(mlp()), "is scripted or traced"),
    "a scripted part": Kind(lambda: behind(torch.jit.script), "'0' .* is scripted or traced"),
    "traced by torch.jit": Kind(lambda: torch.jit.trace(mlp(), features(2)), "is scripted or traced"),
    "quantised": Kind(quantised, "is quantised"),
    "fake quantisation": Kind(Quantising),
    "quantisation-aware, observing": Kind(lambda: quantisation_aware(True), "writes into .*disable the observers"),
    "quantisation-aware": Kind(lambda: quantisation_aware(False)),
    "DataParallel": Kind(lambda: nn.DataParallel(mlp())),
    "compiled": Kind(lambda: torch.compile(mlp(), backend="aot_eager")),
    "a compiled part": Kind(lambda: behind(lambda part: torch.compile(part, backend="aot_eager"))),
}


def _with_a_row_of_zeros(part: nn.Module) -> nn.Module:
    with torch.no_grad():
        part.weight[0] = 0
    return part


def of_libraries() -> Mapping[str, Kind]:
    """Networks of torchvision, timm and transformers, built small and with random weights."""
    import timm
    import transformers
    from torchvision import models

    def vision(name: str, size: int = 32, **settings: Any) -> Kind:
        return Kind(lambda: models.get_model(name, num_classes=NUM_CLASSES, **settings).eval(), inputs=images(size))

    def of_timm(name: str, size: int = 32, **settings: Any) -> Kind:
        return Kind(lambda: timm.create_model(name, num_classes=NUM_CLASSES, **settings).eval(), inputs=images(size))

    def encoder(outcome: str, make: Any, **settings: Any) -> Kind:
        sizes = {"vocab_size": 50, "num_labels": NUM_CLASSES, **settings}
        return Kind(lambda: make(sizes).eval(), outcome, inputs=tokens)

    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    distil = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32}
    gpt = {"n_embd": 16, "n_layer": 2, "n_head": 2, "pad_token_id": 0}
    vit = {"image_size": 32, "patch_size": 8, **{"hidden_dim": 24, "num_layers": 2, "num_heads": 2, "mlp_dim": 48}}

    def made(config: str, model: str) -> Any:
        return lambda sizes: getattr(transformers, model)(getattr(transformers, config)(**sizes))

    return {
        "torchvision resnet18": vision("resnet18"),
        "torchvision vgg11": Kind(
            lambda: nn.Sequential(models.vgg11().features, nn.Flatten(), nn.Linear(512, NUM_CLASSES)).eval(),
            inputs=images(32),
        ),
        "torchvision vit": Kind(
            lambda: models.VisionTransformer(**vit, num_classes=NUM_CLASSES).eval(), inputs=images(32)
        ),
        "torchvision mobilenet_v3_small": vision("mobilenet_v3_small"),
        "torchvision efficientnet_b0": vision("efficientnet_b0"),
        "torchvision densenet": Kind(
            lambda: models.DenseNet(8, (2, 2), 8, num_classes=NUM_CLASSES).eval(), inputs=images(32)
        ),
        "torchvision swin": Kind(
            lambda: models.SwinTransformer([4, 4], 16, [2, 2], [2, 2], [4, 4], num_classes=NUM_CLASSES).eval(),
            inputs=images(32),
        ),
        "torchvision googlenet, auxiliary heads": Kind(
            lambda: models.googlenet(num_classes=NUM_CLASSES, aux_logits=True, init_weights=False).eval(),
            "depends on aux1",
            inputs=images(32),
        ),
        "torchvision fcn": Kind(
            lambda: models.segmentation.fcn_resnet50(weights=None, weights_backbone=None, num_classes=2).eval(),
            "gives a OrderedDict of outputs",
            inputs=images(32),
        ),
        "timm resnet10t": of_timm("resnet10t"),
        "timm vit": of_timm("vit_tiny_patch16_224", img_size=32, embed_dim=24, depth=2, num_heads=2),
        "timm convnext": of_timm("convnext_atto", depths=(1, 1, 1, 1), dims=(8, 8, 16, 16)),
        "timm mixer": Kind(
            lambda: timm.models.MlpMixer(NUM_CLASSES, 32, patch_size=8, num_blocks=2, embed_dim=24).eval(),
            inputs=images(32),
        ),
        "transformers bert": encoder("traced", made("BertConfig", "BertForSequenceClassification"), **small),
        "transformers distilbert": encoder(
            "traced", made("DistilBertConfig", "DistilBertForSequenceClassification"), **distil
        ),
        "transformers gpt2": encoder("traced", made("GPT2Config", "GPT2ForSequenceClassification"), **gpt),
        "transformers bert without a head": encoder("gives a BaseModel", made("BertConfig", "BertModel"), **small),
    }
