"""The snippets of docs/rewards.md do what the page says."""

import re
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from lit_narrative.rl.rewards.http import HTTPReward
from lit_narrative.rl.rewards.loading import import_reward
from lit_narrative.rl.rewards.runner import RewardRunner, ScoringSettings
from tests.paths import ROOT
from tests.rl.rewards.reward_zoo import rollouts

PAGE = (ROOT / "docs" / "rewards.md").read_text(encoding="utf-8")
MODULE = "# my_rewards.py\n"


@pytest.fixture
def my_rewards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The page's module where it can be imported; the other Python snippets."""
    snippets = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "my_rewards.py").write_text("".join(text for text in snippets if text.startswith(MODULE)))
    monkeypatch.syspath_prepend(tmp_path)
    # What reads a model by its hub name is tried elsewhere, on a model that is there.
    yield [text for text in snippets if not text.startswith(MODULE) and "HuggingFaceTB" not in text]
    sys.modules.pop("my_rewards", None)


def test_the_example_runs(my_rewards: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = my_rewards
    exec(compile(example, "docs/rewards.md", "exec"), {})
    out = capsys.readouterr().out
    assert "0.5750, 0.6667" in out
    assert "{'brevity': 0, 'recall': 0}" in out


def test_its_rewards_go_to_workers_and_its_judge_asks(my_rewards: list[str]) -> None:
    paths = ["my_rewards:Brevity(limit=4)", "my_rewards:Recall", "my_rewards:Judge(command=['wc', '-c'])"]
    rewards = {path: reward for path in paths if (reward := import_reward(path)) is not None}
    with RewardRunner(rewards, ScoringSettings(workers=1, independent=(paths[0],))) as runner:
        scores = runner.score(rollouts("ab", "salt", reference="Salt road"))
    assert torch.equal(scores.values, torch.tensor([[0.5, 0.0, 2.0], [0.0, 0.5, 4.0]]))


def test_it_names_every_argument_of_a_judge_on_a_server() -> None:
    table = PAGE.split("## A judge on a server")[1].split("\n## ")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| ?([^|]*?) \|", table, re.MULTILINE))
    defaults = {item.name: item.default for item in fields(HTTPReward)}
    assert list(rows) == list(defaults)
    for name in ("batch_size", "timeout", "max_bytes", "retries", "connections"):
        assert float(rows[name].replace(" ", "")) == defaults[name]


def test_it_names_every_setting_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| ([\w ]+) \|", PAGE, re.MULTILINE))
    written = {name: rows[name].replace(" ", "") for name in (setting.name for setting in fields(ScoringSettings))}
    expected = {"workers": "0", "timeout": "60", "concurrency": "16", "independent": "none", "cache_size": "65536"}
    assert written == expected
    assert ScoringSettings() == ScoringSettings(0, 60, 16, (), 65_536)
