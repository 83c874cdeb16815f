"""Data by reference."""

from __future__ import annotations

import io
import json
import pickle
import random
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import fipray as fip
from fipray import analysis
from fipray.errors import DataError, UsageError
from fipray.networks import Deferred
from fipray.recipes.anchors import AnchorChoice
from fipray.records import TABLES
from fipray.study import ReferencedArray, TarImages
from fipray.study.reference import data_of
from fipray.study.tensors import Tensors
from tests.references import Counted, Named, mapped, written
from tests.study.pictures import folder, pixels

MAY_DIFFER = {"attempt", "host", "seconds", "walk_seconds", "weights_file"}  # and IDs, which hash the data


@pytest.fixture
def arrays(tmp_path) -> dict[str, str]:
    return written(tmp_path)


def ref(name: str, parameters: dict[str, object], **more: object) -> fip.DataRef:
    return fip.DataRef(f"tests.references:{name}", "1", parameters, **more)


def in_memory(data: fip.Data) -> fip.Data:
    """The same inputs as arrays."""
    read = {name: np.asarray(getattr(data, name)) for name in ("anchors", "held_out", "test_inputs")}
    return replace(data, **read)


def assert_equal_data(one: fip.Data, other: fip.Data) -> None:
    assert one.inputs.keys() == other.inputs.keys()
    assert one.labels.keys() == other.labels.keys()
    for name, inputs in one.inputs.items():
        np.testing.assert_array_equal(np.asarray(inputs), np.asarray(other.inputs[name]), strict=True)
    for name, labels in one.labels.items():
        np.testing.assert_array_equal(labels, other.labels[name])
    assert one.bounds == other.bounds


def tar_of(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def test_memory_map_is_divided_as_the_same_arrays(arrays):
    made = fip.Data.of(ref("mapped", arrays), limit=500, num_held_out=40, seed=3)
    assert_equal_data(made, fip.Data.of(mapped(**arrays), limit=500, num_held_out=40, seed=3))
    assert isinstance(made.anchors, ReferencedArray)
    assert "inputs are read by reference, tests.references:mapped in version '1'" in made.notes
    assert "by reference: tests.references:mapped '1'" in repr(made)


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "tar"])
def test_images_of_a_folder_and_of_a_tar_are_those_in_memory(tmp_path, packed):
    for name, num in (("train", 10), ("val", 3)):
        folder(tmp_path / "images" / name, num=num, seed=num)
    path = tmp_path / "images"
    whole = fip.Data.of(path, num_held_out=4)
    if packed:
        path = tmp_path / "images.tar"
        with tarfile.open(path, "w") as tar:
            tar.add(tmp_path / "images", "pictures")
    made = fip.Data.of(ref("images", {"path": str(path)}), num_held_out=4)
    assert_equal_data(made, whole)
    assert made.anchors.dtype == np.float32


def test_tar_has_parts_classes_and_transforms(tmp_path):
    for name in ("train", "val"):
        folder(tmp_path / name, num=5)
    path = tmp_path / "images.tar"
    with tarfile.open(path, "w") as tar:
        for name in ("val", "train"):
            tar.add(tmp_path / name, name)
    for part in ("train", "test", "val"):
        images = TarImages(path, part)
        assert (len(images), images.classes, images.targets) == (10, ["cat", "dog"], [0] * 5 + [1] * 5)
    made = fip.Data.of(ref("images", {"path": str(path), "part": "train"}))
    assert made.anchors.shape[1:] == (3, 4, 4)
    with pytest.raises(DataError, match="has no images in a part 'other'"):
        TarImages(path, "other")


@pytest.mark.parametrize("kind", ["cls", "json"])
def test_tar_of_the_webdataset_kind_has_the_labels_beside_the_images(tmp_path, kind):
    folder(tmp_path / "images", num=2)
    content = [path.read_bytes() for path in sorted((tmp_path / "images").rglob("*.png"))]
    labels = [2, 0, 1, 1]
    files = {}
    for number, (image, label) in enumerate(zip(content, labels, strict=True)):
        files[f"./{number:04}.png"] = image
        files[f"./{number:04}.{kind}"] = str(label).encode() if kind == "cls" else json.dumps({"label": label}).encode()
    items = list(files.items())
    shards = [tar_of(tmp_path / "0.tar", dict(items[:4])), tar_of(tmp_path / "1.tar", dict(items[4:]))]
    images = TarImages(shards)
    assert images.targets == labels
    for index, expected in enumerate(pixels(4)):
        image, label = images[index]
        np.testing.assert_array_equal(np.asarray(image), expected)
        assert label == labels[index]
    del files["./0003." + kind]
    with pytest.raises(DataError, match=r"has labels, but none for 1 images, the first \./0003\.png"):
        TarImages(tar_of(tmp_path / "missing.tar", files))


def test_tar_that_is_compressed_or_missing_is_refused(tmp_path):
    with pytest.raises(DataError, match="cannot be read as an uncompressed tar file"):
        TarImages(tar_of(tmp_path / "images.tar", {"a.png": b""}, "w:gz"))
    with pytest.raises(DataError, match="there is no tar file"):
        TarImages(tmp_path / "other.tar")


def test_parts_of_a_function_are_anchors_held_out_test_and_other_inputs(arrays):
    made = fip.Data.of(ref("parts", arrays))
    inputs, labels = mapped(**arrays)
    np.testing.assert_array_equal(made.held_out[:], inputs[300:400])
    np.testing.assert_array_equal(made.test_inputs[:], inputs[400:500])
    np.testing.assert_array_equal(made.test_labels, labels[400:500])
    np.testing.assert_array_equal(made.ood_inputs[:], inputs)
    order = np.random.default_rng(0).permutation(300)
    np.testing.assert_array_equal(made.anchors[:], inputs[order])
    assert made.anchor_labels is None
    with pytest.raises(DataError, match="has a part 'held_out', so that num_held_out=5 has nothing to split off"):
        fip.Data.of(ref("parts", arrays), num_held_out=5)


def test_labels_are_taken_without_reading_all_examples(arrays):
    Counted.seen.clear()
    made = fip.Data.of(ref("counted", arrays), num_held_out=100)
    assert made.anchor_labels is not None
    assert len(set(Counted.seen)) < 300, "of 600 only samples were read"
    _, labels = mapped(**arrays)
    np.testing.assert_array_equal(made.anchor_labels, labels[made.anchors.indices])


def test_random_transforms_depend_on_the_example_alone_and_leave_the_global_generators_alone(arrays):
    made = fip.Data.of(ref("jittered", arrays)).anchors
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
    whole = made[:40]
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
    assert before == after
    np.testing.assert_array_equal(made[[7, 39, 7]], whole[[7, 39, 7]])
    np.testing.assert_array_equal(made.read(np.arange(40), seed=5), whole)
    plain = fip.Data.of(ref("mapped", arrays)).anchors[:40]
    noise = (whole - 0.9 * plain) * 30
    assert len(np.unique(noise.round(3))) > 120


def test_augmented_data_is_transformed_anew_with_each_seed(arrays):
    made = fip.Data.of(ref("jittered", arrays, augments=True)).anchors
    first, again, second = (made.read(np.arange(40), seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.any(first == second)
    np.testing.assert_array_equal(made.read(np.array([8]), 1)[0], first[8])


def test_digest_changes_with_the_reference_and_the_division_alone(arrays, tmp_path):
    def digest(name: str = "mapped", version: str = "1", seed: int = 0, **more: object) -> str:
        made = fip.DataRef(f"tests.references:{name}", version, more.pop("parameters", arrays), **more)
        return fip.Data.of(made, seed=seed).digest

    before = digest()
    others = {
        digest("counted"),
        digest(version="2"),
        digest(seed=1),
        digest(augments=True),
        fip.Data.of(mapped(**arrays)).digest,
    }
    assert before not in others
    assert len(others) == 5
    inputs = np.load(tmp_path / "inputs.npy")
    np.save(tmp_path / "inputs.npy", inputs[:, ::-1])
    assert digest() == before


def test_data_is_pickled_without_inputs(arrays):
    made = fip.Data.of(ref("mapped", arrays))
    assert made.anchors.sample.shape == (64, 4)
    sent = pickle.loads(pickle.dumps(made))
    assert "sample" not in vars(sent.anchors)
    assert_equal_data(sent, made)
    assert sent.digest == made.digest


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (np.nan, "example 77 of 'train' of tests.references:broken contains NaN or infinity"),
        (np.inf, "example 77 of 'train' of tests.references:broken contains NaN or infinity"),
    ],
)
def test_example_that_breaks_the_promise_is_named_when_it_is_read(arrays, value, said):
    inputs = ReferencedArray.of(ref("broken", {**arrays, "index": 77, "value": value}))
    assert inputs[:77].shape == (77, 4)
    with pytest.raises(DataError, match=said):
        inputs[70:80]
    chosen = inputs.take(np.array([3, 77]))
    anchors = Tensors(fip.Data(inputs[:1], inputs[:1], sets={"all": inputs.take(np.arange(60, 500))}), "cpu")
    with pytest.raises(DataError, match=said):
        chosen[:]
    with pytest.raises(DataError, match=said):
        anchors.anchors(("all",))[:20]


def test_test_input_outside_the_bounds_is_named_when_it_is_read(arrays):
    inputs = ReferencedArray.of(ref("broken", {**arrays, "index": 7, "value": 1.5}))
    labels = np.zeros(600, np.int64)
    made = fip.Data(inputs[:5], inputs[:5], inputs, labels)
    assert made.test_inputs[:5].max() <= 1
    with pytest.raises(DataError, match=r"example 7 of 'train' .* lies in .*\.\.1\.5, outside the bounds 0\.\.1"):
        made.test_inputs[:20]
    assert replace(made, bounds=(0, 2)).test_inputs[7].max() == 1.5


@pytest.mark.parametrize(
    ("made", "kind", "said"),
    [
        (
            lambda _: fip.DataRef("tests.references:mapped"),
            UsageError,
            "has no version: what it contains is not hashed",
        ),
        (lambda _: fip.DataRef("a:b", "1", {"x": [1]}), UsageError, "the parameter 'x' .* is a list: give numbers"),
        (lambda _: fip.Data.of(fip.DataRef("tests.references:other", "1")), UsageError, "has no function 'other'"),
        (lambda _: fip.Data.of(ref("mapped", {})), UsageError, "missing a required argument: 'folder'"),
        (lambda _: fip.Data.of(ref("mapped", {"folder": "none"})), UsageError, "could not open its data: FileNotFound"),
        (lambda given: fip.Data.of(ref("stream", given)), DataError, "is a stream, in which examples have no index"),
        (lambda given: fip.Data.of(ref("mapped", given), transform=abs), DataError, "transform cannot be given with a"),
        (lambda given: fip.Data.of(ref("mapped", given), mean=0, std=1), DataError, "mean and std cannot be given"),
        (lambda given: fip.Data.of(ref("mapped", given), limit=0), DataError, "limit must be at least 1"),
        (lambda given: fip.Data.of(ref("mapped", given), limit=2), DataError, "has 2 examples .*, too few for anchors"),
        (lambda given: ReferencedArray.of(ref("mapped", given), "ood"), DataError, "has no part 'ood'.* it has: train"),
        (lambda given: fip.Task.of(ref("parts", given)), DataError, "'train' of .* has no labels that are classes"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_mistakes_with_references_are_said(arrays, made, kind, said):
    with pytest.raises(kind, match=said):
        made(arrays)


def test_more_than_a_gigabyte_is_not_read_by_accident(arrays):
    inputs = ReferencedArray.of(ref("mapped", arrays), "train", np.zeros(2**27, np.int64))
    assert inputs.nbytes == 2**31
    with pytest.raises(DataError, match=r"134,217,728 inputs .* would take 2.1 GB in memory: read fewer"):
        np.asarray(inputs)
    assert inputs.take(np.arange(3))[:].shape == (3, 4)


def test_fewer_examples_than_when_the_study_was_made_are_refused(arrays):
    inputs = ReferencedArray.of(ref("mapped", arrays), "train", np.array([0, 600]))
    with pytest.raises(DataError, match="has 600 examples now, and had more when the study was made"):
        inputs[:]


def test_tasks_are_taken_by_reference(arrays):
    task, whole = fip.Task.of(ref("mapped", arrays), limit=50), fip.Task.of(mapped(**arrays), limit=50)
    assert isinstance(task.inputs, ReferencedArray)
    np.testing.assert_array_equal(task.inputs[:], whole.inputs)
    np.testing.assert_array_equal(task.labels, whole.labels)


def test_recipes_choose_and_mirror_anchors_without_reading_them(tmp_path):
    folder(tmp_path / "images", num=40, height=8, width=8)
    made = fip.Data.of(ref("images", {"path": str(tmp_path / "images")}))
    for choice in (AnchorChoice(20), AnchorChoice(70, mirrored=True), AnchorChoice(mirrored=True)):
        chosen = choice.of(made)
        assert isinstance(chosen.anchors, ReferencedArray)
        assert_equal_data(chosen, choice.of(in_memory(made)))


def test_several_inputs_by_name_are_packed_as_in_memory():
    made, whole = fip.Data.of(ref("named", {"count": 40})), fip.Data.of(Named(40))
    assert made.layout == whole.layout
    assert made.layout is not None
    assert made.anchors.layout == whole.layout
    assert_equal_data(made, whole)


def test_sets_of_several_names_are_read_one_after_the_other(arrays):
    made = fip.Data.of(ref("mapped", arrays))
    data = replace(made, sets={"a": made.anchors.take(slice(0, 7)), "b": made.held_out[:5]})
    joined = Tensors(data, "cpu").anchors(("a", "b"))
    assert isinstance(joined, Deferred)
    np.testing.assert_array_equal(joined[:].numpy(), np.concatenate([made.anchors[:7], made.held_out[:5]]))


def test_command_line_takes_a_function_that_returns_a_reference(arrays, tmp_path):
    (tmp_path / "referring.py").write_text(
        "import fipray as fip\n\n\ndef data(folder: str):\n"
        '    return fip.DataRef("tests.references:mapped", "1", {"folder": folder})\n'
    )
    made = data_of(f"{tmp_path / 'referring.py'}:data?folder={arrays['folder']}&limit=300")
    assert made.digest == fip.Data.of(ref("mapped", arrays), limit=300).digest


def study(data: fip.Data) -> fip.Study:
    """Paths, an ensemble and an evaluation with transfer and a measure on held-out inputs."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)).eval()
    settings = {"num_steps": 8, "save_at": fip.SaveAt(4), "batch_size": 64}
    return fip.Study(
        "referring",
        module,
        data,
        (
            fip.PathSpec("sparse", fip.objectives.Sparsify(0.5), **settings),
            fip.PathSpec("smooth", fip.objectives.InputGradientPenalty(), **settings),
        ),
        ensembles=(fip.EnsembleSpec("both", ("sparse", "smooth")),),
        evaluation=fip.Evaluation(fip.ThreatModel("linf", 0.03), (fip.attacks.PGD(3),), num_examples=50),
        measures={"loss": fip.study.AccuracyLoss()},
    )


@pytest.mark.parametrize("name", ["mapped", "jittered"])
def test_study_by_reference_has_the_rows_of_the_study_in_memory(arrays, tmp_path, name):
    made = fip.Data.of(ref(name, arrays))
    tables = []
    for kind, data in (("referenced", made), ("memory", in_memory(made))):
        fip.LocalRunner().run(study(data), tmp_path / kind)
        tables.append(analysis.load(tmp_path / kind))
    for table in TABLES:
        one, other = (getattr(results, table) for results in tables)
        dropped = [column for column in one if column in MAY_DIFFER or column.endswith("_id")]
        assert one.drop(columns=dropped).equals(other.drop(columns=dropped)), table
    assert len(tables[0].points) > 6
