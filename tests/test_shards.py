"""Shards: files that are whole or absent, in which no text stands twice."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from lit_narrative.errors import UserError
from lit_narrative.shards import ShardFormat, Shards, text_digest

FORMATS = ("jsonl", "parquet")


def rows(*texts: str) -> list[dict[str, Any]]:
    return [{"text": text, "finished": True, "tokens": len(text)} for text in texts]


def texts(shards: Shards) -> list[list[str]]:
    return [[row["text"] for row in shards.read(number)] for number in sorted(shards.done())]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("a  b\n", "a b", True),
        ("caf\u00e9", "cafe\u0301", True),
        ("a b", "ab", False),
        ("A", "a", False),
        ("\ud800", "\ud801", False),
    ],
)
def test_texts_are_the_same_but_for_white_space_and_unicode_form(one: str, other: str, same: bool) -> None:
    assert (text_digest(one) == text_digest(other)) is same


def test_a_digest_is_the_same_in_every_process() -> None:
    assert text_digest("the salt road").hex() == "6764078ac220434fe386e8d585d02373"


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("parts", [["abca", "dbea", "fdgf", "aa"], ["a", "a", "a"], ["abc", "def"], ["hhgf", "bh"]])
def test_the_first_of_equal_texts_stays_however_shards_are_shared_out(
    parts: list[str], format: ShardFormat, tmp_path: Path
) -> None:
    shards = Shards(tmp_path, format)
    shards.begin({})
    for number, part in reversed([*enumerate(parts)]):
        shards.write(number, rows(*part), 1.0)
    for numbers in ([0, 2, 4], [0, 2, 4], [1, 3]):  # two processes, of which one was broken off
        shards.remove_repeated(numbers)
    seen: set[str] = set()
    expected = [[text for text in part if text not in seen and not seen.add(text)] for part in parts]  # type: ignore[func-returns-value]
    assert texts(shards) == expected
    totals = shards.finish()
    assert (totals["shards"], totals["drawn"], totals["texts"]) == (len(parts), sum(map(len, parts)), len(seen))
    assert totals["tokens"] == sum(map(len, parts))


def test_repetitions_stay_on_demand(tmp_path: Path) -> None:
    shards = Shards(tmp_path, deduplicate=False)
    assert shards.write(0, rows("a", "a"), 1.0).kept == 2
    assert texts(shards) == [["a", "a"]]


@pytest.mark.parametrize("format", FORMATS)
def test_any_text_comes_back(format: ShardFormat, tmp_path: Path) -> None:
    shards = Shards(tmp_path, format)
    shards.write(0, rows("line\u2028break\n", "\x00", "caf\u00e9 \U0001f600"), 1.0)
    assert texts(shards) == [["line\u2028break\n", "\x00", "caf\u00e9 \U0001f600"]]
    assert shards.write(1, rows("half of \ud83d"), 1.0).kept == 1
    assert len(shards.read(1)) == 1


def test_a_shard_without_texts_has_columns_all_the_same(tmp_path: Path) -> None:
    shards = Shards(tmp_path, "parquet")
    shards.write(0, rows("a"), 1.0)
    shards.write(1, rows("a"), 1.0)
    shards.remove_repeated([0, 1])
    assert texts(shards) == [["a"], []]
    assert pq.read_schema(shards.path(0)) == pq.read_schema(shards.path(1))


def test_rows_without_a_record_are_no_shard(tmp_path: Path) -> None:
    """A process was killed between both files, or amid one."""
    shards = Shards(tmp_path)
    shards.write(0, rows("a"), 1.0)
    (tmp_path / "00001.jsonl").write_text('{"text": "b", "fini')
    assert shards.done() == {0}
    shards.write(1, rows("b"), 1.0)
    assert texts(shards) == [["a"], ["b"]]


def test_a_run_goes_on_with_the_same_settings_only(tmp_path: Path) -> None:
    shards = Shards(tmp_path)
    shards.begin({"seed": 1, "model": {"sampling": {"temperature": 1.0, "top_k": 0}}})
    shards.begin({"seed": 1, "model": {"sampling": {"top_k": 0, "temperature": 1.0}}})
    with pytest.raises(UserError, match=r"model.sampling.temperature was 1.0 and is 0.5.*default_root_dir"):
        shards.begin({"seed": 1, "model": {"sampling": {"temperature": 0.5, "top_k": 0}}})
    with pytest.raises(UserError, match="seed was 1 and is None"):
        shards.begin({"model": {"sampling": {"temperature": 1.0, "top_k": 0}}})
    assert json.loads((tmp_path / "manifest.json").read_text())["settings"]["seed"] == 1


def test_shards_of_unknown_settings_are_refused(tmp_path: Path) -> None:
    shards = Shards(tmp_path)
    shards.write(0, rows("a"), 1.0)
    with pytest.raises(UserError, match=r"shards without manifest\.json"):
        shards.begin({})
