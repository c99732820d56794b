"""Adherence: what the prompt asked for is in the world, and nothing else."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from lit_narrative.tasks.storyworld.adherence import adherence
from lit_narrative.tasks.storyworld.custom import custom_examples, custom_worlds
from lit_narrative.tasks.storyworld.cutting import Cut
from lit_narrative.tasks.storyworld.generator import Skew, corpus, example
from lit_narrative.views import Example
from tests.tasks.storyworld.lighthouse import Json, lighthouse, read


def of(value: Json, **columns: Any) -> float | None:
    return adherence(read(value), columns)


def test_the_corpus_does_what_its_prompts_ask() -> None:
    for row in corpus(60, 4, Skew(dangling=0.5, third_character=0.5)):
        assert adherence(read(json.loads(row.completion)), row.meta) == 1.0


def test_a_world_of_another_prompt_keeps_little() -> None:
    rows = corpus(60, 4)
    shares = [adherence(read(json.loads(one.completion)), other.meta) for one, other in pairwise(rows)]
    assert sum(share or 0.0 for share in shares) / len(shares) < 0.1


def rename_a_character(value: Json, row: Example) -> None:
    value["characters"]["Zoe"] = value["characters"].pop(row.meta["cast"][0])


def name_a_stranger(value: Json, row: Example) -> None:
    stranger = next(name for name in ("Mara", "Teo", "Ines", "Bram") if name not in row.meta["cast"])
    value["encounters"][0]["options"][0]["text"] = f"Wait for {stranger}."


def add_a_property(value: Json, row: Example) -> None:
    value["properties"]["luck"] = {"min": 0}


def add_a_variable(value: Json, row: Example) -> None:
    value["initial_state"]["luck"] = 0


def move_a_scene(value: Json, row: Example) -> None:
    value["encounters"][0]["id"] = "moon"


def change_the_trouble(value: Json, row: Example) -> None:
    value["encounters"][0]["text"] = "Nothing happens."


@pytest.mark.parametrize(
    "change",
    [rename_a_character, name_a_stranger, add_a_property, add_a_variable, move_a_scene, change_the_trouble],
)
def test_each_departure_costs_its_requirement(change: Callable[[Json, Example], None]) -> None:
    row = example(3, 0)
    value = json.loads(row.completion)
    change(value, row)
    # Without a character its variable is nobody's.
    assert adherence(read(value), row.meta) == pytest.approx(1 / 3 if change is rename_a_character else 2 / 3)


def test_only_the_columns_that_are_there_are_asked() -> None:
    assert of(lighthouse(), index=3, reference="x") is None
    assert of(lighthouse(), cast=["Teo", "Mara"]) == 1.0
    assert of(lighthouse(), cast="Mara, Teo", properties="trust, oil") == 1.0
    assert of(lighthouse(), cast=["Mara"], properties=("trust", "oil")) == 0.5
    assert adherence(None, {"cast": ["Mara"]}) == 0.0
    assert adherence(None, {}) is None


def test_a_theme_in_other_words_is_looked_for_in_the_texts() -> None:
    assert of(lighthouse(), theme="The Great Storm") == 1.0
    assert of(lighthouse(), theme="a day at sea") == 0.0
    assert of(lighthouse(), theme="a castle at war") == 0.0  # a theme of the generator, with places of its own
    assert of(lighthouse(), theme=7) == 0.0
    short = lighthouse()
    short["encounters"][0]["text"] = "It is war."
    assert of(short, theme="War") == 1.0  # a theme without a word of four letters
    assert of(lighthouse(), theme="war") == 0.0


def test_own_worlds_are_held_to_what_their_prompts_say(tmp_path: Path) -> None:
    for n in range(30):
        titled = {**lighthouse(), "title": "Storm Night"} if n % 2 else lighthouse()
        titled["encounters"][0]["text"] = f"Night {n}."
        (tmp_path / f"{n}.json").write_text(json.dumps(titled))
    for row in custom_examples(custom_worlds(str(tmp_path))["train"], Cut()):
        world = read(json.loads(row.completion))
        assert adherence(world, row.meta) == 1.0
        assert ("theme" in row.meta) == ("title" in json.loads(row.completion))
