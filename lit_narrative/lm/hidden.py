"""Final hidden states where completion tokens are predicted.

Notation: B rows, L longest prompt + completion, U different prompts, P longest prompt, C longest completion, N
completion tokens of all rows together, d width.

The completions of a group share their prompt. It is read once, and its keys and values, gradient included, stand in
front of each of the group's completions: U x P + B x (C - 1) positions are computed in place of B x L.
"""

from typing import NamedTuple

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from transformers import DynamicCache
from transformers.modeling_layers import GradientCheckpointingLayer

from lit_narrative.lm.cache import plain_attention, select_rows

# Sharing pays once it saves this part of the positions: it makes copies and needs a mask.
SAVES = 0.05


def completion_states(base: nn.Module, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Hidden states (N, d) that predict the completion tokens, row by row in order.

    Args:
        base: a transformers causal LM.
        ids: (B, L) int64, right-padded.
        targets: (B, L) bool, true on the tokens to predict; never in the first column.
    """
    shared = shared_prompts(ids, targets) if _can_share(base) else None
    if shared is None:
        hidden = base.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state  # type: ignore[operator]
        return hidden[:, :-1][targets[:, 1:]]  # type: ignore[no-any-return]
    return _states_behind(base, shared)


class SharedPrompts(NamedTuple):
    """A batch taken apart into its different prompts and what follows them.

    Attributes:
        prompts: (U, P) int64, right-padded.
        owner: (B,) which prompt a row has.
        lengths: (B,) of the rows' prompts.
        completions: (B, C) int64, right-padded.
        targets: (B, C) bool, tokens to predict.
    """

    prompts: torch.Tensor
    owner: torch.Tensor
    lengths: torch.Tensor
    completions: torch.Tensor
    targets: torch.Tensor


def _can_share(base: nn.Module) -> bool:
    """Whether a cache can carry the prompts of ``base``, and every row would have read them alike (no dropout)."""
    if base.training or isinstance(base, FSDPModule) or not plain_attention(base):  # processes gather blocks in step
        return False
    return not any(m.gradient_checkpointing for m in base.modules() if isinstance(m, GradientCheckpointingLayer))


def shared_prompts(ids: torch.Tensor, targets: torch.Tensor) -> SharedPrompts | None:
    """Take a batch apart; None if that does not pay, or if a row has nothing to predict."""
    columns = torch.arange(ids.shape[1], device=ids.device)
    starts = targets.int().argmax(1)  # the first target
    ends = (targets * (columns + 1)).amax(1)
    width = int(starts.max())
    prompts, owner = ids[:, :width].where(columns[:width] < starts[:, None], -1).unique(dim=0, return_inverse=True)
    longest = int((ends - starts).max())
    computed = prompts.numel() + len(ids) * (longest - 1)
    if len(prompts) == len(ids) or computed > (1 - SAVES) * ids.numel() or not bool(starts.all()):
        return None
    places = starts[:, None] + columns[:longest]
    inside = places < ids.shape[1]
    places = places.clamp(max=ids.shape[1] - 1)
    return SharedPrompts(prompts.clamp(min=0), owner, starts, ids.gather(1, places), targets.gather(1, places) & inside)


def _states_behind(base: nn.Module, batch: SharedPrompts) -> torch.Tensor:
    """Read the prompts, then the completions behind their keys and values."""
    decoder, cache = base.get_decoder(), DynamicCache(config=base.config)  # type: ignore[arg-type,operator]
    prompts = decoder(input_ids=batch.prompts, past_key_values=cache, use_cache=True).last_hidden_state
    hidden = prompts[batch.owner, batch.lengths - 1][:, None]  # (B, 1, d) predicts the first token
    if batch.completions.shape[1] > 1:
        select_rows(cache, batch.owner)
        inputs = batch.completions[:, :-1]  # nothing is asked behind the last token
        behind = decoder(input_ids=inputs, past_key_values=cache, use_cache=True, **_places(batch)).last_hidden_state
        hidden = torch.cat([hidden, behind], dim=1)
    return hidden[batch.targets]


def _places(batch: SharedPrompts) -> dict[str, torch.Tensor]:
    """Mask and positions of the completions; empty where prompts of one length need none."""
    width, columns = batch.prompts.shape[1], torch.arange(batch.completions.shape[1] - 1, device=batch.owner.device)
    if bool((batch.lengths == width).all()):
        return {}
    prompt = torch.arange(width, device=batch.owner.device) < batch.lengths[:, None]
    mask = torch.cat([prompt, prompt.new_ones(len(prompt), len(columns))], dim=1)
    return {"attention_mask": mask.long(), "position_ids": batch.lengths[:, None] + columns}
