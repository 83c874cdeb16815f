"""What a network withstands: threat models, attacks, ensembles, accuracy per example. Knows torch alone."""

from fipray.robustness.attack import FGSM, PGD, Attack, TargetedPGD
from fipray.robustness.auto_attack import AutoAttack
from fipray.robustness.blind import FromSurrogates, RandomNoise, RandomSearch
from fipray.robustness.ensemble import Ensemble, StackedEnsemble
from fipray.robustness.evaluate import Robustness, evaluate, transfer_matrix
from fipray.robustness.margin import Classifier
from fipray.robustness.masking import masking_warnings
from fipray.robustness.reweighed import OnLogits, ReweighedPGD
from fipray.robustness.threat import ThreatModel

__all__ = [
    "FGSM",
    "PGD",
    "Attack",
    "AutoAttack",
    "Classifier",
    "Ensemble",
    "FromSurrogates",
    "OnLogits",
    "RandomNoise",
    "RandomSearch",
    "ReweighedPGD",
    "Robustness",
    "StackedEnsemble",
    "TargetedPGD",
    "ThreatModel",
    "evaluate",
    "masking_warnings",
    "transfer_matrix",
]
