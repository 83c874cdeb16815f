"""The notebooks run from beginning to end."""

from __future__ import annotations

from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "docs/notebooks").glob("*.ipynb"))


def executed(path: Path, folder: Path) -> None:
    """Run a notebook in a kernel of its own; what a cell raises is raised here."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook, timeout=240, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore::DeprecationWarning:jupyter_client", "ignore::DeprecationWarning:zmq")
@pytest.mark.parametrize("path", [each for each in NOTEBOOKS if each.stem != "search"], ids=lambda path: path.stem)
def test_notebook_runs(path, tmp_path):
    executed(path, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore::DeprecationWarning:jupyter_client", "ignore::DeprecationWarning:zmq")
def test_notebook_of_a_search_runs(tmp_path, ray_session, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", ray_session["address"])  # the kernel joins the tests' session
    (path,) = [each for each in NOTEBOOKS if each.stem == "search"]
    executed(path, tmp_path)


def test_outputs_in_notebooks_are_small():
    assert len(NOTEBOOKS) == 4
    assert [path.name for path in NOTEBOOKS if path.stat().st_size > 300_000] == []
