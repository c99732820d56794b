"""Readers' events as ratings and preferences."""

import json
from pathlib import Path
from typing import Any

import pytest

from lit_narrative.errors import UserError
from lit_narrative.tasks.poetry.corpus import split_keys
from lit_narrative.tasks.poetry.preferences import as_pairs, read_events, split_events
from lit_narrative.views import Scored


def log(folder: Path, *events: Any) -> Path:
    path = folder / "events.jsonl"
    path.write_text("".join(f"{json.dumps(event)}\n" for event in events) + "\n", encoding="utf-8")
    return path


def event(kind: str, **data: Any) -> dict[str, Any]:
    return {"event_type": kind, "timestamp": 1.5, "user_id": "reader", "data": data}


def test_each_kind_of_event(tmp_path: Path) -> None:
    path = log(
        tmp_path,
        event("generate", text="a"),
        event("rate", text="a", rating=0.7),
        {"event_type": "rate", "text": "b", "rating": 0},
        event("select", text="c", others=["a", "c", "b"]),
        event("select", text="c", score=1),
        event("reject", text="d"),
        event("pair", chosen="a", rejected="b"),
        event("rank", texts=["a", "b", "c"]),
        event("edit", before="d", after="e"),
    )
    assert read_events(path) == [
        Scored("a", 0.7),
        Scored("b", 0.0),
        Scored("c", 0.8),
        Scored("c", 1.0, "a"),
        Scored("c", 1.0, "b"),
        Scored("c", 1.0),
        Scored("d", 0.2),
        Scored("a", 1.0, "b"),
        Scored("a", 1.0, "b"),
        Scored("b", 1.0, "c"),
        Scored("e", 1.0, "d"),
    ]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (event("rated", text="a"), "event_type: there is no 'rated'; did you mean 'rate'"),
        ([1], "event_type: there is no 'none'"),
        (event("rate", text="a"), "a 'rate' event needs 'rating'"),
        (event("rate", text="a", rating=1.2), r"a rating is a number in 0\.\.1, got 1\.2"),
        (event("rate", text="a", rating="good"), "got 'good'"),
        (event("rate", text="a", rating=True), "got True"),
        (event("rate", text=" ", rating=1), "a text is asked for, got ' '"),
        (event("rate", text="Rain \ud83d.", rating=1), "half of a character"),
        (event("pair", chosen="a", rejected=None), "a text is asked for, got None"),
        ({"event_type": "rate", "data": 3}, "events.jsonl, line 2: "),
        (event("select", text="a", others="b"), "a list of texts is asked for, got 'b'"),
    ],
)
def test_a_line_that_is_no_event_is_named(tmp_path: Path, wrong: Any, message: str) -> None:
    with pytest.raises(UserError, match=rf"events\.jsonl, line 2: .*{message.removeprefix('events.jsonl, line 2: ')}"):
        read_events(log(tmp_path, event("reject", text="a"), wrong))


def test_files_without_judgements(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.events: no file .*gone"):
        read_events(tmp_path / "gone.jsonl")
    with pytest.raises(UserError, match="no event that judges a text; types that do: rate, select"):
        read_events(log(tmp_path, event("generate", text="a")))
    (tmp_path / "events.jsonl").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match="line 1: not JSON"):
        read_events(tmp_path / "events.jsonl")


def test_no_text_is_in_training_and_elsewhere() -> None:
    rows = [Scored(f"text {n}", n / 99) for n in range(99)]
    rows += [Scored(f"text {n}", 1.0, f"text {n + 1}") for n in range(0, 98, 4)]
    result = split_events(rows, seed=0)
    texts = {split: {text for row in part for text in (row.text, row.other) if text} for split, part in result.items()}
    assert not texts["train"] & (texts["val"] | texts["test"])
    assert min(len(result[split]) for split in ("val", "test")) >= 5
    assert split_events(rows[::-1], seed=0)["test"] == result["test"][::-1]
    assert split_events(rows, seed=1) != result


def test_pairs_have_the_better_text_first_and_no_ties() -> None:
    rows = [
        Scored("a", 0.1),
        Scored("x", 1.0, "y"),
        Scored("b", 0.9),
        Scored("c", 0.5),
        Scored("d", 0.5),
        Scored("e", 1),
    ]
    assert as_pairs(rows) == [Scored("b", 1.0, "a"), Scored("x", 1.0, "y")]


def test_keys_are_split_by_tenths() -> None:
    keys = [f"key {n}" for n in range(50)]
    result = split_keys(keys, seed=3)
    counts = {split: list(result.values()).count(split) for split in ("train", "val", "test")}
    assert counts == {"train": 40, "val": 5, "test": 5}
    assert split_keys([*keys[::-1], *keys], seed=3) == result
    assert split_keys(keys, seed=4) != result
    assert sorted(split_keys(["a", "b", "c"], 0).values()) == ["test", "train", "val"]
