"""Repair: what is said of a world that is not sound, and examples of worlds that are mended."""

import json
from random import Random

import pytest
import torch

from lit_narrative.datamodules.storyworld import StoryworldData
from lit_narrative.errors import UserError
from lit_narrative.tasks.storyworld.generator import Skew, corpus
from lit_narrative.tasks.storyworld.repair import (
    BEGINNING,
    FAULTS,
    RepairEnvironment,
    Repairs,
    RepairSettings,
    observation,
    repair_example,
    with_faults,
)
from lit_narrative.tasks.storyworld.rewards import Scorer
from lit_narrative.tasks.storyworld.verifiers.base import VerifierConfig
from lit_narrative.views import Rollout

SCORER = Scorer(VerifierConfig())
SOUND = [row for row in corpus(40, 0) if SCORER(row.completion).parts["sound"]]
SAID = {
    "undeclared": "is not declared in initial_state",
    "dangling": "dangling reference: there is no encounter",
    "same_id": "a second encounter",
    "told_twice": "a second encounter",
    "left_out": "dangling reference",
    "no_key": "is a required property",
    "no_variable": "is not declared in initial_state",
    "out_of_bounds": "lies outside its bounds",
    "same_option": "a second option",
    "dead_gates": "no gate was met both open and closed",
    "one_ending": "seeded plays meet too few endings",
}


@pytest.mark.parametrize("kind", FAULTS)
def test_each_fault_is_told_by_the_verifiers(kind: str) -> None:
    told = 0
    for number, row in enumerate(SOUND[:12]):
        world = json.loads(row.completion)
        try:
            FAULTS[kind](world, Random(number))
        except IndexError:  # a world without a scene of two options, say
            continue
        said = observation(SCORER(json.dumps(world)), RepairSettings())
        told += said is not None and SAID[kind] in said
    assert told >= 3  # of an unused variable, or an optional key, nothing is said


def test_what_is_said_is_bounded_and_names_paths() -> None:
    world = json.loads(SOUND[0].completion)
    for scene in world["encounters"]:
        for option in scene["options"]:
            option["reactions"][0]["next_encounter"] = "nowhere\n" * 30
    said = observation(SCORER(json.dumps(world)), RepairSettings(issues=3, issue_length=60))
    assert said is not None
    first, *lines = said.splitlines()
    assert first + "\n" == BEGINNING and len(lines) == 3
    assert all(line.startswith("$.encounters[") and len(line) <= 60 for line in lines)
    assert observation(SCORER(json.dumps(world)), RepairSettings(issues=0)) == BEGINNING
    assert observation(SCORER(SOUND[0].completion), RepairSettings()) is None


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", "{" * 5000, '{"encounters":[]}', "\ud800", "nonsense"])
def test_any_text_has_an_answer(text: str) -> None:
    said = observation(SCORER(text), RepairSettings())
    assert said is not None and len(said.splitlines()) > 1


def test_an_example_is_the_way_from_a_faulty_world_to_the_sound_one() -> None:
    environment, count = RepairEnvironment(SCORER, RepairSettings()), 0
    none = torch.zeros(0, dtype=torch.long)
    for number, row in enumerate(SOUND):
        made = repair_example(row, SCORER, RepairSettings(), Random(number))
        assert made is not None
        (turn,) = made.turns
        assert (made.prompt, made.completion) == (row.prompt, row.completion)
        assert not SCORER(turn.text).parts["sound"] and turn.text != row.completion
        # The very words that the policy will read.
        assert environment([Rollout(none, none, torch.zeros(0), True, turn.text)]) == [turn.observation]
        count += SCORER(turn.text).components["valid_json"] == 0
    assert 0 < count < len(SOUND) / 2


def test_worlds_of_a_user_may_lack_any_part() -> None:
    for world in ({"encounters": []}, {"encounters": [{"id": "a"}]}, {}):
        for seed in range(20):
            text = with_faults(json.dumps(world), Random(seed))
            assert text is None or observation(SCORER(text), RepairSettings()) is not None


def test_a_share_of_the_corpus_is_repairs_the_same_ones_each_time() -> None:
    rows = corpus(60, 0)
    made, again = (Repairs(rows, SCORER, RepairSettings(share=0.5), "0/train") for _ in range(2))
    assert [made[n] for n in range(60)] == [again[n] for n in reversed(range(60))][::-1]
    repairs = [row for row in made if row.turns]
    assert 15 < len(repairs) < 45
    assert all(SCORER(row.completion).parts["sound"] for row in repairs)
    assert [row for row in made if not row.turns] == [row for n, row in enumerate(rows) if not made[n].turns]
    assert list(Repairs(rows, SCORER, RepairSettings(share=0), "0/train")) == rows


def test_bad_settings_and_a_corpus_without_a_sound_world_are_refused() -> None:
    for bad in ({"share": 1.5}, {"issues": -1}, {"issue_length": 5}):
        with pytest.raises(UserError, match=rf"data\.repair\.{next(iter(bad))}"):
            RepairSettings(**bad)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"makes examples of sound worlds.*data\.repair\.share=0"):
        Repairs(corpus(20, 0, Skew(gates=0)), SCORER, RepairSettings(), "0/train")


def test_the_task_offers_them_and_its_prompts_stay_as_they_are() -> None:
    data, plain = StoryworldData(train_size=40, repair=RepairSettings(share=1.0)), StoryworldData(train_size=40)
    assert all(row.turns for row in data.examples("train"))
    assert list(data.prompts("train")) == list(plain.prompts("train"))
    assert any(BEGINNING in text for text in data.tokenizer_texts())
    assert isinstance(plain.environment("repair"), RepairEnvironment)
    with pytest.raises(UserError, match=r"model\.turns\.environment of StoryworldData.*'repair'"):
        plain.environment("repairs")
