"""Checks of the doctor: they find what a run would fail for, take a bounded time, and leave nothing behind."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from fipray.cluster.doctor import Finding, checks, examine, probes


def states(findings) -> dict[str, str]:
    """Worst state by subject."""
    order = ["ok", "warning", "problem"]
    worst: dict[str, str] = {}
    for finding in findings:
        worst[finding.about] = max(worst.get(finding.about, "ok"), finding.state, key=order.index)
    return worst


@contextmanager
def jobs_api(token: str | None) -> Iterator[str]:
    """Server that answers like a dashboard: 401 without the required token, 403 with a wrong one."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            given = self.headers.get("Authorization")
            status = 200 if token is None or given == f"Bearer {token}" else 403 if given else 401
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_examine_finds_no_problem_with_a_sound_cluster_and_a_shared_directory(ray_session, tmp_path):
    findings = list(examine(ray_session["address"], str(tmp_path / "new" / "results")))
    assert [finding for finding in findings if finding.state == "problem"] == []
    said = {finding.about: finding.sentence for finding in findings if finding.about != "results"}
    assert "1 node, 2 CPUs, 0 GPUs" in said["cluster"]
    assert said["nodes"] == "every node runs tasks (1)"
    assert "token authentication is on" in said["token"]
    results = [finding.sentence for finding in findings if finding.about == "results"]
    assert results[1] == "every node can read it (1)"
    assert list(tmp_path.iterdir()) == [], "what was created is removed"


def test_results_check_finds_a_node_that_cannot_read_them(ray_session, tmp_path):
    """As with a directory that is not shared: the node is asked for a file that does not exist."""
    (found,) = checks._visible_to_nodes("results", str(tmp_path / "not there"), b"content")
    assert found.state == "problem"
    assert found.sentence.startswith("results is not visible to ")


def test_nodes_check_finds_other_versions(ray_session):
    """As after an update of this machine alone."""
    here = probes.describe(*checks.LIBRARIES)
    (found,) = (finding for finding in checks._nodes({**here, "torch": "1.0"}) if finding.state == "problem")
    assert found.sentence == f"has torch {here['torch']} (here 1.0)"
    assert "same versions" in found.remedy


def test_examine_checks_the_directory_even_if_the_cluster_cannot_be_reached(tmp_path, monkeypatch):
    monkeypatch.setattr(checks.ray, "is_initialized", lambda: False)
    worst = states(examine("127.0.0.1:1", str(tmp_path)))
    assert worst["cluster"] == "problem"
    assert worst["results"] == "ok"


@pytest.mark.parametrize("into", ["{}/file/results", "nowhere://bucket/x"])
def test_results_check_finds_a_place_that_cannot_be_written(tmp_path, into):
    (tmp_path / "file").write_text("no directory")
    findings = checks._within_time("results", lambda: checks._results(into.format(tmp_path), []))
    assert states(findings) == {"results": "problem"}


@pytest.mark.parametrize(
    ("token", "state", "sentence"),
    [
        (None, "problem", "open without a token to everyone"),
        ("another token", "problem", "rejects this token"),
        (os.environ["RAY_AUTH_TOKEN"], "ok", "requires the token"),
    ],
    ids=["none", "another", "the right one"],
)
def test_jobs_api_check_finds_an_open_api_and_a_wrong_token(token, state, sentence):
    with jobs_api(token) as url:
        (finding,) = checks._jobs_api(url)
    assert (finding.state, sentence in finding.sentence) == (state, True)


def test_check_without_an_answer_ends_after_its_time_limit():
    never = threading.Event()
    (finding,) = checks._within_time("something", lambda: [Finding("ok", "never", str(never.wait()))], seconds=0.01)
    never.set()
    assert (finding.state, finding.about, finding.sentence) == ("problem", "something", "no answer within 0.01 s")
