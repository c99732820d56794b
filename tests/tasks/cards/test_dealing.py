"""Hands: the same everywhere, in one split only, with the colours they need and balanced answers."""

import subprocess
import sys
from collections import Counter
from itertools import product
from random import Random

import pytest

from lit_narrative.errors import UserError
from lit_narrative.tasks.cards.dealing import MIXTURE, Deal, bucket_of, deal, draw_hand
from lit_narrative.tasks.cards.families import find_rule, sentences_of
from lit_narrative.tasks.cards.game import OOD_KINDS, SETS, TEST_SETS, CardGame
from lit_narrative.tasks.cards.rules import COLORS, Card

GAME = CardGame()
MIX = {"id": 0.25, "new_colors": 0.25, "compositional": 0.25, "paraphrase": 0.25}


def test_the_same_in_another_process() -> None:
    code = (
        "from lit_narrative.tasks.cards.dealing import deal; from lit_narrative.tasks.cards.game import CardGame;"
        "print(deal(CardGame(), 'paraphrase', 5))"
    )
    other = subprocess.run([sys.executable, "-c", code], env={"PYTHONHASHSEED": "5"}, capture_output=True, text=True)
    assert other.stdout.strip() == str(deal(GAME, "paraphrase", 5))


@pytest.mark.parametrize("name", SETS)
def test_a_set_does_not_depend_on_its_size_or_on_other_sets(name: str) -> None:
    assert deal(GAME, name, 40)[:20] == deal(GAME, name, 20)
    assert [row.index for row in deal(GAME, name, 5)] == [0, 1, 2, 3, 4]
    assert {row.set for row in deal(GAME, name, 5)} == {name}
    assert deal(CardGame(seed=1), name, 20) != deal(GAME, name, 20)


def test_no_hand_is_in_two_splits_whatever_the_seed() -> None:
    hands: dict[str, set[tuple[Card, ...]]] = {"train": set(), "val": set(), "test": set()}
    for seed in (0, 1):
        game = CardGame(seed=seed, lengths=(2, 3), long_lengths=(4, 5))
        for name in (*SETS, MIXTURE):
            group = name if name in ("train", "val") else "train" if name == MIXTURE else "test"
            hands[group] |= {row.cards for row in deal(game, name, 150, MIX if name == MIXTURE else None)}
    assert not hands["train"] & hands["test"]
    assert not hands["train"] & hands["val"]
    assert not hands["val"] & hands["test"]


@pytest.mark.parametrize("name", [name for name in SETS if name != "train"])
def test_no_hand_comes_twice_where_answers_are_counted(name: str) -> None:
    game = CardGame({"classification": ["sum_above_13"]}, lengths=(2, 4), long_lengths=(6, 8))
    rows = deal(game, name, 500)
    assert len({(row.rule.name, row.cards) for row in rows}) == 500


def test_a_set_larger_than_its_hands_is_refused() -> None:
    with pytest.raises(UserError, match=r"'green_minus_yellow' finds no more hands of 2 to 2 cards of 0..1 for test"):
        deal(CardGame(lengths=(2, 2), largest_value=1), "new_colors", 100)


def test_splits_share_out_all_hands() -> None:
    hands = [[Card(a, x), Card(b, y)] for a, b in product(COLORS, repeat=2) for x, y in product(range(10), repeat=2)]
    result = Counter(map(bucket_of, hands))
    assert result["train"] / len(hands) == pytest.approx(0.8, abs=0.04)
    assert result["val"] / len(hands) == pytest.approx(0.1, abs=0.03)


@pytest.mark.parametrize("length", [2, 3, 6])
def test_a_hand_holds_each_colour_of_its_rule(length: int) -> None:
    rule, rng = find_rule("red_minus_blue"), Random(0)
    hands = [draw_hand(rng, rule, length, 9) for _ in range(500)]
    assert all({"RED", "BLUE"} <= {card.color for card in hand} for hand in hands)
    assert all(len(hand) == length and all(0 <= card.value <= 9 for card in hand) for hand in hands)
    reds = {position for hand in hands for position, card in enumerate(hand) if card.color == "RED"}
    assert reds == set(range(length))


def test_too_few_cards_for_the_colours_are_refused() -> None:
    with pytest.raises(UserError, match="'red_minus_blue' needs 2 cards for RED, BLUE; got 1"):
        draw_hand(Random(0), find_rule("red_minus_blue"), 1, 9)


def zeros(rows: list[Deal]) -> float:
    return sum(row.rule.total(row.cards) == 0 for row in rows) / len(rows)


def test_answers_are_balanced_after_every_deal() -> None:
    rows = deal(GAME, "compositional", 400)
    assert all(zeros(rows[:count]) <= 0.1 for count in range(1, 401))
    for name in ("red_greater_than_4", "blue_less_equal_3"):
        assert 0.05 < zeros([row for row in rows if row.rule.name == name]) <= 0.1
    assert zeros(deal(CardGame(zero_share=1), "compositional", 400)) > 0.3
    assert zeros(deal(CardGame(zero_share=0), "compositional", 100)) == 0


@pytest.mark.parametrize("lengths", [(3, 6), (2, 4)])
def test_labels_come_as_often_as_each_other(lengths: tuple[int, int]) -> None:
    rows = deal(CardGame(lengths=lengths, long_lengths=(8, 9)), "classification", 200)
    assert Counter(row.rule.answer(row.cards) for row in rows) == {"BIG": 100, "SMALL": 100}


def test_a_rule_that_can_only_be_nought_is_refused() -> None:
    game = CardGame(rules={"id": ["sum_greater_than_9"]})
    with pytest.raises(UserError, match=r"'sum_greater_than_9' finds no more hands of 3 to 6 cards of 0\.\.9"):
        deal(game, "train", 1)


@pytest.mark.parametrize("name", TEST_SETS)
def test_each_set_shifts_one_thing_only(name: str) -> None:
    rows = deal(GAME, name, 200)
    kind = {"id_test": "id", "paraphrase_mix": "paraphrase"}.get(name, name)
    assert {row.kind for row in rows} == {kind}
    assert {row.rule.name for row in rows} == {rule.name for rule in GAME.pool(kind)}
    assert {len(row.cards) for row in rows} == set(range(10, 16) if name == "length_shift" else range(3, 7))
    assert {row.paraphrased for row in rows} == {name.startswith("paraphrase")}


def test_wordings_of_tests_are_no_wordings_of_training() -> None:
    unseen = {row.sentence for row in deal(GAME, "paraphrase", 300)}
    mixed = {row.sentence for row in deal(GAME, MIXTURE, 600, {"paraphrase": 1.0})}
    assert mixed == {row.sentence for row in deal(GAME, "paraphrase_mix", 300)}
    assert unseen == {sentence for rule in GAME.pool("id") for sentence in sentences_of(rule.name).test}
    assert not unseen & mixed
    reworded = deal(CardGame(paraphrased={"train": 0.5}), "train", 400)
    assert 0.4 < sum(row.paraphrased for row in reworded) / 400 < 0.6
    assert not unseen & {row.sentence for row in reworded}


def test_a_mixture_has_the_kinds_of_its_weights() -> None:
    rows = deal(GAME, MIXTURE, 2000, {"id": 3, "paraphrase": 1, "new_colors": 0})
    result = Counter(row.kind for row in rows)
    assert set(result) == {"id", "paraphrase"}
    assert result["id"] / 2000 == pytest.approx(0.75, abs=0.03)
    assert all(row.paraphrased == (row.kind == "paraphrase") for row in rows)


def test_what_is_held_out_is_never_dealt() -> None:
    held_out = ("length_shift", "classification")
    mix = {kind: 1.0 for kind in OOD_KINDS if kind not in held_out}
    rows = deal(GAME, MIXTURE, 2000, mix)
    assert {row.kind for row in rows} == set(mix)
    assert all(len(row.cards) <= 6 and row.rule.head is None for row in rows)


def test_other_values_and_lengths_are_dealt() -> None:
    rows = deal(CardGame(lengths=(4, 5), long_lengths=(6, 7), largest_value=20), "train", 300)
    assert {len(row.cards) for row in rows} == {4, 5}
    assert max(card.value for row in rows for card in row.cards) == 20
