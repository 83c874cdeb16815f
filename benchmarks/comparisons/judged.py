"""Accuracies of contenders, clean and under the worst of strong attacks, and the tuning of rivals on validation images.

Imported by `python -m benchmarks.comparisons.ensembles`.
"""

from __future__ import annotations

import base64
import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import fipray as fip
from benchmarks.comparisons.points import Choice, Made, Point, outputs
from benchmarks.comparisons.resumed import Record
from benchmarks.comparisons.rivals import Rival
from benchmarks.comparisons.sets import Setting

AttackNames = Literal["autoattack", "apgd", "pgd"]
TUNING_SEED = 9000  # of the trainings that tune; no contender has it
NUM_TUNED_ON = 1000  # validation images that are attacked in tuning
FRACTION_TUNED = 0.25  # of a contender's seconds, for each choice of a grid


@dataclass(frozen=True, eq=False)
class Judge:
    """Test images and attacks of one seed.

    Args:
        setting: what the contenders were given.
        num_examples: test images that are attacked, from the first.
        attacks: "autoattack", its first two parts "apgd", or "pgd"; the first two with attacks on ensembles.
        device: device of the attacks; contenders are trained on the CPU.
        names: names of the points that are judged, beside results; empty for all.
    """

    setting: Setting
    num_examples: int
    attacks: AttackNames = "autoattack"
    device: str = "cpu"
    names: tuple[str, ...] = ()

    @property
    def attacks_on_all(self) -> list[fip.attacks.Attack]:
        chosen: dict[AttackNames, fip.attacks.Attack] = {
            "autoattack": fip.attacks.AutoAttack(),
            "apgd": fip.attacks.AutoAttack(("apgd-ce", "apgd-t")),
            "pgd": fip.attacks.PGD(),
        }
        return [chosen[self.attacks]]

    @property
    def attacks_on_ensembles(self) -> list[fip.attacks.Attack]:
        """Attacks on what still stands of an ensemble."""
        if self.attacks == "pgd":
            return []
        return [fip.attacks.OnLogits(fip.attacks.PGD(num_steps=50)), fip.attacks.ReweighedPGD(num_steps=50)]

    def record(self, made: Made) -> Record:
        """Accuracies of a contender's networks, with the answers on each example."""
        began = time.process_time()
        judged = self.names or tuple(made.points)
        points = [
            {"name": name, **self.point(one)}
            for name, one in made.points.items()
            if name in judged or name == made.result
        ]
        return {
            "seconds": made.seconds,
            "settings": dict(made.settings),
            "result": made.result,
            "points": points,
            "attack_seconds": time.process_time() - began,
        }

    def point(self, point: Point) -> Record:
        """Accuracies of one network or ensemble; those of the base network are computed once."""
        is_base = point.members == (self.setting.base,) and point.accurate is None
        return self._of_base if is_base else self._measured(point)

    @cached_property
    def _of_base(self) -> Record:
        return self._measured(Point((self.setting.base,)))

    def _measured(self, point: Point) -> Record:
        setting, device = self.setting, self.device
        # Copies: a network that is moved to a GPU is moved in place.
        accurate = None if point.accurate is None else copy.deepcopy(point.accurate).to(device)
        members = tuple(copy.deepcopy(member).to(device) for member in point.members)
        classifier = replace(point, members=members, accurate=accurate).classifier
        clean = outputs(classifier, setting.test_inputs.to(device)).argmax(1).cpu() == setting.test_labels
        count = self.num_examples
        inputs, labels = setting.test_inputs[:count].to(device), setting.test_labels[:count].to(device)
        generator = torch.Generator(device).manual_seed(setting.seed)
        robust = {}
        standing = torch.ones(len(labels), dtype=torch.bool, device=device)
        for attack in (*self.attacks_on_all, *(self.attacks_on_ensembles if point.num_members > 1 else ())):
            (some,) = torch.where(standing)
            if len(some):
                found = fip.robustness.evaluate(
                    classifier, inputs[some], labels[some], setting.threat_model, [attack], generator
                )
                standing[some] &= found.worst
            robust[attack.name] = float(standing.double().mean())
        return {
            "num_members": point.num_members,
            "clean_accuracy": float(clean.double().mean()),
            "robust_accuracy": float(standing.double().mean()),
            "after_attack": robust,
            "clean_examples": packed(clean),
            "robust_examples": packed(standing.cpu()),
        }


def packed(answers: Tensor) -> str:
    """Write booleans [N] as base64 text, eight a byte."""
    return base64.b64encode(np.packbits(answers.numpy()).tobytes()).decode()


def unpacked(text: str, count: int) -> NDArray[np.bool_]:
    """Read booleans [count] that `packed` wrote."""
    return np.unpackbits(np.frombuffer(base64.b64decode(text), np.uint8), count=count).astype(bool)


def tuned(setting: Setting, name: str, rival: Rival, say: Callable[[str], None]) -> Record:
    """Try all choices of a rival's grid, with a quarter of the seconds each, and take the most robust one.

    One network each, one seed; judged by PGD on validation images. None of it is charged to the rival.
    """
    given = replace(setting, seed=TUNING_SEED, seconds=FRACTION_TUNED * setting.seconds)
    tried = [{**choice, **_on_validation(given, rival, choice)} for choice in rival.choices]
    best = max(tried, key=lambda one: one["robust_accuracy"])
    chosen = {key: best[key] for key in rival.grid}
    say(f"{name}, tuned on {setting.seconds * FRACTION_TUNED:g} s each of {len(tried)} choices: {shown(chosen)}")
    return {"tuning": name, "chosen": chosen, "tried": tried}


def _on_validation(setting: Setting, rival: Rival, choice: Choice) -> dict[str, float]:
    classifier = rival.made(setting, choice).points["members"].classifier
    inputs, labels = setting.validation_inputs[:NUM_TUNED_ON], setting.validation_labels[:NUM_TUNED_ON]
    generator = torch.Generator().manual_seed(setting.seed)
    found = fip.robustness.evaluate(classifier, inputs, labels, setting.threat_model, [fip.attacks.PGD()], generator)
    return {"clean_accuracy": found.clean_accuracy, "robust_accuracy": found.worst_accuracy}


def shown(settings: Choice) -> str:
    """Write settings in one line."""
    return ", ".join(f"{k} {v:g}" if isinstance(v, float) else f"{k} {v}" for k, v in settings.items())
