"""The rewards of StyleData: content by a real local server, and judges' sets."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
import torch

from lit_narrative.datamodules import style_rewards
from lit_narrative.datamodules.style import StyleData
from lit_narrative.errors import UserError
from lit_narrative.rl.rewards.runner import RewardRunner
from lit_narrative.tasks.style.content import ContentSettings
from lit_narrative.views import Rollout


class Handler(BaseHTTPRequestHandler):
    """Gives a story 7; one that asks it to die gets no answer."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["messages"][0]["content"]
        if "die" in asked:
            self.close_connection = True
            return
        body = json.dumps({"choices": [{"message": {"content": "7"}}]}).encode()
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


def rollout(text: str) -> Rollout:
    ids = torch.tensor([1, 2])
    columns = {"author": "Ada Verity", "title": "The Boat", "plot": "a lantern", "end": "THE END."}
    return Rollout(ids, ids, torch.zeros(2), True, text, "prompt", columns)


def test_a_chat_model_rates_content_and_may_die(url: str) -> None:
    data = StyleData(content=ContentSettings(url, "judge", timeout=1.0))
    runner = RewardRunner(data.reward_functions(["content", "completeness"]))
    scores = runner.score([rollout("A tale.\nTHE END."), rollout(""), rollout("We die.\nTHE END.")])
    assert scores.values[:2, 0].tolist() == pytest.approx([0.7, 0.0])
    assert bool(scores.values[2, 0].isnan())
    assert scores.failures == {"content": 1, "completeness": 0}
    with pytest.raises(UserError, match="model is empty"):
        StyleData(content=ContentSettings(url, "")).reward_functions(["content"])


def test_a_chat_model_that_dies_in_a_run_costs_its_own_scores_alone() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    data = StyleData(content=ContentSettings(f"http://127.0.0.1:{server.server_port}", "judge", timeout=1.0))
    runner = RewardRunner(data.reward_functions(["content", "completeness"]))
    texts = [rollout("A tale.\nTHE END.")]
    assert runner.score(texts).values[0, 0] == pytest.approx(0.7)
    server.shutdown()
    server.server_close()
    scores = runner.score([*texts, rollout("")])
    assert scores.failures == {"content": 1, "completeness": 0}  # an empty text is worth 0 without being asked about
    assert bool(scores.values[0, 0].isnan()) and scores.values[:, 1].isfinite().all()


def test_judges_are_examined_on_what_they_never_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(style_rewards, "EXAMINED", 150)
    monkeypatch.setattr(style_rewards, "GRADED", 60)
    data = StyleData(pair_size=100)
    asked: set[str] = set()

    def nothing(texts: Any, others: Any) -> Any:
        asked.update((*texts, *others))
        return np.zeros(len(texts))

    found = data.examine_judge(nothing)
    assert not found["fit"]
    assert found["sets"]["books"]["judge"]["auroc"] == 0.5
    training = {chunk.text for chunk in data.corpus.of("train") if data.author_splits[chunk.author] == "train"}
    assert asked.isdisjoint(training)
    assert set(StyleData(split_by="book", pair_size=100).examine_judge(nothing)["sets"]) == {"books"}
