"""Worlds and scores as a notebook shows them."""

from xml.etree import ElementTree

import pytest

from lit_narrative.datamodules.storyworld import StoryworldData
from lit_narrative.tasks.storyworld.verifiers.score import Score, score

SHAPES = {"rect", "path", "text"}


@pytest.fixture(scope="module")
def sound() -> Score:
    """Of a world of the generator."""
    return score(StoryworldData(train_size=1).examples("train")[0].completion)


def test_a_world_is_a_line_and_a_drawing_of_lines(sound: Score) -> None:
    world = sound.world
    assert world is not None
    assert str(world).startswith("World") and f"{len(world.encounters)} encounters" in str(world)
    line, _, drawing = world._repr_html_().partition("<svg")
    assert f"{len(world.encounters)} encounters" in line
    parts = [part for part in ElementTree.fromstring(f"<svg{drawing}").iter() if part.tag in SHAPES]
    assert {part.tag for part in parts} == SHAPES
    assert all(part.get("fill") in {"none", "currentColor"} for part in parts)  # SVG's own choice is black


def test_a_score_is_a_table_with_its_world(sound: Score) -> None:
    html = sound._repr_html_()
    assert f"<th>{sound.total:.3f}</th>" in html and "<td>schema</td>" in html and "<svg" in html
    assert str(sound).startswith(f"Score {sound.total:.3f} (valid_json 1.000")


def test_what_a_model_wrote_is_escaped_and_bounded() -> None:
    text = '{"characters": {"<script>": {}}, "initial_state": {}, "properties": {}, "encounters": [%s]}'
    scene = '{"id": "<img src=x>%d", "text": "<b>", "options": [{"id": "<i>", "text": "", "reactions": 3}]}'
    judged = [score(text % ", ".join(scene % n for n in range(40))), score("<script>alert(1)</script>"), score("")]
    for one in judged:
        html = one._repr_html_()
        assert not [tag for tag in ("<script", "<img", "<b>", "<i>") if tag in html]
        assert len(html) < 200_000
    assert "more</li>" in judged[0]._repr_html_()
