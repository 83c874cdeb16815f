"""What a path of adapters or of a head costs beside one of the whole network, and beside plain training of the same.

    python -m benchmarks.engine.adapters [--network bert] [--rounds 3] [--json FILE]

Encoders of about 100 million weights with random values: BERT-base (transformers) and ViT-B/16 (timm). "LoRA" are
adapters of rank 8 on queries and values (`peft`) and a head of their own; "head" is the head alone. All else is frozen.

Memory is the peak of a process of its own above what it holds once module and inputs are made: for "path" of the whole
of `fipray.trace` (network, checks, problem, first-order steps, saved points), for "plain" of training steps of the same
parameters by fused Adam. Activations are in both. Time is that of a step, in one process in turn, on the same batch;
medians over rounds, of the ratio too.
"""

from __future__ import annotations

import json
import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn

import fipray as fip
from benchmarks.engine.sizes import alone, memory_bytes
from benchmarks.engine.steps import Downwards
from fipray.execution.memory import keep_freed_memory
from fipray.networks.modules import outputs_of
from fipray.paths.problem import anchors_and_held_out

NUM_STEPS, NUM_CLASSES = 4, 10
PARTS = ("whole", "LoRA", "head")


@dataclass(frozen=True)
class Encoder:
    """A network, the names of its layers that LoRA adapts and of its head, and a batch of inputs."""

    module: Callable[[], nn.Module]
    adapted: tuple[str, ...]
    head: str
    inputs: Callable[[int], Tensor]
    batch: int


def _bert() -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    config: Any = BertConfig()
    config.num_labels = NUM_CLASSES
    module: nn.Module = BertForSequenceClassification(config)
    return module


def _vit() -> nn.Module:
    import timm

    module: nn.Module = timm.create_model("vit_base_patch16_224", pretrained=False, num_classes=NUM_CLASSES)
    return module


ENCODERS: Mapping[str, Encoder] = {
    "bert": Encoder(_bert, ("query", "value"), "classifier", lambda n: torch.randint(30_000, (n, 32)), 8),
    "vit": Encoder(_vit, ("qkv",), "head", lambda n: torch.rand(n, 3, 224, 224), 2),
}


@dataclass(frozen=True)
class Record:
    """One row: bytes and seconds of a step, of the path and of plain training."""

    network: str
    moving: str
    num_moving: int
    path_peak: int
    plain_peak: int
    path_seconds: float
    plain_seconds: float
    ratio: float


def made(name: str, part: str) -> nn.Module:
    """Make a module of which a part requires gradients."""
    torch.manual_seed(0)
    encoder = ENCODERS[name]
    module = encoder.module()
    if part == "LoRA":
        from peft import LoraConfig, get_peft_model

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of peft, about transformers
            config = LoraConfig(r=8, target_modules=list(encoder.adapted), modules_to_save=[encoder.head])
            module = get_peft_model(module, config)
    elif part == "head":
        for parameter_name, parameter in module.named_parameters():
            parameter.requires_grad_(parameter_name.startswith(f"{encoder.head}."))
    return module.eval()


def _trained(module: nn.Module, inputs: Tensor, batch: int) -> Callable[[int], object]:
    """Prepare plain training steps towards the module's own outputs."""
    with torch.no_grad():
        targets = [outputs_of(module(some), module).softmax(1) for some in inputs.split(batch)]
    optimizer = torch.optim.Adam([one for one in module.parameters() if one.requires_grad], 1e-4, fused=True)

    def steps(count: int) -> None:
        for some, target in list(zip(inputs.split(batch), targets, strict=True))[:count]:
            loss = nn.functional.cross_entropy(outputs_of(module(some), module), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return steps


def _settings(batch: int, **given: Any) -> fip.Settings:
    return fip.Settings(
        stepper=fip.steppers.FirstOrder(beta=0.1), radius=fip.radii.Scheduled(1e-3), batch_size=batch, **given
    )


def _walked(module: nn.Module, inputs: Tensor, batch: int) -> Callable[[int], object]:
    """Prepare steps of a path."""
    problem = fip.Problem(module, inputs, inputs[:2])
    anchors, _ = anchors_and_held_out(problem)

    def steps(count: int) -> None:
        for _ in fip.walk(problem, anchors, Downwards(), _settings(batch, num_steps=count)):
            pass

    return steps


def _peak(name: str, part: str, what: str, threads: int) -> int:
    """Greatest memory, above that of a process with module and inputs."""
    torch.set_num_threads(threads)
    encoder = ENCODERS[name]
    warm = nn.Linear(3, 2).eval()  # loads what torch loads when it is first needed
    _traced(warm, torch.rand(8, 3), 4)
    _trained(warm, torch.rand(8, 3), 4)(2)
    module, inputs = made(name, part), encoder.inputs(2 * encoder.batch)
    before = memory_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forgets the greatest memory so far
    if what == "path":
        _traced(module, inputs, encoder.batch)
    else:
        _trained(module, inputs, encoder.batch)(2)
    return memory_bytes("VmHWM") - before


def _traced(module: nn.Module, inputs: Tensor, batch: int) -> None:
    settings = _settings(batch, num_steps=3, save_at=fip.SaveAt(3))
    path = fip.trace(module, Downwards(), settings, anchors=inputs, held_out=inputs[:batch])
    assert len(path.points) == 4


def _seconds(name: str, part: str, rounds: int, threads: int) -> tuple[int, float, float, float]:
    """Count the weights that move, and time a step of the path, a plain step, and their ratio."""
    torch.set_num_threads(threads)
    encoder = ENCODERS[name]
    module, inputs = made(name, part), encoder.inputs(NUM_STEPS * encoder.batch)
    num_moving = sum(one.numel() for one in module.parameters() if one.requires_grad)
    keep_freed_memory(sum(one.numel() for one in module.parameters()))
    # The path first: its network is verified against the module, whose weights plain steps change.
    jobs = [_walked(module, inputs, encoder.batch), _trained(module, inputs, encoder.batch)]
    clock = time.process_time if threads == 1 else time.perf_counter
    found: list[list[float]] = [[], []]
    for number in range(rounds + 1):  # the first warms up
        for steps, times in zip(jobs, found, strict=True):
            began = clock()
            steps(NUM_STEPS)
            if number:
                times.append((clock() - began) / NUM_STEPS)
    ratio = statistics.median(one / plain for one, plain in zip(*found, strict=True))
    return num_moving, statistics.median(found[0]), statistics.median(found[1]), ratio


def main(
    network: Annotated[list[str] | None, typer.Option(help=f"{', '.join(ENCODERS)}; all by default.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Measurements of each step.")] = 3,
    threads: Annotated[int, typer.Option(min=1, help="Of the processor.")] = 1,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the records there.")] = None,
) -> None:
    """Measure, and print the table in Markdown."""
    if unknown := sorted(set(network or ()) - set(ENCODERS)):
        raise typer.BadParameter(f"there is no network {', '.join(unknown)}; there are: {', '.join(ENCODERS)}")
    print("| network | moving | weights | path, peak MB | of whole | plain, peak MB | path, ms | plain, ms | ratio |")
    print("|---|---|---|---:|---:|---:|---:|---:|---:|")
    records: list[Record] = []
    for name in network or ENCODERS:
        whole = 0
        for part in PARTS:
            peaks = [alone(_peak, name, part, what, threads) for what in ("path", "plain")]
            num_moving, *seconds = alone(_seconds, name, part, rounds, threads)
            records.append(Record(name, part, num_moving, *peaks, *seconds))
            one, whole = records[-1], whole or peaks[0]
            print(
                f"| {name} | {part} | {num_moving:,} | {one.path_peak / 2**20:,.0f} | {one.path_peak / whole:.3f} | "
                f"{one.plain_peak / 2**20:,.0f} | {1e3 * one.path_seconds:,.0f} | {1e3 * one.plain_seconds:,.0f} | "
                f"{one.ratio:.2f} |"
            )
            if json_file:
                json_file.write_text(json.dumps([asdict(each) for each in records], indent=1) + "\n")
    print(f"\n{threads} thread(s), torch {torch.__version__}")


if __name__ == "__main__":
    typer.run(main)
