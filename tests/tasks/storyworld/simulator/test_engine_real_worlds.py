"""Plays of real SweepWeave files (opt-in: the folder that LIT_WORLDS names): how they end, and how fast they are."""

import time
from pathlib import Path

import pytest

from lit_narrative.tasks.storyworld.formats.files import read_any
from lit_narrative.tasks.storyworld.scripts import Nudge
from lit_narrative.tasks.storyworld.simulator.engine import Engine
from lit_narrative.tasks.storyworld.simulator.exact import exact
from lit_narrative.tasks.storyworld.simulator.policies import greedy
from lit_narrative.tasks.storyworld.simulator.statistics import tally
from lit_narrative.tasks.storyworld.simulator.tally import Tally
from tests.paths import WORLDS

# Seeded plays by an independent program: the commonest outcome, and how many endings are met.
OUTCOMES: dict[str, tuple[str, range]] = {
    "macbeth_storyworld_v2": ("implicit", range(1)),
    "diplo1": ("ending", range(2, 3)),
    "russia_to_austria_grudger": ("implicit", range(1)),
    "charter_of_ashen_aegis": ("ending", range(3, 5)),
    "forecast_backstab_p": ("ending", range(1, 2)),
    "storyworld_template_v1_canonical_full_normalized": ("implicit", range(1)),
    "the_fifth_testimony_p2": ("ending", range(4, 5)),
    "gaza_doctor": ("ending", range(6, 7)),
    "robert_of_st_albans": ("ending", range(3, 6)),
    "mihna_constitutional_alignment": ("ending", range(9, 10)),
}


def engine(name: str, nudge: Nudge = "asymptotic") -> Engine:
    path = Path(WORLDS) / f"{name}.json"
    if not path.exists():
        pytest.skip(f"there is no '{path}': LIT_WORLDS names the folder of real files")
    world = read_any(path.read_text(encoding="utf-8-sig")).world
    assert world is not None
    return Engine(world, nudge)


def played(ready: Engine, runs: int = 200) -> Tally:
    return tally(ready, runs, 1, max_steps=200)


@pytest.mark.parametrize("name", OUTCOMES)
def test_plays_end_as_they_should(name: str) -> None:
    outcome, endings = OUTCOMES[name]
    ready = engine(name)
    start = time.process_time()
    found = played(ready)
    assert found.runs / (time.process_time() - start) > 200
    assert found.outcomes.most_common(1)[0][0] == outcome
    assert len(found.endings) in endings
    assert found.outcomes["dangling"] == found.outcomes["timeout"] == 0
    assert len(tally(ready, 1, 0, lambda rng: greedy, 200).paths) == 1


def test_every_play_of_a_small_real_world_is_followed() -> None:
    """Three choices of two, then of those of seven that are open: 17 paths to four endings, counted by hand too.

    Where a perceived value that nobody stores *follows* the character's own until it is set, the corpse's gate opens as
    well, a fifth ending. Here it starts as the character's own does, and stays until it is set.
    """
    found = exact(engine("the_fifth_testimony_p2"))
    chances = {"city_forgets": 10 / 16, "magician_legend": 3 / 16, "shared_fault": 2 / 16, "outside_causality": 1 / 16}
    assert found.endings == pytest.approx({f"page_end_{name}": chance for name, chance in chances.items()})


def test_the_reading_of_nudge_decides_which_endings_are_met() -> None:
    additive = played(engine("robert_of_st_albans", "additive"), 1000)
    assert len(additive.endings) == 12
    assert len(played(engine("robert_of_st_albans"), 1000).endings) <= 5


def test_a_doctor_is_stuck_in_one_play_of_ten() -> None:
    found = played(engine("gaza_doctor"), 1000)
    assert found.outcomes["stuck"] / found.runs == pytest.approx(0.1, abs=0.03)
