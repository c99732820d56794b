"""A reward from a real local server, with every fault that a server can have."""

import asyncio
import gzip
import json
import logging
import pickle
import re
import socket
import threading
import time
import tracemalloc
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

import pytest

from lit_narrative.errors import UserError
from lit_narrative.rl.rewards.base import Lost, TimedOut
from lit_narrative.rl.rewards.http import HTTPReward
from lit_narrative.rl.rewards.loading import import_reward
from lit_narrative.rl.rewards.runner import RewardRunner, ScoringSettings
from tests.rl.rewards.reward_zoo import rollouts, same

MEGABYTE = b"1" * 1_000_000


class Handler(BaseHTTPRequestHandler):
    """Does what the path says; otherwise scores texts by their length."""

    server: "Judge"

    def do_POST(self) -> None:
        self.server.headers = dict(self.headers)
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["completions"]
        self.server.asked.append(asked)
        action, _, value = self.path.strip("/").partition("/")
        getattr(self, f"do_{action or 'score'}")(asked, unquote(value))

    def reply(self, body: bytes, status: int = 200, length: int | None = None, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body) if length is None else length), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def do_score(self, asked: list[dict[str, Any]], value: str) -> None:
        scores = [len(row["text"]) if row["text"] else None for row in asked]
        self.reply(json.dumps({"scores": scores}).encode())

    def do_hang(self, asked: list[dict[str, Any]], value: str) -> None:
        if value in asked[0]["text"]:
            self.rfile.read(1)  # until the client closes
        else:
            self.do_score(asked, "")

    def do_status(self, asked: object, value: str) -> None:
        self.reply(b"<html>oh</html>", int(value))

    def do_say(self, asked: object, value: str) -> None:
        self.reply(value.encode())

    def do_cut(self, asked: object, value: str) -> None:
        self.reply(b'{"scores": [1', length=1000)

    def do_drip(self, asked: object, value: str) -> None:
        self.reply(b"{", length=10**9)
        while True:
            self.wfile.write(b" ")
            time.sleep(0.02)

    def do_huge(self, asked: object, value: str) -> None:
        self.reply(b'{"scores": [', length=10**9)
        for _ in range(1000):
            self.wfile.write(MEGABYTE)
            self.server.sent += 1

    def do_gzip(self, asked: object, value: str) -> None:
        self.reply(gzip.compress(b'{"scores": [1, 2]}' + b" " * 10**7, 1), **{"Content-Encoding": "gzip"})

    def do_redirect(self, asked: object, value: str) -> None:
        self.reply(b"", 302, Location=value)

    def do_later(self, asked: list[dict[str, Any]], value: str) -> None:
        if len(self.server.asked) <= int(value):
            self.close_connection = True
        else:
            self.do_score(asked, "")

    def log_message(self, *_: object) -> None:
        """Be silent."""


class Judge(ThreadingHTTPServer):
    """Keeps what it was asked, and how many megabytes it got rid of."""

    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.asked: list[list[dict[str, Any]]] = []
        self.headers: dict[str, str] = {}
        self.sent = 0
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def url(self, path: str = "") -> str:
        return f"http://127.0.0.1:{self.server_port}/{path}"

    def handle_error(self, *_: object) -> None:
        """A client that goes away is no fault here."""


@pytest.fixture(autouse=True)
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr("lit_narrative.rl.rewards.http.FIRST_PAUSE", 0.05)


@pytest.fixture
def judge() -> Iterator[Judge]:
    server = Judge()
    yield server
    server.shutdown()
    server.server_close()


def lost(reward: HTTPReward, *texts: str) -> str:
    """The one reason why all these texts have no score."""
    answers = reward(rollouts(*(texts or ("a", "b"))))
    assert all(isinstance(answer, Lost) for answer in answers)
    (reason,) = {str(answer) for answer in answers}
    assert len(reason) <= 300
    assert "\n" not in reason
    return reason


def test_scores_come_in_few_requests(judge: Judge) -> None:
    texts = ["", "a\ud800", *("b" * n for n in range(1, 9))]
    reward = HTTPReward(judge.url(), batch_size=4, columns=["reference"])
    assert reward(rollouts(*texts, reference="x")) == [None, 2, *map(float, range(1, 9))]
    assert sorted(map(len, judge.asked)) == [2, 4, 4]
    row = next(row for part in judge.asked for row in part if row["text"] == "bb")
    assert row == {"prompt": "Write.", "text": "bb", "finished": True, "reference": "x"}
    assert reward([]) == []


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("hang", "no answer within 0.4 s: the server was silent or slow"),
        ("drip", "no answer within 0.4 s: the server was silent or slow"),
        ("status/500", r"the server answered with status 500 \(attempts: 2\)"),
        ("status/404", "the server answered with status 404"),
        ("cut", r"peer closed connection.*\(attempts: 2\)"),
        ("huge", "longer than max_bytes=1000000"),
        ("gzip", "not JSON"),
        ("say/<html>", r"not JSON \(Expecting value"),
        ("redirect/file:%2f%2f%2fetc%2fpasswd", "redirects to 'file:///etc/passwd', which is not followed"),
        (
            "redirect/http:%2f%2fa:b@elsewhere%2fx%3fkey=K",
            r"redirects to 'http://<redacted>@elsewhere/x\?<redacted>', which",
        ),
        ('say/{"scores": [1, NaN]}', r"not JSON \(it holds NaN"),
        ('say/{"scores": [1, 1e39]}', r"scores\[1\]: 1e\+39 is greater than"),
        ('say/{"scores": [1, 1e999]}', r"scores\[1\]: inf is greater than"),
        ('say/{"scores": [1, true]}', r"scores\[1\]: True is not of type"),
        ('say/{"scores": [1]}', r"for each of 2 completions; \$\.scores: \[1\] is too short"),
        ('say/{"scores": [1, 2, 3]}', r"\$\.scores: .* is too long"),
        ('say/{"score": 1}', "'scores' is a required property"),
        ("say/" + "[" * 50_000, "not JSON"),
        ('say/{"scores": [1, ' + "9" * 5000 + "]}", "not JSON"),
    ],
    ids=lambda value: value[:24],
)
def test_every_fault_is_one_line_within_the_time(judge: Judge, path: str, reason: str) -> None:
    before, began = threading.active_count(), time.monotonic()
    reward = HTTPReward(judge.url(path), timeout=0.4 if path in ("hang", "drip") else 5, retries=1)
    with RewardRunner({"http": reward}, ScoringSettings(independent=("http",), cache_size=0)) as runner:
        scores = runner.score(rollouts("a", "b"))
    assert scores.values.isnan().all()
    assert scores.failures == {"http": 2}
    assert len(judge.asked) <= 2, "a server's fault is no reason to ask for each text by itself"
    assert time.monotonic() - began < 2
    assert re.search(reason, lost(reward))
    until = time.monotonic() + 2
    while threading.active_count() > before and time.monotonic() < until:
        time.sleep(0.01)  # the server's threads end when they see that the client has closed
    assert threading.active_count() == before


def test_a_gigabyte_is_not_read(judge: Judge) -> None:
    tracemalloc.start()
    try:
        for _ in range(4):
            assert "max_bytes" in lost(HTTPReward(judge.url("huge")))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 12e6
    assert judge.sent < 4 * 20


def test_a_server_that_comes_back_is_asked_again(judge: Judge) -> None:
    assert HTTPReward(judge.url("later/2"))(rollouts("abc")) == [3]
    assert len(judge.asked) == 3


def test_a_server_that_was_dead_at_first(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    reward = HTTPReward(f"http://127.0.0.1:{port}/", retries=0)
    with RewardRunner({"http": reward}) as runner:
        assert runner.score(rollouts("abc")).failures == {"http": 1}
        assert "All connection attempts failed (attempts: 1)" in caplog.text
        back = Judge(port)
        same(runner.score(rollouts("abc")).values[0], [3])
        back.shutdown()
        back.server_close()


def test_what_came_in_time_is_kept(judge: Judge) -> None:
    answers = HTTPReward(judge.url("hang/b"), timeout=0.4, batch_size=1, connections=2)(rollouts("a", "bbb", "cc"))
    assert answers[::2] == [1, 2]
    assert type(answers[1]) is TimedOut


def test_a_running_event_loop_is_no_hindrance(judge: Judge) -> None:
    async def notebook() -> list[Any]:
        return HTTPReward(judge.url())(rollouts("abc"))

    assert asyncio.run(notebook()) == [3]


def test_a_name_that_nobody_looks_up_costs_the_timeout_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    found = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: found.wait(20) and [])
    began = time.monotonic()
    assert "no answer within 0.3 s" in lost(HTTPReward("http://judge.invalid/", timeout=0.3))
    assert time.monotonic() - began < 2
    found.set()


def test_the_key_is_in_the_environment_alone(
    judge: Judge, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("JUDGE_KEY", "hunter2\n")
    reward = import_reward(f"lit_narrative.rl.rewards.http:HTTPReward(url='{judge.url()}', key_env='JUDGE_KEY')")
    assert isinstance(reward, HTTPReward)
    with caplog.at_level(logging.WARNING):
        assert reward(rollouts("abc")) == [3]
    assert judge.headers["Authorization"] == "Bearer hunter2"
    assert b"hunter2" not in pickle.dumps(reward)
    assert "hunter2" not in repr(reward) + caplog.text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"url": "file:///etc/passwd"}, "must begin with http:// or https://"),
        ({"url": "https:///x"}, "name a host"),
        ({"url": "http://a:1x"}, "is not a URL"),
        ({"url": "https://me:hunter2@h/"}, "https://<redacted>@h/' has user info"),
        ({"key_env": "NOT_SET_ANYWHERE"}, "NOT_SET_ANYWHERE is not set to a key"),
        ({"key_env": "hunter2"}, "key_env must be the name of an environment variable"),
        ({"batch_size": 0}, "batch_size is 0; it must be 1 or more"),
        ({"timeout": float("inf")}, "timeout is inf"),
    ],
)
def test_wrong_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        HTTPReward(**{"url": "https://judge.org/", **settings})
    assert "hunter2" not in str(error.value)
