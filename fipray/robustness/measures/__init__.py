"""Measures on clean examples: likelihood, calibration, selective accuracy, out-of-distribution detection, diversity."""

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

__all__ = [
    "Measures",
    "aurc",
    "auroc",
    "brier",
    "coherence",
    "coherence_matrix",
    "confidence",
    "disagreement",
    "disagreement_matrix",
    "expected_calibration_error",
    "kappa",
    "kappa_matrix",
    "log_odds",
    "mean_of_pairs",
    "measure",
    "nll",
    "q_matrix",
    "q_statistic",
    "selective_accuracy",
]
