"""Pruned variants of a study: their rows, evaluation and exported files."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import fipray as fip
from fipray import analysis
from fipray.execution import LocalRunner
from fipray.export import export
from tests.studies import CutOff, data

LEVELS = (0.3, 0.5, 0.7)


def own_module() -> nn.Module:
    """Network with batch statistics, which are not weights, and a shared layer."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        shared = nn.Linear(16, 16)
        module = nn.Sequential(
            nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), shared, nn.ReLU(), shared, nn.ReLU(), nn.Linear(16, 3)
        )
        module(torch.rand(50, 6))
        return module.eval()


def own_chain() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3)).eval()


def study(module: nn.Module, *, pattern: fip.paths.Pattern | None = None, chunk_size: int = 500) -> fip.Study:
    path = fip.PathSpec(
        "sparse",
        fip.objectives.Sparsify(LEVELS[-1], through=LEVELS[:-1], pattern=pattern or fip.sparsity.Unstructured()),
        stepper=fip.steppers.FirstOrder(),
        radius=fip.radii.Scheduled(0.02, cycles=(1.0, 1.0, 1.0)),
        num_steps=30,
        batch_size=50,
        save_at=fip.SaveAt(1),
    )
    dense = replace(
        path,
        name="diverse",
        objective=fip.objectives.GradientDiversity(),
        stepper=fip.steppers.FirstOrder(0.1),
        num_steps=2,
    )
    attacked = fip.Evaluation(
        fip.ThreatModel("linf", 0.05), (fip.attacks.FGSM(),), num_examples=40, chunk_size=chunk_size
    )
    return fip.Study("family", module, data(), (path, dense), evaluation=attacked)


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> analysis.Results:
    directory = tmp_path_factory.mktemp("family")
    LocalRunner().run(study(own_module()), directory)
    return analysis.load(directory)


def test_a_path_has_a_row_for_every_sparsity_with_what_the_network_takes(results):
    rows = results.variants
    network = fip.Network.of(own_module())
    assert rows["network"].tolist() == ["sparse@0.3", "sparse@0.5", "sparse"]
    assert rows["target_sparsity"].tolist() == list(LEVELS)
    assert rows["step"].tolist() == [10, 20, 30]
    for row in rows.itertuples():
        weights = torch.from_numpy(results.weights(row.network))
        assert (
            row.non_zeros
            == int(weights.count_nonzero())
            == network.num_weights - round(row.target_sparsity * len(weights))
        )
        assert row.sparsity == pytest.approx(1 - row.non_zeros / row.num_weights)
        by_layer = json.loads(row.sparsity_by_layer_json)
        named = network.named(weights)
        assert by_layer == {name: float((named[name] == 0).double().mean()) for name in by_layer}
        assert row.bytes_dense == 4 * len(weights)
        assert row.bytes_csr == fip.networks.footprint_of(network, weights, torch.rand(1, 6)).bytes_csr
    assert results.paths.set_index("name").loc["sparse", "weights_sha256"] == rows["weights_sha256"].iloc[-1]


def test_variants_are_judged_by_their_names_and_attacks_are_not_transferred_to_them(results):
    judged = analysis.judged_variants(results)
    network = fip.Network.of(own_module())
    inputs, labels = (torch.from_numpy(array) for array in (data().test_inputs, data().test_labels))
    for row in judged.itertuples():
        outputs = network.outputs(torch.from_numpy(results.weights(row.network)), inputs)
        assert row.clean_accuracy == pytest.approx(float((outputs.argmax(1) == labels).double().mean()))
        unchanged = results.robustness.query("attack == 'none'").set_index("name").loc[row.network]
        assert (unchanged["sparsity"], unchanged["clean_accuracy"]) == (row.sparsity, row.clean_accuracy)
        assert unchanged["functional_distance_held_out"] == pytest.approx(row.functional_distance_held_out, rel=1e-5)
        assert (row.epsilon, row.num_examples) == (0.05, 40)
    kinds = results.robustness.drop_duplicates("name").set_index("name")["kind"]
    assert kinds["sparse@0.3"] == kinds["sparse@0.5"] == "variant"
    assert set(results.transfer["source"]) == {"base", "sparse", "diverse"}
    assert list(analysis.summary(results)["kind"]) == ["base", "path", "path", "variant", "variant"]


def test_attacks_that_are_work_of_their_own_find_the_same(results, tmp_path):
    LocalRunner().run(study(own_module(), chunk_size=15), tmp_path)
    again = analysis.load(tmp_path)
    columns = ["network", "weights_sha256", "clean_accuracy"]
    assert analysis.judged_variants(again)[columns].equals(analysis.judged_variants(results)[columns])
    assert analysis.judged_variants(again)["robust_accuracy"].notna().all()


def test_a_path_that_is_cut_off_ends_with_the_same_variants(tmp_path):
    mended = tmp_path / "mended"
    whole = study(own_module())
    once = replace(whole, paths=(replace(whole.paths[0], stepper=CutOff(str(mended))),))
    with pytest.raises(fip.errors.RunError, match="cut off"):
        LocalRunner().run(once, tmp_path / "cut")
    mended.touch()
    found = [analysis.load(LocalRunner().run(once, tmp_path / name).address).variants for name in ("cut", "whole")]
    assert found[0]["network"].tolist() == ["sparse@0.3", "sparse@0.5", "sparse"]
    assert found[0]["weights_sha256"].tolist() == found[1]["weights_sha256"].tolist()


def test_a_variant_that_was_not_reached_has_no_row_and_is_judged_as_the_paths_end(tmp_path):
    whole = study(own_module())
    path = replace(whole.paths[0], events=(fip.events.FunctionalDistanceAbove(1e-6),))
    LocalRunner().run(replace(whole, paths=(path,)), tmp_path)
    found = analysis.load(tmp_path)
    assert found.variants.empty
    ends = found.robustness[found.robustness["attack"] == "none"].set_index("name")["sparsity"]
    assert ends["sparse@0.3"] == ends["sparse"] < 0.3


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_an_exported_variant_loads_strictly_and_computes_the_same(results, tmp_path, suffix):
    file = tmp_path / f"variant.{suffix}"
    sentence = export(results.address, "sparse", 0.5, file)
    assert "bytes" in sentence
    state = load_file(file) if suffix == "safetensors" else torch.load(file, weights_only=True)
    module = own_module()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(9)
    module.load_state_dict(state, strict=True)
    weights = torch.from_numpy(results.weights("sparse@0.5"))
    inputs = torch.rand(20, 6)
    torch.testing.assert_close(module(inputs), fip.Network.of(own_module()).outputs(weights, inputs))


def test_channels_that_are_gone_can_be_left_out_of_the_file(tmp_path):
    LocalRunner().run(study(own_chain(), pattern=fip.sparsity.Structured()), tmp_path / "results")
    found = analysis.load(tmp_path / "results")
    export(tmp_path / "results", "sparse", 0.5, tmp_path / "small.safetensors", slim=f"{__name__}:own_chain")
    small = fip.networks.fitted(own_chain(), load_file(tmp_path / "small.safetensors"))
    assert [small[0].out_features, small[2].out_features] == [8, 6]
    inputs = torch.rand(20, 6)
    weights = torch.from_numpy(found.weights("sparse@0.5"))
    torch.testing.assert_close(
        small(inputs), fip.Network.of(own_chain()).outputs(weights, inputs), rtol=1e-5, atol=1e-6
    )
    assert found.variants["bytes_2_4"].isna().all() or found.variants["bytes_2_4"].notna().any()


def test_wrong_exports_say_what_there_is_and_write_nothing(results, tmp_path):
    there = tmp_path / "there.pt"
    there.write_text("mine")
    for path, sparsity, file, slim, sentence in (
        ("sparse", 0.9, "a.pt", None, "it has those at 0.3, 0.5, 0.7"),
        ("diverse", 0.5, "a.pt", None, "those are: sparse"),
        ("nobody", None, "a.pt", None, "base, diverse, sparse"),
        ("sparse", 0.5, "a.onnx", None, "results hold weights and no code"),
        ("sparse", 0.5, "a.csv", None, ".safetensors, .pt, .pth, .onnx"),
        ("sparse", 0.5, "there.pt", None, "exists already"),
        ("sparse", 0.5, "there.pt/a.pt", None, "could not write"),
        ("sparse", 0.5, "a.pt", f"{__name__}:own_chain", "is not the module of study 'family'"),
        ("sparse", 0.5, "a.pt", f"{__name__}:data", "returned a Data"),
        ("sparse", 0.5, "a.pt", f"{__name__}:own_module", "no removable channel is zero"),
    ):
        with pytest.raises(fip.FiprayError, match=sentence):
            export(results.address, path, sparsity, tmp_path / file, slim)
    assert [file.name for file in tmp_path.iterdir()] == ["there.pt"]
    assert there.read_text() == "mine"


def test_weights_of_a_variant_that_is_not_there_are_asked_for_in_vain(results):
    with pytest.raises(fip.errors.UsageError, match=r"sparse@0\.3, sparse@0\.5"):
        results.weights("sparse@0.4")


def test_the_figure_has_a_line_of_clean_and_one_of_robust_accuracy_from_the_base_on(results, tmp_path):
    figure = analysis.plot_sparsity(results)
    lines = {line.get_label(): line for line in figure.axes[0].get_lines()}
    assert set(lines) == {"sparse, clean", "sparse, under attack"}
    base = results.robustness.query("name == 'base'").set_index("attack")
    assert lines["sparse, clean"].get_ydata()[0] == pytest.approx(100 * base.loc["none", "clean_accuracy"])
    assert lines["sparse, under attack"].get_ydata()[0] == pytest.approx(100 * base.loc["worst", "robust_accuracy"])
    assert np.allclose(lines["sparse, clean"].get_xdata(), -np.log10(1 - np.array([0, *results.variants["sparsity"]])))
    figure.savefig(tmp_path / "figure.png")
