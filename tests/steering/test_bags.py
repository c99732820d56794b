"""Bags of words as tokens: what is one token, what is not, and what is said of it."""

from pathlib import Path

import pytest
import torch

from lit_narrative.errors import UserError
from lit_narrative.lm.tokenizer import TrainedTokenizer, train_tokenizer
from lit_narrative.steering.bags import BagsOfRows, ColumnBag, encode_bag, find_words, labels_of, read_bag, stack_bags
from lit_narrative.steering.losses import bag_mass
from lit_narrative.views import WordList
from tests.helpers import tokenizer

WORDS = train_tokenizer(["The sea and the salt sea", "a Sea of salt, SALT"], TrainedTokenizer(kind="words"))


def test_a_word_is_its_token_behind_a_space() -> None:
    bag = encode_bag("sea", ["sea", "salt", "sea"], WORDS)
    assert WORDS.convert_ids_to_tokens(list(bag.ids)) == [" sea", " salt", " sea"]
    assert bag.dropped == ()


def test_other_cases_where_they_are_tokens() -> None:
    bag = encode_bag("sea", {"sea": 2.0, "salt": 1.0}, WORDS, cases=True)
    assert bag.words == ("sea", "Sea", "salt", "SALT")
    assert bag.weights == (2.0, 2.0, 1.0, 1.0)


def test_a_word_given_twice_counts_twice() -> None:
    once, twice = (encode_bag("sea", ["sea", *more], WORDS) for more in ([], ["sea"]))
    probabilities = torch.full((1, len(WORDS)), 1 / len(WORDS))
    masses = [bag_mass(probabilities, stack_bags([[bag]], [1.0], torch.device("cpu"))) for bag in (once, twice)]
    assert masses[1] == 2 * masses[0]


def test_unknown_words_are_dropped_and_named(caplog: pytest.LogCaptureFixture) -> None:
    bag = encode_bag("sea", ["sea", "gull"], WORDS)
    assert (bag.words, bag.dropped) == (("sea",), ("gull",))
    assert "left out 1 of 2 words (gull)" in caplog.text


def test_a_word_of_several_tokens_may_stand_for_its_first() -> None:
    word = "lantern-keeper"
    ids = tokenizer()(" " + word)["input_ids"]
    assert len(ids) > 1
    assert encode_bag("b", [word], tokenizer(), policy="first_token").ids == (ids[0],)


def test_no_usable_word_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(UserError, match=r"bag 'b': none of its 2 words .*first_token"):
        encode_bag("b", ["gull", "cormorant"], WORDS)


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan")])
def test_weights_are_above_0(weight: float) -> None:
    with pytest.raises(UserError, match="weight of 'sea'"):
        encode_bag("b", {"sea": weight}, WORDS)


def test_words_by_name_by_file_and_as_given(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("sea\nsalt 2\n")
    lists = {"ocean": WordList(["tide", "wave"])}
    assert find_words("ocean", lists) == ["tide", "wave"]
    assert find_words(str(tmp_path / "mine.txt"), lists) == {"sea": 1.0, "salt": 2.0}
    assert find_words(["a"], lists) == ["a"]
    with pytest.raises(UserError, match="did you mean 'ocean'"):
        find_words("ocaen", lists)


@pytest.mark.parametrize("line", ["quay -1", "quay 0", "quay nan", "quay inf", "the quay", "quay 1 2"])
def test_a_line_that_is_no_word_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "bad.txt"
    path.write_text(f"lamp\n{line}\n", encoding="utf-8")
    with pytest.raises(UserError, match=rf"bad\.txt, line 2: '{line}'; write a word"):
        read_bag(path)


def test_a_column_that_prompts_lack_is_named() -> None:
    bags = BagsOfRows([ColumnBag("bags", lambda words: encode_bag("bags", words, WORDS))], [1.0])
    with pytest.raises(UserError, match=r"no column 'bags'.*did you mean 'bag'"):
        bags([{"bag": ["sea"]}], torch.device("cpu"))
    assert bags([{"bags": ["sea", "salt"]}], torch.device("cpu")).ids.shape == (1, 1, 2)  # type: ignore[union-attr]


def test_labels_by_number_name_and_column() -> None:
    rows, classes, cpu = [{"topic": "y"}, {"topic": 0}], ("x", "y"), torch.device("cpu")
    assert labels_of(rows, 1, classes, cpu).tolist() == [1, 1]
    assert labels_of(rows, "x", classes, cpu).tolist() == [0, 0]
    assert labels_of(rows, "topic", classes, cpu).tolist() == [1, 0]
    with pytest.raises(UserError, match="no class '2'"):
        labels_of(rows, 2, classes, cpu)
