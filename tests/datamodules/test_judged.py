"""Completions with scores, and preferences, from files."""

import json
from pathlib import Path
from typing import Any

import pytest

from lit_narrative.datamodules.judged import JudgedCompletions, judged_rows
from lit_narrative.errors import UserError
from lit_narrative.files import write_jsonl
from lit_narrative.views import Scored
from tests.helpers import TinyTask

SAMPLE = {"text": "tide", "finished": True, "reward": 0.5, "components": {"rhyme": 0.25}}
ROLLOUT = {
    "text": "salt",
    "finished": True,
    "reward": 0.1,
    "rewards/rhyme": None,
    "rewards/length": 2.0,
    "advantage": 0,
}
PAIR = {"chosen": "good", "rejected": "bad"}
MARK = {"completion": "fair", "label": False}


def write(folder: Path, *rows: dict[str, Any], prompts: int = 10) -> str:
    """The rows for each of some prompts."""
    path = folder / "judged.jsonl"
    write_jsonl(path, [{"prompt": f"Write {number}:", **row} for number in range(prompts) for row in rows])
    return str(path)


def test_every_kind_of_row_becomes_a_scored_completion_of_its_prompt(tmp_path: Path) -> None:
    cut = {**SAMPLE, "finished": False}
    splits = judged_rows(JudgedCompletions(write(tmp_path, SAMPLE, cut, ROLLOUT, PAIR, MARK)))
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 8 * 4, "val": 4, "test": 4}
    prompt = splits["val"][0].prompt
    assert splits["val"] == [
        Scored("tide", 0.5, prompt=prompt),
        Scored("salt", 0.1, prompt=prompt),
        Scored("good", 1.0, "bad", prompt),
        Scored("fair", 0.0, prompt=prompt),
    ]
    prompts = [{row.prompt for row in rows} for rows in splits.values()]
    assert sum(map(len, prompts)) == len(set.union(*prompts)) == 10


def test_a_component_or_a_reward_may_be_the_score_and_a_folder_the_file(tmp_path: Path) -> None:
    def scores(by: str, *rows: dict[str, Any]) -> set[float]:
        write(tmp_path, *rows)
        found = judged_rows(JudgedCompletions(str(tmp_path), by))
        return {row.score for rows in found.values() for row in rows}

    assert scores("rhyme", SAMPLE) == {0.25}
    assert scores("length", ROLLOUT) == {2.0}


def test_messages_stand_in_place_of_the_prompt(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "Write."}]
    rows = judged_rows(JudgedCompletions(write(tmp_path, {**PAIR, "messages": messages}, PAIR)))
    assert {json.dumps(row.prompt) for split in rows.values() for row in split} >= {json.dumps(messages)}


def test_any_task_then_offers_the_view(tmp_path: Path) -> None:
    data = TinyTask(judged=JudgedCompletions(write(tmp_path, PAIR)))
    assert "scored" in data.views and "scored" not in TinyTask().views
    assert data.view("scored", "test")[0].other == "bad"
    with pytest.raises(UserError, match=r"no 'scored' view.*or give completions with scores by data\.judged"):
        TinyTask().view("scored", "train")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "tide"}, "line 1 is not a judged sample: it needs prompt, text"),
        ({**SAMPLE, "text": 3}, "line 1: a completion is a text, and not 3"),
        ({**PAIR, "prompt": None}, "line 1: a prompt is a text or a list of messages"),
        ({**MARK, "label": 1}, "line 1: a label is true or false, and not 1"),
    ],
)
def test_what_is_none_of_the_kinds_is_named_by_its_line(row: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        judged_rows(JudgedCompletions(write(tmp_path, row)))


def test_other_bad_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"held_out=0\.5 must be above 0 and below 0\.5"):
        JudgedCompletions("x", held_out=0.5)
    with pytest.raises(UserError, match=r"data\.judged\.file: no file 'x'"):
        judged_rows(JudgedCompletions("x"))
    with pytest.raises(UserError, match=r"has no \*\.jsonl"):
        judged_rows(JudgedCompletions(str(tmp_path)))
    with pytest.raises(UserError, match=r"data\.judged\.by: .*no score 'rime'.*'rhyme'"):
        judged_rows(JudgedCompletions(write(tmp_path, SAMPLE), "rime"))
    with pytest.raises(UserError, match=r"completions of 2 prompts.*three prompts or more"):
        judged_rows(JudgedCompletions(write(tmp_path, PAIR, prompts=2)))
    (tmp_path / "judged.jsonl").write_text(json.dumps({"prompt": "A", **SAMPLE, "reward": float("nan")}))
    with pytest.raises(UserError, match="line 1: the score 'reward' is nan"):
        judged_rows(JudgedCompletions(str(tmp_path / "judged.jsonl")))
    (tmp_path / "judged.jsonl").write_text("[" * 100_000)
    with pytest.raises(UserError, match="line 1 is not a judged sample: not JSON"):
        judged_rows(JudgedCompletions(str(tmp_path / "judged.jsonl")))
