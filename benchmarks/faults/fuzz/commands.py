"""The command line with right and wrong arguments, in this process and without Ray."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
from pathlib import Path
from unittest.mock import patch

from hypothesis import strategies as st

from benchmarks.faults.fuzz import subjects
from fipray import cli

STUDIES = ("benchmarks.faults.fuzz.subjects:study",)
REFERENCES = (
    *(
        "",
        ":",
        "a",
        "a:",
        ":a",
        "a:b",
        "no.such:study",
        "benchmarks.faults.fuzz.subjects",
        "benchmarks.faults.fuzz.subjects:none",
    ),
    *(
        "math:sin",
        "math:pi",
        "os:system",
        "a b:c",
        "..:x",
        ".a:b",
        "benchmarks.faults.fuzz.subjects:module",
        "\n:\n",
        "/a:b",
    ),
    *(
        "benchmarks.faults.fuzz.subjects:searching",
        "benchmarks.faults.fuzz.subjects:NUM_INPUTS",
        "./x.py:study",
        "1:2",
        "a:b:c",
    ),
)
PARAMETERS = (
    *("num_steps=2", "num_steps=1", "sparsity=0.3", "evaluate=false", "name=other"),
    *("num_steps", "num_steps=", "=2", "num_steps=a", "num_steps=1.5", "sparsity=2", "sparsity=nan", "steps=3", "="),
    *("num_steps=0", "num_steps=-1", "num_steps=1e3", "evaluate=maybe", "name=../a", "name=", "batch_size=0"),
)
VERBS = ("run", "run", "search", "show", "verify", "compact", "export", "export", "doctor", "x")
PATHS = ("sparse", "diverse", "base", "", "none", "../a", "sparse@0.5", "[red]", "\x1b[31m")
OPTIONS = {
    "run": {
        "--runner": ("local", "local", "local", "ray", "remote", ""),
        "--workers": ("1", "0", "-1", "a"),
        "--threads-per-worker": ("1", "1", "1", "1", "0", "-1", "a", "1.5"),
        "--gpus-per-worker": ("0", "-1", "nan", "0.3", "2.5"),
        "--memory-per-worker": ("0", "1GB", "x", "-1"),
        "--resource": ("a=1", "a", "=1", "a=x", "a=nan"),
        "--placement": ("pack", "x"),
        "--address": ("local", "nowhere:1"),
    },
    "search": {
        "--trials": ("2", "0", "-1", "a"),
        "--searcher": ("random", "x"),
        "--scheduler": ("none", "x"),
        "--workers": ("0", "-1", "a"),
    },
    "export": {
        "--sparsity": ("0.5", "0.1", "nan", "-1", "a"),
        "--slim": ("benchmarks.faults.fuzz.subjects:module", "math:sin", "a", "benchmarks.faults.fuzz.subjects:study"),
    },
}


def directories(scratch: Path) -> tuple[str, ...]:
    """One with results, and others that have none."""
    (scratch / "empty").mkdir(exist_ok=True)
    (scratch / "file").write_text("a")
    return (
        *(str(subjects.results()), str(scratch / "empty"), str(scratch / "file"), str(scratch / "none"), "", "."),
        *(
            "/proc/1",
            "s3://",
            "gs://x",
            "nonsense://a",
            "file:///nowhere",
            "a\0b",
            "~nobody/x",
            "x" * 300,
            "-",
            "--help",
        ),
    )


@st.composite
def arguments(draw: st.DrawFn, scratch: Path) -> list[str]:
    """Draw a subcommand and arguments that it may take."""
    there = st.sampled_from((str(subjects.results()),) * 10 + directories(scratch))
    verb = draw(st.sampled_from(VERBS))
    line = [verb]
    if verb == "run":
        into = draw(st.one_of(st.just(tempfile.mkdtemp(dir=scratch)), there))
        line += [draw(st.sampled_from((*STUDIES * 15, *REFERENCES))), "--into", into]
    elif verb == "search":
        line += [draw(st.sampled_from(REFERENCES[:-4])), "--into", draw(there)]
    elif verb == "doctor":
        line += [*draw(st.sampled_from((["--into"], ["--address"], ["--x"], ["a"]))), draw(there)]
    elif verb == "export":
        suffix = draw(st.sampled_from((".pt", ".safetensors", ".x", "")))
        line += [draw(there), "--path", draw(st.sampled_from(PATHS)), "--to", tempfile.mktemp(suffix, dir=scratch)]
    else:
        line += draw(st.lists(there, min_size=1, max_size=draw(st.sampled_from((1, 1, 1, 2)))))
    for name, values in OPTIONS.get(verb, {}).items():
        if draw(st.integers(0, 11)) == 0 or name == "--runner":
            line += [name, draw(st.sampled_from(values))]
    if verb in ("run", "search"):
        for one in draw(st.lists(st.sampled_from(PARAMETERS), max_size=2)):
            line += ["-p", one]
    if "ray" in line and line[1] in STUDIES:
        line[1] = "no.such:study"  # nothing here starts Ray
    return line if draw(st.integers(0, 14)) else line[: draw(st.integers(0, len(line)))]


def call(line: list[str], scratch: Path) -> tuple[int, str]:
    """Run a command; return its exit status and output."""
    told, status = io.StringIO(), 0
    environment = {"COLUMNS": "160", "RAY_ADDRESS": ""}
    with (
        patch.object(sys, "argv", ["fipray", *line]),
        patch.object(sys, "path", list(sys.path)),
        patch.dict(os.environ, environment),
        contextlib.chdir(scratch),
        contextlib.redirect_stdout(told),
        contextlib.redirect_stderr(told),
    ):
        try:
            cli.main()
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(bool(end.code))
    return status, told.getvalue()
