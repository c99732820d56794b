import re
from typing import Any
from xml.etree import ElementTree

import pytest

from lit_narrative.tasks.storyworld.formats.simple import read_world
from lit_narrative.tasks.storyworld.report.world_graph import (
    MAX_ENCOUNTERS,
    MAX_OPTIONS,
    Arrow,
    Vertex,
    describe_option,
    draw_world,
    drawn,
    graph_of,
)
from lit_narrative.tasks.storyworld.simulator.plan import make_plan
from lit_narrative.tasks.storyworld.world import World


def option(name: str, *targets: str | None, gated: bool = False) -> dict[str, Any]:
    gates = [{"variable": "oil", "comparison": ">=", "value": 2}] if gated else []
    reactions = [{"after_effects": [{"variable": "oil", "change": -1}], "next_encounter": to} for to in targets]
    return {"id": name, "text": f"Try {name}.", "gates": gates, "reactions": reactions}


def world(**encounters: list[dict[str, Any]]) -> World:
    made, _ = read_world(
        {
            "characters": {"Mara": {"initial_trust": 0}},
            "initial_state": {"Mara_trust": 0, "oil": 3},
            "properties": {},
            "encounters": [{"id": name, "text": f"At {name}.", "options": made} for name, made in encounters.items()],
        }
    )
    assert made is not None
    return made


@pytest.fixture
def lighthouse() -> World:
    return world(
        storm=[option("tend", "boat"), option("hide", "boat", gated=True), option("leave", None), option("row", "sea")],
        boat=[option("wait", "storm"), option("sing", "dawn"), option("sulk")],
        dawn=[],
        cellar=[option("dig", None), option("pray", None)],
    )


def groups(markup: str, class_: str) -> list[str]:
    root = ElementTree.fromstring(markup)
    found = [element for element in root.iter("g") if class_ in (element.get("class") or "").split()]
    return [element.findtext("title") or "" for element in found]


def test_arrows_follow_the_options(lighthouse: World) -> None:
    vertices, arrows = graph_of(make_plan(lighthouse))
    kinds = [vertex.kind for vertex in vertices]
    assert kinds == ["encounter", "encounter", "ending", "ending unreached", "stop", "missing", "missing"]
    assert [(arrow.start, arrow.end, arrow.gated) for arrow in arrows] == [
        (0, 1, False),
        (0, 1, True),
        (0, 4, False),
        (0, 5, False),
        (1, 0, False),
        (1, 2, False),
        (1, 6, False),
    ]


def test_endings_have_no_options_or_only_last_ones(lighthouse: World) -> None:
    boxes = graph_of(make_plan(lighthouse))[0][: len(lighthouse.encounters)]
    assert {i for i, box in enumerate(boxes) if box.kind.startswith("ending")} == {2, 3}


def test_the_drawing_marks_start_endings_gates_and_what_is_not_reached(lighthouse: World) -> None:
    markup = draw_world(lighthouse, "a world")
    assert groups(markup, "start") == ["storm: At storm."]
    assert groups(markup, "ending") == ["dawn: At dawn. (ending)", "cellar: At cellar. (ending) (cannot be reached)"]
    assert groups(markup, "gated") == ["option: Try hide.; only if oil >= 2; changes oil by -1"]
    assert groups(markup, "unreached") == ["cellar: At cellar. (ending) (cannot be reached)"]
    assert groups(markup, "missing") == ["leads to sea, which does not exist", "does not say where it leads"]
    assert groups(markup, "stop") == ["ends the story"]


def test_an_encounter_reached_only_through_one_that_is_not_drawn_counts_as_reached() -> None:
    names = [f"e{index}" for index in range(MAX_ENCOUNTERS + 2)]
    links = {name: [option("go", names[-1] if index == 0 else None)] for index, name in enumerate(names)}
    links[names[-1]] = [option("back", "e1")]
    unreached = groups(draw_world(world(**links), "a world"), "unreached")
    assert not [title for title in unreached if title.startswith("e1:")]
    assert [title for title in unreached if title.startswith("e2:")]


def test_what_cannot_be_reached_has_no_arrows() -> None:
    _, arrows = graph_of(make_plan(world(a=[option("go", "b")], b=[], c=[option("go", "b"), option("far", "z")])))
    assert [(arrow.start, arrow.end) for arrow in arrows] == [(0, 1)]


def test_large_worlds_are_cut() -> None:
    names = [f"e{index}" for index in range(300)]
    large = world(
        **{name: [option(f"o{k}", names[(i * 7 + k) % 300]) for k in range(40)] for i, name in enumerate(names)}
    )
    vertices, arrows = graph_of(make_plan(large))
    assert len([vertex for vertex in vertices if vertex.title]) == MAX_ENCOUNTERS
    assert len(arrows) == MAX_ENCOUNTERS * MAX_OPTIONS
    assert len(draw_world(large, "a world")) < 200_000


def test_hostile_names_are_escaped_and_cut() -> None:
    name = "<script>alert(1)</script>\ud800" * 99
    markup = draw_world(world(**{name: [option(name, name, None)], "b": [option("c", name)]}), name[:50])
    assert "<script" not in markup
    assert len(markup) < 20_000
    ElementTree.fromstring(markup.replace("\ud800", ""))


def test_two_encounters_of_one_name_are_both_drawn(lighthouse: World) -> None:
    twice = World(lighthouse.characters, lighthouse.variables, lighthouse.encounters * 2)
    markup = draw_world(twice, "a world")
    assert len(groups(markup, "encounter")) == 4
    assert "boat: At boat. (cannot be reached)" in groups(markup, "unreached")


def test_an_option_in_words(lighthouse: World) -> None:
    plain, gated, *_ = lighthouse.encounters[0].options
    assert describe_option(plain) == "option: Try tend.; changes oil by -1"
    assert describe_option(gated) == "option: Try hide.; only if oil >= 2; changes oil by -1"


@pytest.mark.parametrize("title", ["A title that is longer than any box", "W" * 10_000, "at 16 characters"])
def test_a_title_fits_in_its_box_with_its_mark(title: str) -> None:
    kinds = [Vertex("encounter", title), Vertex("ending", title)]
    found = re.findall(r'class="id"[^>]*>([^<]*)<', str(drawn(kinds, [Arrow(0, 1, False, "")], "a world")))
    assert [text[:2] for text in found] == ["▸ ", "■ "]
    assert all(len(text) <= 16 for text in found)
