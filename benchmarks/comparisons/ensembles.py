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

import torch
from rich.console import Console

from benchmarks.comparisons import resumed
from benchmarks.comparisons.contenders import MIXED, Contender, contenders
from benchmarks.comparisons.judged import Judge, tuned
from benchmarks.comparisons.resumed import Record
from benchmarks.comparisons.rivals import VARIANTS, rivals
from benchmarks.comparisons.sets import SETS, Setting, setting_of
from benchmarks.comparisons.tables import ATTACKS, RECIPE, draw, show

QUICK = (RECIPE, "TRADES, averaged, varied", "distillation, averaged, varied")


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
