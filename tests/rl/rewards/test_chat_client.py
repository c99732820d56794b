"""Texts of a real local server, with what it may answer instead."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from lit_narrative.cli.commands.extract import extract
from lit_narrative.errors import UserError
from lit_narrative.rl.rewards.base import Lost
from lit_narrative.rl.rewards.chat_client import ChatClient
from lit_narrative.tasks.verbalize.table import ActivationTable
from tests.helpers import tiny_lm, tokenizer


class Handler(BaseHTTPRequestHandler):
    """Answers with the last word of the question; by the path with something else."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        said = asked["messages"][0]["content"].split()[-1]
        content = f"<explanation>\n{said} of {asked['model']}"
        answers = {"/text": b"no json", "/other": b'{"choices": []}'}
        body = answers.get(self.path, json.dumps({"choices": [{"message": {"content": content}}]}).encode())
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_questions_are_answered_in_order(url: str) -> None:
    answers = ChatClient(url, model="m").complete([f"say {number}" for number in range(20)])
    assert answers == [f"<explanation>\n{number} of m" for number in range(20)]


@pytest.mark.parametrize("path", ["text", "other"])
def test_what_is_no_answer_is_lost_with_its_reason(url: str, path: str) -> None:
    [answer] = ChatClient(f"{url}/{path}", model="m").complete(["say a"])
    assert isinstance(answer, Lost) and "the server's answer" in answer


def test_settings_are_checked() -> None:
    with pytest.raises(UserError, match="model is empty"):
        ChatClient("http://localhost")
    with pytest.raises(UserError, match="max_tokens"):
        ChatClient("http://localhost", model="m", max_tokens=0)
    for wrong in (-1.0, float("nan")):
        with pytest.raises(UserError, match="temperature"):
            ChatClient("http://localhost", model="m", temperature=wrong)


def test_an_endpoint_teaches(url: str, tmp_path: Path) -> None:
    tiny_lm().save_pretrained(tmp_path / "model")
    tokenizer().save_pretrained(tmp_path / "model")
    few = {"documents": 4, "eval_documents": 2, "positions_per_document": 2}
    given = {"model": str(tmp_path / "model"), "layer": 1, "teacher": "endpoint", "to": str(tmp_path / "out")}
    extract(**given, **few, endpoint=url, endpoint_model="m")  # type: ignore[arg-type]
    for row in ActivationTable(tmp_path / "out" / "train.parquet"):
        assert row.response == f"<explanation> {row.columns['source'].split()[-1]} of m </explanation>"
    with pytest.raises(UserError, match="needs --endpoint"):
        extract(**{**given, "to": str(tmp_path / "none")})  # type: ignore[arg-type]
    with pytest.raises(UserError, match="is of --teacher=endpoint"):
        extract(**{**given, "to": str(tmp_path / "none"), "teacher": "window"}, endpoint=url)  # type: ignore[arg-type]
