"""Contrast pairs and inputs as tensors."""

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from lit_narrative.circuits.contrasts import encode_contrasts
from lit_narrative.errors import UserError
from lit_narrative.views import ContrastPair
from tests.helpers import tokenizer

RULE = "Add 12 and "


def pair(
    clean: str = "3", corrupt: str = "5", answers: tuple[str, str] = ("15", "27"), start: str = RULE
) -> ContrastPair:
    spans = {"first": (4, 6), "second": (len(start), len(start) + len(clean))}
    return ContrastPair(start + clean + ":", start + corrupt + ":", *answers, {"spans": spans})


def test_pairs_are_padded_on_the_left_and_answered_after_the_last_column(letters: PreTrainedTokenizerBase) -> None:
    made = encode_contrasts([pair(), pair(start="And add 12 ")], letters)
    short = encode_contrasts([pair(start="A" * 8)], letters)
    assert made.clean.shape == (2, 13)
    assert letters.decode(made.corrupt[0]).replace(" ", "") == "Add12and5:"
    assert letters.convert_ids_to_tokens(made.answer) == ["1", "1"]
    assert letters.convert_ids_to_tokens(made.distractor) == ["2", "2"]
    assert short.mask.all()
    both = encode_contrasts([pair(), pair(start="A" * 8)], letters)
    assert both.mask.sum(1).tolist() == [13, 10]
    assert not both.mask[1, :3].any()
    assert both.positions.names == ("first", "second", "answer")
    assert both.positions.columns.tolist() == [[5, 11, 12], [8, 11, 12]]
    inputs = both.inputs("corrupt")
    assert torch.equal(inputs.tokens, both.corrupt)
    assert inputs.columns.tolist() == [12]


def test_what_the_answers_share_is_read_and_not_asked(letters: PreTrainedTokenizerBase) -> None:
    """Tokenizers that take numbers apart begin all of them alike."""
    made = encode_contrasts([pair(answers=(" 15", " 17")), pair()], letters)
    assert [letters.decode(row[mask]).replace(" ", "") for row, mask in zip(made.clean, made.mask, strict=True)] == [
        "Add12and3:1",
        "Add12and3:",
    ]
    assert letters.convert_ids_to_tokens(made.answer) == ["5", "1"]
    assert letters.convert_ids_to_tokens(made.distractor) == ["7", "2"]
    assert made.positions.column("second").tolist() == [11, 13]
    assert made.mask.sum(1).tolist() == [15, 13]


def test_a_byte_pair_tokenizer_names_the_last_token_of_a_span() -> None:
    prompt = '{"name":"lantern","count":7}'
    pair = ContrastPair(prompt, prompt, "a", "b", {"spans": {"name": (9, 16)}})
    made = encode_contrasts([pair], tokenizer())
    column = int(made.positions.column("name")[0])
    ends = tokenizer()(prompt, return_offsets_mapping=True)["offset_mapping"][column]
    assert ends[0] < 16 <= ends[1]


def test_unequal_lengths_and_equal_answers_are_refused(letters: PreTrainedTokenizerBase) -> None:
    with pytest.raises(UserError, match="contrast pair 1: the clean prompt has 13 tokens and the corrupt one 14"):
        encode_contrasts([pair(), pair(corrupt="55")], letters)
    for answers in (("15", "15"), ("1", "15"), ("", "17")):
        with pytest.raises(UserError, match=rf"one of the answers '{answers[0]}' and '{answers[1]}' begins with all"):
            encode_contrasts([pair(answers=answers)], letters)
    with pytest.raises(UserError, match="no contrast pairs"):
        encode_contrasts([], letters)
    with pytest.raises(UserError, match="the position 'second' is at the characters 40 to 41"):
        encode_contrasts([ContrastPair("a", "b", "c", "d", {"spans": {"second": (40, 41)}})], letters)
