"""Robust networks and ensembles of the recipe's paths beside adversarial training and distillation, at equal seconds.

    python -m benchmarks.comparisons.ensembles --quick
    python -m benchmarks.comparisons.ensembles --data fashion --seconds 300 \
        --json benchmarks/records/robust-fashion-300s.json [--figure FILE]

The sets are mnist, on which fipray was developed, and fashion, cifar10 and digits, on which nothing was chosen. Every
contender gets the same processor seconds beyond the base network, on one thread, however many members it has.

- Paths are those of `fip.recipes.robust_ensemble` with no setting but the budget, of which its trial is a part. They
  see no label, or with --labelled those of the validation images alone. The budget is one of wall-clock time, so that
  on a busy machine they get less of the processor; where they take more of it, rivals get as much. The result is what
  the recipe's own rule takes of its mixtures with the base network, on validation images.
- Rivals: PGD-AT, TRADES, N-FGSM, and distillation from the base network without a path; as published, and with
  averaged weights and images varied anew for every batch; one network, and as many as `--members`. They are tuned for
  free: every choice of learning rate (.001, .003, .01), of the network from which training begins (the base or a new
  one) and of beta (TRADES: 1, 3, 6) or step (N-FGSM: 1, 1.25) is tried on one seed for a quarter of the seconds. The
  best under PGD on 1,000 validation images is taken, for one network and the ensemble alike.
- The last 5,000 training images (a fifth of a small set) are the validation images; no contender is trained on them.
  Nothing is chosen on test images.

Clean accuracy is on all test images (1,000 with --quick). Robust accuracy (linf) is on the first `--examples`: the
standard AutoAttack (with `--attacks apgd` its first two parts) and, for ensembles, PGD on their mean logits and PGD
that reweighs members; the worst for each example. A paired comparison gives the differences between paths and each
rival with 95 % intervals: Student's over seeds or, with one seed, that of McNemar's test over examples, which says
nothing of other seeds. "Level" is an interval that holds 0: undecided where it is wide, as with two seeds. Rivals are
sorted by robust accuracy on test images, so the first is the strongest of many. The last column compares robust
accuracy at the rival's clean accuracy, on the line between the paths' mixtures with the base network, where that can be
reached.

With --json, what the file already holds is not done again; `--all` adds variants of the rivals, the recipe without one
of its parts each ("ablated"), and ensembles that are diverse and not robust.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.comparisons import resumed
from benchmarks.comparisons.contenders import MIXED, VARIANTS, Contender, Kind, contenders, rivals
from benchmarks.comparisons.judged import AttackNames, Judge, shown, tuned, unpacked
from benchmarks.comparisons.paired import Difference, at_clean, over_examples, over_seeds
from benchmarks.comparisons.resumed import Record
from benchmarks.comparisons.sets import SETS, Setting, setting_of
from fipray.analysis import front

RECIPE = "paths: recipe"
ATTACKS: dict[AttackNames, str] = {
    "autoattack": "AutoAttack, and attacks on ensembles",
    "apgd": "APGD-CE and APGD-T, and attacks on ensembles",
    "pgd": "PGD alone, which flatters",
}
QUICK = (RECIPE, "TRADES, averaged, varied", "distillation, averaged, varied")


def result(record: Record) -> Record:
    """Take the point of a record that is the contender's result."""
    return next(point for point in record["points"] if point["name"] == record["result"])


def accuracies(records: Sequence[Record], kind: str) -> list[float]:
    """Accuracies of the results, "clean" or "robust", one a record."""
    return [result(record)[f"{kind}_accuracy"] for record in records]


def answers(record: Record, point: Record, kind: str) -> NDArray[np.bool_]:
    """Whether each test example is classified correctly, "clean" or "robust"."""
    count = record["protocol"]["num_tests" if kind == "clean" else "num_examples"]
    return unpacked(point[f"{kind}_examples"], count)


def shared(ours: Sequence[Record], theirs: Sequence[Record]) -> tuple[list[Record], list[Record]]:
    """Pair the records of two contenders by their seeds."""
    by_seed = {record["seed"]: record for record in theirs}
    pairs = [(record, by_seed[record["seed"]]) for record in ours if record["seed"] in by_seed]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def difference(ours: Sequence[Record], theirs: Sequence[Record], kind: str) -> Difference:
    """Compare results of shared seeds, or with one seed its examples."""
    if len(ours) > 1:
        return over_seeds(accuracies(ours, kind), accuracies(theirs, kind))
    return over_examples(*(answers(record, result(record), kind) for record in (ours[0], theirs[0])))


def at_equal_clean(ours: Sequence[Record], theirs: Sequence[Record]) -> Difference | None:
    """Compare robust accuracy at their clean accuracy; None where a seed's mixtures do not reach it."""
    places = [
        at_clean([point["clean_accuracy"] for point in record["points"]], clean)
        for record, clean in zip(ours, accuracies(theirs, "clean"), strict=True)
    ]
    found: list[Any] = []
    for record, place in zip(ours, places, strict=True):
        if place is None:
            return None
        points = record["points"]
        if len(ours) > 1:
            found.append(place.of([point["robust_accuracy"] for point in points]))
        else:
            found.append(place.of([answers(record, point, "robust") for point in points]))
    if len(ours) > 1:
        return over_seeds(found, accuracies(theirs, "robust"))
    return over_examples(found[0], answers(theirs[0], result(theirs[0]), "robust"))


def methods(records: Sequence[Record], kind: Kind) -> dict[str, list[Record]]:
    """Sort the records of a kind by contender, the most robust contender first."""
    found: dict[str, list[Record]] = {}
    for record in records:
        if record.get("kind") == kind:
            found.setdefault(record["method"], []).append(record)
    return dict(sorted(found.items(), key=lambda one: -float(np.mean(accuracies(one[1], "robust")))))


def title(protocol: Record) -> str:
    attack = ATTACKS[protocol["attacks"]]
    return (
        f"{protocol['data']} ({protocol['role']} set), {protocol['network']}, linf epsilon {protocol['epsilon']:.4g}, "
        f"{protocol['seconds']:g} s of one thread each; robust: {attack}, on {protocol['num_examples']:,} images"
    )


def mean_and_spread(values: Sequence[float]) -> str:
    spread = f" ± {100 * np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
    return f"{100 * np.mean(values):.2f}{spread}"


def show(console: Console, records: Sequence[Record]) -> None:
    """Print all accuracies, what was tuned, and the paired comparisons."""
    protocol = records[0]["protocol"]
    table = Table(title=title(protocol), caption="mean and standard deviation over seeds, %")
    table.add_column("method")
    for column in ("seeds", "members", "s", "clean", "robust"):
        table.add_column(column, justify="right")
    table.add_column("settings")
    for kind in ("base", "paths", "ablated", "rival", "other"):
        for name, rows in methods(records, kind).items():
            numbers = sorted({result(record)["num_members"] for record in rows})
            settings = shown(rows[0]["settings"]) if kind == "rival" else ""
            if kind in ("paths", "ablated"):
                settings = "result: " + ", ".join(dict.fromkeys(record["result"] for record in rows))
            table.add_row(
                name,
                str(len(rows)),
                "-".join(str(number) for number in (numbers[0], numbers[-1])[: len(numbers)]),
                f"{np.mean([record['seconds'] for record in rows]):.1f}",
                mean_and_spread(accuracies(rows, "clean")),
                mean_and_spread(accuracies(rows, "robust")),
                settings,
            )
        table.add_section()
    console.print(table)
    free = sum(len(record["tried"]) for record in records if "tuning" in record)
    console.print(
        f"Trials of paths are part of their seconds. Rivals were tuned beforehand, for free: {free} trainings of "
        f"{protocol['tuning_seconds']:g} s on validation images."
        if protocol["tuning_seconds"]
        else "Rivals were not tuned: learning rate .003, from the base network."
    )
    for name, rows in methods(records, "paths").items():
        compare(console, name, rows, methods(records, "rival"))
        if name == RECIPE:
            compare(console, name, rows, methods(records, "ablated"))


def compare(console: Console, name: str, ours: Sequence[Record], theirs: dict[str, list[Record]]) -> None:
    """Print the paired comparison of one contender with all rivals."""
    paired = {rival: shared(ours, rows) for rival, rows in theirs.items()}
    paired = {rival: pair for rival, pair in paired.items() if pair[0]}
    if not paired:
        return
    table = Table(title=f"{name}, less each of these (strongest first); points, 95 % intervals")
    for column in ("less", "paired over", "clean", "robust", "robust at the other's clean accuracy"):
        table.add_column(column)
    for rival, (own, other) in paired.items():
        equal = at_equal_clean(own, other)
        table.add_row(
            rival,
            f"{len(own)} seeds" if len(own) > 1 else "examples, 1 seed",
            *(str(difference(own, other, kind)) for kind in ("clean", "robust")),
            "not reached" if equal is None else str(equal),
        )
    console.print(table)
    strongest, (own, other) = next(iter(paired.items()))
    clean, robust = (difference(own, other, kind) for kind in ("clean", "robust"))
    console.print(f"{name} beside the strongest ({strongest}): robust accuracy {robust}, clean {clean}.")
    ours_took, theirs_took = (float(np.mean([record["seconds"] for record in rows])) for rows in (own, other))
    if ours_took > 1.05 * theirs_took:
        console.print(f"{name} took {ours_took:.1f} s, this rival {theirs_took:.1f}: the comparison favours the paths.")


def draw(records: Sequence[Record], file: Path) -> None:
    """Draw clean against robust accuracy: all points of paths but the base network, and every rival."""
    rows = [
        {"method": record["method"], "seed": record["seed"], **point}
        for record in records
        if record.get("kind") in ("paths", "rival")
        for point in record["points"]
        if point["name"] != "base"
    ]
    means = pd.DataFrame(rows).groupby(["method", "name"], sort=False)[["clean_accuracy", "robust_accuracy"]].mean()
    means = means.reset_index()
    means["kind"] = means["method"].map(lambda name: name.split(",")[0])
    file.parent.mkdir(parents=True, exist_ok=True)
    front(means, method="kind").savefig(file, dpi=150)


def asked(text: str, name: str) -> bool:
    return name == text[1:] if text.startswith("=") else text in name


def arguments() -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="mnist", choices=SETS)
    parser.add_argument("--data-root", default="")
    parser.add_argument("--seconds", type=float, default=100, help="of compute for each contender")
    parser.add_argument("--members", type=int, default=5)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--examples", type=int, default=1000, help="test images that are attacked")
    parser.add_argument(
        "--attacks",
        default="autoattack",
        choices=ATTACKS,
        help="apgd: the first two of AutoAttack's four, for slow networks",
    )
    parser.add_argument("--points", nargs="+", default=[], help="of the paths that are attacked, beside their results")
    parser.add_argument(
        "--only", nargs="+", default=[], help="contenders whose names hold one of these texts, or are it: =NAME"
    )
    parser.add_argument("--all", action="store_true", help="more variants of the rivals, and diverse ensembles")
    parser.add_argument("--labelled", action="store_true", help="give the recipes the labels of the validation images")
    parser.add_argument("--no-tuning", action="store_true", help="rivals at learning rate .003, from the base network")
    parser.add_argument("--device", default="cpu", help="of the attacks; everything is trained on the CPU")
    parser.add_argument(
        "--quick", action="store_true", help="2 s, PGD on 100 images, one seed, few contenders, untuned"
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--figure", type=Path)
    args = parser.parse_args()
    if args.quick:
        args.seconds, args.examples, args.seeds, args.no_tuning = 2.0, 100, args.seeds[:1], True
        args.attacks = "pgd"
        args.only = args.only or [f"={name}" for name in QUICK]
    return parser, args


def protocol_of(args: argparse.Namespace, setting: Setting) -> Record:
    """Write down what all records of one file have in common."""
    one = SETS[args.data]
    return {
        "data": args.data,
        "role": one.role,
        "network": one.network,
        "epsilon": setting.epsilon,
        "seconds": args.seconds,
        "members": args.members,
        "num_tests": len(setting.test_labels),
        "num_examples": min(args.examples, len(setting.test_labels)),
        "attacks": args.attacks,
        "labelled": args.labelled,
        "tuning_seconds": 0 if args.no_tuning else args.seconds / 4,
    }


def choice_of(
    contender: Contender, setting: Setting, records: list[Record], protocol: Record, console: Console
) -> dict[str, Any]:
    """Take the settings of a rival: tuned now or before, or those of a run without tuning."""
    if not contender.rival:
        return {}
    rival = rivals(VARIANTS)[contender.rival]
    if not protocol["tuning_seconds"]:
        return dict(rival.untuned)
    for record in records:
        if record.get("tuning") == contender.rival:
            return dict(record["chosen"])
    records.append({"protocol": protocol, **tuned(setting, contender.rival, rival, console.print)})
    return dict(records[-1]["chosen"])


def given(setting: Setting, records: Sequence[Record]) -> Setting:
    """Give a rival the seconds of the slowest paths of its seed, where these took more than theirs."""
    taken = [one["seconds"] for one in records if one.get("kind") == "paths" and one["seed"] == setting.seed]
    return replace(setting, seconds=max([setting.seconds, *taken]))


def main() -> None:
    parser, args = arguments()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    console = Console(width=None if sys.stdout.isatty() else 200)
    records = resumed.read(args.json, parser)
    for seed in args.seeds:
        setting = setting_of(
            args.data,
            args.data_root,
            seconds=args.seconds,
            num_members=args.members,
            seed=seed,
            labelled=args.labelled,
        )
        if args.quick:
            setting = replace(setting, test_inputs=setting.test_inputs[:1000], test_labels=setting.test_labels[:1000])
        setting = replace(setting, mixes=not args.points or MIXED in args.points)
        protocol = protocol_of(args, setting)
        if any(record.get("protocol") != protocol for record in records):
            parser.error(f"{args.json} holds records of other settings than {protocol}: name another file")
        judge = Judge(setting, args.examples, args.attacks, args.device, tuple(args.points))
        for name, contender in contenders(args.members, everything=args.all).items():
            is_asked = name == "base" or not args.only or any(asked(text, name) for text in args.only)
            if not is_asked or any(r.get("method") == name and r["seed"] == seed for r in records):
                continue
            choice = choice_of(contender, setting, records, protocol, console)
            made = contender.make(given(setting, records) if contender.rival else setting, choice)
            record = {"protocol": protocol, "method": name, "kind": contender.kind, "seed": seed, **judge.record(made)}
            records.append(record)
            resumed.write(records, args.json)
            points = ", ".join(
                f"{point['name']} {100 * point['clean_accuracy']:.2f} {100 * point['robust_accuracy']:.1f}"
                for point in record["points"]
            )
            console.print(
                f"seed {seed}, {name}: {record['seconds']:.1f} s; clean and robust: {points}; "
                f"result: {record['result']} ({record['attack_seconds']:.0f} s of attacks)"
            )
    show(console, records)
    if args.figure:
        draw(records, args.figure)


if __name__ == "__main__":
    main()
