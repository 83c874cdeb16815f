"""Evaluation of networks: split into attack jobs or in one job, with measures, and with outputs of NaN."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import fipray as fip
from fipray import analysis
from fipray.execution import LocalRunner, evaluating
from fipray.execution.evaluating import Evaluator
from fipray.execution.jobs import Job
from fipray.execution.kinds.evaluation import summarize_robustness
from fipray.study.evaluation import Mixing, RobustnessSpec, TransferSpec
from fipray.study.tensors import accuracy
from tests.studies import data, module, study

LINF = fip.ThreatModel("linf", 0.05)
NETWORK = fip.Network.of(module())
TESTS, LABELS, HELD_OUT = (torch.from_numpy(each) for each in (data().test_inputs, data().test_labels, data().held_out))
OOD_INPUTS = torch.rand(30, 6, generator=torch.Generator().manual_seed(3))
WEIGHTS = {name: NETWORK.weights * factor for name, factor in {"base": 1, "sure": 1000, "nan": math.nan}.items()}
WEIGHTS["other"] = fip.Network.of(module(seed=1)).weights


@dataclass(frozen=True)
class FailsUntilFixed:
    """FGSM that fails on networks other than the base until a file exists."""

    file: str
    name: str = "fixed"

    def perturb(self, classifier, *arguments, **settings):
        base = NETWORK(NETWORK.weights, TESTS[:1])
        if not (Path(self.file).exists() or torch.equal(classifier(TESTS[:1]), base)):
            raise RuntimeError("not yet")
        return fip.attacks.FGSM().perturb(classifier, *arguments, **settings)


def small(
    chunk_size: int, attacks: tuple[fip.attacks.Attack, ...] = (fip.attacks.FGSM(), fip.attacks.PGD(3))
) -> fip.Study:
    """Study of one path, an ensemble of it and the base network, and attacks on 40 examples."""
    path = fip.PathSpec(
        "one", fip.objectives.GradientDiversity(), stepper=fip.steppers.FirstOrder(beta=0.1), num_steps=1, batch_size=50
    )
    evaluation = fip.Evaluation(LINF, attacks, num_examples=40, chunk_size=chunk_size)
    both = fip.EnsembleSpec("both", ("base", "one"))
    return replace(study(), paths=(path,), ensembles=(both,), evaluation=evaluation)


def run(what: fip.Study, directory: Path) -> analysis.Results:
    LocalRunner().run(what, directory)
    return analysis.load(directory)


def evaluated(*members: str, mixing: Mixing | None = None, **settings):
    evaluator = Evaluator("small", NETWORK, fip.FisherRao(), HELD_OUT, TESTS, LABELS, OOD_INPUTS)
    evaluation = fip.Evaluation(LINF, (fip.attacks.FGSM(),), 20, **settings)
    spec = RobustnessSpec("it", "ensemble", members, evaluation, mixing)
    return evaluator.robustness(Job("id", spec, 1, {}), spec, WEIGHTS.__getitem__)


@pytest.fixture(scope="module")
def split(tmp_path_factory) -> analysis.Results:
    return run(small(chunk_size=15), tmp_path_factory.mktemp("results") / "split")


def test_split_evaluation_equals_one_job(split, tmp_path):
    """FGSM draws nothing at random; attacks that do are seeded by chunk, and differ."""
    whole = run(small(chunk_size=40), tmp_path)
    same = ["name", "attack", "num_examples", "clean_accuracy", "robust_accuracy", "functional_distance_held_out"]
    first, second = (results.robustness.query("attack in ('none', 'fgsm')")[same] for results in (split, whole))
    assert first.reset_index(drop=True).equals(second.reset_index(drop=True))
    assert list(whole.per_example.groupby("name").size()) == [2, 2, 2]


def test_accuracies_are_those_of_the_per_example_results(split):
    per_example, table = split.per_example, split.robustness.set_index(["name", "attack"])
    assert list(per_example["first_example"]) == [0, 15, 30] * 6
    assert [len(each) for each in per_example["robust"]] == list(per_example["num_examples"]) == [15, 15, 10] * 6
    for name, rows in per_example.groupby("name"):
        robust = {attack: np.concatenate(list(each["robust"])) for attack, each in rows.groupby("attack")}
        for attack, each in robust.items():
            assert table.loc[(name, attack), "robust_accuracy"] == each.mean()
        assert table.loc[(name, "worst"), "robust_accuracy"] == np.all(list(robust.values()), axis=0).mean()
        clean = np.concatenate(list(rows.loc[rows["attack"] == "fgsm", "clean"]))
        assert table.loc[(name, "worst"), "clean_accuracy"] == clean.mean()


def test_measures_exist_for_every_network(split):
    measures = split.measures.set_index("name")
    assert list(measures["kind"]) == ["base", "ensemble", "path"]
    assert set(measures["num_examples"]) == {100}
    assert list(measures["coherence"].notna()) == [False, True, False]


def test_failed_attack_job_alone_runs_again(tmp_path):
    fixed = tmp_path / "fixed"
    what = small(chunk_size=20, attacks=(fip.attacks.FGSM(), FailsUntilFixed(str(fixed))))
    with pytest.raises(fip.errors.RunError) as failed:
        LocalRunner().run(what, tmp_path / "results")
    message = str(failed.value)
    assert "fixed on one, examples 20 to 39: " in message
    assert (
        "attacks on one: not begun, because fixed on one from example 0, fixed on one from example 20 fail" in message
    )
    assert "7 of 17 jobs failed" in message
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "results" / "commits").iterdir()}
    fixed.touch()
    results = run(what, tmp_path / "results")
    assert {file: file.stat().st_mtime_ns for file in before} == before, "jobs that were done do not run again"
    tried = results.per_example.groupby(["name", "attack"])["attempt"].max()
    assert set(tried[tried > 1].index) == {("both", "fixed"), ("one", "fixed")}
    fgsm, same = (results.robustness.query("attack == @attack")["robust_accuracy"] for attack in ("fgsm", "fixed"))
    assert list(fgsm) == list(same)


def test_ensemble_measures_cover_members_and_out_of_distribution_inputs():
    (row,) = evaluated("base", "other")["measures"]
    members = [partial(NETWORK, WEIGHTS[name]) for name in ("base", "other")]
    wanted = asdict(fip.measures.measure(fip.Ensemble(members), TESTS, LABELS, OOD_INPUTS, members))
    assert {name: row[name] for name in wanted} == pytest.approx(wanted, rel=1e-5)
    assert row["ood_auroc"] is not None


MIXING = Mixing((0.25, 0.75), (1.0, 0.2))


@pytest.mark.parametrize("are_one_by_one", [False, True])
def test_mixture_is_measured_and_attacked_with_its_weights_and_temperatures(monkeypatch, are_one_by_one):
    monkeypatch.setattr(evaluating, "LARGE", 1 if are_one_by_one else 10**9)
    tables = evaluated("base", "other", mixing=MIXING)
    members = [partial(NETWORK, WEIGHTS[name]) for name in ("base", "other")]
    mixture = fip.Ensemble(members, weights=MIXING.weights, temperatures=MIXING.temperatures)
    wanted = asdict(fip.measures.measure(mixture, TESTS, LABELS, OOD_INPUTS, members))
    (row,) = tables["measures"]
    assert {name: row[name] for name in wanted} == pytest.approx(wanted, rel=1e-5)
    assert row["nll"] != pytest.approx(evaluated("base", "other")["measures"][0]["nll"], rel=1e-3)
    made = fip.attacks.FGSM().perturb(mixture, TESTS[:20], LABELS[:20], LINF, torch.Generator().manual_seed(0))
    robust = (mixture(made).argmax(1) == LABELS[:20]) & (mixture(TESTS[:20]).argmax(1) == LABELS[:20])
    assert tables["per_example"][0]["robust"] == robust.tolist()


def test_an_ensemble_of_one_member_has_a_temperature():
    (row,) = evaluated("base", mixing=Mixing(temperatures=(0.1,)))["measures"]
    logits = 10 * NETWORK(WEIGHTS["base"], TESTS)
    assert row["nll"] == pytest.approx(float(torch.nn.functional.cross_entropy(logits, LABELS)), rel=1e-5)


def test_transfer_is_to_and_from_the_mixture():
    """In a matrix of the mixture and of the network that has almost all of its weight, all entries are alike."""
    evaluator = Evaluator("small", NETWORK, fip.FisherRao(), HELD_OUT, TESTS, LABELS, OOD_INPUTS)
    evaluation = fip.Evaluation(LINF, (fip.attacks.FGSM(),), 100)
    networks = (("other", ("other",)), ("both", ("base", "other")))
    spec = TransferSpec(networks, evaluation, mixings=(("both", Mixing((1e-9, 1.0))),))
    rows = evaluator.transfer(Job("id", spec, 1, {}), spec, WEIGHTS.__getitem__)["transfer"]
    assert len({row["accuracy"] for row in rows}) == 1
    plain = evaluator.transfer(Job("id", spec, 1, {}), replace(spec, mixings=()), WEIGHTS.__getitem__)["transfer"]
    assert len({row["accuracy"] for row in plain}) > 1


@pytest.mark.parametrize("chunk_size", [15, 40])
def test_study_with_a_mixture_reaches_the_accuracies_of_the_module_of_its_results(tmp_path, chunk_size):
    what = small(chunk_size)
    mixed = fip.EnsembleSpec("both", ("base", "one"), weights=(1, 3), temperatures=(1, 0.5))
    results = run(replace(what, ensembles=(mixed,)), tmp_path)
    network = results.module("both", module())
    (row,) = results.robustness.query("name == 'both' and attack == 'none'").to_dict("records")
    with torch.no_grad():
        assert row["clean_accuracy"] == pytest.approx(float((network(TESTS).argmax(1) == LABELS).float().mean()))
        nll = float(torch.nn.functional.nll_loss(network(TESTS), LABELS))
    assert results.measures.set_index("name").loc["both", "nll"] == pytest.approx(nll, rel=1e-5)


@pytest.mark.parametrize("members", [("nan",), ("base", "nan")])
def test_network_of_nan_has_accuracies_and_no_measures(members):
    tables = evaluated(*members, check_masking=True)
    assert "measures" not in tables
    assert [row["robust_accuracy"] for row in tables["robustness"]] == [0, 0, 0]
    assert summarize_robustness(tables).endswith("; no measures, because there are outputs with NaN")


def test_outputs_of_nan_are_wrong_for_every_class():
    """Including the first class, which `argmax` returns for NaN."""
    evaluator = Evaluator("small", NETWORK, fip.FisherRao(), HELD_OUT, TESTS, torch.zeros_like(LABELS), OOD_INPUTS)
    assert evaluator.accuracy(WEIGHTS["nan"]) == 0
    assert accuracy(NETWORK, WEIGHTS["nan"], fip.Examples(TESTS, torch.zeros_like(LABELS))) == 0


def test_masking_warnings_are_in_the_row_of_the_worst_attack():
    assert {row["warnings"] for row in evaluated("sure")["robustness"]} == {None}
    tables = evaluated("sure", check_masking=True)
    assert [row["warnings"] is None for row in tables["robustness"]] == [True, True, False]
    assert "the gradient of the cross-entropy is exactly 0 at" in tables["robustness"][-1]["warnings"]
    assert "gradients may be masked" in summarize_robustness(tables)
