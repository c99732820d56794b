"""Patching: what stands after a layer at a token is what the blocks behind it read."""

import pytest
import torch

from lit_narrative.errors import UserError
from lit_narrative.lm.load import blocks
from lit_narrative.lm.tokenizer import TrainedTokenizer, train_tokenizer
from lit_narrative.lm.vectors.patching import at_norm, first_token, patched_logits
from tests.helpers import ARCHITECTURES, tiny_lm, tokenizer

ROWS = [[5, 6, 7, 8], [9, 10], [11, 12, 13]]


def states(architecture: str, row: list[int]) -> tuple[torch.Tensor, ...]:
    lm = tiny_lm(architecture, scale=3, layers=3)
    with torch.no_grad():
        return lm(torch.tensor([row]), output_hidden_states=True).hidden_states  # type: ignore[no-any-return]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_its_own_state_changes_nothing(architecture: str, layer: int) -> None:
    lm = tiny_lm(architecture, scale=3, layers=3)
    own = torch.stack([states(architecture, row)[layer][0, -1] for row in ROWS])
    assert torch.allclose(patched_logits(lm, ROWS, layer, own), patched_logits(lm, ROWS), atol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_last_state_of_another_text_brings_its_prediction(architecture: str) -> None:
    # Behind the last block only the final norm follows: the prediction is that of the text the state is from.
    lm = tiny_lm(architecture, scale=3, layers=3)
    held: list[torch.Tensor] = []
    handle = blocks(lm)[-1].register_forward_hook(
        lambda module, args, output: held.append(output[0] if isinstance(output, tuple) else output)
    )
    with torch.no_grad():
        expected = lm(torch.tensor([[20, 21, 22]])).logits[0, -1]
    handle.remove()
    made = patched_logits(lm, ROWS, 3, held[0][:, -1].expand(3, -1))
    assert torch.allclose(made, expected.expand(3, -1), atol=1e-5)


def test_a_patch_reaches_later_tokens_and_no_other_row() -> None:
    lm = tiny_lm("llama", scale=3, layers=3)
    vectors = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    plain, made = patched_logits(lm, ROWS), patched_logits(lm, ROWS, 1, vectors, positions=[1, 0, 0])
    assert (made - plain).abs().amax(1).min() > 1e-3
    alone = [patched_logits(lm, [row], 1, vectors[[n]], [int(n == 0)]) for n, row in enumerate(ROWS)]
    assert torch.allclose(torch.cat(alone), made, atol=1e-5)
    assert torch.equal(patched_logits(lm, ROWS), plain)  # nothing is left behind


def test_no_rows() -> None:
    assert patched_logits(tiny_lm(), []).shape[0] == 0


@pytest.mark.parametrize(
    ("layer", "width", "position", "message"),
    [(4, 16, 0, "layers 0 to 3"), (1, 8, 0, "8 wide"), (1, 16, 4, "4 tokens and no token 4")],
)
def test_what_cannot_be_patched(layer: int, width: int, position: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        patched_logits(tiny_lm(layers=3), [[1, 2, 3, 4]], layer, torch.ones(1, width), [position])


def test_direction_at_the_norm_of_the_original() -> None:
    made = at_norm(torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.tensor([[0.0, 10.0], [1.0, 0.0]]))
    assert torch.allclose(made, torch.tensor([[6.0, 8.0], [0.0, 0.0]]))


def test_first_token_of_a_word_within_a_text() -> None:
    words = train_tokenizer(["the salt road"], TrainedTokenizer(kind="words"))
    token = first_token(words, "salt")
    assert token is not None and words.decode([token]).strip() == "salt"
    assert first_token(words, "unheard") is None and first_token(words, "") is None
    pieces = first_token(tokenizer(), "lantern")
    assert pieces is not None and "lantern".startswith(tokenizer().decode([pieces]).strip())
