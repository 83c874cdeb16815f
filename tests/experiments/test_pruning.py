"""Studies of sparse networks, on a network of one's own and on a regression."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
from torch import nn

import fipray as fip
from experiments import super_resolution
from experiments.pruning import _PATTERNS, _SALIENCIES, SETTINGS, PatternName, SaliencyName, mirrored, study
from fipray import analysis
from tests.margins import assert_above, assert_below

HERE = "tests.experiments.test_pruning"


def own() -> tuple[nn.Module, fip.Data]:
    """Untrained, for images of 4 x 4 pixels in 4 classes."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(
            *(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
            *(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(128, 4)),
        ).eval()
    images = np.random.default_rng(0).random((60, 1, 4, 4), dtype=np.float32)
    labels = np.arange(20, dtype=np.int64) % 4
    return module, fip.Data(images[:30], held_out=images[30:40], test_inputs=images[40:], test_labels=labels)


def test_every_pattern_and_saliency_that_is_offered_is_there():
    assert set(get_args(PatternName)) == set(_PATTERNS)
    assert set(get_args(SaliencyName)) == set(_SALIENCIES)
    assert all(settings.num_steps > 0 for settings in SETTINGS.values())


@pytest.mark.parametrize(
    ("pattern", "saliency"),
    [("unstructured", "metric"), ("by_layer", "surgeon"), ("2:4", "magnitude"), ("channels", "metric")],
)
def test_a_study_of_ones_own_network_leaves_a_family_of_sparse_ones(tmp_path, pattern, saliency):
    sparsities = "" if pattern in ("2:4", "channels") else "0.3,0.5"
    made = study(
        base=f"{HERE}:own",
        pattern=pattern,
        saliency=saliency,
        num_steps=4,
        num_examples=20,
        sparsities=sparsities,
    )
    fip.LocalRunner().run(made, tmp_path)
    variants = analysis.judged_variants(analysis.load(tmp_path)).query("name == 'sparse'")
    assert variants["target_sparsity"].tolist() == ([0.3, 0.5] if sparsities else list(_PATTERNS[pattern][1]))
    assert variants["sparsity"].is_monotonic_increasing
    assert variants["robust_accuracy"].notna().all()
    if pattern == "2:4":
        assert variants["bytes_2_4"].iloc[-1] < variants["bytes_dense"].iloc[-1]


def test_a_mirror_shows_images_the_other_way_round():
    images = np.arange(12, dtype=np.float32).reshape(1, 2, 2, 3)
    both = mirrored(images)
    assert np.array_equal(both[0], images[0])
    assert np.array_equal(both[1, 0], [[2, 1, 0], [5, 4, 3]])


def test_sparsities_that_are_no_numbers_are_refused():
    with pytest.raises(fip.errors.UsageError, match=r"0\.5,half"):
        study(base=f"{HERE}:own", sparsities="0.5,half")


def test_patches_hold_the_photograph_and_a_blurred_copy():
    blurred, sharp = super_resolution.patches(0, stride=200)
    assert blurred.shape == (len(sharp), 1, 24, 24)
    assert sharp.shape[1] == 576
    moved = np.sqrt(((blurred.reshape(len(sharp), -1) - sharp) ** 2).mean())
    assert_above(moved, 0.005)
    assert_below(moved, 0.1)
    module = super_resolution.srcnn()
    assert module(torch.from_numpy(blurred[:2])).shape == (2, 576)
