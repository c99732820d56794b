"""The command doctor: what it finds, and that it answers in a bounded time."""

import http.server
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lit_narrative.cli.commands import doctor
from lit_narrative.cli.main import main


def test_each_thing_has_a_line_and_what_is_installed_here_fits(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        main(["doctor", "--format", "json", "--timeout", "0.5"])
    except SystemExit as end:
        assert end.code == 1  # a full disk is no fault of ours
    rows = json.loads(capsys.readouterr().out)
    kinds = {row["what"]: row["kind"] for row in rows}
    assert set(kinds) >= {"python", "lit-narrative", "torch", "cores", "instructions", "disk of runs", "hub"}
    assert [row for row in rows if row["kind"] == "problem" and not row["what"].startswith("disk")] == []


def test_a_release_that_does_not_fit_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the package's metadata says; transformer-lens 4 stands beside sae-lens, which pip allows to happen."""
    for name, release in (("transformer_lens", "4.0.0"), ("lightning", "2.6.3")):
        info = tmp_path / f"{name}-{release}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {release}\n")
    monkeypatch.syspath_prepend(tmp_path)
    found = {one.what: one.message for one in doctor.packages() if one.kind == "problem"}
    assert set(found) == {"transformer-lens", "lightning"}
    assert "sae-lens 6 does not work with release 4" in found["transformer-lens"]
    assert "malicious" in found["lightning"] and "pip install" in found["lightning"]


def test_problems_are_said_with_code_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "999")
    monkeypatch.setattr(doctor, "LEAST_FREE", 2**40)
    with pytest.raises(SystemExit) as end:
        main(["doctor", "--timeout", "0.5"])
    out = capsys.readouterr().out
    assert end.value.code == 1
    assert "problem  threads" in out and "problem  disk of runs" in out and out.endswith("3 problems\n")


@contextmanager
def server(status: int) -> Iterator[str]:
    """A hub that answers every request by a status."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, *args: object) -> None: ...

    hub = http.server.HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{hub.server_port}"
    hub.shutdown()


@pytest.mark.parametrize(("status", "kind", "says"), [(200, "ok", "answers"), (503, "note", "(status 503)")])
def test_the_hub_is_asked(status: int, kind: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with server(status) as where:
        monkeypatch.setenv("HF_ENDPOINT", where)
        (found,) = doctor.hub(20)
    assert found.kind == kind and says in found.message


def test_a_hub_that_says_nothing_is_left_after_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        before = time.monotonic()
        (found,) = doctor.hub(0.3)
    assert time.monotonic() - before < 5
    assert found.kind == "note" and "does not answer" in found.message


def test_a_call_that_heeds_no_timeout_is_left() -> None:
    before = time.monotonic()
    assert doctor.within(0.1, lambda: time.sleep(3)) == "nothing for 0.1 s"  # type: ignore[func-returns-value]
    assert time.monotonic() - before < 2.5
