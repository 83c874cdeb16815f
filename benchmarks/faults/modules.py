"""Kinds of modules as they come from elsewhere: what becomes of each of them in a path.

    python -m benchmarks.faults.modules

Each is walked a few steps on small random inputs. A row says "traced" only where the functional distance that the path
reports at its end is, to rounding, the one between the module that `module_at` gives and the module that was given,
each called by itself; where what does not move is bit for bit the same, and where every parameter has kept its dtype
and its requires_grad. It says "refused", with the sentence, where fipray raises an error on purpose. Anything else is a
fault, and the script then ends with status 1. Less than a minute on one core.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import fipray as fip
from benchmarks.faults.kinds import SMALL, Kind, of_libraries
from fipray.geometry import OutputGeometry
from fipray.networks import Network

NUM_STEPS = 3


@dataclass(frozen=True)
class Row:
    """What became of a kind, "traced", "refused", "WRONG" or "RAW EXCEPTION", and what there is to say of it."""

    name: str
    what: str
    said: str

    @property
    def is_fault(self) -> bool:
        return self.what not in ("traced", "refused")


def row(name: str, kind: Kind) -> Row:
    """Walk a kind, and compare what the path says of its end with the modules themselves."""
    torch.manual_seed(0)
    module, inputs, held_out = kind.module(), kind.inputs(24), kind.inputs(17)
    try:
        network = Network.of(module)
        path = fip.trace(
            fip.Problem(network, anchors=inputs, held_out=held_out, geometry=kind.geometry),
            kind.objective or fip.objectives.RandomWalk(),
            fip.Settings(
                stepper=fip.steppers.FirstOrder(beta=1.0),
                radius=fip.radii.Scheduled(0.05),
                num_steps=NUM_STEPS,
                batch_size=16,
            ),
        )
    except fip.FiprayError as error:
        return Row(name, "refused", f"{type(error).__name__}: {error}")
    except Exception as error:
        return Row(name, "RAW EXCEPTION", f"{type(error).__name__}: {error}")
    said = path.end.functional_distance_held_out
    end = network.module_at(path.end.weights)
    faults = [*_moved(module, end, {slot.name for slot in network.slots})]
    measured = _distance(module, end, held_out, kind.geometry)
    if not abs(measured - said) <= 1e-6 + 1e-3 * measured:
        faults.append(f"distance {said:.6g} is reported, and {measured:.6g} is measured")
    if not said > 0:
        faults.append("the distance is 0")
    return Row(name, "WRONG" if faults else "traced", "; ".join(faults) or f"P = {network.num_weights}, D = {said:.3g}")


def _moved(module: nn.Module, end: nn.Module, moving: set[str]) -> Iterator[str]:
    """Return what differs from the start but should not."""
    given = {name.replace("_orig_mod.", "").removeprefix("module."): one for name, one in module.named_parameters()}
    for name, parameter in end.named_parameters():
        before = given[name]
        if (parameter.dtype, parameter.requires_grad) != (before.dtype, before.requires_grad):
            yield f"{name} is {parameter.dtype}, requires_grad={parameter.requires_grad}"
        if name not in moving and not torch.equal(parameter, before):
            yield f"{name} does not move and is not as it was"
    buffers = {name.replace("_orig_mod.", "").removeprefix("module."): one for name, one in module.named_buffers()}
    yield from (
        f"buffer {name} is not as it was" for name, b in end.named_buffers() if not torch.equal(b, buffers[name])
    )


@torch.no_grad()
def _distance(module: nn.Module, end: nn.Module, inputs: Tensor, geometry: OutputGeometry) -> float:
    for part in (module, end):
        part.eval()  # frozen statistics
    s, t = (_embedded(one(inputs), geometry) for one in (module, end))
    return float((s - t).square().sum(1).mean().sqrt())


def _embedded(returned: Any, geometry: OutputGeometry) -> Tensor:
    """Written down once more, from the definition."""
    outputs = returned["logits"] if isinstance(returned, dict) else getattr(returned, "logits", returned)
    outputs = outputs.float() if outputs.dtype in (torch.float16, torch.bfloat16) else outputs
    if isinstance(geometry, fip.Euclidean):
        return outputs.flatten(1)
    if outputs.shape[1] == 1:
        return 2 * torch.cat([torch.sigmoid(outputs), torch.sigmoid(-outputs)], 1).sqrt().flatten(1)
    return 2 * torch.softmax(outputs, 1).sqrt().flatten(1)


def main() -> int:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    counts: Counter[str] = Counter()
    kinds = {**SMALL, **of_libraries()}
    for name, kind in kinds.items():
        began = time.perf_counter()
        found = row(name, kind)
        counts[found.what] += 1
        print(f"{name:40} {found.what:14} {time.perf_counter() - began:5.1f} s  {found.said}", flush=True)
    print(f"{len(kinds)} kinds: " + ", ".join(f"{count} {what}" for what, count in counts.items()))
    return int(any(what not in ("traced", "refused") for what in counts))


if __name__ == "__main__":
    sys.exit(main())
