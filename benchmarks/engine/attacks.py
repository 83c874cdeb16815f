"""PGD and TargetedPGD against the referee, APGD-CE and APGD-T of pyautoattack: LeNet-300-100 on MNIST, linf 0.1.

    python -m benchmarks.engine.attacks [--quick] [--only TEXT] [--json FILE]

Robust accuracy of the base, of the base after a short adversarial training, and of a stacked ensemble of three networks
trained independently (the base among them), averaged either way, under each attack with 100 steps; and what is left
under both of ours and under both of the referee's. Ours should be at most half a point weaker. Run it with
OMP_NUM_THREADS=1 where others use the machine.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

import fipray as fip
from experiments.data import mnist
from experiments.networks import lenet_300_100
from experiments.training import Recipe, trained
from fipray.networks import Network
from fipray.robustness import Classifier

THREAT_MODEL = fip.ThreatModel("linf", 0.1)


def hardened(module: nn.Module, inputs: Tensor, labels: Tensor, num_steps: int) -> nn.Module:
    """Trained on PGD's inputs (Madry et al. 2018), 7 steps each, 128 inputs a batch."""
    generator, optimiser = torch.Generator().manual_seed(0), torch.optim.Adam(module.parameters(), 1e-3)
    for _ in range(num_steps):
        some = torch.randint(len(inputs), (128,), generator=generator)
        made = fip.attacks.PGD(7).perturb(module, inputs[some], labels[some], THREAT_MODEL, generator)
        optimiser.zero_grad()
        nn.functional.cross_entropy(module(made), labels[some]).backward()
        optimiser.step()
    return module.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="50 images, 20 steps: within a minute")
    parser.add_argument("--only", default="", help="subjects with this in their name")
    parser.add_argument("--json", type=Path, help="write the records here")
    chosen = parser.parse_args()
    num_images, num_steps = (50, 20) if chosen.quick else (200, 100)

    everything = mnist("mnist", "")
    digest = everything.for_paths(num_held_out=5000).digest
    train_inputs, train_labels = everything.train_inputs[:-5000], everything.train_labels[:-5000]
    modules = [
        trained(lenet_300_100, train_inputs, train_labels, Recipe("lenet_300_100", digest, num_steps=3000, seed=seed))
        for seed in range(3)
    ]
    network = Network.of(modules[0])
    stack = torch.stack([Network.of(module).weights for module in modules])

    def adversarial() -> Classifier:
        module = network.module_at(network.weights)
        return hardened(module, torch.from_numpy(train_inputs), torch.from_numpy(train_labels), 300)

    subjects: dict[str, Callable[[], Classifier]] = {
        "base": lambda: modules[0],
        "base, trained adversarially": adversarial,
        "three, mean probabilities": lambda: fip.robustness.StackedEnsemble(network, stack),
        "three, mean logits": lambda: fip.robustness.StackedEnsemble(network, stack, "logits"),
    }
    ours: list[fip.attacks.PGD | fip.attacks.TargetedPGD] = [
        fip.attacks.PGD(num_steps),
        fip.attacks.TargetedPGD(num_steps),
    ]
    referee = [fip.attacks.AutoAttack((part,), num_steps) for part in ("apgd-ce", "apgd-t")]
    extra: list[fip.attacks.Attack] = [
        fip.attacks.ReweighedPGD(num_steps),
        fip.attacks.OnLogits(fip.attacks.PGD(num_steps)),
        fip.attacks.RandomNoise(10),
    ]
    inputs = torch.from_numpy(everything.test_inputs[:num_images])
    labels = torch.from_numpy(everything.test_labels[:num_images])
    records: list[dict[str, object]] = []
    sides: tuple[tuple[str, Sequence[fip.attacks.Attack]], ...]
    sides = (("ours", ours), ("referee", referee), ("more of ours", extra))
    for subject, make in subjects.items():
        if chosen.only not in subject:
            continue
        print(f"\n{subject}")
        classifier = make()
        left: dict[str, float] = {}
        for side, attacks in sides:
            began = time.perf_counter()
            found = fip.robustness.evaluate(
                classifier, inputs, labels, THREAT_MODEL, attacks, torch.Generator().manual_seed(0), batch_size=200
            )
            took, left[side] = time.perf_counter() - began, found.worst_accuracy
            accuracies = {name: found.robust_accuracy(name) for name in found.robust}
            shown = ", ".join(f"{name} {accuracy:.1%}" for name, accuracy in accuracies.items())
            print(f"  {side}: {left[side]:.1%} of {found.clean_accuracy:.1%} stand ({shown}); {took:.1f} s", flush=True)
            records.append(
                {
                    "subject": subject,
                    "side": side,
                    "clean_accuracy": found.clean_accuracy,
                    "robust_accuracy": found.worst_accuracy,
                    "by_attack": accuracies,
                    "num_examples": num_images,
                    "seconds": took,
                }
            )
        print(f"  ours is {100 * (left['ours'] - left['referee']):+.1f} points from the referee")
    if chosen.json:
        chosen.json.write_text(json.dumps(records, indent=1))


if __name__ == "__main__":
    main()
