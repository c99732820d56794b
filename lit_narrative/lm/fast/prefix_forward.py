"""Final hidden states at the positions that predict completion tokens, with each shared prompt read once.

Notation: B rows, L longest prompt + completion, U different prompts, P longest prompt, C longest completion, N
completion tokens of all rows together, d width.

The completions of a group share their prompt. It is read once, and each completion is read behind its keys and values,
gradient included: U x P + B x (C - 1) positions are computed instead of B x L.

Shorter prompts are padded on the left, so that two tokens are as many columns apart as they are in the text: models
that use position ids (learned, rotary) and those that use columns (ALiBi, local windows) then compute the same.
"""

from typing import NamedTuple

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from transformers import DynamicCache, PreTrainedModel

from lit_narrative.lm.fast.kv_cache import plain_attention, select_rows
from lit_narrative.lm.fast.self_check import LENGTH, NEW_TOKENS, PROMPTS, ROWS, allclose, cached_check
from lit_narrative.lm.load import blocks
from lit_narrative.lm.vectors.inject import injecting, injection_keys

# Sharing must save this part of the positions to pay for its copies and its mask.
MIN_SAVED = 0.05


def completion_states(
    base: nn.Module, ids: torch.Tensor, targets: torch.Tensor, injections: torch.Tensor | None = None
) -> torch.Tensor:
    """Hidden states (N, d) that predict the completion tokens, row by row in order.

    Args:
        base: a transformers causal LM.
        ids: (B, L) int64, right-padded.
        targets: (B, L) bool, true on the tokens to predict; never in the first column.
        injections: (B, K, a), the vectors at the markers of each row's prompt; None: nothing.
    """
    shared = shared_prompts(ids, targets, injections) if _can_share(base) else None
    if shared is None or not supports_shared_prompts(base):  # type: ignore[arg-type]
        return _states_of_whole_rows(base, ids, targets, injections)
    return _states_of_completions(base, shared)


def _states_of_whole_rows(
    base: nn.Module, ids: torch.Tensor, targets: torch.Tensor, injections: torch.Tensor | None = None
) -> torch.Tensor:
    """Hidden states with every row read whole."""
    prompts = targets.cumsum(1) == 0  # a marker that the model wrote is a token like any other
    with injecting(base, ids, injections, prompts):
        hidden = base.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state  # type: ignore[operator]
    return hidden[:, :-1][targets[:, 1:]]  # type: ignore[no-any-return]


class SharedPrompts(NamedTuple):
    """A batch split into its different prompts and the completions that follow them.

    Attributes:
        prompts: (U, P) int64, left-padded.
        mask: (U, P) bool, true where a prompt has a token.
        owner: (B,) the prompt of each row.
        completions: (B, C) int64, right-padded.
        targets: (B, C) bool, tokens to predict.
        injections: (U, K, a), the vectors at the markers of each prompt; None: nothing.
    """

    prompts: torch.Tensor
    mask: torch.Tensor
    owner: torch.Tensor
    completions: torch.Tensor
    targets: torch.Tensor
    injections: torch.Tensor | None = None


def _can_share(base: nn.Module) -> bool:
    """Whether a cache can hold the prompts of ``base``, and all rows would read a prompt the same (no dropout)."""
    # Under FSDP2 all processes gather the blocks together: they must call the model equally often, whatever is shared.
    if base.training or isinstance(base, FSDPModule) or not plain_attention(base):
        return False
    # A checkpointed block drops the cache that it is given.
    return not any(block.gradient_checkpointing for block in blocks(base))


@cached_check
def supports_shared_prompts(base: PreTrainedModel) -> bool:
    """Whether ``base`` computes behind shared prompts what it computes in whole rows."""
    ids = torch.zeros(len(PROMPTS) * ROWS, LENGTH, dtype=torch.long, device=base.device)
    targets = torch.zeros_like(ids, dtype=torch.bool)
    for row, length in enumerate(len(prompt) for prompt in PROMPTS for _ in range(ROWS)):
        ids[row, :length] = torch.tensor(PROMPTS[row // ROWS])
        ids[row, length : length + NEW_TOKENS] = row + torch.arange(NEW_TOKENS)
        targets[row, length : length + NEW_TOKENS] = True
    shared = shared_prompts(ids, targets)
    assert shared is not None
    expected = _states_of_whole_rows(base, ids, targets)
    return allclose(_states_of_completions(base, shared), expected, expected.std(), base.dtype)


def shared_prompts(
    ids: torch.Tensor, targets: torch.Tensor, injections: torch.Tensor | None = None
) -> SharedPrompts | None:
    """Split a batch into prompts and completions; None if that does not pay, or if a row has nothing to predict.

    Rows share a prompt if its ids and its vectors are equal.
    """
    columns = torch.arange(ids.shape[1], device=ids.device)
    starts = targets.int().argmax(1)  # the first target
    if not bool(starts.all()):
        return None
    ends = (targets * (columns + 1)).amax(1)
    width = int(starts.max())
    source = columns[:width] - (width - starts[:, None])  # the column of `ids` for each column of left-padded prompts
    prompts = ids.gather(1, source.clamp(min=0)).where(source >= 0, -1)  # -1 is no id: padding differs from all tokens
    if injections is not None:  # equal ids with other vectors injected are another prompt
        prompts = torch.cat([injection_keys(injections)[:, None], prompts], dim=1)
    prompts, owner = prompts.unique(dim=0, return_inverse=True)
    prompts = prompts[:, -width:]
    longest = int((ends - starts).max())
    computed = prompts.numel() + len(ids) * (longest - 1)
    if len(prompts) == len(ids) or computed > (1 - MIN_SAVED) * ids.numel():
        return None
    source = starts[:, None] + columns[:longest]
    inside = source < ids.shape[1]
    source = source.clamp(max=ids.shape[1] - 1)
    completions = ids.gather(1, source)
    if injections is not None:
        injections = torch.stack([injections[owner == prompt][0] for prompt in range(len(prompts))])
    return SharedPrompts(
        prompts.clamp(min=0), prompts >= 0, owner, completions, targets.gather(1, source) & inside, injections
    )


def _states_of_completions(base: nn.Module, batch: SharedPrompts) -> torch.Tensor:
    """Read the prompts, then the completions behind their keys and values."""
    decoder, cache = base.get_decoder(), DynamicCache(config=base.config)  # type: ignore[arg-type,operator]
    of_prompts, of_completions = _masks_and_positions(batch)
    with injecting(base, batch.prompts, batch.injections, batch.mask):
        prompts = decoder(
            input_ids=batch.prompts, past_key_values=cache, use_cache=True, **of_prompts
        ).last_hidden_state
    hidden = prompts[:, -1:][batch.owner]  # (B, 1, d) predicts the first token
    if batch.completions.shape[1] > 1:
        select_rows(cache, batch.owner)
        inputs = batch.completions[:, :-1]  # the last token predicts nothing that is scored
        behind = decoder(input_ids=inputs, past_key_values=cache, use_cache=True, **of_completions).last_hidden_state
        hidden = torch.cat([hidden, behind], dim=1)
    return hidden[batch.targets]


def _masks_and_positions(batch: SharedPrompts) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Attention mask and position ids of prompts and of completions; empty where all prompts have one length."""
    if batch.mask.all():
        return {}, {}
    prompts, new = batch.mask.long(), torch.ones_like(batch.completions[:, :-1])
    behind = prompts[batch.owner].sum(1, keepdim=True) + new.cumsum(1) - 1
    return (
        {"attention_mask": prompts, "position_ids": (prompts.cumsum(1) - 1).clamp(min=0)},
        {"attention_mask": torch.cat([prompts[batch.owner], new], dim=1), "position_ids": behind},
    )
