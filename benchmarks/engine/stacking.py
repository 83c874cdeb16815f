"""Members of one architecture computed together, against one call each: LeNet-300-100, ten members.

    python -m benchmarks.engine.stacking [--quick] [--json FILE]

For several batches and numbers of threads: the outputs, and the outputs with the gradient of the ensemble's margin in
the inputs, by `Ensemble` and by `StackedEnsemble`; and the shares of these times that go into matrix products, which
stacking cannot make fewer (torch.profiler, self CPU time). The shortest of alternated repetitions counts, as others may
use the machine.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from experiments.networks import lenet_300_100
from fipray.networks import Network
from fipray.robustness import Classifier, Ensemble, StackedEnsemble
from fipray.robustness.margin import margin_gradient

NUM_MEMBERS = 10
PRODUCTS = {"aten::addmm", "aten::mm", "aten::bmm", "aten::baddbmm"}


def making(what: str, classifier: Classifier, inputs: Tensor, labels: Tensor) -> Callable[[], object]:
    @torch.no_grad()
    def outputs() -> object:
        return classifier(inputs)

    return outputs if what == "outputs" else lambda: margin_gradient(classifier, inputs, labels)


def seconds(produces: dict[str, Callable[[], object]], repetitions: int) -> dict[str, float]:
    """Return the shortest time of each function, measured in turn."""
    best = dict.fromkeys(produces, float("inf"))
    for repetition in range(repetitions + 2):  # two to warm up
        for name, make in produces.items():
            began = time.perf_counter()
            make()
            if repetition >= 2:
                best[name] = min(best[name], time.perf_counter() - began)
    return best


def share_of_products(make: Callable[[], object]) -> float:
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        for _ in range(5):
            make()
    times = {event.key: event.self_cpu_time_total for event in profiled.key_averages()}
    return sum(times.get(name, 0.0) for name in PRODUCTS) / sum(times.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few repetitions: within seconds")
    parser.add_argument("--json", type=Path, help="write the records here")
    chosen = parser.parse_args()

    torch.manual_seed(0)
    network = Network.of(lenet_300_100())
    weights = network.weights + 0.01 * torch.randn(NUM_MEMBERS, network.num_weights)

    def member(of: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda inputs: network(of, inputs)

    classifiers: dict[str, Classifier] = {
        "one by one": Ensemble([member(of) for of in weights]),
        "stacked": StackedEnsemble(network, weights),
    }
    records: list[dict[str, object]] = []
    print(f"{'threads':>7} {'inputs':>6} {'what':20} {'one by one':>10} {'stacked':>10} {'times':>6}  in products")
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for num_inputs in (8, 32, 128):
            inputs, labels = torch.rand(num_inputs, 1, 28, 28), torch.arange(num_inputs) % 10
            for what in ("outputs", "outputs and gradient"):
                produces = {name: making(what, of, inputs, labels) for name, of in classifiers.items()}
                best = seconds(produces, 5 if chosen.quick else 20)
                shares = {name: share_of_products(make) for name, make in produces.items()}
                times = best["one by one"] / best["stacked"]
                alone, together = (f"{1e3 * best[name]:.2f} ms" for name in classifiers)
                products = ", ".join(f"{fraction:.0%}" for fraction in shares.values())
                row = f"{threads:7} {num_inputs:6} {what:20} {alone:>10} {together:>10} {times:6.2f}  {products}"
                print(row, flush=True)
                for name in classifiers:
                    records.append(
                        {
                            "threads": threads,
                            "num_inputs": num_inputs,
                            "what": what,
                            "how": name,
                            "seconds": best[name],
                            "share_in_products": shares[name],
                        }
                    )
    if chosen.json:
        chosen.json.write_text(json.dumps(records, indent=1))


if __name__ == "__main__":
    main()
