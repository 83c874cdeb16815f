"""What an attack and an evaluation cost beside loops written by hand, by network.

    python -m benchmarks.engine.overheads [--quick] [--network resnet20] [--rounds 15] [--json FILE]

- `PGD` beside a loop of as many steps from random starts that returns its last iterate: cross-entropy, one step size.
- `evaluate` under `PGD` beside one pass over the clean inputs, that loop on those that are classified correctly, and a
  pass over what it made. `evaluate` leaves examples alone once they are fooled, and the loop does not.
- `evaluate` under an attack that changes nothing beside two passes: what the evaluation itself costs.

Both of a pair are timed in turn in one process, in alternating order; the table holds medians over rounds of the ratios
within a round. On one thread the times are the processor's. Weights and inputs are random, and every other label is
wrong, so that half of the examples are attacked; durations depend on neither, but for the share that is fooled.
"""

from __future__ import annotations

import json
import platform
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.engine.clock import Clock, median_ratio
from benchmarks.engine.steps import SUBJECTS
from fipray.robustness import PGD, Attack, Classifier, ThreatModel, evaluate

THREAT_MODEL = ThreatModel("linf", 0.01)
NUM_STEPS = 10
NUM_EXAMPLES: Mapping[str, int] = {"lenet": 1000, "resnet20": 32, "resnet18": 32}
BATCH = 500


@dataclass(frozen=True)
class Record:
    """One row: seconds of ours and of the loop, and the median of their ratios."""

    network: str
    num_examples: int
    threads: int
    what: str
    seconds: float
    plain_seconds: float
    ratio: float


class Unchanged:
    """Attack that changes nothing."""

    name = "none"

    def perturb(
        self,
        classifier: Classifier,
        inputs: Tensor,
        labels: Tensor,
        threat_model: ThreatModel,
        generator: torch.Generator,
        *,
        until_fooled: bool = False,
    ) -> Tensor:
        return inputs


def main(
    quick: Annotated[bool, typer.Option(help="Three rounds.")] = False,
    network: Annotated[list[str] | None, typer.Option(help=f"{', '.join(NUM_EXAMPLES)}; all by default.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Measurements of everything.")] = 15,
    threads: Annotated[int, typer.Option(min=1, help="Of the processor.")] = 1,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the records there.")] = None,
) -> None:
    """Measure, and print the table in Markdown."""
    if unknown := sorted(set(network or ()) - set(NUM_EXAMPLES)):
        raise typer.BadParameter(f"there is no network {', '.join(unknown)}; there are: {', '.join(NUM_EXAMPLES)}")
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    records: list[Record] = []
    for name in network or NUM_EXAMPLES:
        records += _measured(name, 3 if quick else rounds, threads)
    if json_file:
        json_file.write_text(json.dumps([asdict(one) for one in records], indent=1) + "\n")
    print("| network | examples | what | ms | loop, ms | ratio |\n|---|---:|---|---:|---:|---:|")
    for one in records:
        print(
            f"| {one.network} | {one.num_examples} | {one.what} | {1e3 * one.seconds:,.1f} | "
            f"{1e3 * one.plain_seconds:,.1f} | {one.ratio:.3f} |"
        )
    print(f"\n{threads} thread(s), torch {torch.__version__}, {platform.machine()}")


def _measured(name: str, rounds: int, threads: int) -> list[Record]:
    """Time the pairs of one network in turn."""
    pairs = _pairs(name)
    calls = {(what, place): call for what, pair in pairs.items() for place, call in enumerate(pair)}
    found = Clock.of(torch.device("cpu"), threads).in_turn(calls, rounds)
    return [
        Record(
            name,
            NUM_EXAMPLES[name],
            threads,
            what,
            statistics.median(found[what, 0]),
            statistics.median(found[what, 1]),
            median_ratio(found[what, 0], found[what, 1]),
        )
        for what in pairs
    ]


def _pairs(name: str) -> dict[str, tuple[Callable[[], object], Callable[[], object]]]:
    """Prepare what is compared: ours, and the loop."""
    torch.manual_seed(0)
    module = SUBJECTS[name].module().eval()
    inputs = torch.rand(NUM_EXAMPLES[name], *SUBJECTS[name].batch[1:])
    with torch.no_grad():
        labels = module(inputs).argmax(1)
    labels[::2] = (labels[::2] + 1) % 10
    generator, pgd, batches = torch.Generator().manual_seed(0), PGD(NUM_STEPS), list(_batches(inputs, labels))

    def plainly(some: Tensor, own: Tensor) -> Tensor:
        return plain_pgd(module, some, own, generator)

    def evaluated(attack: Attack) -> object:
        return evaluate(module, inputs, labels, THREAT_MODEL, [attack], generator, batch_size=BATCH)

    return {
        pgd.name: (
            lambda: [pgd.perturb(module, *batch, THREAT_MODEL, generator) for batch in batches],
            lambda: [plainly(*batch) for batch in batches],
        ),
        f"evaluate, {pgd.name}": (
            lambda: evaluated(pgd),
            lambda: plain_evaluation(module, inputs, labels, plainly),
        ),
        "evaluate, no attack": (
            lambda: evaluated(Unchanged()),
            lambda: plain_evaluation(module, inputs, labels, lambda some, _: some),
        ),
    }


def _batches(inputs: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(inputs.split(BATCH), labels.split(BATCH), strict=True)


def plain_pgd(
    classifier: Classifier,
    inputs: Tensor,
    labels: Tensor,
    generator: torch.Generator,
    num_steps: int = NUM_STEPS,
) -> Tensor:
    """Projected gradient descent as it is written by hand; labels [N], or probabilities [N, C]."""
    epsilon, step = THREAT_MODEL.epsilon, THREAT_MODEL.epsilon / 4
    moved = inputs + (2 * torch.rand(inputs.shape, generator=generator, device=inputs.device) - 1) * epsilon
    moved = moved.clamp(0, 1)
    for _ in range(num_steps):
        moved.requires_grad_(True)
        loss = functional.cross_entropy(classifier(moved), labels)
        (slope,) = torch.autograd.grad(loss, moved)
        with torch.no_grad():
            moved = moved + step * slope.sign()
            moved = inputs + (moved - inputs).clamp(-epsilon, epsilon)
            moved = moved.clamp(0, 1)
    return moved


@torch.no_grad()
def plain_evaluation(
    module: nn.Module, inputs: Tensor, labels: Tensor, attacked: Callable[[Tensor, Tensor], Tensor]
) -> tuple[float, float]:
    """Clean and robust accuracy as they are computed by hand."""
    clean = torch.cat([module(some).argmax(1) for some in inputs.split(BATCH)]) == labels
    num_robust = 0
    for some, own in _batches(inputs[clean], labels[clean]):
        with torch.enable_grad():
            made = attacked(some, own)
        num_robust += int((module(made).argmax(1) == own).sum())
    return float(clean.float().mean()), num_robust / len(inputs)


if __name__ == "__main__":
    typer.run(main)
