"""Adversarial attacks: searches for the worst input inside a threat model."""

from fipray.robustness.attacks.attack import Attack
from fipray.robustness.attacks.auto_attack import AutoAttack
from fipray.robustness.attacks.black_box import RandomNoise, RandomSearch, TransferAttack
from fipray.robustness.attacks.gradient import FGSM, PGD, TargetedPGD
from fipray.robustness.attacks.on_ensembles import OnLogits, ReweighedPGD

__all__ = [
    "FGSM",
    "PGD",
    "Attack",
    "AutoAttack",
    "OnLogits",
    "RandomNoise",
    "RandomSearch",
    "ReweighedPGD",
    "TargetedPGD",
    "TransferAttack",
]
