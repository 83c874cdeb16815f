"""Data sets of Ray Data as sources of data."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import fipray as fip

ROWS = np.random.default_rng(0).random((40, 6), dtype=np.float32)
CLASSES = np.arange(40) % 4


@pytest.fixture
def source(ray_session):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Ray and pandas themselves
        from ray import data

        context = data.DataContext.get_current()
        context.enable_progress_bars, context.execution_options.preserve_order = False, True
        rows = [{"row": row, "label": int(label)} for row, label in zip(ROWS, CLASSES, strict=True)]
        yield data.from_items(rows, override_num_blocks=4)


def test_rows_of_ray_data_are_examples(source):
    found = fip.Data.of(source, num_held_out=5)
    assert found.digest == fip.Data.of((ROWS, CLASSES), num_held_out=5).digest


def test_a_limit_takes_the_first_rows_of_ray_data(source):
    found = fip.Data.of(source, limit=20, num_held_out=5)
    assert found.digest == fip.Data.of((ROWS[:20], CLASSES[:20]), num_held_out=5).digest
