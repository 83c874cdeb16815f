"""Data from what people have: what becomes of it, exactly, and what is refused."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_diabetes, load_digits, load_iris
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, WeightedRandomSampler
from torchvision.datasets import FakeData, ImageFolder
from torchvision.transforms import ToTensor, v2

import fipray as fip
from fipray.errors import DataError
from fipray.study import Columns
from tests.study.pictures import folder, pixels

NUM = 20
ROWS = np.arange(NUM * 3, dtype=np.float32).reshape(NUM, 3) / (NUM * 3)
CLASSES = np.arange(NUM) % 4
ORDER = np.random.default_rng(0).permutation(NUM)
IMAGES = pixels(NUM)
FIRST = IMAGES.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)


class Examples(Dataset):
    """Data set of given examples."""

    def __init__(self, *items) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


class Stream(IterableDataset):
    """The rows and their classes, one after the other."""

    def __iter__(self):
        return iter(zip(ROWS, CLASSES, strict=True))


class Named(Examples):
    """Data set with columns, as of Hugging Face."""

    features = None

    @property
    def column_names(self) -> list[str]:
        return list(self.items[0])


def same(one: fip.Data, other: fip.Data) -> bool:
    return one.digest == other.digest


def test_the_last_of_a_seeded_shuffle_are_held_out_and_those_before_are_tests():
    data = fip.Data.of((ROWS, CLASSES), num_held_out=3)
    parts = {"anchors": ORDER[:-6], "test_inputs": ORDER[-6:-3], "held_out": ORDER[-3:]}
    for name, order in parts.items():
        assert np.array_equal(getattr(data, name), ROWS[order])
    for name, part in (("anchor_labels", "anchors"), ("test_labels", "test_inputs"), ("held_out_labels", "held_out")):
        assert np.array_equal(getattr(data, name), CLASSES[parts[part]])
    assert data.notes == ("no test source was given: 3 labelled examples of the source are the test inputs",)
    assert data.bounds == (0.0, 1.0)


def test_inputs_without_labels_are_all_anchors_and_held_out():
    data = fip.Data.of(ROWS, num_held_out=3, seed=5)
    order = np.random.default_rng(5).permutation(NUM)
    assert np.array_equal(data.anchors, ROWS[order[:-3]])
    assert np.array_equal(data.held_out, ROWS[order[-3:]])
    assert data.test_inputs is data.anchor_labels is data.held_out_labels is None


def test_a_test_source_is_taken_whole_and_in_order_or_up_to_the_limit():
    data = fip.Data.of(ROWS, test=(ROWS[:7], CLASSES[:7]), num_held_out=2)
    assert np.array_equal(data.test_inputs, ROWS[:7])
    assert len(data.anchors) == NUM - 2
    limited = fip.Data.of(ROWS, test=(ROWS[:7], CLASSES[:7]), num_held_out=2, limit=5)
    assert np.array_equal(np.concatenate([limited.anchors, limited.held_out]), ROWS[ORDER[:5]])
    chosen = np.sort(np.random.default_rng(0).permutation(7)[:5])
    assert np.array_equal(limited.test_inputs, ROWS[chosen])


def test_labels_of_anchors_change_ids_only_where_they_are_given():
    rows = np.arange(24, dtype=np.float32).reshape(6, 4) / 24
    given = (rows, rows[:3], rows[:2], np.array([0, 1]))
    named = {"sets": {"more": rows[3:]}, "tasks": {"t": fip.Task(rows, np.arange(6) % 2)}}
    data = fip.Data(*given, **named)
    assert data.digest == "d686ca3dbeab82a5"  # computed before there were labels of anchors, layouts and notes
    assert fip.Data(*given, **named, notes=("said",)).digest == data.digest
    assert fip.Data(*given, **named, anchor_labels=np.arange(6)).digest != data.digest
    with pytest.raises(DataError, match="6 inputs need 6 labels, but anchor_labels has shape"):
        fip.Data(*given, anchor_labels=np.arange(5))


@pytest.mark.parametrize(
    "source",
    [
        (torch.from_numpy(ROWS), torch.from_numpy(CLASSES)),
        {"x": ROWS, "y": CLASSES},
        TensorDataset(torch.from_numpy(ROWS), torch.from_numpy(CLASSES)),
        DataLoader(TensorDataset(torch.from_numpy(ROWS), torch.from_numpy(CLASSES)), 7, shuffle=True),
        DataLoader(
            Examples(*zip(ROWS, CLASSES, strict=True)),
            7,
            collate_fn=lambda items: tuple(map(np.stack, zip(*items, strict=True))),
        ),
        list(zip(ROWS, CLASSES, strict=True)),
        Stream(),
        DataLoader(Stream(), 3),
        Named(
            *(
                {"text": "a", "features": row.tolist(), "label": int(one)}
                for row, one in zip(ROWS, CLASSES, strict=True)
            )
        ),
        (ROWS, np.eye(4)[CLASSES]),
        (ROWS, CLASSES[:, None].astype(np.uint8)),
        (ROWS, CLASSES.astype(np.float32)),
    ],
    ids=[
        "tensors",
        "mapping",
        "dataset",
        "shuffled",
        "collated",
        "list",
        "stream",
        "streamed",
        "columns",
        "one-hot",
        "column",
        "floats",
    ],
)
def test_the_same_examples_give_the_same_data_from_every_source(source):
    data, expected = fip.Data.of(source), fip.Data.of((ROWS, CLASSES))
    if isinstance(source, Named):  # lists of Python floats are float64 first
        assert data.notes[0] == "the inputs are converted from float64 to float32"
    assert same(data, expected)


def test_images_of_bytes_become_floats_of_zero_to_one_with_channels_first():
    for source in (IMAGES, torch.from_numpy(IMAGES), IMAGES.transpose(0, 3, 1, 2)):
        data = fip.Data.of(source, num_held_out=3)
        assert data.anchors.dtype == np.float32
        assert np.array_equal(data.anchors, FIRST[ORDER[:-3]])
    grey = fip.Data.of(IMAGES[..., 0])
    assert grey.anchors.shape == (16, 1, 6, 5)
    assert "the inputs [N, H, W] get a channel: [N, 1, H, W]" in grey.notes
    floats = torch.zeros(5, 10, 6, 3)  # floats of torch stay as they are
    assert fip.Data.of(floats).anchors.shape == (4, 10, 6, 3)


def test_images_whose_channels_are_ambiguous_are_refused_with_a_remedy():
    with pytest.raises(DataError, match=r"shape \(20, 3, 5, 3\), and whether .*permute\(0, 3, 1, 2\)"):
        fip.Data.of(IMAGES[:, :3])


def test_a_folder_of_images_is_read_with_its_classes_and_its_test_part(tmp_path):
    images = folder(tmp_path / "train")
    tests = folder(tmp_path / "val", num=2, seed=1)
    data = fip.Data.of(str(tmp_path), num_held_out=2)
    order = np.random.default_rng(0).permutation(12)
    assert np.array_equal(data.anchors, images.transpose(0, 3, 1, 2)[order[:-2]].astype(np.float32) / np.float32(255))
    assert np.array_equal(data.anchor_labels, order[:-2] // 6)
    assert np.array_equal(data.test_inputs, tests.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255))
    assert data.test_labels.tolist() == [0, 0, 1, 1]
    to_tensor = ToTensor()
    loaded = [ImageFolder(str(tmp_path / part), to_tensor) for part in ("train", "val")]
    assert same(fip.Data.of(DataLoader(loaded[0], 4, shuffle=True), test=DataLoader(loaded[1]), num_held_out=2), data)
    assert fip.Data.of(tmp_path, transform=v2.Resize((2, 3)), limit=7).anchors.shape == (6, 3, 2, 3)


def test_folders_that_number_classes_differently_are_refused(tmp_path):
    folder(tmp_path / "train")
    folder(tmp_path / "test", ("cat", "frog"))
    with pytest.raises(DataError, match="number their classes differently: 2 and 2 classes, differing in dog, frog"):
        fip.Data.of(tmp_path)
    with pytest.raises(DataError, match="is no folder of images"):
        fip.Data.of(tmp_path / "train" / "cat")


def test_images_of_different_sizes_need_a_transform(tmp_path):
    folder(tmp_path, ("cat",), height=7)
    folder(tmp_path, ("dog",), height=6)
    with pytest.raises(DataError, match=r"examples differ in shape: .*transform=torchvision"):
        fip.Data.of(tmp_path)
    data = fip.Data.of(tmp_path, transform=v2.Compose([v2.Resize(4), v2.CenterCrop(4)]))
    assert data.anchors.shape[1:] == (3, 4, 4)


def test_random_transforms_are_drawn_once_from_the_seed_and_global_generators_are_left_alone():
    source = FakeData(12, (3, 8, 8), 2, transform=v2.Compose([v2.PILToTensor(), v2.RandomCrop(5)]))
    torch.manual_seed(3)
    before = torch.get_rng_state()
    data = fip.Data.of(source)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(4)
    assert same(fip.Data.of(source), data)
    assert not same(fip.Data.of(source, seed=1), data)
    assert "the source transforms its inputs at random: drawn once, with seed 0" in data.notes


def test_undoing_a_normalisation_gives_the_pixels_back():
    mean, std = (0.5, 0.25, 0.4), (0.25, 0.5, 0.2)
    normalise = v2.Normalize(mean, std)
    inputs = normalise(torch.from_numpy(FIRST).double())
    data = fip.Data.of(inputs, mean=mean, std=std, num_held_out=3)
    np.testing.assert_allclose(data.anchors, FIRST[ORDER[:-3]], rtol=0, atol=1e-12)
    assert data.bounds == (0.0, 1.0)
    assert any("give the network as fipray.networks.Normalised" in note for note in data.notes)
    with pytest.raises(DataError, match=r"not in 0\.\.1: mean= and std= must be those"):
        fip.Data.of(inputs, mean=0.0, std=1.0)
    with pytest.raises(DataError, match="uint8, which are not normalised"):
        fip.Data.of(IMAGES, mean=mean, std=std)
    with pytest.raises(DataError, match="mean= has 3 channels"):
        fip.Data.of(inputs[:, :2], mean=mean, std=std)


def test_files_of_arrays_are_read_with_their_parts(tmp_path):
    np.savez(tmp_path / "parts.npz", x_train=ROWS, y_train=CLASSES, x_test=ROWS[:4], y_test=CLASSES[:4])
    np.savez(tmp_path / "places.npz", ROWS, CLASSES)
    np.save(tmp_path / "rows.npy", ROWS)
    assert same(fip.Data.of(tmp_path / "parts.npz"), fip.Data.of((ROWS, CLASSES), test=(ROWS[:4], CLASSES[:4])))
    assert same(fip.Data.of(str(tmp_path / "places.npz")), fip.Data.of((ROWS, CLASSES)))
    assert same(fip.Data.of(tmp_path / "rows.npy"), fip.Data.of(ROWS))
    named = Columns(tmp_path / "places.npz", inputs="arr_0")
    assert same(fip.Data.of(named), fip.Data.of(ROWS))


def test_bunches_of_scikit_learn_are_read_and_targets_of_a_regression_left_out():
    digits = load_digits()
    data = fip.Data.of(digits, limit=100)
    assert data.bounds == (0.0, 16.0)
    assert np.array_equal(data.anchors, digits.data[np.random.default_rng(0).permutation(1797)[:60]].astype(np.float32))
    assert fip.Data.of(load_iris(as_frame=True)).anchors.shape == (90, 4)
    regression = fip.Data.of(load_diabetes())
    assert regression.anchor_labels is regression.test_labels is None
    assert any("are real numbers and no classes: they are left out" in note for note in regression.notes)


def test_data_frame_has_its_columns_as_features_and_a_column_of_labels():
    frame = load_iris(as_frame=True).frame
    taken, plain = fip.Data.of(frame), fip.Data.of((frame.iloc[:, :4].to_numpy(), frame["target"].to_numpy()))
    assert same(taken, plain)
    assert "the column 'target' of the source is taken for labels" in taken.notes
    named = fip.Data.of(Columns(frame, inputs=tuple(frame.columns[:2]), labels="target"))
    np.testing.assert_array_equal(named.anchors, plain.anchors[:, :2])
    assert fip.Data.of(frame.drop(columns="target")).test_inputs is None


def test_several_inputs_are_packed_and_their_layout_is_part_of_ids():
    ids, mask = np.arange(NUM * 2).reshape(NUM, 2), np.ones((NUM, 2), dtype=np.int64)
    data = fip.Data.of({"input_ids": ids, "attention_mask": mask, "labels": CLASSES}, num_held_out=3)
    assert np.array_equal(data.anchors, np.concatenate([ids, mask], 1)[ORDER[:-6]])
    assert [part.name for part in data.layout.parts] == ["input_ids", "attention_mask"]
    tensors = TensorDataset(*map(torch.from_numpy, (ids, mask, CLASSES)))
    places = fip.Data.of(DataLoader(tensors, 3), num_held_out=3)
    assert not places.layout.by_keyword
    assert np.array_equal(places.anchors, data.anchors)
    assert places.digest != data.digest
    with pytest.raises(DataError, match="the layout has rows of 4 numbers, but anchors have shape"):
        fip.Data(ROWS, ROWS, layout=data.layout)


@pytest.mark.parametrize(
    ("source", "arguments", "sentence"),
    [
        (np.zeros((0, 3)), {}, "the source is empty"),
        (TensorDataset(torch.zeros(0, 3)), {}, "the source is empty"),
        (ROWS[:2], {"num_held_out": 2}, "has 2 examples .*too few for anchors, 2 held-out inputs: give at least 3"),
        ((ROWS, CLASSES[:-1]), {}, "20 of inputs, 19 of labels"),
        ((ROWS, np.array(["cat", "dog"] * 10)), {}, "are text, such as 'cat'"),
        (Examples((ROWS[0], "cat"), (ROWS[1], "dog")), {}, "are text, such as 'cat'"),
        ((ROWS, CLASSES - 1), {}, "must be classes from 0, and contain -1"),
        ((ROWS, np.full((NUM, 3), 0.5)), {}, "are not one-hot"),
        (Examples(ROWS[0], ROWS[1].astype(np.float64)), {}, "examples differ in dtype: .*float32.*float64"),
        (Examples(ROWS[0], ROWS[1, :2]), {}, "examples differ in shape"),
        (Examples("a text", "another"), {}, "is text, and networks take numbers"),
        (Named({"a": 1, "b": 2}), {}, "which of the columns 'a', 'b' are inputs is not known"),
        (Columns({"a": ROWS}, "b"), {}, "there is no column 'b'; the columns are: 'a'"),
        ({"label": CLASSES, "names": "none"}, {}, "which of the columns 'label'"),
        ({"names": "none"}, {}, "has no arrays; it has 'names'"),
        (3, {}, "the source is .*; it can be a torch Dataset or DataLoader"),
        ("nowhere/at/all", {}, "there is no file or folder nowhere/at/all"),
        (__file__, {}, "is neither .npz nor .npy"),
        (ROWS, {"test": ROWS}, "the test source has no labels"),
        (ROWS, {"test": (ROWS[:, :2], CLASSES)}, r"has other inputs .* float32 \[N, 2\], and the source has"),
        (np.where(ROWS > 0.9, np.nan, ROWS), {}, "2 of the inputs hold NaN or infinity"),
        (ROWS, {"limit": 0}, "limit must be at least 1"),
        (ROWS, {"mean": 0.5}, "mean= and std= must be given together"),
        (torch.zeros(4, 3, dtype=torch.bfloat16), {}, "which numpy does not have"),
        (
            DataLoader(TensorDataset(torch.from_numpy(ROWS)), sampler=WeightedRandomSampler([1.0] * NUM, 5)),
            {},
            "draws examples by a WeightedRandomSampler",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_with_a_sentence(source, arguments, sentence):
    with pytest.raises(DataError, match=sentence):
        fip.Data.of(source, **arguments)


def test_a_part_of_tiny_imagenet_is_read_as_its_folders_say(tmp_path):
    archive = Path(os.environ.get("FIPRAY_DATA", "") or "../shared/data") / "tiny_imagenet_20.tar"
    if not archive.is_file():
        pytest.skip(f"there is no {archive}: set FIPRAY_DATA to the folder that has it")
    with tarfile.open(archive) as files:
        files.extractall(tmp_path, filter="data", members=[one for one in files if "/val/" in f"/{one.name}"])
    (root,) = (path for path in tmp_path.rglob("val") if path.is_dir())
    data = fip.Data.of(root, limit=50, num_held_out=10)
    loaded = ImageFolder(str(root), ToTensor())
    index = int(np.random.default_rng(0).permutation(len(loaded))[0])
    assert len(loaded) == 1000
    assert data.anchors.shape == (30, 3, 64, 64)
    assert np.array_equal(data.anchors[0], loaded[index][0].numpy())
    assert data.anchor_labels[0] == loaded[index][1]
