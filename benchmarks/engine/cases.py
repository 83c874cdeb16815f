"""What is measured on a GPU, and beside what."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

import fipray as fip
from benchmarks.engine.overheads import THREAT_MODEL, plain_pgd
from benchmarks.engine.steps import NUM_STEPS, PATHS, PathKind, Steps, Subject, Training, path_steps, vision
from experiments.networks import lenet_300_100, resnet_20
from fipray.networks import Compute, Network
from fipray.robustness import Attack, Ensemble, StackedEnsemble
from fipray.robustness.margin import margin_gradient

Precision = Literal["bf16", "tf32"]
Prepare = Callable[[Subject], Steps]
PRECISIONS: tuple[Precision, ...] = ("bf16", "tf32")
PLAIN, NATURAL, KRONECKER = "plain Adam step", "Natural, 8 iterations", "Kronecker"
LEAST = {NATURAL: 1, KRONECKER: fip.steppers.Kronecker().refresh}  # one of so many steps updates its factors
ATTACK_STEPS, NUM_MEMBERS = 10, 10
IMAGENET, SMALL = (3, 224, 224), (3, 32, 32)  # images


@dataclass(frozen=True)
class Target:
    """What a row is read against: a ratio or milliseconds, at most."""

    ratio: float | None = None
    milliseconds: float | None = None

    def is_met(self, milliseconds: float, ratio: float | None) -> bool:
        """Compare what was measured with it."""
        pairs = ((self.milliseconds, milliseconds), (self.ratio, ratio))
        return all(most is None or (found is not None and found <= most) for most, found in pairs)

    def __str__(self) -> str:
        return f"{self.ratio:g} x" if self.ratio is not None else f"{self.milliseconds:g} ms"


@dataclass(frozen=True)
class Case:
    """One row.

    Args:
        network: name of the network.
        subject: the network and its batch.
        precision: that of both sides.
        what: name of what is measured.
        ours: prepares it, for a size of the batch.
        beside: name of what it is measured beside; empty for nothing.
        plain: prepares that.
        target: what the row is read against.
        least: smallest number of steps that are measured together.
        is_long: whether it is measured once, without a round that warms up, and neither profiled nor its operations
            counted.
    """

    network: str
    subject: Subject
    precision: Precision
    what: str
    ours: Prepare
    beside: str = ""
    plain: Prepare | None = None
    target: Target | None = None
    least: int = NUM_STEPS
    is_long: bool = False


@dataclass(frozen=True)
class Sizes:
    """A network as it is measured on a GPU, and a small one of its kind for the processor."""

    on_gpu: Subject
    on_cpu: Subject
    is_small: bool = False  # also measured with `Kronecker`, in ensembles, under AutoAttack


def _small_resnet(block: str) -> Callable[[], nn.Module]:
    def made() -> nn.Module:
        from timm.models import resnet

        return resnet.ResNet(
            getattr(resnet, block), (1, 1, 1, 1), 10, channels=(8, 16, 16, 32), stem_width=8, stem_type="deep"
        )

    return made


def _small_vgg() -> nn.Module:
    from torchvision.models.vgg import make_layers

    return nn.Sequential(make_layers([8, "M", 16, "M"]), nn.AdaptiveAvgPool2d(7), nn.Flatten(), nn.Linear(784, 10))


def _small_vit() -> nn.Module:
    from torchvision.models import VisionTransformer

    return VisionTransformer(32, 8, 2, 2, 32, 64, num_classes=10)


NETWORKS: Mapping[str, Sizes] = {
    "lenet": Sizes(Subject(lenet_300_100, (128, 1, 28, 28)), Subject(lenet_300_100, (8, 1, 28, 28)), is_small=True),
    "resnet20": Sizes(Subject(resnet_20, (128, 3, 32, 32)), Subject(resnet_20, (2, 3, 16, 16)), is_small=True),
    "resnet18": Sizes(Subject(vision("resnet18"), (512, *IMAGENET)), Subject(_small_resnet("BasicBlock"), (2, *SMALL))),
    "resnet50": Sizes(Subject(vision("resnet50"), (256, *IMAGENET)), Subject(_small_resnet("Bottleneck"), (2, *SMALL))),
    "vgg16": Sizes(Subject(vision("vgg16"), (256, *IMAGENET)), Subject(_small_vgg, (2, *SMALL))),
    "vit-b-16": Sizes(Subject(vision("vit_b_16"), (256, *IMAGENET)), Subject(_small_vit, (2, *SMALL))),
}
TARGETS: Mapping[tuple[str, Precision, str], Target] = {
    ("resnet50", "bf16", "FirstOrder"): Target(ratio=1.15),
    **{("lenet", precision, "FirstOrder"): Target(milliseconds=1.0) for precision in PRECISIONS},
    **{("resnet20", precision, "FirstOrder"): Target(milliseconds=1.0) for precision in PRECISIONS},
}


def cases(device: torch.device, quick: bool) -> Iterator[Case]:
    """All rows, in order.

    Args:
        device: the GPU, or the processor for small sizes.
        quick: whether the processor takes what is slow, such as AutoAttack, with few steps.

    Yields:
        Rows; nothing is computed yet.
    """
    for name, sizes in NETWORKS.items():
        subject = sizes.on_gpu if device.type == "cuda" else sizes.on_cpu
        for precision in PRECISIONS:
            yield from _steps(name, subject, precision, device, sizes.is_small)
            yield from _adversarial(name, subject, precision, device)
        if sizes.is_small:
            yield from _of_small(name, subject, device, quick)


def _compute(precision: Precision) -> Compute:
    return Compute(precision=precision, channels_last=True)


def _steps(
    name: str, subject: Subject, precision: Precision, device: torch.device, with_kronecker: bool
) -> Iterator[Case]:
    compute = _compute(precision)
    kinds = dict(PATHS)
    if with_kronecker:  # of larger networks the factors take longer than all else
        kinds[KRONECKER] = PathKind(PATHS["FirstOrder"].objective, {"stepper": fip.steppers.Kronecker()})
    for what, kind in kinds.items():
        yield Case(
            name,
            subject,
            precision,
            what,
            partial(path_steps, kind=kind, device=device, compute=compute),
            PLAIN,
            lambda subject: Training.of(subject, device, compute).steps(),
            TARGETS.get((name, precision, what)),
            LEAST.get(what, NUM_STEPS),
        )


def _adversarial(name: str, subject: Subject, precision: Precision, device: torch.device) -> Iterator[Case]:
    """Attacks, and learning from them, beside loops that are written by hand."""
    compute = _compute(precision)
    adversary = fip.objectives.Adversary(THREAT_MODEL, num_steps=ATTACK_STEPS)
    objective = fip.objectives.AdversarialDistillation(adversary)

    def distilled(held: float) -> Prepare:
        kind = PathKind(lambda: objective, {"stepper": fip.steppers.FirstOrder(beta=1.0, held=held)})
        return partial(path_steps, kind=kind, device=device, compute=compute)

    def by_hand(with_clean: bool) -> Prepare:
        return lambda subject: _trained_adversarially(Training.of(subject, device, compute), with_clean)

    attack = fip.attacks.PGD(ATTACK_STEPS)
    yield Case(
        name,
        subject,
        precision,
        f"PGD({ATTACK_STEPS})",
        lambda subject: _attacked(Training.of(subject, device, compute), attack),
        "PGD by hand",
        lambda subject: _attacked_by_hand(Training.of(subject, device, compute)),
        least=1,
    )
    # Both as Madry et al. 2018: of the adversarial inputs alone.
    what = f"adversarial distillation, {ATTACK_STEPS} steps"
    target = Target(ratio=1.1)
    yield Case(name, subject, precision, f"{what}, held=0", distilled(0.0), "PGD-AT", by_hand(False), target, 1)
    # Both of clean and adversarial inputs in one pass, as TRADES.
    yield Case(name, subject, precision, what, distilled(1.0), "PGD-AT, clean too", by_hand(True), least=1)


def _trained_adversarially(training: Training, with_clean: bool) -> Steps:
    """Adversarial training by PGD on the module's own probabilities."""
    generator = torch.Generator(training.device).manual_seed(0)

    def loss(inputs: Tensor, targets: Tensor) -> Tensor:
        moved = plain_pgd(training.outputs, inputs, targets, generator, ATTACK_STEPS)
        if not with_clean:
            return functional.cross_entropy(training.outputs(moved), targets)
        clean, adversarial = training.outputs(torch.cat([inputs, moved])).split(len(inputs))
        return functional.cross_entropy(clean, targets) + functional.cross_entropy(adversarial, targets)

    return training.steps(loss)


def _attacked(training: Training, attack: Attack) -> Steps:
    """Attacks on the first batch."""
    training.module.requires_grad_(False)
    inputs, targets = training.batches[0]
    labels, generator = targets.argmax(1), torch.Generator(training.device).manual_seed(0)
    return _repeated(lambda: attack.perturb(training.outputs, inputs, labels, THREAT_MODEL, generator))


def _attacked_by_hand(training: Training) -> Steps:
    training.module.requires_grad_(False)
    inputs, targets = training.batches[0]
    labels, generator = targets.argmax(1), torch.Generator(training.device).manual_seed(0)
    return _repeated(lambda: plain_pgd(training.outputs, inputs, labels, generator, ATTACK_STEPS))


def _of_small(name: str, subject: Subject, device: torch.device, quick: bool) -> Iterator[Case]:
    """Ensembles, stacked beside one after the other, and AutoAttack."""
    for precision in PRECISIONS:
        compute = _compute(precision)
        for with_gradient in (False, True):
            yield Case(
                name,
                subject,
                precision,
                f"{NUM_MEMBERS} stacked, outputs" + " and gradient" * with_gradient,
                partial(_ensemble, device=device, compute=compute, stacks=True, with_gradient=with_gradient),
                "one after the other",
                partial(_ensemble, device=device, compute=compute, stacks=False, with_gradient=with_gradient),
            )
    attack = fip.attacks.AutoAttack(num_steps=2, num_queries=5) if quick else fip.attacks.AutoAttack()
    what = "AutoAttack" + ", 2 steps, 5 queries" * quick
    compute = _compute("tf32")
    yield Case(name, subject, "tf32", what, lambda subject: _attacked(Training.of(subject, device, compute), attack))


def _ensemble(subject: Subject, device: torch.device, compute: Compute, stacks: bool, with_gradient: bool) -> Steps:
    """Prepare passes of an ensemble of one network at several weights on the first batch."""
    torch.manual_seed(0)
    network = Network.of(subject.on(device)).computed(compute)
    weights = network.weights + 0.01 * torch.randn(NUM_MEMBERS, network.num_weights, device=device)
    inputs = subject.inputs(device)[: subject.batch[0]]
    labels = torch.arange(len(inputs), device=device) % 10

    def member(of: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda inputs: network(of, inputs)

    ensemble = StackedEnsemble(network, weights) if stacks else Ensemble([member(of) for of in weights])
    if with_gradient:
        return _repeated(lambda: margin_gradient(ensemble, inputs, labels))
    return _repeated(torch.no_grad()(lambda: ensemble(inputs)))


def _repeated(call: Callable[[], object]) -> Steps:
    def taken(count: int) -> None:
        for _ in range(count):
            call()

    return taken
