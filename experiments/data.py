"""Data sets as inputs [N, 1, H, W] in 0..1 and integer labels [N]."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from platformdirs import user_cache_path

from fipray import Data
from fipray.errors import UsageError

Inputs = NDArray[np.float32]
Labels = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Labelled:
    """Training and test part of a labelled data set.

    Args:
        train_inputs: [N, C, H, W].
        train_labels: [N].
        test_inputs: [M, C, H, W].
        test_labels: [M].
    """

    train_inputs: Inputs
    train_labels: Labels
    test_inputs: Inputs
    test_labels: Labels

    def for_paths(self, num_held_out: int) -> Data:
        """Build the data of a study: the last training inputs are held out, the others are the anchors.

        Args:
            num_held_out: number of held-out inputs.

        Returns:
            The data.
        """
        return Data(
            anchors=self.train_inputs[:-num_held_out],
            held_out=self.train_inputs[-num_held_out:],
            test_inputs=self.test_inputs,
            test_labels=self.test_labels,
        )


def digits() -> Labelled:
    """Handwritten digits (8 x 8) of scikit-learn in a fixed random order: 1,297 for training, 500 for tests."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    order = np.random.default_rng(0).permutation(len(bunch.images))
    inputs = (bunch.images[order, None] / 16).astype(np.float32)
    labels = bunch.target[order].astype(np.int64)
    return Labelled(inputs[:-500], labels[:-500], inputs[-500:], labels[-500:])


def mnist(kind: str, root: str) -> Labelled:
    """MNIST or Fashion-MNIST through torchvision.

    Args:
        kind: "mnist" or "fashion".
        root: folder with `MNIST/raw` or `FashionMNIST/raw` in it, packed or unpacked; it is only read. If empty,
            the environment
            variable FIPRAY_DATA or the folder `shared/data` beside the checkout; without any, the files are
            downloaded once.

    Returns:
        The data set.

    Raises:
        UsageError: If there is no such data set, or its files cannot be read or downloaded.
    """
    from torchvision import datasets

    classes = {"mnist": datasets.MNIST, "fashion": datasets.FashionMNIST}
    if kind not in classes:
        raise UsageError(f"there is no data set {kind!r}; there are: {', '.join(classes)}")
    own = user_cache_path("fipray", ensure_exists=True) / "datasets"
    folder = f"{classes[kind].__name__}/raw"
    given = root or os.environ.get("FIPRAY_DATA", "")
    if given and not (Path(given) / folder).is_dir():
        raise UsageError(
            f"{given} holds no {folder}: name the folder that has {folder} in it, or leave data_root out to download"
        )
    source = Path(given or "../shared/data") / folder
    if source.is_dir():
        (own / folder).mkdir(parents=True, exist_ok=True)
        for file in source.glob("*ubyte*"):
            target = own / folder / file.name
            if not target.exists() or target.stat().st_size != file.stat().st_size:
                shutil.copy(file, target)
    try:
        train, test = (classes[kind](own, train=is_train, download=True) for is_train in (True, False))
    except (OSError, RuntimeError) as error:
        raise UsageError(
            f"{folder} could not be had: {error}. Give -p data_root=FOLDER, with the data set's four files in "
            f"FOLDER/{folder}"
        ) from error
    return Labelled(*_scaled(train), *_scaled(test))


def _scaled(part: object) -> tuple[Inputs, Labels]:
    images, labels = part.data.numpy(), part.targets.numpy()  # type: ignore[attr-defined]
    return (images[:, None] / np.float32(255)).astype(np.float32), labels.astype(np.int64)
