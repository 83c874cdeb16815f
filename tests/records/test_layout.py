"""File names of a results directory."""

import pytest

from fipray.records import layout


def test_step_and_state_files_are_parsed_as_they_are_named():
    for step in (0, 20, 10**12):
        weights = layout.weights_file("id", 1, layout.step_name(step))
        state = layout.weights_file("id", 1, layout.state_name(step))
        assert (layout.step_of(weights), layout.step_of_state(weights)) == (step, None)
        assert (layout.step_of(state), layout.step_of_state(state)) == (None, step)
        assert layout.state_beside(weights) == state


@pytest.mark.parametrize(
    "file", ["base.safetensors", "weights/id/1/end.safetensors", "weights/id/1/step-2.safetensors"]
)
def test_other_files_have_no_step(file):
    assert layout.step_of(file) is None
    assert layout.step_of_state(file) is None


def test_table_and_commit_files_are_parsed_as_they_are_named():
    file = layout.table_file("points", "id")
    assert layout.table_of(file) == "points"
    assert layout.commit_of(file.removeprefix("points/")) == layout.commit_of(layout.commit_entry("id")) == "id"
    assert layout.commit_of("notes.txt") is None
    assert layout.attempt_of(layout.attempt_directory("id", 3).removeprefix(f"{layout.attempts_directory('id')}/")) == 3


def test_temporary_names_are_hidden_and_differ():
    names = {layout.temporary_name("id.parquet") for _ in range(2)}
    assert len(names) == 2
    assert all(name.startswith(".") and layout.is_temporary(name) for name in names)
    assert not layout.is_temporary("id.parquet")
