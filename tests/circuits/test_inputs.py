"""Questions as tensors, and the scores of their answers."""

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from lit_narrative.circuits.bridge import build_bridge, run
from lit_narrative.circuits.inputs import IGNORED, AnalysisInputs, ask, ask_all, encode_inputs
from lit_narrative.errors import UserError
from lit_narrative.views import Example
from tests.helpers import tiny_lm


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
    own = logits[rows, columns]
    found = ask(bridge, inputs)
    assert torch.allclose(found.logprob, own.log_softmax(-1)[torch.arange(3), wanted], atol=1e-5)
    assert torch.allclose(found.logit_diff, own[torch.arange(3), wanted] - own[torch.arange(3), wanted + 1], atol=1e-5)
    assert torch.equal(found.correct, own.argmax(-1) == wanted)
    assert torch.allclose(ask_all(bridge, inputs, 1).logprob, found.logprob, atol=1e-5)
    best = ask(bridge, AnalysisInputs(tokens, inputs.mask, targets)).logit_diff
    own[torch.arange(3), wanted] = -torch.inf
    assert torch.allclose(best, logits[rows, columns, wanted] - own.amax(-1), atol=1e-5)
