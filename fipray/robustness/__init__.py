"""What a network withstands: threat models, attacks, ensembles, accuracy per example. Knows torch alone."""

from fipray.robustness.attack import FGSM, PGD, Attack, TargetedPGD
from fipray.robustness.ensemble import Ensemble
from fipray.robustness.evaluate import Robustness, evaluate, transfer_matrix
from fipray.robustness.margin import Classifier
from fipray.robustness.threat import ThreatModel

__all__ = [
    "FGSM",
    "PGD",
    "Attack",
    "Classifier",
    "Ensemble",
    "Robustness",
    "TargetedPGD",
    "ThreatModel",
    "evaluate",
    "transfer_matrix",
]
