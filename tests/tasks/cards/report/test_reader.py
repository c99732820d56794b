"""Runs of the card game are read whole, and a broken file is named."""

import json
import shutil
from pathlib import Path

import pytest

from lit_narrative.errors import UserError
from lit_narrative.tasks.cards.report.reader import read_cards
from lit_narrative.tasks.cards.report.run import trained
from tests.tasks.cards.report.make_cards_run import MIX
from tests.tasks.storyworld.report.make_run import edit_json


def test_seeds_policies_and_their_training_are_found(cards_out: Path) -> None:
    run = read_cards(cards_out)
    assert [seed.name for seed in run.seeds] == ["seed 0", "seed 1"]
    assert run.policies == ("sft", "more", "grpo") and run.arms == ("more", "grpo")
    assert run.folder.seconds["seed_1/test_grpo"] == 8.0
    grpo = run.seeds[0].policies["grpo"].training
    assert grpo is not None and (grpo.module, grpo.steps, grpo.sequences) == ("GRPOModule", 10, 320)
    assert grpo.mix == MIX and grpo.seconds == 60.5
    more = run.seeds[0].policies["more"].training
    assert more is not None and (more.sequences, more.mix) == (80, {"id": 1.0})
    figures = json.loads((cards_out / "seed_0" / "test_sft" / "eval" / "test.json").read_text())["splits"]
    for name, scores in run.seeds[0].policies["sft"].scores.items():
        assert (scores.accuracy, scores.majority) == (figures[name]["accuracy"], figures[name]["majority"])
        assert scores.substitution.keys() == {"red_minus_blue", "sum_greater_than_4", "odd_minus_even"}
    (found,) = run.seeds[1].circuits
    assert found.name == "sft" and found.pages == ("seed_1/circuits_sft/circuits/index.html",)


def test_sets_are_told_by_what_a_policy_was_trained_on(cards_out: Path) -> None:
    policies = read_cards(cards_out).seeds[0].policies
    sets = ("id_test", "new_colors", "compositional", "paraphrase", "paraphrase_mix", "length_shift")
    assert [trained(policies["grpo"], name) for name in sets] == [
        "in distribution",
        "trained by RL",
        "never trained on",
        "trained on other words",
        "trained by RL",
        "never trained on",
    ]
    assert {trained(policies["more"], name) for name in sets[1:]} == {"never trained on"}


def test_without_the_training_the_test_says_the_mixture(cards_out: Path) -> None:
    shutil.rmtree(cards_out / "seed_0" / "grpo")
    policy = read_cards(cards_out).seeds[0].policies["grpo"]
    assert policy.training is None and policy.mix == MIX


def test_a_run_of_one_seed_lies_in_the_folder_itself(one_seed: Path) -> None:
    run = read_cards(one_seed)
    assert [seed.name for seed in run.seeds] == ["this run"]
    assert run.folder.seconds["sft"] == 60.5 and run.seeds[0].circuits[0].pages == ("circuits_sft/circuits/index.html",)


def test_a_seed_that_has_not_been_tested_yet_is_left_out(cards_out: Path) -> None:
    (cards_out / "seed_2" / "sft").mkdir(parents=True)
    assert len(read_cards(cards_out).seeds) == 2


def test_another_folder_is_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no test of the card game"):
        read_cards(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"n": 0}, "'n' must be at least 1"),
        ({"accuracy": None}, "'accuracy' must be a finite number"),
        ({"accuracy_ci": [0.1]}, "'accuracy_ci' must be two finite numbers"),
        ({"rule_substitution": []}, None),
        ({"n": 61}, "set 'id_test' has 60 answers"),
        ({"accuracy": 0.5}, "0.500 of them right"),
    ],
)
def test_broken_figures_are_named(cards_out: Path, change: dict[str, object], said: str | None) -> None:
    path = cards_out / "seed_1" / "test_more" / "eval" / "test.json"
    content = json.loads(path.read_text())
    content["splits"]["id_test"] |= change
    path.write_text(json.dumps(content))
    if said is None:
        read_cards(cards_out)
        return
    with pytest.raises(UserError, match=said) as error:
        read_cards(cards_out)
    assert "seed_1/test_more/eval/test.json" in str(error.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "line 1 is not valid JSON"),
        ('{"set": "id_test", "correct": 1}', "'correct' must be true or false"),
        ('{"set": "other", "correct": true}', "set 'other' is not in test.json"),
        ("", "has 0 answers"),
        (None, "is missing"),
    ],
)
def test_broken_answers_are_named(cards_out: Path, text: str | None, said: str) -> None:
    path = cards_out / "seed_0" / "test_sft" / "eval" / "test.jsonl"
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(UserError, match=said) as error:
        read_cards(cards_out)
    assert str(path) in str(error.value)


def test_answers_to_other_prompts_are_not_compared(cards_out: Path) -> None:
    path = cards_out / "seed_0" / "test_grpo" / "eval" / "test.jsonl"
    rows = path.read_text().splitlines()
    path.write_text("\n".join([rows[0].replace("Rule: ", "Rule: please "), *rows[1:]]))
    with pytest.raises(UserError, match="answers to different prompts in 'id_test'"):
        read_cards(cards_out)


@pytest.mark.parametrize("text", ["model: [", "a: 1", "[]", "model: {class_path: A}\ndata: {}\ntrainer: 3"])
def test_a_broken_configuration_is_named(cards_out: Path, text: str) -> None:
    path = cards_out / "seed_0" / "grpo" / "config.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match="is not the configuration of a job") as error:
        read_cards(cards_out)
    assert str(path) in str(error.value)


def test_a_broken_manifest_is_named(cards_out: Path) -> None:
    path = cards_out / "seed_0" / "circuits_sft" / "circuits" / "manifest.json"
    edit_json(path, figures=[])
    read_cards(cards_out)
    edit_json(path, figures=3)
    with pytest.raises(UserError, match="'figures' must be an object") as error:
        read_cards(cards_out)
    assert str(path) in str(error.value)
