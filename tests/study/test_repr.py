"""Representations of a study in a terminal and in a notebook."""

from __future__ import annotations

from html.parser import HTMLParser

import numpy as np

import fipray as fip
from tests.studies import data, module

THREAT = fip.ThreatModel("linf", 0.1)
SPARSE = fip.PathSpec("sparse", fip.objectives.Sparsify(0.5), fip.steppers.FirstOrder(beta=0.25), num_steps=7)
LATER = fip.PathSpec("later", fip.objectives.GradientDiversity(), start="sparse", num_steps=9)


class Cells(HTMLParser):
    """Parser of the caption and cells of an HTML table."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.caption = ""
        self._tag = ""

    def handle_starttag(self, tag, attrs):
        self._tag = tag
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data):
        if self._tag == "caption":
            self.caption += data
        else:
            self.rows[-1][-1] += data


def made(*paths: fip.PathSpec, **more) -> fip.Study:
    return fip.Study("small", module(), data(), paths, **more)


def cells(study: fip.Study) -> Cells:
    found = Cells()
    found.feed(study._repr_html_())
    found.close()
    return found


def test_the_repr_counts_paths_and_ensembles():
    assert repr(made(SPARSE)) == "Study('small', 1 path, 0 ensembles, no evaluation)"
    both = fip.EnsembleSpec("both", ("sparse", "later"))
    assert repr(made(SPARSE, LATER, ensembles=(both,))) == "Study('small', 2 paths, 1 ensemble, no evaluation)"


def test_the_repr_names_the_attacks_and_the_examples_that_there_are():
    attacks = (fip.attacks.FGSM(), fip.attacks.PGD(5))
    shown = repr(made(SPARSE, evaluation=fip.Evaluation(THREAT, attacks, num_examples=250)))
    assert shown == "Study('small', 1 path, 0 ensembles, evaluation under fgsm, pgd-5x1 on 100 examples)"


def test_the_html_is_a_table_of_the_paths():
    study = made(SPARSE, LATER)
    found = cells(study)
    assert found.caption == "Study 'small', 2 paths, 0 ensembles, no evaluation"
    header, first, second = found.rows
    assert header == ["name", "objective", "stepper", "steps", "start"]
    assert first == ["sparse", "Sparsify(sparsity=0.5)", "FirstOrder(beta=0.25)", "7", "base"]
    assert second == ["later", "GradientDiversity()", "Natural()", "9", "sparse"]


def test_the_html_shows_the_parts_of_an_objective():
    whole = fip.objectives.WeightedSum(((1.0, fip.objectives.GradientDiversity()), (0.5, SPARSE.objective)))
    text = cells(made(fip.PathSpec("whole", whole))).rows[1][1]
    assert "GradientDiversity()" in text
    assert "Sparsify(sparsity=0.5)" in text


def test_the_html_is_escaped():
    anchors = data().anchors
    given = fip.Data(anchors, anchors, tasks={"<b>&\x1b": fip.Task(anchors, (anchors[:, 0] * 0).astype(int))})
    study = fip.Study("small", module(), given, (fip.PathSpec("learns", fip.objectives.LearnTask("<b>&\x1b")),))
    html = study._repr_html_()
    assert "<b>" not in html
    assert "\x1b" not in html
    assert "&lt;b&gt;&amp;" in html


def test_data_is_described_by_its_parts_and_not_by_its_numbers():
    inputs, labels = np.linspace(0, 1, 40, dtype=np.float32).reshape(10, 4), np.arange(10) % 3
    tasks = {"a <task>": fip.Task(inputs, labels)}
    given = fip.Data(
        inputs, inputs[:2], inputs, labels, held_out_labels=labels[:2], sets={"s": inputs[:1]}, tasks=tasks
    )
    assert repr(given).splitlines() == [
        "Data",
        "  anchors                    10 of shape 4 in float32, 0..1",
        "  held_out                   2 of shape 4 in float32, 0..0.1795, 2 classes",
        "  test_inputs                10 of shape 4 in float32, 0..1, 3 classes",
        "  set 's'                    1 of shape 4 in float32, 0..0.07692",
        "  inputs of task 'a <task>'  10 of shape 4 in float32, 0..1, 3 classes",
        "  bounds                     0..1",
    ]
    assert "inputs of task &#x27;a &lt;task&gt;&#x27;" in given._repr_html_()
    assert repr(tasks["a <task>"]) == "Task: inputs 10 of shape 4 in float32, 0..1 in 3 classes, no test inputs"
