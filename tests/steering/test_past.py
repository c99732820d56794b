"""The past in the library's cache: moved within a window, in any precision."""

import pytest
import torch

from lit_narrative.steering.past import Past, Positions, Reading
from tests.steering.pplm.test_steerer import MODELS, PROMPTS

IDS = torch.tensor([PROMPTS[0]])
MASK = torch.ones_like(IDS, dtype=torch.bool)


def third_token(reading: Reading) -> tuple[torch.Tensor, torch.Tensor]:
    logprobs = torch.log_softmax(reading.logits, -1)
    grad = logprobs.exp()
    grad[:, 3] -= 1
    return -logprobs[:, 3], grad


@pytest.mark.parametrize("model", ["mistral, sliding", "gemma3, mixed"])
@torch.no_grad()
def test_weights_move_a_past_of_low_precision(model: str) -> None:
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        lm = MODELS[model]().to(dtype).requires_grad_(False)
        past, _ = Past.of(lm, IDS[:, :-1], MASK[:, :-1])
        weights = torch.linspace(0, 1, IDS.shape[1] - 1)[None]
        past.gradient_step(
            IDS[:, -1:], Positions(MASK, False), third_token, lambda squares: 0.3 / squares.sqrt(), weights
        )
        assert {tensor.dtype for tensor in past.tensors} == {dtype}
        found.append(past.read(IDS[:, -1:], Positions(MASK, False)).logits)
    torch.testing.assert_close(found[1], found[0], atol=0.03, rtol=0.1)
