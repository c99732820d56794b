"""Pieces of large worlds."""

import json
from pathlib import Path

import pytest

from lit_narrative.errors import UserError
from lit_narrative.tasks.storyworld.cutting import Cut, pieces, shortened
from lit_narrative.tasks.storyworld.formats.files import read_any
from lit_narrative.tasks.storyworld.world import World, is_plain
from tests.paths import LIGHT, WORLDS
from tests.tasks.storyworld.lighthouse import beacon


def of(path: Path) -> World:
    world = read_any(path.read_text(encoding="utf-8")).world
    assert world is not None
    return world


def light() -> World:
    return of(LIGHT)


@pytest.mark.parametrize("cut", [Cut(), Cut(2, 1, 0, 1), Cut(40, 9, 9, 500)])
@pytest.mark.parametrize("world", [light(), read_any(json.dumps(beacon())).world])
def test_a_piece_is_a_plain_world_of_its_size_without_a_fault(world: World, cut: Cut) -> None:
    found = list(pieces(world, cut))
    assert found
    for start, value, text in found:
        reading = read_any(text)
        assert reading.world is not None
        assert is_plain(reading.world)
        assert not [issue for issue in reading.issues if issue.severity == "error"]
        scenes = reading.world.encounters
        assert scenes[0].id == start
        assert 2 <= len(scenes) <= cut.encounters
        for scene in scenes:
            assert len(scene.options) <= cut.options
            assert len(scene.text.split()) <= cut.words + 1
            for option in scene.options:
                assert sum(len(reaction.effects) for reaction in option.reactions) <= cut.effects
        assert json.loads(text) == value


def test_equal_pieces_are_given_once() -> None:
    texts = [text for _, _, text in pieces(light(), Cut())]
    assert len(set(texts)) == len(texts)


def test_texts_end_with_a_sentence_where_there_is_one() -> None:
    assert shortened("It rains.  The gate\nis shut. Nobody comes.", 6) == "It rains. The gate is shut."
    assert shortened("One two three four", 2) == "One two …"
    assert shortened("  One\n two ", 2) == "One two"


@pytest.mark.parametrize("given", [{"encounters": 1}, {"options": 0}, {"effects": -1}, {"words": 0}])
def test_sizes_out_of_range_are_refused(given: dict[str, int]) -> None:
    with pytest.raises(UserError, match=rf"data\.cut\.{next(iter(given))}"):
        Cut(**given)


@pytest.mark.skipif(not WORLDS.is_dir(), reason="real worlds: set LIT_WORLDS to their folder")
def test_pieces_of_real_worlds() -> None:
    counts = {path.stem: len(list(pieces(of(path), Cut()))) for path in sorted(WORLDS.glob("*.json"))}
    assert counts.pop("macbeth_storyworld_v2") <= 1  # a stub
    assert min(counts.values()) >= 2
