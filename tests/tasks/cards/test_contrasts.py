"""Pairs of prompts that differ in one thing, and spans and targets of examples."""

import pytest

from lit_narrative.datamodules.cards import CardsData
from lit_narrative.errors import UserError
from lit_narrative.tasks.cards.contrasts import contrast_pairs, question, spans
from lit_narrative.tasks.cards.dealing import bucket_of, deal
from lit_narrative.tasks.cards.game import CardGame
from lit_narrative.tasks.cards.rules import Card
from lit_narrative.views import ContrastPair
from tests.helpers import TinyTask
from tests.tasks.cards.hands import HAND, given

PLAIN = CardGame(scratchpad="none")


def hand(prompt: str) -> tuple[Card, ...]:
    lines = prompt.split("Cards:\n")[1].split("\n\n")[0].splitlines()
    return tuple(Card(color, int(value)) for color, value in (line.split() for line in lines))


def pairs(game: CardGame, name: str = "id_test", count: int = 60) -> list[ContrastPair]:
    return list(contrast_pairs(deal(game, name, count), game))


@pytest.mark.parametrize("game", [PLAIN, CardGame()], ids=["answer", "running_total"])
@pytest.mark.parametrize("name", ["id_test", "new_colors", "compositional", "paraphrase", "classification"])
def test_sides_have_as_many_words_and_answers_that_differ(game: CardGame, name: str) -> None:
    result = pairs(game, name)
    assert len(result) >= 20
    for pair in result:
        assert len(pair.clean.split()) == len(pair.corrupt.split())
        assert pair.clean_answer != pair.corrupt_answer
        assert bucket_of(hand(pair.corrupt)) == "test"


def test_a_pair_differs_in_the_one_thing_that_it_says() -> None:
    result = pairs(PLAIN)
    assert {pair.meta["contrast"] for pair in result} == {"value", "color", "rule"}
    for pair in result:
        clean, corrupt = hand(pair.clean), hand(pair.corrupt)
        differing = [(a, b) for a, b in zip(clean, corrupt, strict=True) if a != b]
        if pair.meta["contrast"] == "rule":
            assert not differing
            assert pair.meta["rule_name"] != pair.meta["corrupt_rule_name"]
        else:
            ((a, b),) = differing
            assert (a.value == b.value) == (pair.meta["contrast"] == "color")
            start, end = pair.meta["spans"]["changed"]
            assert pair.clean[start:end] == str(getattr(a, pair.meta["contrast"]))
            assert pair.clean.split("\n")[0] == pair.corrupt.split("\n")[0]


def test_shared_running_totals_are_part_of_both_prompts() -> None:
    result = [pair for pair in pairs(CardGame()) if pair.meta["written"]]
    assert result
    for pair in result:
        begun = pair.clean.split("Answer:")[1]
        assert begun == pair.corrupt.split("Answer:")[1]
        assert len(begun.split()) == pair.meta["written"]


def test_pairs_depend_on_the_seed_and_on_nothing_else() -> None:
    assert pairs(PLAIN) == pairs(PLAIN)
    assert pairs(PLAIN)[:20] == pairs(PLAIN, count=20)[:20]


def test_a_rule_swap_brings_the_rule_of_another_distribution() -> None:
    swaps = {
        (pair.meta["rule_name"], pair.meta["corrupt_rule_name"])
        for pair in pairs(PLAIN, count=200)
        if pair.meta["contrast"] == "rule"
    }
    assert ("red_minus_blue", "green_minus_yellow") in swaps


def test_spans_name_the_words_they_say() -> None:
    given_deal = given("red_minus_blue")
    prompt = question(given_deal, PLAIN).prompt
    words = {name: prompt[start:end] for name, (start, end) in spans(given_deal).items()}
    assert words["rule_end"] == "cards"
    assert [words[f"card{n}_color"] for n in range(1, 5)] == [card.color for card in HAND]
    assert [words[f"card{n}_value"] for n in range(1, 5)] == [str(card.value) for card in HAND]


def test_spans_of_running_totals_and_patterns_of_cards() -> None:
    """A running total is foretold where the one before it ends, the first where the prompt ends."""
    row = question(given("red_minus_blue"), CardGame(scratchpad="running_total"))
    text, named = row.prompt + row.completion, row.meta["spans"]
    assert [text[slice(*named[f"gen{n}"])] for n in range(1, 5)] == [":", "3", "-2", "-2"]
    assert text[named["gen4"][1] :] == " 2 ; 2"
    assert "gen1" not in question(given("red_minus_blue"), PLAIN).meta["spans"]
    patterns = [(kind, label, text[start:end]) for kind, label, (start, end) in row.meta["patterns"]]
    assert patterns == [("card", f"{card.color} {card.value}", f"{card.color} {card.value}") for card in HAND]


def test_targets_are_what_a_hand_is_worth_step_by_step() -> None:
    targets = question(given("red_minus_blue"), PLAIN).meta["targets"]
    assert (targets["rule"], targets["paraphrased"], targets["total"]) == ("red_minus_blue", "no", 2.0)
    assert [targets[f"running_total_{n}"] for n in range(1, 5)] == [3.0, -2.0, -2.0, 2.0]
    assert [targets[f"matched_{n}"] for n in range(1, 5)] == ["yes", "yes", "no", "yes"]
    assert (targets["sum_red"], targets["sum_yellow"], targets["contribution_2"]) == (7.0, 0.0, -5.0)
    assert question(given("sum_above_20"), PLAIN).meta["targets"]["label"] == "SMALL"


def test_data_offers_both_by_the_name_of_a_set() -> None:
    data = CardsData(test_size=5, val_size=3, test_set="new_colors")
    assert [pair.meta["split"] for pair in data.contrasts("test")] == ["new_colors"] * 5
    assert [row.meta["split"] for row in data.questions("val")] == ["val"] * 3
    with pytest.raises(UserError, match="did you mean 'compositional'"):
        data.questions("compositonal")


def test_a_task_without_pairs_says_so() -> None:
    with pytest.raises(UserError, match="TinyTask offers no contrast pairs"):
        TinyTask().contrasts("test")
    assert len(TinyTask(rows=3).questions("test")) == 3
    with pytest.raises(UserError, match=r"TinyTask has no set 'id_test'.*train, val, test"):
        TinyTask().questions("id_test")
