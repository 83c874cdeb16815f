"""Series of tasks of small networks on data of scikit-learn, for the recipes `learn` and `connect`.

    fipray run learn -p module=benchmarks.recipes.series:pairs_module -p tasks=benchmarks.recipes.series:pairs_tasks \
        -p data=benchmarks.recipes.series:pairs_data --into results/pairs

`pairs`: the digits 0 and 1 are known, and 2 and 3, 4 and 5, ... follow. `permuted`: all ten digits are known, and the
same with their pixels permuted in four ways follow.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import nn

from experiments.training import Recipe, trained
from fipray import Data, Task

NUM_TESTS, NUM_HELD_OUT, NUM_PERMUTED = 500, 0.15, 4
Part = tuple[NDArray[np.float32], NDArray[np.int64]]


def pairs_data() -> Data:
    """Digits 0 and 1."""
    return _data(*(_classes(part, 0, 2) for part in _digits()))


def pairs_tasks() -> dict[str, Task]:
    """Pairs of further digits."""
    train, test = _digits()
    return {
        f"{first} and {first + 1}": Task(*_classes(train, first, first + 2), *_classes(test, first, first + 2))
        for first in range(2, 10, 2)
    }


def pairs_module() -> nn.Module:
    """Two hidden layers, trained to tell 0 from 1."""
    return _known(pairs_data(), 2)


def permuted_data() -> Data:
    """All digits."""
    return _data(*_digits())


def permuted_tasks() -> dict[str, Task]:
    """All digits, with their pixels permuted."""
    tasks = {}
    for number in range(1, NUM_PERMUTED + 1):
        order = np.random.default_rng(number).permutation(64)
        (inputs, labels), (test_inputs, test_labels) = _digits()
        tasks[f"permutation {number}"] = Task(inputs[:, order], labels, test_inputs[:, order], test_labels)
    return tasks


def permuted_module(seed: int = 0) -> nn.Module:
    """Two hidden layers, trained on all digits."""
    return _known(permuted_data(), 10, seed)


def _known(data: Data, num_classes: int, seed: int = 0) -> nn.Module:
    def untrained() -> nn.Module:
        return nn.Sequential(nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, num_classes))

    assert data.anchor_labels is not None
    recipe = Recipe(f"mlp-100-100-{num_classes}", data.digest, 1000, 64, 2e-3, seed)
    return trained(untrained, np.asarray(data.anchors), data.anchor_labels, recipe)


def _data(train: Part, test: Part) -> Data:
    count = round(NUM_HELD_OUT * len(train[0]))
    return Data(
        anchors=train[0][count:],
        held_out=train[0][:count],
        test_inputs=test[0],
        test_labels=test[1],
        anchor_labels=train[1][count:],
        held_out_labels=train[1][:count],
    )


def _digits() -> tuple[Part, Part]:
    """Training and test part of the handwritten digits, [N, 64] in 0..1."""
    from sklearn.datasets import load_digits  # imported when called: scikit-learn takes a second to load

    inputs, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(inputs))
    inputs, labels = (inputs[order] / 16).astype(np.float32), labels[order].astype(np.int64)
    return (inputs[:-NUM_TESTS], labels[:-NUM_TESTS]), (inputs[-NUM_TESTS:], labels[-NUM_TESTS:])


def _classes(part: Part, low: int, high: int) -> Part:
    """Examples of the classes from `low` to below `high`."""
    inputs, labels = part
    chosen = (labels >= low) & (labels < high)
    return inputs[chosen], labels[chosen]
