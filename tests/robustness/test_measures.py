"""Summary of measures against each measure by itself."""

from __future__ import annotations

import math
from dataclasses import asdict

import pytest
import torch

from fipray import robustness as measures
from fipray.errors import DataError, UsageError
from fipray.robustness import Ensemble, Measures, measure
from tests.problems import normal
from tests.robustness.classifiers import Tanh, images

MEMBERS = [Tanh.drawn(seed=seed) for seed in range(3)]
INPUTS, LABELS = images(40, 9), torch.arange(40) % 4
OUTSIDE = normal(25, 9)
OF_PAIRS = ("coherence", "disagreement", "q_statistic", "kappa")


def test_ensembles_measures_are_those_of_its_outputs_and_its_members():
    ensemble = Ensemble(MEMBERS)
    outputs, predictions = ensemble(INPUTS), torch.stack([member(INPUTS).argmax(1) for member in MEMBERS])
    expected = {
        "num_members": 3,
        "num_examples": 40,
        "clean_accuracy": float((outputs.argmax(1) == LABELS).double().mean()),
        "nll": measures.nll(outputs, LABELS),
        "expected_calibration_error": measures.expected_calibration_error(outputs, LABELS),
        "brier": measures.brier(outputs, LABELS),
        "selective_accuracy_80": measures.selective_accuracy(outputs, LABELS, 0.8),
        "selective_accuracy_90": measures.selective_accuracy(outputs, LABELS, 0.9),
        "aurc": measures.aurc(outputs, LABELS),
        "ood_auroc": measures.auroc(measures.confidence(outputs), measures.confidence(ensemble(OUTSIDE))),
        "coherence": measures.coherence(MEMBERS, INPUTS, LABELS),
        "disagreement": measures.disagreement(predictions),
        "q_statistic": measures.q_statistic(predictions == LABELS),
        "kappa": measures.kappa(predictions == LABELS),
    }
    measured = asdict(measure(ensemble, INPUTS, LABELS, OUTSIDE, MEMBERS, batch_size=7))
    assert measured == pytest.approx(expected, abs=1e-13)


def test_single_network_has_no_measures_of_pairs_and_none_of_inputs_that_are_not_given():
    measured = measure(MEMBERS[0], INPUTS, LABELS)
    assert [getattr(measured, name) for name in (*OF_PAIRS, "ood_auroc")] == [None] * 5
    assert measured == measure(MEMBERS[0], INPUTS, LABELS, members=MEMBERS[:1])
    assert measured.num_members == 1


def test_equal_members_are_coherent_and_agree():
    measured = measure(MEMBERS[0], INPUTS, LABELS, members=[MEMBERS[0]] * 2)
    assert [getattr(measured, name) for name in OF_PAIRS] == pytest.approx([1, 0, 1, 1], abs=1e-12)


def test_every_measure_has_its_column():
    pytest.importorskip("pyarrow")  # which tables need, and measures do not
    from fipray.records import TABLES

    columns = {column.name: column for column in TABLES["measures"].columns}
    others = {"schema_version", "study", "measures_id", "name", "kind", "seconds", "attempt", "host"}
    assert list(Measures.__dataclass_fields__) == [name for name in columns if name not in others]
    assert {name for name, column in columns.items() if column.optional} == {*OF_PAIRS, "ood_auroc"}


def test_unusable_examples_and_outputs_are_refused():
    with pytest.raises(UsageError, match="batch_size is 0"):
        measure(MEMBERS[0], INPUTS, LABELS, batch_size=0)
    with pytest.raises(DataError, match=r"labels are torch.int64 of shape \(39,\)"):
        measure(MEMBERS[0], INPUTS, LABELS[1:])
    for ood_inputs in (OUTSIDE[:, :8], OUTSIDE[:0]):
        with pytest.raises(DataError, match=r"out-of-distribution inputs .* give one input or more of the same shape"):
            measure(MEMBERS[0], INPUTS, LABELS, ood_inputs)
    with pytest.raises(DataError, match="40 of 40 outputs hold NaN or plus infinity"):
        measure(lambda inputs: math.nan * MEMBERS[0](inputs), INPUTS, LABELS)
    broken = [MEMBERS[0], lambda inputs: math.nan * MEMBERS[1](inputs)]
    with pytest.raises(DataError, match="1 of 2 members give NaN or plus infinity: leave them out"):
        measure(MEMBERS[0], INPUTS, LABELS, members=broken)
