"""What a chosen topic does to the attributes of a configuration, and what a chat model reads."""

import io
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from lit_narrative.cli.write.engine import on_topic
from lit_narrative.cli.write.session import ChosenTopic, WriteSession
from lit_narrative.cli.write.trainer import WriteTrainer
from lit_narrative.lm.sampler import SamplingParams
from lit_narrative.modules.sft import SFTModule
from lit_narrative.steering.settings import Attribute
from lit_narrative.views import Message, Prompt
from tests.lm.chat_templates import QUESTION, SYSTEM, TEMPLATES
from tests.modules.test_language_chat import Talks, folder_of

SEA = ChosenTopic("sea", {"wave": 1.0, "tide": 2.0}, ["sail"])
COLUMN = Attribute(column="bag", weight=3.0, policy="first_token")
BY_TOPIC, FIXED = Attribute(head="h.ckpt", label="topic"), Attribute(head="h.ckpt", label="positive")


@pytest.mark.parametrize(
    ("given", "result"),
    [
        ([], [Attribute(bag=dict(SEA.words))]),
        ([COLUMN], [Attribute(bag=dict(SEA.words), weight=3.0, policy="first_token")]),
        (
            [FIXED, COLUMN, Attribute(bag="love")],
            [Attribute(bag=dict(SEA.words), weight=3.0, policy="first_token"), FIXED],
        ),
        ([BY_TOPIC], [BY_TOPIC]),
        ([FIXED], [Attribute(bag=dict(SEA.words)), FIXED]),
    ],
)
def test_a_topic_takes_the_place_of_bags(given: list[Attribute], result: list[Attribute]) -> None:
    assert on_topic(given, SEA) == result
    assert on_topic(given, None) == given


def test_an_answer_goes_on_in_its_own_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = SFTModule(folder_of(tmp_path / "model", TEMPLATES["Llama-3"]), chat=True, sampling=SamplingParams(5))
    monkeypatch.setattr(sys, "stdin", io.StringIO("2\n1\ne Write on.\n1\n1\n"))
    runner = WriteTrainer(default_root_dir=tmp_path, accelerator="cpu", logger=False)
    runner.write(model, Talks(), session=str(tmp_path / "s.jsonl"), length=5)

    model.set_model(*model.source.build())
    session = WriteSession.read(tmp_path / "s.jsonl")
    steps = [event["data"] for event in session.events if event["event_type"] == "step"]
    asked: list[Message] = [SYSTEM, QUESTION]
    for number, step in enumerate(steps):
        if number == 2:
            asked = [{"role": "user", "content": "Write on."}]
        params = replace(model.sampling, max_new_tokens=5)
        rollouts = model.generate([Prompt(asked)], step["settings"]["drawn"], step["seed"], params, streams=[0])
        assert [row["text"] for row in step["candidates"]] == [row.text.rstrip("\ufffd") for row in rollouts]
        begun = asked.pop()["content"] if asked[-1]["role"] == "assistant" else ""
        asked.append({"role": "assistant", "content": begun + step["candidates"][step["choice"] - 1]["text"]})
    assert len(steps) == 4 and session.position.text == "Write on.\n\n" + asked[-1]["content"]
