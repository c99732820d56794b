"""Settings of the game, and what is refused."""

from typing import Any

import pytest

from lit_narrative.errors import UserError
from lit_narrative.tasks.cards.game import KINDS, CardGame, check_mixture


def names(game: CardGame, kind: str) -> list[str]:
    return [rule.name for rule in game.pool(kind)]


def test_the_usual_pools() -> None:
    game = CardGame()
    assert names(game, "id") == ["red_minus_blue", "sum_greater_than_4", "odd_minus_even"]
    assert names(game, "paraphrase") == names(game, "length_shift") == names(game, "id")
    assert names(game, "new_colors") == ["green_minus_yellow"]
    assert names(game, "compositional") == ["red_greater_than_4", "blue_less_equal_3"]
    assert names(game, "classification") == ["sum_above_20"]


def test_chosen_rules_are_the_only_ones() -> None:
    game = CardGame(rules={"id": ["even_minus_odd"]})
    assert names(game, "id") == names(game, "paraphrase") == ["even_minus_odd"]
    assert names(game, "new_colors") == ["green_minus_yellow"]


def test_rewording_by_set() -> None:
    game = CardGame(paraphrased={"id_test": 0.5, "paraphrase": 0.6})
    shares = [game.paraphrase_share(name) for name in ("id_test", "paraphrase", "paraphrase_mix", "new_colors")]
    assert shares == [0.5, 0.6, 1.0, 0.0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rules": {"new_colour": []}}, "no 'new_colour'; did you mean 'new_colors'"),
        ({"rules": {"paraphrase": ["odd_minus_even"]}}, "there is no 'paraphrase'"),
        ({"rules": {"id": []}}, "data.game.rules.id is empty"),
        ({"rules": {"id": ["red_minus"]}}, "no rule 'red_minus'"),
        ({"rules": {"id": ["green_minus_yellow"]}}, "'green_minus_yellow' is in 'id' and in 'new_colors'"),
        ({"lengths": (1, 4)}, "'red_minus_blue' needs 2 cards or more, for RED, BLUE; got 1"),
        ({"lengths": (0, 4)}, "data.game.lengths is 0"),
        ({"lengths": (5, 4)}, "5 to 4 cards is not a range"),
        ({"long_lengths": (6, 9)}, r"long_lengths=\[6, 9\] must lie beyond lengths=\[3, 6\]"),
        ({"largest_value": 100}, r"largest_value=100 must lie in 0\.\.99"),
        ({"zero_share": 1.5}, r"zero_share=1\.5 must lie in 0\.\.1"),
        ({"paraphrased": {"id_test": -1}}, r"paraphrased\.id_test=-1 must lie in 0\.\.1"),
        ({"paraphrased": {"idtest": 1}}, "no 'idtest'; did you mean 'id_test'"),
    ],
)
def test_what_makes_no_game_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        CardGame(**settings)


def test_a_mixture_leaves_out_what_is_held_out() -> None:
    assert check_mixture({"id": 1, "paraphrase": 2, "classification": 0}, ["classification"]) == {
        "id": 1,
        "paraphrase": 2,
    }
    assert set(check_mixture(dict.fromkeys(KINDS, 1.0), [])) == set(KINDS)


@pytest.mark.parametrize(
    ("mix", "held_out", "message"),
    [
        ({"id": 1.0, "length_shift": 0.1}, ["length_shift"], "'length_shift' a weight of 0.1, but data.held_out"),
        ({"id": 0.0}, [], "weights of 0 or more, not all 0"),
        ({"id": 1.0, "paraphrase": -1.0}, [], "weights of 0 or more"),
        ({}, [], "weights of 0 or more"),
        ({"ood": 1.0}, [], "data.mix: there is no 'ood'"),
        ({"id": 1.0}, ["colors"], "data.held_out: there is no 'colors'"),
    ],
)
def test_what_makes_no_mixture_is_refused(mix: dict[str, float], held_out: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_mixture(mix, held_out)
