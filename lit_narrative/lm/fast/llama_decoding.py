"""A decoding step of a Llama without what surrounds its arithmetic.

A step of a small model is dozens of tiny operations a block, and calling them takes transformers as long as they take.
Here the matrices that read the same states are one, the factors of a norm are in the matrix that follows it, positions
are looked up in a table, and nothing stands between a block and its operations.

Notation as in `prefix_decoding`; d hidden width, V vocabulary.
"""

import torch
from torch import nn
from torch.nn import functional
from transformers import LlamaForCausalLM, PreTrainedModel
from transformers.activations import ACT2FN
from transformers.models.llama.modeling_llama import (
    LlamaAttention,
    LlamaDecoderLayer,
    LlamaMLP,
    LlamaModel,
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
)

from lit_narrative.lm.fast.kv_cache import ChunkedLayer
from lit_narrative.lm.fast.layers import LARGE_MODEL, FastLinear, FastRMSNorm, fast_linear
from lit_narrative.lm.fast.prefix_decoding import Groups, attend, can_share_prefix
from lit_narrative.lm.vectors.inject import Injector

# Modules whose function is known here. Adapters, quantised layers and shards have classes of their own.
_KNOWN = (
    {LlamaForCausalLM, LlamaModel, LlamaDecoderLayer, LlamaAttention, LlamaMLP, LlamaRMSNorm, LlamaRotaryEmbedding}
    | {nn.Embedding, nn.ModuleList, nn.Linear, FastLinear, FastRMSNorm}
    | {Injector}  # vectors belong to prompts, which are read before
    | {type(ACT2FN["silu"])}
)


def can_fuse(base: PreTrainedModel) -> bool:
    """Whether ``base`` may decode this way: a plain Llama that may share prefixes, and that no hook looks into.

    In large models products of matrices take the time, and joined copies of them would take memory.
    """
    modules = [*base.modules()]
    if not can_share_prefix(base) or any(type(module) not in _KNOWN for module in modules):
        return False
    hooked = any(module._forward_hooks or module._forward_pre_hooks for module in modules)
    # Other kinds of rotary positions depend on the length of the text.
    fixed = base.config.rope_parameters["rope_type"] in ("default", "linear", "llama3")
    return fixed and not hooked and sum(weight.numel() for weight in base.parameters()) < LARGE_MODEL


class FusedLlama:
    """The weights of a Llama as they are now, joined for decoding, and the completions so far.

    Args:
        base: see `can_fuse`.
        positions: those that will be asked for, 0 to ``positions`` - 1.
    """

    def __init__(self, base: PreTrainedModel, positions: int) -> None:
        model = base.model
        self.embedding, self.norm = model.embed_tokens.weight, model.norm
        self.head, _ = _joined(self.norm, base.lm_head)
        self.blocks = [_Block(block) for block in model.layers]
        cos, sin = model.rotary_emb(self.embedding, torch.arange(positions, device=base.device)[None])
        first, second = sin[0].chunk(2, -1)
        # Signed, so that the halves of a head change places without a change of sign.
        self.cos, self.sin = cos[0], torch.cat([-first, second], -1)

    def __call__(self, tokens: torch.Tensor, positions: torch.Tensor, groups: Groups) -> torch.Tensor:
        """Logits (R, V) behind one token a row.

        Args:
            tokens: (R,).
            positions: (R,) of the tokens.
            groups: their prompts.
        """
        states = functional.embedding(tokens, self.embedding)
        cos, sin = self.cos[positions][:, None], self.sin[positions][:, None]
        for layer, block in enumerate(self.blocks):
            states = block(states, cos, sin, groups, layer)
        return fast_linear(_unit(states, self.norm), self.head, None)

    def select(self, rows: torch.Tensor) -> None:
        """Keep only ``rows`` of the completions (indices)."""
        for block in self.blocks:
            block.past.select(rows)


class _Block:
    """A block of a Llama: attention and a gated layer, each on normed states."""

    def __init__(self, block: LlamaDecoderLayer) -> None:
        attention, mlp = block.self_attn, block.mlp
        self.width, self.scaling = attention.head_dim, attention.scaling
        self.key_heads = attention.k_proj.out_features // self.width
        self.before, self.between = block.input_layernorm, block.post_attention_layernorm
        self.read = _joined(self.before, attention.q_proj, attention.k_proj, attention.v_proj)
        self.widen = _joined(self.between, mlp.gate_proj, mlp.up_proj)
        self.write, self.down = attention.o_proj, mlp.down_proj
        self.past = ChunkedLayer()

    def __call__(
        self, states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, groups: Groups, layer: int
    ) -> torch.Tensor:
        """(R, d) to (R, d)."""
        heads = fast_linear(_unit(states, self.before), *self.read).unflatten(-1, (-1, self.width))
        turning = heads[:, : -self.key_heads]  # queries and keys
        turned = turning * cos + turning.roll(self.width // 2, -1) * sin
        query, key = turned[:, : -self.key_heads], turned[:, -self.key_heads :]
        past = self.past.append(key, heads[:, -self.key_heads :])
        found = attend(query * self.scaling, past, groups, layer)
        states = states + self.write(found)
        gate, up = fast_linear(_unit(states, self.between), *self.widen).chunk(2, -1)
        return states + self.down(functional.silu(gate) * up)


def _unit(states: torch.Tensor, norm: LlamaRMSNorm) -> torch.Tensor:
    """States at a root mean square of 1; the norm's own factors are in the matrix that reads them."""
    mean = torch.linalg.vecdot(states, states).unsqueeze(-1) / states.shape[-1]
    return states * (mean + norm.variance_epsilon).rsqrt_()


def _joined(norm: LlamaRMSNorm, *layers: nn.Linear) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Weight and bias of layers that read the same normed states, one below the other."""
    biases: list[torch.Tensor | None] = [layer.bias for layer in layers]
    known = [bias for bias in biases if bias is not None]
    return torch.cat([layer.weight for layer in layers]) * norm.weight, torch.cat(known) if known else None
