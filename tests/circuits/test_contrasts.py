"""Contrast pairs and questions as tensors."""

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from lit_narrative.circuits.bridge import build_bridge, run
from lit_narrative.circuits.contrasts import encode_contrasts
from lit_narrative.circuits.positions import find_places
from lit_narrative.circuits.questions import IGNORED, Questions, ask, ask_all, encode_questions
from lit_narrative.errors import UserError
from lit_narrative.views import ContrastPair, Example
from tests.helpers import tiny_lm, tokenizer

RULE = "Add 12 and "


def pair(
    clean: str = "3", corrupt: str = "5", answers: tuple[str, str] = ("15", "27"), start: str = RULE
) -> ContrastPair:
    spans = {"first": (4, 6), "second": (len(start), len(start) + len(clean))}
    return ContrastPair(start + clean + ":", start + corrupt + ":", *answers, {"spans": spans})


@pytest.fixture
def letters() -> PreTrainedTokenizerBase:
    """One token a character, so that lengths are plain to see."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    own = Tokenizer(models.WordLevel({"?": 0, **{chr(code): code - 31 for code in range(32, 127)}}, unk_token="?"))
    own.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=own, eos_token="?", pad_token="?")


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
    assert both.places.names == ("first", "second", "answer")
    assert both.places.columns.tolist() == [[5, 11, 12], [8, 11, 12]]
    questions = both.questions("corrupt")
    assert torch.equal(questions.tokens, both.corrupt)
    assert questions.columns.tolist() == [12]


def test_a_byte_pair_tokenizer_names_the_last_token_of_a_span() -> None:
    prompt = '{"name":"lantern","count":7}'
    pair = ContrastPair(prompt, prompt, "a", "b", {"spans": {"name": (9, 16)}})
    made = encode_contrasts([pair], tokenizer())
    column = int(made.places.column("name")[0])
    ends = tokenizer()(prompt, return_offsets_mapping=True)["offset_mapping"][column]
    assert ends[0] < 16 <= ends[1]


def test_unequal_lengths_and_equal_answers_are_refused(letters: PreTrainedTokenizerBase) -> None:
    with pytest.raises(UserError, match="contrast pair 1: the clean prompt has 13 tokens and the corrupt one 14"):
        encode_contrasts([pair(), pair(corrupt="55")], letters)
    with pytest.raises(UserError, match=r"'15' and '17' begin with the same token \('1'\)"):
        encode_contrasts([pair(answers=("15", "17"))], letters)
    with pytest.raises(UserError, match="the answer '' has no tokens"):
        encode_contrasts([pair(answers=("", "17"))], letters)
    with pytest.raises(UserError, match="no contrast pairs"):
        encode_contrasts([], letters)
    with pytest.raises(UserError, match="the place 'second' is at the characters 40 to 41"):
        encode_contrasts([ContrastPair("a", "b", "c", "d", {"spans": {"second": (40, 41)}})], letters)


def test_places_that_some_rows_lack_are_left_out() -> None:
    spans = [{"a": (0, 1), "b": (1, 2)}, {"b": (0, 2)}]
    found = find_places([[(0, 0), (0, 1), (1, 2)], [(0, 1), (1, 2)]], spans, 3)
    assert found.names == ("b",)
    assert found.columns.tolist() == [[2], [2]]


def test_questions_ask_for_every_token_of_the_completion(letters: PreTrainedTokenizerBase) -> None:
    rows = [Example("2+3=", "05", {"spans": {"sum": (4, 5)}}), Example("1=", "1", {"spans": {"sum": (0, 1)}})]
    made = encode_questions(rows, letters)
    assert made.mask.sum(1).tolist() == [5, 2]
    asked = made.targets != IGNORED
    assert asked.tolist() == [[False, False, False, True, True], [False, False, False, False, True]]
    assert letters.convert_ids_to_tokens(made.targets[asked]) == ["0", "5", "1"]
    assert made.places is not None
    assert made.places.names == ("sum", "answer")
    assert made.places.columns.tolist() == [[4, 3], [3, 4]]
    last = encode_questions(rows, letters, scored=1)
    assert (last.targets != IGNORED).sum(1).tolist() == [1, 1]
    assert letters.convert_ids_to_tokens(last.targets[0, -1:]) == ["5"]
    assert made.majority() == pytest.approx(1 / 3)
    with pytest.raises(UserError, match="has no tokens"):
        encode_questions([Example("1=", "")], letters)
    with pytest.raises(UserError, match="no examples"):
        encode_questions([], letters)


@torch.no_grad()
def test_scores_are_those_of_the_logits() -> None:
    bridge = build_bridge(tiny_lm("gpt2", scale=4.0, vocabulary=20))
    tokens = torch.arange(12).view(2, 6)
    targets = torch.full((2, 6), IGNORED)
    targets[0, 2], targets[1, 5], targets[1, 2] = 3, 4, 5
    questions = Questions(tokens, torch.ones(2, 6, dtype=torch.bool), targets, targets + 1)
    logits = run(bridge, tokens)
    rows, columns, wanted = torch.tensor([0, 1, 1]), torch.tensor([2, 2, 5]), torch.tensor([3, 5, 4])
    own = logits[rows, columns]
    found = ask(bridge, questions)
    assert torch.allclose(found.logprob, own.log_softmax(-1)[torch.arange(3), wanted], atol=1e-5)
    assert torch.allclose(found.logit_diff, own[torch.arange(3), wanted] - own[torch.arange(3), wanted + 1], atol=1e-5)
    assert torch.equal(found.correct, own.argmax(-1) == wanted)
    assert torch.allclose(ask_all(bridge, questions, 1).logprob, found.logprob, atol=1e-5)
    best = ask(bridge, Questions(tokens, questions.mask, targets)).logit_diff
    own[torch.arange(3), wanted] = -torch.inf
    assert torch.allclose(best, logits[rows, columns, wanted] - own.amax(-1), atol=1e-5)
