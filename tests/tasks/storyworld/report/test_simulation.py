"""The page of a simulation: its sentences, its graph, and the bounds on what it shows."""

from collections.abc import Sequence

import pytest

from lit_narrative.tasks.storyworld.report.simulation import (
    LARGEST_PLAN,
    MOST_BOXES,
    Simulated,
    course,
    draw_plays,
    ending_rows,
    gates,
    most_visited,
    moving_most,
    play_it,
    simulation_page,
    verdict,
)
from lit_narrative.tasks.storyworld.simulator.counterfactuals import gate_effects
from lit_narrative.tasks.storyworld.simulator.exact import exact
from lit_narrative.tasks.storyworld.simulator.statistics import summarise, tally
from lit_narrative.tasks.storyworld.world import World
from tests.report.check_page import check
from tests.tasks.storyworld.lighthouse import Json, encounter, lighthouse, make, option, read


def simulated(value: Json, runs: int = 200, flips: int = 0) -> Simulated:
    world = read(value)
    found = tally(world, runs, 0)
    effects = gate_effects(world, flips) if flips else ()
    return Simulated("light", found, summarise(found), {"seed": 0}, effects, exact(world))


def test_sentences_and_rows_say_how_plays_end() -> None:
    one = simulated(lighthouse())
    first, second, third = verdict(one)
    assert first.startswith("200 plays came to 2 of 2 endings, as various as 1.")
    assert second == "0.0% of the plays came to a dead end."
    assert third == "Of 4 options with conditions 0 were never open when offered, 2 always."
    rows = {row.label: row for row in ending_rows(one)}
    assert rows["dawn"].chance == pytest.approx(1 / 8)
    assert rows["dawn"].interval[0] < rows["dawn"].share < rows["dawn"].interval[1]
    lost = simulated(make(encounter("a", option("x", "nowhere"), option("y", None))))
    rows = {row.label: row for row in ending_rows(lost)}
    assert rows["(dangling)"].chance == 0.5
    assert not rows["(dangling)"].ending


def test_a_gate_that_matters_says_what_it_moves() -> None:
    body = gates(simulated(lighthouse(), flips=300)).body
    assert "Teo_trust &gt;= 0" in body
    assert "dawn +" in body or "wreck −" in body
    assert "always open" in body
    assert "Moves" not in gates(simulated(lighthouse())).body
    assert "was offered an option with conditions" in gates(simulated(make(encounter("a", option("x", None))))).body


def test_the_variables_that_move_are_shown() -> None:
    one = simulated(lighthouse())
    assert {one.found.engine.names[place] for place in moving_most(one)} == {"Mara_trust", "Teo_trust", "oil"}
    assert course(one).body.count("<svg") == 3
    assert "No variable of this world moves" in course(simulated(make(encounter("a")))).body


def row_of(n: int) -> Json:
    """A corridor of n encounters, each with a way out to an ending of its own that one play in three takes."""
    doors: Sequence[Json] = [
        encounter(f"e{i}", option("on", f"e{i + 1}"), option("back", f"e{i + 1}"), option("out", f"end{i}"))
        for i in range(n)
    ]
    return make(*doors, encounter(f"e{n}"), *[encounter(f"end{i}") for i in range(n)])


def test_the_graph_has_the_start_the_endings_and_the_busiest_encounters() -> None:
    one = simulated(row_of(60), 400)
    shown = most_visited(one.found)
    names = [one.found.engine.world.encounters[index].id for index in shown]
    assert len(shown) <= MOST_BOXES
    assert names[:2] == ["e0", "e1"]
    assert sum(name.startswith("end") for name in names) == 12
    drawing = draw_plays(one.found, "plays")
    assert "100% of plays" in drawing
    assert "e0 to end0: " in drawing
    check(simulation_page(one))


def test_what_cannot_be_played_on_the_page_is_said() -> None:
    huge = make(*[encounter(f"e{i}", option("x" * 300, None)) for i in range(LARGEST_PLAN // 300)])
    section = play_it(simulated(huge, 1))
    assert "too large to be put on a page" in section.body
    assert section.script == ""
    empty = World({}, {}, ())
    found = tally(empty, 2, 0)
    page = simulation_page(Simulated("none", found, summarise(found), {}))
    check(page)
    assert "No play met an encounter" in page
