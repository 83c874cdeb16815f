"""Robustness of networks and ensembles: threat models, attacks, accuracy per example, measures on clean examples."""

from fipray.robustness.attacks.attack import Attack
from fipray.robustness.attacks.auto_attack import AutoAttack
from fipray.robustness.attacks.black_box import RandomNoise, RandomSearch, TransferAttack
from fipray.robustness.attacks.gradient import FGSM, PGD, TargetedPGD
from fipray.robustness.attacks.on_ensembles import OnLogits, ReweighedPGD
from fipray.robustness.ensembles import Ensemble, StackedEnsemble
from fipray.robustness.evaluation import Robustness, evaluate, transfer_matrix
from fipray.robustness.margin import Classifier, correct
from fipray.robustness.masking import masking_warnings
from fipray.robustness.measures.calibration import (
    aurc,
    auroc,
    brier,
    confidence,
    expected_calibration_error,
    log_odds,
    nll,
    selective_accuracy,
)
from fipray.robustness.measures.diversity import (
    coherence,
    coherence_matrix,
    disagreement,
    disagreement_matrix,
    kappa,
    kappa_matrix,
    mean_of_pairs,
    q_matrix,
    q_statistic,
)
from fipray.robustness.measures.summary import Measures, measure
from fipray.robustness.mixing import Mixture, mixture
from fipray.robustness.selection import EnsembleAccuracy, MeanOfPairs, RoundScore, SetScore, greedy_selection
from fipray.robustness.threat_models import ThreatModel

__all__ = [
    "FGSM",
    "PGD",
    "Attack",
    "AutoAttack",
    "Classifier",
    "Ensemble",
    "EnsembleAccuracy",
    "MeanOfPairs",
    "Measures",
    "Mixture",
    "OnLogits",
    "RandomNoise",
    "RandomSearch",
    "ReweighedPGD",
    "Robustness",
    "RoundScore",
    "SetScore",
    "StackedEnsemble",
    "TargetedPGD",
    "ThreatModel",
    "TransferAttack",
    "aurc",
    "auroc",
    "brier",
    "coherence",
    "coherence_matrix",
    "confidence",
    "correct",
    "disagreement",
    "disagreement_matrix",
    "evaluate",
    "expected_calibration_error",
    "greedy_selection",
    "kappa",
    "kappa_matrix",
    "log_odds",
    "masking_warnings",
    "mean_of_pairs",
    "measure",
    "mixture",
    "nll",
    "q_matrix",
    "q_statistic",
    "selective_accuracy",
    "transfer_matrix",
]
