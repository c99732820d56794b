"""Plays of real SweepWeave files (opt-in: the folder that LIT_WORLDS names): how they end, and how fast they are."""

import json
import time
from pathlib import Path
from typing import Any

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


def text_of(name: str) -> str:
    path = Path(WORLDS) / f"{name}.json"
    if not path.exists():
        pytest.skip(f"there is no '{path}': LIT_WORLDS names the folder of real files")
    return path.read_text(encoding="utf-8-sig")


def engine(name: str, nudge: Nudge = "asymptotic") -> Engine:
    world = read_any(text_of(name)).world
    assert world is not None
    return Engine(world, nudge)


def played(ready: Engine, runs: int = 200) -> Tally:
    return tally(ready, runs, 1, max_steps=200)


@pytest.mark.parametrize("name", OUTCOMES)
def test_plays_end_as_they_should(name: str) -> None:
    outcome, endings = OUTCOMES[name]
    ready = engine(name)
    start = time.thread_time()
    found = played(ready)
    assert found.runs / (time.thread_time() - start) > 200
    assert found.outcomes.most_common(1)[0][0] == outcome
    assert len(found.endings) in endings
    assert found.outcomes["dangling"] == found.outcomes["timeout"] == 0
    assert len(tally(ready, 1, 0, lambda rng: greedy, 200).paths) == 1


def test_every_play_of_a_small_real_world_is_followed() -> None:
    """Three choices of two, then of those of seven that are open: 17 paths to four endings, counted by hand too."""
    found = exact(engine("the_fifth_testimony_p2"))
    chances = {"city_forgets": 10 / 16, "magician_legend": 3 / 16, "shared_fault": 2 / 16, "outside_causality": 1 / 16}
    assert found.endings == pytest.approx({f"page_end_{name}": chance for name, chance in chances.items()})


def followed(part: Any) -> Any:
    """A file in which a perceived value is read as the character's own until an effect sets it."""
    if isinstance(part, list):
        return [followed(one) for one in part]
    if not isinstance(part, dict):
        return part
    if len(part.get("keyring", ())) > 1:
        was_set = {"operator_type": "Arithmetic Comparator", "operator_subtype": "Greater Than"}
        was_set["operands"] = [flag(part), {"pointer_type": "Bounded Number Constant", "value": 0.5}]  # type: ignore[assignment]
        return {"operator_type": "If Then", "operands": [was_set, part, {**part, "keyring": part["keyring"][:1]}]}
    changed = {key: followed(value) if key != "Set" else value for key, value in part.items()}
    if "after_effects" in changed:
        changed["after_effects"] = [
            one
            for effect in changed["after_effects"]
            for one in (effect, {**effect, "Set": flag(effect["Set"]), "to": 0.9})
            if len(effect["Set"]["keyring"]) > 1 or one is effect
        ]
    return changed


def flag(pointer: Any) -> Any:
    """The property that says whether a perceived value was set."""
    return {**pointer, "keyring": ["set " + " ".join(pointer["keyring"])], "coefficient": 1}


def test_a_fifth_ending_wants_perceived_values_that_follow_the_own() -> None:
    """An earlier program counted five endings: it read what is not stored as the own value of the moment."""
    world = read_any(json.dumps(followed(json.loads(text_of("the_fifth_testimony_p2"))))).world
    assert world is not None
    found = exact(Engine(world)).endings
    chances = {
        "city_forgets": 29,
        "magician_legend": 5,
        "corpse_reenthroned": 5,
        "shared_fault": 6,
        "outside_causality": 3,
    }
    assert found == pytest.approx({f"page_end_{name}": chance / 48 for name, chance in chances.items()})


def test_the_reading_of_nudge_decides_which_endings_are_met() -> None:
    additive = played(engine("robert_of_st_albans", "additive"), 1000)
    assert len(additive.endings) == 12
    assert len(played(engine("robert_of_st_albans"), 1000).endings) <= 5


def test_a_doctor_is_stuck_in_one_play_of_ten() -> None:
    found = played(engine("gaza_doctor"), 1000)
    assert found.outcomes["stuck"] / found.runs == pytest.approx(0.1, abs=0.03)
