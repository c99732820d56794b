"""Worlds and prompts with passages beside them."""

from collections.abc import Sequence

from lit_narrative.tasks.storyworld.enrichment import enrich_prompt, enrich_world
from lit_narrative.tasks.storyworld.simulator.play import all_paths
from lit_narrative.views import Prompt
from tests.tasks.storyworld.lighthouse import lighthouse, read


def always(texts: Sequence[str], count: int) -> list[list[str]]:
    return [["one", "two", "three"][:count] for _ in texts]


def test_each_passage_is_used_once_and_the_world_plays_as_before() -> None:
    world = read(lighthouse())
    made, count = enrich_world(world, always)
    assert count == min(3, len(world.encounters))
    added = [
        new.text.removeprefix(old.text).strip() for old, new in zip(world.encounters, made.encounters, strict=True)
    ]
    assert added[:3] == ["one", "two", "three"][: len(added)]
    assert not any(added[3:])
    before, after = ([play.choices for play in all_paths(one)] for one in (world, made))
    assert before == after


def test_a_world_is_not_enriched_twice_and_nothing_near_changes_nothing() -> None:
    world = read(lighthouse())
    made, _ = enrich_world(world, lambda texts, count: [["a lamp"] for _ in texts])
    again, count = enrich_world(made, lambda texts, count: [["a lamp"] if "a lamp" in one else [] for one in texts])
    assert (again, count) == (made, 0)
    assert enrich_world(world, lambda texts, count: [[] for _ in texts]) == (world, 0)


def test_passages_stand_above_the_prompt_and_in_its_columns() -> None:
    made = enrich_prompt(Prompt("Write.\n", {"index": 3}), always, 2)
    assert made.text == "Passage: one\nPassage: two\nWrite.\n"
    assert made.columns == {"index": 3, "passages": ("one", "two")}
