"""The model of another checkpoint, to be analysed beside the one at hand."""

from typing import TYPE_CHECKING

from transformers import PreTrainedTokenizerBase

from lit_narrative.circuits.bridge import build_bridge, shape
from lit_narrative.errors import UserError
from lit_narrative.lm.checkpoint import read_language_model

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


def reference_bridge(path: str, tokenizer: PreTrainedTokenizerBase, bridge: "TransformerBridge") -> "TransformerBridge":
    """Open up the model of a checkpoint, where ``bridge`` is.

    Raises:
        UserError: it cannot be read, or is of another shape or vocabulary.
    """
    lm, own = read_language_model(path)
    if own.get_vocab() != tokenizer.get_vocab():
        raise UserError(f"callback CircuitAnalysis: the tokenizer of reference '{path}' is not that of the model")
    other = build_bridge(lm.to(bridge.cfg.device))  # type: ignore[arg-type]
    if shape(other) != shape(bridge):
        raise UserError(
            f"callback CircuitAnalysis: reference '{path}' has {tuple(shape(other))} layers, heads, key-value heads, "
            f"width and vocabulary, the model {tuple(shape(bridge))}; parts can be compared only one by one"
        )
    return other
