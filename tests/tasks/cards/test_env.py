"""The game as an environment."""

import pytest
import torch

from lit_narrative.datamodules.cards import CardsData
from lit_narrative.datamodules.poetry import PoetryData
from lit_narrative.errors import UserError
from lit_narrative.tasks.cards.dealing import bucket_of
from lit_narrative.tasks.cards.env import CardGameEnv
from lit_narrative.tasks.cards.game import CardGame
from lit_narrative.tasks.cards.prompts import MISSING, WRONG, completion_text
from lit_narrative.tasks.cards.rules import Card
from lit_narrative.views import Rollout
from tests.tasks.cards.hands import HAND

MIX = {"id": 1.0, "paraphrase": 1.0, "new_colors": 1.0}


def oracle(info: dict[str, object]) -> str:
    return completion_text(str(info["answer"]), info["running_totals"], "running_total")  # type: ignore[arg-type]


def test_a_right_answer_ends_the_episode() -> None:
    env = CardGameEnv()
    prompt, known = env.reset(seed=3)
    text = oracle(known)
    observation, reward, terminated, truncated, info = env.step(text)
    assert observation == prompt + text
    assert reward == pytest.approx(1.1)
    assert (terminated, truncated) == (True, False)
    assert info["correct"] and info["valid"]
    assert info["parsed"] == info["expected"] == known["expected"]
    assert info["rewards"] == {"correct": 1, "format": 1, "process": 1, "length": 0}
    assert (info["rule"], info["running_totals"]) == (known["rule_name"], known["running_totals"])
    with pytest.raises(RuntimeError, match="reset"):
        env.step(text)


def test_so_does_a_wrong_one_where_only_one_is_allowed() -> None:
    env = CardGameEnv()
    env.reset(seed=0, options={"rule": "red_minus_blue", "cards": HAND})
    _, reward, terminated, truncated, info = env.step(" 99")
    assert reward == pytest.approx(0.1)
    assert (terminated, truncated, info["correct"]) == (True, False, False)


def test_weights_of_the_reward() -> None:
    env = CardGameEnv(weights={"correct": 5, "process": 2, "length": 1})
    env.reset(options={"rule": "red_minus_blue", "cards": HAND})
    assert env.step(" 3 -2 0 0 ; 2 well well well")[1] == pytest.approx(5 + 0.1 + 2 * 0.5 - 0.5)
    env.reset(options={"rule": "red_minus_blue", "cards": HAND})
    assert env.step("none")[1] == pytest.approx(-5 / 6)


def test_revisions_are_answered_by_feedback() -> None:
    env = CardGameEnv(max_revisions=3)
    prompt, _ = env.reset(options={"rule": "red_minus_blue", "cards": HAND})
    observation, _, terminated, truncated, _ = env.step(" 9")
    assert observation == prompt + " 9" + WRONG
    assert not terminated and not truncated
    observation, _, terminated, truncated, _ = env.step(" what")
    assert observation.endswith(" what" + MISSING)
    assert not terminated and not truncated
    observation, reward, terminated, truncated, _ = env.step(" 8")
    assert observation.endswith(" 8")
    assert (reward, terminated, truncated) == (pytest.approx(0.1), False, True)
    env.reset(options={"rule": "red_minus_blue", "cards": HAND})
    env.step(" 9")
    assert env.step(" 2")[2:4] == (True, False)


def test_seeds() -> None:
    one, other = CardGameEnv(mix=MIX), CardGameEnv(mix=MIX)
    first = [one.reset(seed=5)[0], one.reset()[0], one.reset()[0]]
    other.reset(seed=1)
    assert [other.reset(seed=5)[0], other.reset()[0], other.reset()[0]] == first
    assert len(set(first)) == 3
    assert one.reset(seed=6)[0] not in first


def test_the_mixture_is_dealt_from_training_hands_and_never_from_what_is_held_out() -> None:
    env = CardGameEnv(mix=MIX)
    result = [env.reset()[1] for _ in range(300)]
    assert {info["kind"] for info in result} == set(MIX)
    hands = [[Card(card["color"], card["value"]) for card in info["cards"]] for info in result]
    assert {bucket_of(hand) for hand in hands} == {"train"}


def test_a_set_by_name() -> None:
    env = CardGameEnv(held_out=())
    result = [env.reset(options={"split": "classification"})[1] for _ in range(4)]
    assert {info["rule_name"] for info in result} == {"sum_above_20"}
    assert {info["split"] for info in result} == {"classification"}
    assert {info["answer"] for info in result} == {"BIG", "SMALL"}


def test_a_rule_without_cards_has_a_hand_dealt() -> None:
    _, info = CardGameEnv(CardGame(lengths=(5, 5))).reset(seed=0, options={"rule": "blue_minus_red"})
    assert len(info["cards"]) == 5
    assert {"RED", "BLUE"} <= {card["color"] for card in info["cards"]}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "length_shift"}, "'length_shift' is held out"),
        ({"rule": "sum_above_20"}, "'classification' is held out"),
        ({"split": "idtest"}, "no 'idtest'; did you mean 'id_test'"),
        ({"rule": "red_minus_bleu"}, "no rule 'red_minus_bleu'"),
        ({"rule": "red_minus_blue", "cards": [("PINK", 3)]}, r"\('PINK', 3\) is not a pair of a colour"),
        ({"rule": "red_minus_blue", "cards": [5]}, "5 is not a pair"),
        ({"rule": "red_minus_blue", "split": "val"}, "a rule or a split, not both"),
        ({"cards": HAND}, "cards need a rule"),
        ({"hand": HAND}, "no 'hand'"),
    ],
)
def test_options_that_cannot_be(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        CardGameEnv().reset(options=options)


def test_settings_that_cannot_be() -> None:
    with pytest.raises(UserError, match=r"data\.held_out says that it is never trained on"):
        CardGameEnv(mix={"classification": 1.0})
    with pytest.raises(UserError, match="no 'corect'; did you mean 'correct'"):
        CardGameEnv(weights={"corect": 1})
    with pytest.raises(UserError, match="max_revisions is 0"):
        CardGameEnv(max_revisions=0)


def test_in_reinforcement_learning_answers_get_the_feedback_of_the_game() -> None:
    row = next(iter(CardsData(train_size=1).prompts("val")))
    right = str(row.columns["reference"])
    answers = [right, " 999 ; 999", "what?", ""]
    none = torch.zeros(0, dtype=torch.long)
    rollouts = [Rollout(none, none, torch.zeros(0), True, text, columns=row.columns) for text in answers]
    assert CardsData(train_size=1).environment("revise")(rollouts) == [None, WRONG, MISSING, MISSING]
    with pytest.raises(UserError, match=r"model.turns.environment of CardsData.*'revise'"):
        CardsData(train_size=1).environment("revises")
    with pytest.raises(UserError, match="PoetryData has no environments"):
        PoetryData().environment("revise")
