"""Policies: what each chooses, the story that a model reads, and the traces that plays leave."""

import json
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from lit_narrative.errors import UserError
from lit_narrative.tasks.storyworld.simulator.engine import Engine
from lit_narrative.tasks.storyworld.simulator.engine_plays import Policy, Situation, engine_play
from lit_narrative.tasks.storyworld.simulator.policies import (
    TRANSCRIPT,
    by_likelihood,
    greedy,
    scripted,
    transcript,
    uniform,
)
from lit_narrative.tasks.storyworld.simulator.records import Play, trace
from tests.tasks.storyworld.lighthouse import Json, encounter, lighthouse, make, option, read

LIGHTHOUSE = Engine(read(lighthouse()))


def played(policy: Policy, engine: Engine = LIGHTHOUSE) -> Play:
    return engine_play(engine, policy, 20)


def test_greedy_takes_the_option_whose_reaction_is_most_desirable() -> None:
    def wanted(name: str, *desirabilities: float) -> Json:
        reactions = [{"desirability": d, "after_effects": [], "next_encounter": None} for d in desirabilities]
        return {"id": name, "text": "", "gates": [], "reactions": reactions}

    closed = {**wanted("d", 9, 9), "gates": [{"any": []}]}
    scene = encounter("hut", wanted("a", 0.1, 0.3), wanted("b", 0.4, -1), wanted("c", 0.4, 0.2), closed)
    assert played(greedy, Engine(read(make(scene)))).choices == ("b",)


def test_a_script_is_followed_by_ids_and_numbers_and_then_by_another_policy() -> None:
    last: Policy = lambda at: at.open_options[-1]  # noqa: E731
    assert played(scripted(["tend", "1"], last)).choices == ("tend", "signal", "leave", "flee")
    with pytest.raises(
        UserError, match=r"step 3, at encounter 'cellar', has no open option 'dig'; open are 2 \(leave\)"
    ):
        played(scripted(["sleep", "wait", "dig"], last))


def test_a_model_chooses_by_the_likelihood_of_the_words() -> None:
    asked: list[Sequence[tuple[str, str]]] = []

    def likelihood(pairs: Sequence[tuple[str, str]]) -> list[float]:
        asked.append(pairs)
        return [-1.0 if text.endswith(("tend", "wait", "stay")) else -1.0 - np.log(3) for _, text in pairs]

    rng = np.random.default_rng(0)
    assert played(by_likelihood(likelihood, rng, 0)).choices == ("tend", "wait", "leave", "flee")
    assert asked[1] == [
        ("This is the storm.\nChoice tend\nThis is the boat.", "Choice signal"),
        ("This is the storm.\nChoice tend\nThis is the boat.", "Choice wait"),
    ]
    assert len(asked) == 2  # where one option is open there is nothing to ask
    first = Counter(played(by_likelihood(likelihood, rng)).choices[0] for _ in range(2000))
    assert first["tend"] / 2000 == pytest.approx(0.75, abs=0.03)
    with pytest.raises(UserError, match="temperature"):
        by_likelihood(likelihood, rng, -1)


def test_the_story_so_far_has_what_reactions_said_and_a_bounded_length() -> None:
    go = option("go", "hut")
    go["reactions"] = [{"text": "You slip.", "after_effects": []}, {**go["reactions"][0], "text": "You get up."}]
    engine, told = Engine(read(make(encounter("hut", go)))), []

    def policy(at: Situation) -> int:
        told.append(transcript(at))
        return 0

    engine_play(engine, policy, 300)
    assert told[1] == "This is the hut.\nChoice go\nYou slip.\nYou get up.\nThis is the hut."
    assert len(told[-1]) == TRANSCRIPT


def test_a_trace_has_a_row_for_each_step_and_one_for_the_end() -> None:
    rows = list(trace("light", 7, played(uniform(np.random.default_rng(3)))))
    *steps, last = json.loads(json.dumps(rows))
    assert {row["play"] for row in rows} == {7}
    assert [row["step"] for row in rows] == [*range(len(rows))]
    assert steps[0]["encounter"] == "storm"
    assert steps[0]["legal"] == ["tend", "sleep"]
    assert all(row["choice"] in row["legal"] and row["reaction"] == 0 for row in steps)
    assert (last["outcome"], last["ending"]) == ("ending", steps[-1]["encounter"])
    assert last["state"].keys() == steps[0]["state"].keys()
