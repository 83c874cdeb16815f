"""Ensembles of paths, single paths, and what others propose, judged alike: accuracy, attacks, calibration, diversity.

    python -m benchmarks.comparisons.ensembles [--data mnist|fashion|cifar10_subset]
        [--network lenet_300_100|lenet_5|resnet_20]
                                   [--seconds 100] [--members 5] [--seeds 0 1 2] [--only TEXT ...] [--examples 1000]
                                   [--epsilons E ...] [--surrogate-seconds S] [--quick] [--json FILE] [--figure FILE]
                                   [--heat-maps FILE]

Every contender gets the same processor seconds beyond the base network, on one thread, however many members it has.
Attacks (linf) are on the first `examples` test images: random noise; inputs made on the base; inputs made on three
networks that were trained apart and are shown to nobody; PGD-20; APGD-CE and APGD-T on the deployed ensemble; the
standard AutoAttack (those two, FAB-T and Square); and on what still stands of an ensemble an attack on its mean logits
and one that reweighs its members (MORA). `worst` is the per-example worst of all. Clean accuracy, NLL and ECE are on
all test images. Contenders that learn to withstand attacks do so at the first of `epsilons`, or the usual one of data
and network. With --json, what the file already holds is not done again.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import fipray as fip
from benchmarks.baselines import DeepEnsemble
from benchmarks.comparisons import resumed
from benchmarks.comparisons.contenders import Contender, Setting, contenders, paths
from benchmarks.comparisons.resumed import Record
from experiments import networks
from experiments.cifar import cifar10_subset
from experiments.data import mnist
from experiments.ensembles import SETTINGS
from experiments.subjects import subject
from fipray.analysis import front, transfer_heat_maps
from fipray.robustness import Classifier, measure

RATES = {"lenet_300_100": 1e-2, "lenet_5": 1e-2, "resnet_20": 3e-3}
"""Of adversarial training: those at which it got furthest in the same seconds, on images that no table is about."""


class Evaluator:
    """Test examples, surrogates, and the attacks."""

    def __init__(
        self,
        setting: Setting,
        inputs: Tensor,
        labels: Tensor,
        num_examples: int,
        epsilon: float,
        surrogates: Mapping[str, Classifier],
    ) -> None:
        self.setting, self.inputs, self.labels = setting, inputs, labels
        self.some, self.their_labels = inputs[:num_examples], labels[:num_examples]
        self.threat_model = fip.ThreatModel("linf", epsilon)
        self.surrogates = surrogates
        self.base: dict[str, Classifier] = {"base": Contender((setting.base,), 0.0).classifiers[0]}

    def attack(self, contender: Contender) -> dict[str, float]:
        """Robust accuracies by attack, each of all examples that were given."""
        deployed = contender.deployed
        generator = torch.Generator().manual_seed(self.setting.seed)
        standing = torch.ones(len(self.some), dtype=torch.bool)
        made: dict[str, float] = {}

        def tried(attacks: Sequence[fip.attacks.Attack], only: Tensor | None = None) -> dict[str, Tensor]:
            """Whether each example stands each attack; those outside `only` are left out and count as fallen."""
            nonlocal standing
            (some,) = torch.where(standing if only is None else only)
            per_example = {a.name: torch.zeros_like(standing) for a in attacks}
            if len(some):
                found = fip.robustness.evaluate(
                    deployed, self.some[some], self.their_labels[some], self.threat_model, attacks, generator
                )
                for name, stood in found.robust.items():
                    per_example[name][some] = stood
                    standing[some] &= stood
            return per_example

        def note(per_example: dict[str, Tensor]) -> None:
            made.update({name: float(stood.double().mean()) for name, stood in per_example.items()})

        everything = torch.ones_like(standing)
        replayed = fip.attacks.TransferAttack(self.base, fip.attacks.PGD(num_steps=40))
        transfer = fip.attacks.TransferAttack(self.surrogates, fip.attacks.PGD(num_steps=40))
        for label, attack in (
            ("noise", fip.attacks.RandomNoise()),
            ("from the base", replayed),
            ("transfer", transfer),
            ("pgd-20", fip.attacks.PGD(num_steps=20)),
        ):
            note({label: next(iter(tried([attack], everything).values()))})
        first = next(iter(tried([fip.attacks.AutoAttack(("apgd-ce", "apgd-t"))], everything).values()))
        rest = next(iter(tried([fip.attacks.AutoAttack(("fab-t", "square"))], first).values()))
        note({"apgd-ce+t": first, "autoattack": rest})
        if len(contender.members) > 1:
            tried([fip.attacks.ReweighedPGD(num_steps=50), fip.attacks.OnLogits(fip.attacks.PGD(num_steps=50))])
        note({"worst": standing})
        return made

    def records(self, name: str, contender: Contender) -> list[Record]:
        members = contender.classifiers
        measures = measure(contender.deployed, self.inputs, self.labels)
        diverse = measure(contender.deployed, self.some, self.their_labels, members=members)
        shared = {
            "method": name,
            "num_members": len(members),
            "seed": self.setting.seed,
            "seconds": contender.seconds,
            "clean_accuracy": measures.clean_accuracy,
            "coherence": diverse.coherence,
            "disagreement": diverse.disagreement,
            "nll": measures.nll,
            "ece": measures.expected_calibration_error,
            "epsilon": self.threat_model.epsilon,
            "num_examples": len(self.some),
        }
        began = time.process_time()
        found = self.attack(contender)
        shared["attack_seconds"] = time.process_time() - began
        return [{**shared, "attack": attack, "robust_accuracy": robust} for attack, robust in found.items()]


def heat_maps(setting: Setting, judge: Evaluator, num_members: int, file: Path) -> None:
    """Transfer among the members of path ensembles and among networks trained apart, side by side."""
    groups = {
        "paths, ensemble adversarial distillation": paths(
            setting, objective="ensemble_adversarial_distillation", num_members=num_members
        ),
        "paths, adversarial distillation": paths(
            setting, objective="adversarial_distillation", num_members=num_members, beta=5
        ),
        "trained apart": Contender(
            DeepEnsemble(num_members=num_members)
            .train(setting.make, setting.inputs, setting.labels, seed=setting.seed, seconds=setting.seconds)
            .members,
            0.0,
        ),
    }
    tables = {}
    for title, contender in groups.items():
        named = {str(number): one for number, one in enumerate(contender.classifiers, 1)}
        accuracies = fip.robustness.transfer_matrix(
            named,
            named,
            judge.some,
            judge.their_labels,
            judge.threat_model,
            fip.attacks.PGD(num_steps=20),
            torch.Generator().manual_seed(setting.seed),
        )
        tables[title] = pd.DataFrame(
            [
                {"source": source, "target": target, "accuracy": float(accuracies[i, j])}
                for i, source in enumerate(named)
                for j, target in enumerate(named)
            ]
        )
    transfer_heat_maps(tables).savefig(file, dpi=150)


def surrogates_of(setting: Setting, seconds: float | None) -> dict[str, Classifier]:
    """Networks that are trained apart, in as many processor seconds where these are given, and shown to nobody."""
    apart = DeepEnsemble(num_members=3).train(
        setting.make, setting.inputs, setting.labels, seed=9000 + setting.seed, seconds=seconds
    )
    members = Contender(apart.members, 0.0).classifiers
    return {f"surrogate {number}": one for number, one in enumerate(members)}


def setting_of(args: argparse.Namespace, seed: int) -> tuple[Setting, Tensor, Tensor]:
    """Return the setting of one seed, and test inputs and labels."""
    base, arrays, _ = subject(args.data, args.network, args.data_root, seed)
    if args.data == "cifar10_subset":
        labels = cifar10_subset(args.data_root)["train_labels"]
    else:
        labels = mnist(args.data, args.data_root).train_labels
    inputs, usual = torch.from_numpy(arrays.anchors), SETTINGS[args.data, args.network]
    setting = Setting(
        make=getattr(networks, args.network),
        base=base,
        inputs=inputs,
        labels=torch.from_numpy(labels[: len(inputs)]).long(),
        held_out=torch.from_numpy(arrays.held_out[:200]),
        settings=replace(usual, epsilon=args.epsilons[0]) if args.epsilons else usual,
        seconds=args.seconds,
        num_members=args.members,
        seed=seed,
    )
    if arrays.test_inputs is None or arrays.test_labels is None:
        raise fip.errors.DataError("the data set has no test part")
    return setting, torch.from_numpy(arrays.test_inputs), torch.from_numpy(arrays.test_labels).long()


def show(console: Console, records: list[Record], title: str) -> None:
    frame = pd.DataFrame(records)
    attacks = list(dict.fromkeys(frame["attack"]))
    for epsilon, part in frame.groupby("epsilon"):
        table = Table(title=f"{title}, linf epsilon {epsilon:.4g}; means over {part['seed'].nunique()} seeds, %")
        table.add_column("method")
        for column in ("members", "s", "clean", *attacks, "coherence", "NLL", "ECE"):
            table.add_column(column, justify="right")
        for method, rows in part.groupby("method", sort=False):
            one = rows.drop_duplicates("seed")
            robust = rows.groupby("attack")["robust_accuracy"].mean()
            coherence = one["coherence"].astype(float).mean()
            table.add_row(
                str(method),
                str(int(one["num_members"].iloc[0])),
                f"{one['seconds'].mean():.0f}",
                f"{100 * one['clean_accuracy'].mean():.2f}",
                *(f"{100 * robust[a]:.1f}" if a in robust else "" for a in attacks),
                "" if pd.isna(coherence) else f"{coherence:.2f}",
                f"{one['nll'].mean():.3f}",
                f"{100 * one['ece'].mean():.1f}",
            )
        console.print(table)


def draw(records: list[Record], file: Path) -> None:
    """Clean accuracy against the worst attack; the front of each kind, without the base, which is far below."""
    frame = pd.DataFrame([record for record in records if record["method"] != "base"])
    frame = frame[(frame["attack"] == "worst") & (frame["epsilon"] == frame["epsilon"].max())]
    means = frame.groupby("method", sort=False)[["clean_accuracy", "robust_accuracy", "seconds"]].mean().reset_index()
    means["kind"] = means["method"].map(lambda name: name.split(":")[0].split(",")[0])
    file.parent.mkdir(parents=True, exist_ok=True)
    front(means, method="kind").savefig(file, dpi=150)


def asked(text: str, name: str) -> bool:
    return name == text[1:] if text.startswith("=") else text in name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="mnist", choices=sorted({data for data, _ in SETTINGS}))
    parser.add_argument("--network", default="")
    parser.add_argument("--data-root", default="")
    parser.add_argument("--seconds", type=float, default=100, help="of compute for each contender")
    parser.add_argument("--members", type=int, default=5)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--only", nargs="+", default=[], help="contenders whose names hold one of these texts, or are it: =NAME"
    )
    parser.add_argument("--examples", type=int, default=1000)
    parser.add_argument("--surrogate-seconds", type=float, help="of training of the three surrogates; else all steps")
    parser.add_argument("--epsilons", type=float, nargs="+", default=[])
    parser.add_argument("--quick", action="store_true", help="5 s, 100 examples, one seed, few contenders")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--heat-maps", type=Path)
    args = parser.parse_args()
    args.network = args.network or {"cifar10_subset": "resnet_20"}.get(args.data, "lenet_300_100")
    if args.quick:
        args.seconds, args.examples, args.seeds = 5.0, 100, args.seeds[:1]
        args.only = args.only or [
            "base",
            "ensemble adversarial distillation",
            "adversarial distillation, beta 20",
            "deep ensemble",
            "TRADES, beta 3",
        ]
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    console = Console(width=None if sys.stdout.isatty() else 200)
    records = resumed.read(args.json, parser)
    for seed in args.seeds:
        setting, inputs, labels = setting_of(args, seed)
        epsilons = args.epsilons or [setting.settings.epsilon]
        surrogates = surrogates_of(setting, args.surrogate_seconds)
        judges = [Evaluator(setting, inputs, labels, args.examples, epsilon, surrogates) for epsilon in epsilons]
        for name, make in contenders(setting.settings.epsilon, args.members, RATES[args.network]).items():
            done = any(r["method"] == name and r["seed"] == seed for r in records)
            if done or (args.only and not any(asked(text, name) for text in args.only)):
                continue
            contender = make(setting)
            for judge in judges:
                found = judge.records(name, contender)
                records += found
                last = found[-1]
                console.print(
                    f"seed {seed}, {name}: {last['seconds']:.0f} s, clean {100 * last['clean_accuracy']:.2f}, "
                    + ", ".join(f"{r['attack']} {100 * r['robust_accuracy']:.1f}" for r in found)
                    + f" ({last['attack_seconds']:.0f} s of attacks)"
                )
            resumed.write(records, args.json)
        if args.heat_maps and seed == args.seeds[0]:
            heat_maps(setting, judges[0], 10, args.heat_maps)
    show(console, records, f"{args.network} on {args.data}")
    if args.figure:
        draw(records, args.figure)


if __name__ == "__main__":
    main()
