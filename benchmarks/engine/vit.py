"""Whether a natural step of ViT-B/16 fits in memory, and how long it takes.

    python -m benchmarks.engine.vit [--quick] [--json FILE]

A whole `Natural()` on a batch of 8 images, 3 x 224 x 224, in the Fisher-Rao geometry, on the processor; weights and
inputs are random, which changes neither figure. Memory is the greatest that this process had, torch and the network
included.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from torchvision.models import VisionTransformer, vit_b_16

from benchmarks.engine.__main__ import Toward
from fipray.networks import Network
from fipray.paths import Natural, Problem, Situation

GIB_AT_MOST = 12.0


@dataclass(frozen=True)
class Record:
    """What the step took; seconds are the clock's, processor_seconds those of all threads together."""

    network: str
    num_weights: int
    batch: int
    threads: int
    seconds: float
    processor_seconds: float
    peak_gib: float


def main(
    quick: Annotated[bool, typer.Option(help="A small vision transformer instead.")] = False,
    batch: Annotated[int, typer.Option(min=1, help="Images.")] = 8,
    threads: Annotated[int, typer.Option(min=1, help="Of the processor.")] = 2,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the record there.")] = None,
) -> None:
    """Take the step, say what it took, and end with status 1 where it took more memory than it may."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    module = VisionTransformer(224, 16, 4, 3, 192, 768) if quick else vit_b_16(weights=None)
    # A new network of torchvision has a head of zeros, which would hide all that is below it.
    torch.nn.init.normal_(module.heads.head.weight, std=module.hidden_dim**-0.5)
    network = Network.of(module.eval())
    problem = Problem(network)
    anchors = problem.batch(torch.randn(batch, 3, 224, 224))
    objective, radius = Toward(torch.zeros_like(problem.start)), 0.01 * float(problem.start.norm())
    began, began_processor = time.perf_counter(), time.process_time()
    proposal = Natural().propose(Situation(problem, objective, problem.start, anchors, radius), {})
    seconds, processor_seconds = time.perf_counter() - began, time.process_time() - began_processor
    unit = 2**30 if sys.platform == "darwin" else 2**20  # of ru_maxrss: bytes there, kibibytes elsewhere
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    name = "a small vision transformer" if quick else "ViT-B/16"
    record = Record(name, network.num_weights, batch, threads, seconds, processor_seconds, peak)
    console = Console(soft_wrap=True)
    console.print(
        f"{name}, {network.num_weights:,} weights, batch {batch}, {threads} threads: one Natural() of length "
        f"{float(proposal.displacement.norm()):.3g} took {seconds:.0f} s ({processor_seconds:.0f} s of the processor) "
        f"and {peak:.1f} GiB at the most (aim {GIB_AT_MOST:g})"
    )
    if json_file:
        json_file.write_text(json.dumps(asdict(record), indent=1) + "\n")
    sys.exit(1 if peak > GIB_AT_MOST else 0)


if __name__ == "__main__":
    typer.run(main)
