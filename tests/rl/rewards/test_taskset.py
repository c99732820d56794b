"""Tasks as tasksets of ``verifiers``, which scores replies by our rewards; needs the extra ``verifiers``."""

import asyncio
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lit_narrative import CardsData, PoetryData
from lit_narrative.errors import UserError
from tests.paths import ROOT

vf = pytest.importorskip("verifiers.v1", reason="the extra 'verifiers' is not installed")
types = pytest.importorskip("verifiers.v1.types")


def tasks_of(data: Any, rewards: Any, split: str = "train") -> list[Any]:
    """The tasks of a taskset."""
    from lit_narrative.rl.rewards.taskset import make_taskset  # imports the library

    return list(make_taskset(data, rewards, split)(vf.TasksetConfig()))


def scored(task: Any, reply: str, reason: str = "stop") -> dict[str, float]:
    """The rewards of a model's only reply."""
    told = vf.TraceTask(type=type(task).__name__, data=task.data)
    trace = vf.Trace(task=told, agent=vf.AgentInfo(config=vf.AgentConfig()))
    trace.nodes.append(vf.MessageNode(message=types.UserMessage(content=task.data.prompt)))
    trace.nodes.append(vf.MessageNode(message=types.AssistantMessage(content=reply), parent=0, sampled=True))
    trace.calls.append(vf.ModelCall(node=1, finish_reason=reason))
    asyncio.run(task.score(trace))
    assert trace.reward == pytest.approx(sum(one.value for one in trace.rewards.values()))
    return {name: one.value for name, one in trace.rewards.items()}


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The module of the docs, where it can be imported."""
    text = (ROOT / "docs" / "rl.md").read_text(encoding="utf-8")
    ((name, code),) = re.findall(r"```python\n# (\w+\.py)\n(.*?)```", text, re.DOTALL)
    (tmp_path / name).write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("lit_storyworlds", None)


@pytest.mark.usefixtures("page")
def test_the_module_of_the_docs_is_found_and_its_worlds_are_scored() -> None:
    from verifiers.v1.utils.loaders import load_taskset

    taskset = load_taskset(vf.TasksetConfig(id="lit-storyworlds"))
    first = next(iter(taskset))
    assert first.data.prompt.startswith("Storyworld")
    assert scored(first, "no world") == {"schema": 0.0, "adherence": 0.0}
    world = sys.modules["lit_storyworlds"].StoryworldData(train_size=1000).view("examples", "test")[0].completion
    assert scored(first, world)["schema"] == 0.5


def test_cards_are_scored_by_their_answers_with_weights() -> None:
    data = CardsData(prompt_size=3)
    tasks = tasks_of(data, {"correct": 2.0, "format": 0.5})
    answers = [prompt.columns["reference"] for prompt in data.view("prompts", "train")]
    assert [task.data.idx for task in tasks] == [0, 1, 2]
    assert scored(tasks[2], answers[2]) == {"correct": 2.0, "format": 0.5}
    assert scored(tasks[2], "green") == {"correct": 0.0, "format": 0.0}


class Ended:
    """A reward that keeps what it saw, and cannot tell."""

    name = "ended"

    def __init__(self) -> None:
        self.seen: list[tuple[str, bool]] = []

    def __call__(self, rollouts: Any) -> list[float | None]:
        self.seen += [(rollout.text, rollout.finished) for rollout in rollouts]
        return [None] * len(rollouts)


def test_a_reward_of_ones_own_sees_whether_the_reply_ended_by_itself() -> None:
    reward = Ended()
    first = tasks_of(PoetryData(val_size=2), {reward: 1.0}, "val")[0]
    assert scored(first, "the sea", "length") == scored(first, "the sea") == {"ended": 0.0}
    assert reward.seen == [("the sea", False), ("the sea", True)]


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(UserError, match="one reward or more"):
        tasks_of(CardsData(), {})
    with pytest.raises(UserError, match="did you mean 'correct'"):
        tasks_of(CardsData(), {"corect": 1.0})
