"""Inputs as tensors: targets, named positions, padding on the left, and the scores of answers."""

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from lit_narrative.circuits.bridge import build_bridge, run
from lit_narrative.circuits.inputs import (
    IGNORED,
    AnalysisInputs,
    Positions,
    ask,
    ask_all,
    encode,
    encode_inputs,
    find_positions,
    pad_left,
)
from lit_narrative.errors import UserError
from lit_narrative.views import Example
from tests.helpers import tiny_lm, tokenizer


def test_questions_ask_for_every_token_of_the_completion(letters: PreTrainedTokenizerBase) -> None:
    rows = [Example("2+3=", "05", {"spans": {"sum": (4, 5)}}), Example("1=", "1", {"spans": {"sum": (0, 1)}})]
    made = encode_inputs(rows, letters)
    assert made.mask.sum(1).tolist() == [5, 2]
    asked = made.targets != IGNORED
    assert asked.tolist() == [[False, False, False, True, True], [False, False, False, False, True]]
    assert letters.convert_ids_to_tokens(made.targets[asked]) == ["0", "5", "1"]
    assert made.positions is not None
    assert made.positions.names == ("sum", "answer")
    assert made.positions.columns.tolist() == [[4, 3], [3, 4]]
    last = encode_inputs(rows, letters, scored=1)
    assert (last.targets != IGNORED).sum(1).tolist() == [1, 1]
    assert letters.convert_ids_to_tokens(last.targets[0, -1:]) == ["5"]
    assert made.majority() == pytest.approx(1 / 3)
    with pytest.raises(UserError, match="has no tokens"):
        encode_inputs([Example("1=", "")], letters)
    with pytest.raises(UserError, match="no examples"):
        encode_inputs([], letters)


@torch.no_grad()
def test_scores_are_those_of_the_logits() -> None:
    bridge = build_bridge(tiny_lm("gpt2", scale=4.0, vocabulary=20))
    tokens = torch.arange(12).view(2, 6)
    targets = torch.full((2, 6), IGNORED)
    targets[0, 2], targets[1, 5], targets[1, 2] = 3, 4, 5
    inputs = AnalysisInputs(tokens, torch.ones(2, 6, dtype=torch.bool), targets, targets + 1)
    logits = run(bridge, tokens)
    rows, columns, wanted = torch.tensor([0, 1, 1]), torch.tensor([2, 2, 5]), torch.tensor([3, 5, 4])
    at_answers = logits[rows, columns]
    result = ask(bridge, inputs)
    assert torch.allclose(result.logprob, at_answers.log_softmax(-1)[torch.arange(3), wanted], atol=1e-5)
    assert torch.allclose(
        result.logit_diff, at_answers[torch.arange(3), wanted] - at_answers[torch.arange(3), wanted + 1], atol=1e-5
    )
    assert torch.equal(result.correct, at_answers.argmax(-1) == wanted)
    assert torch.allclose(ask_all(bridge, inputs, 1).logprob, result.logprob, atol=1e-5)
    best = ask(bridge, AnalysisInputs(tokens, inputs.mask, targets)).logit_diff
    at_answers[torch.arange(3), wanted] = -torch.inf
    assert torch.allclose(best, logits[rows, columns, wanted] - at_answers.amax(-1), atol=1e-5)


def test_positions_that_some_rows_lack_are_known_as_such() -> None:
    spans = [{"a": (0, 1), "b": (1, 2)}, {"b": (0, 2)}]
    result = find_positions([[(0, 0), (0, 1), (1, 2)], [(0, 1), (1, 2)]], spans, 3)
    assert result.names == ("a", "b")
    assert result.columns.tolist() == [[1, 2], [-1, 2]]
    assert result.common().names == ("b",)
    assert result.common().columns.tolist() == [[2], [2]]
    assert find_positions([[(0, 1)], [(0, 1)]], [{"a": (0, 1)}, {}], 1).common().columns.shape == (2, 0)


def test_offsets_cover_the_text() -> None:
    text = '{"name":"lantern"}'
    ids, offsets = encode(tokenizer(), text)
    assert "".join(text[start:end] for start, end in offsets) == text
    assert tokenizer().decode(ids) == text


def test_rows_end_together() -> None:
    tokens, mask = pad_left([[1, 2, 3], [4]], value=9)
    assert tokens.tolist() == [[1, 2, 3], [9, 9, 4]]
    assert mask.tolist() == [[True, True, True], [False, False, True]]


def test_positions_are_picked_by_name() -> None:
    positions = Positions(("a", "b"), torch.tensor([[0, 1], [2, 3]]))
    assert positions.pick(["b", "a"]).columns.tolist() == [[1, 0], [3, 2]]
    with pytest.raises(
        UserError, match=r"no position is named 'answr'; did you mean 'answer'\?; the rows have: answer"
    ):
        Positions(("answer",), torch.zeros(1, 1)).column("answr")
