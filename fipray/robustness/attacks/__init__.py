"""Adversarial attacks: searches for the worst input inside a threat model."""

from fipray.robustness.attacks.attack import Attack as Attack
from fipray.robustness.attacks.auto_attack import AutoAttack as AutoAttack
from fipray.robustness.attacks.black_box import (
    RandomNoise as RandomNoise,
    RandomSearch as RandomSearch,
    TransferAttack as TransferAttack,
)
from fipray.robustness.attacks.gradient import FGSM as FGSM, PGD as PGD, TargetedPGD as TargetedPGD
from fipray.robustness.attacks.on_ensembles import OnLogits as OnLogits, ReweighedPGD as ReweighedPGD
