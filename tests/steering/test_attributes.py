"""Attributes of prompts' columns: whose settings, and whose weights."""

from typing import Any

import torch

from lit_narrative.lm.tokenizer import TrainedTokenizer, train_tokenizer
from lit_narrative.steering.attributes import read_attributes
from lit_narrative.steering.bags import BagsOfRows, ColumnBag
from lit_narrative.steering.losses import Bags
from lit_narrative.steering.settings import Attribute
from tests.helpers import tiny_lm

WORDS = train_tokenizer(["The sea and the salt sea", "a Sea of salt"], TrainedTokenizer(kind="words"))
SEA, UPPER, SALT = WORDS.convert_tokens_to_ids([" sea", " Sea", " salt"])


def of_rows(*given: Attribute) -> BagsOfRows:
    return read_attributes(given, {}, tiny_lm("gpt2"), WORDS).bags


def bags(given: list[Attribute], *columns: dict[str, Any]) -> Bags:
    found = of_rows(*given)(columns, torch.device("cpu"))
    assert found is not None
    return found


def test_weights_of_a_column_reach_the_bag() -> None:
    found = bags([Attribute(column="bag")], {"bag": {"sea": 3.0, "salt": 0.5}}, {"bag": ["sea", "salt"]})
    assert found.ids.tolist() == [[[SEA, SALT]]] * 2
    assert found.weights.tolist() == [[[3.0, 0.5]], [[1.0, 1.0]]]


def test_two_attributes_of_one_column_keep_their_own_settings() -> None:
    found = bags([Attribute(column="bag", cases=True), Attribute(column="bag", weight=2.0)], {"bag": ["sea"]})
    assert found.ids.tolist() == [[[SEA, UPPER], [SEA, 0]]]
    assert found.weights.tolist() == [[[1.0, 1.0], [1.0, 0.0]]]
    assert found.strengths.tolist() == [1.0, 2.0]


def test_words_of_a_column_are_encoded_once() -> None:
    (bag,) = of_rows(Attribute(column="bag")).bags
    assert isinstance(bag, ColumnBag)
    assert bag.of({"bag": ["sea"]}) is bag.of({"bag": ["sea"]})
    assert bag.of({"bag": {"sea": 2.0}}).weights == (2.0,)
