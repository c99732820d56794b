"""Sampling completions from a causal LM.

Every sequence has its own random stream: one uniform number a token, drawn ahead from the sequence's seed, turned into
a token by inverting the cumulative distribution. What a sequence becomes therefore does not depend on which others are
sampled beside it, on the batch split, or on how many devices share the work.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import nn
from transformers import Cache, PreTrainedModel, PreTrainedTokenizerBase
from transformers.generation.logits_process import (
    LogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from lit_narrative.errors import UserError, first_line
from lit_narrative.lm.kv_cache import decoding_cache, select_rows
from lit_narrative.lm.load import base_lm, end_ids
from lit_narrative.lm.prefix_decoding import Groups, can_group, grouped
from lit_narrative.lm.self_check import NEW_TOKENS, PROMPTS, ROWS, alike, once, too_short
from lit_narrative.lm.tokenizer import pad_left
from lit_narrative.views import Prompt, Rollout

# Finished rows leave the batch once at most this share is still alive: dropping copies the cache.
COMPACT_BELOW = 0.75


@dataclass(frozen=True)
class SamplingParams:
    """One object for sampling and scoring.

    Args:
        max_new_tokens: longest completion, the end token included.
        temperature: logits are divided by it, in sampling and wherever the samples are scored; above 0.
        top_k: sample among the k most likely tokens; 0 is off.
        top_p: sample among the smallest set of tokens with this probability; 1 is off.
    """

    max_new_tokens: int = 160
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise UserError(
                f"model.sampling.temperature={self.temperature} must be above 0; use 0.01 for nearly greedy text"
            )
        if self.max_new_tokens < 1:
            raise UserError(f"model.sampling.max_new_tokens={self.max_new_tokens} must be at least 1")
        if self.top_k < 0:
            raise UserError(f"model.sampling.top_k={self.top_k} must be at least 0; 0 is off")
        if not 0 < self.top_p <= 1:
            raise UserError(f"model.sampling.top_p={self.top_p} must be above 0 and at most 1")

    @property
    def filtered(self) -> bool:
        """Whether tokens are cut off, so that sampling and scoring distributions differ."""
        return self.top_k > 0 or self.top_p < 1


@dataclass(frozen=True)
class Request:
    """One prompt to complete ``len(seeds)`` times.

    Attributes:
        prompt: text and columns.
        ids: the prompt's token ids.
        seeds: one random stream a completion.
        injection: number of what is injected into the prompt; None: nothing. The prompt is read once for all of the
            request's completions, and never for those of another request.
    """

    prompt: Prompt
    ids: Sequence[int]
    seeds: Sequence[int]
    injection: int | None = None


class Sampler(Protocol):
    """What turns requests into rollouts, in the order of requests, then seeds."""

    def sample(
        self, lm: nn.Module, tokenizer: PreTrainedTokenizerBase, requests: Sequence[Request], params: SamplingParams
    ) -> list[Rollout]:
        """Complete every request."""


def uniforms(seeds: Sequence[int], count: int) -> torch.Tensor:
    """(len(seeds), count) float32 in [0, 1): ``count`` draws of every stream."""
    rows = [np.random.Generator(np.random.Philox(key=seed)).random(count, dtype=np.float32) for seed in seeds]
    return torch.from_numpy(np.stack(rows))


def pick(logits: torch.Tensor, uniform: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Sample one token a row by inverting the cumulative distribution.

    Args:
        logits: (rows, vocabulary) float32, already divided by the temperature.
        uniform: (rows,) in [0, 1).

    Returns:
        Token ids (rows,) and their log-probabilities (rows,).
    """
    probabilities = torch.softmax(logits, dim=-1)
    cumulative = probabilities.cumsum(-1)
    # The largest uniform is 1 - 2^-24: times the rounded total it stays below it, so there is always a token.
    tokens = torch.searchsorted(cumulative, uniform[:, None] * cumulative[:, -1:], right=True)
    tokens.clamp_(max=logits.shape[-1] - 1)  # only where logits are not finite
    return tokens.squeeze(1), probabilities.gather(1, tokens).log().squeeze(1)


class LoopSampler:
    """The default sampler: our decode loop over the library's models.

    A prompt is read once for its whole group, finished rows leave the batch, and the log-probability of every sampled
    token is kept from the logits that it was drawn from.

    Args:
        rows: completions decoded side by side at most.
    """

    def __init__(self, rows: int = 256) -> None:
        self.rows = rows

    @torch.no_grad()
    def sample(
        self, lm: nn.Module, tokenizer: PreTrainedTokenizerBase, requests: Sequence[Request], params: SamplingParams
    ) -> list[Rollout]:
        """Complete every request; the model should be in evaluation mode."""
        rollouts: list[Rollout] = []
        first_group, ends, base = 0, end_ids(lm, tokenizer), base_lm(lm)
        shares = can_group(base) and groups_rightly(base)
        for lot in lots(requests, self.rows):
            rollouts += as_rollouts(tokenizer, lot, _decode(lm, ends, lot, params, shares), ends, first_group)
            first_group += len(lot)
        return rollouts


def lots(requests: Sequence[Request], rows: int) -> list[list[Request]]:
    """Cut requests into lots of at most ``rows`` completions (a larger request is a lot of its own)."""
    lots: list[list[Request]] = []
    count = rows
    for request in requests:
        if count + len(request.seeds) > rows:
            lots.append([])
            count = 0
        lots[-1].append(request)
        count += len(request.seeds)
    return lots


def as_rollouts(
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[Request],
    decoded: "Decoded",
    ends: Sequence[int],
    first_group: int,
) -> list[Rollout]:
    """What was decoded for ``requests`` as rollouts; groups are numbered from ``first_group``."""
    completions = [ids[:n] for ids, n in zip(decoded.ids, decoded.lengths.tolist(), strict=True)]
    texts = tokenizer.batch_decode(completions, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    owners = [(group, request) for group, request in enumerate(requests, first_group) for _ in request.seeds]
    return [
        Rollout(
            prompt_ids=torch.tensor(request.ids),
            completion_ids=ids.clone(),
            logprobs=logprobs[: len(ids)].clone(),
            finished=int(ids[-1]) in ends,
            text=text,
            prompt=request.prompt.text,
            columns=request.prompt.columns,
            group=group,
            injection=request.injection,
        )
        for (group, request), ids, logprobs, text in zip(owners, completions, decoded.logprobs, texts, strict=True)
    ]


class Decoded(NamedTuple):
    """Sampled ids (rows, steps), their log-probabilities, and how many of each row count."""

    ids: torch.Tensor
    logprobs: torch.Tensor
    lengths: torch.Tensor


def _decode(
    lm: nn.Module, ends: Sequence[int], requests: Sequence[Request], params: SamplingParams, shares: bool
) -> Decoded:
    """Sample all completions of ``requests`` side by side, those of a group behind one prompt if ``shares``."""
    base, device = base_lm(lm), next(lm.parameters()).device
    prefix = _Prefix(requests, params.max_new_tokens, device)
    noise = uniforms([seed for request in requests for seed in request.seeds], params.max_new_tokens).to(device)
    warp = warper(params)
    shares = shares and len(prefix.owner) > len(requests)
    cache = decoding_cache(base, prefix.width + (0 if shares else params.max_new_tokens))
    logits = prefix.read(lm, cache)[prefix.owner]
    past = _SharedPast(prefix, cache) if shares else _OwnPast(prefix, cache)

    count, steps = noise.shape
    ids, stops = torch.zeros(count, steps, dtype=torch.long, device=device), torch.tensor(ends, device=device)
    logprobs = torch.zeros(count, steps, device=device, dtype=torch.float32)
    rows, alive = torch.arange(count, device=device), torch.ones(count, dtype=torch.bool, device=device)
    with grouped(base) if shares else nullcontext():
        for step in range(steps):
            tokens, ids_logprobs = pick(warp(logits.float()), noise[:, step])
            ids[rows, step], logprobs[rows, step] = tokens, ids_logprobs
            alive &= (tokens[:, None] != stops).all(1)
            living = int(alive.sum())
            if living == 0 or step + 1 == steps:
                break
            if living <= COMPACT_BELOW * len(rows):
                keep = alive.nonzero().squeeze(1)
                past.select(keep)
                rows, tokens, alive, noise = rows[keep], tokens[keep], alive[keep], noise[keep]
            logits = lm(input_ids=tokens[:, None], use_cache=True, **past.inputs(step)).logits[:, -1]
    unfinished = (ids[..., None] != stops).all(-1).cumprod(1).sum(1)  # tokens before the first end
    if not logprobs.isfinite().all():
        raise UserError("the policy's logits are not finite: it has diverged; lower model.lr or use a wider precision")
    return Decoded(ids.cpu(), logprobs.cpu(), (unfinished + 1).clamp(max=steps).cpu())


def warper(params: SamplingParams) -> Callable[[torch.Tensor], torch.Tensor]:
    """Temperature and filters as one function of float32 logits."""
    warpers: list[LogitsProcessor] = []
    if params.temperature != 1:
        warpers.append(TemperatureLogitsWarper(params.temperature))
    if params.top_k:
        warpers.append(TopKLogitsWarper(params.top_k))
    if params.top_p < 1:
        warpers.append(TopPLogitsWarper(params.top_p))

    def warp(logits: torch.Tensor) -> torch.Tensor:
        for warper in warpers:
            logits = warper(None, logits)
        return logits

    return warp


class _Prefix:
    """The prompts of a lot: read once each, then shared by their completions.

    Prompts of one length need no mask at all. Others are padded on the left, and the mask and the true positions are
    made ahead for all steps.
    """

    def __init__(self, requests: Sequence[Request], new_tokens: int, device: torch.device) -> None:
        lengths = torch.tensor([len(request.ids) for request in requests], device=device)
        counts = torch.tensor([len(request.seeds) for request in requests], device=device)
        self.width, self.new_tokens = int(lengths.max()), new_tokens
        self.owner = torch.repeat_interleave(torch.arange(len(requests), device=device), counts)
        self.ids = pad_left([request.ids for request in requests]).to(device)
        self.padded = bool((lengths != self.width).any())
        self.lengths = lengths[self.owner]
        columns = torch.arange(self.width + new_tokens, device=device)
        self.mask = columns >= (self.width - lengths)[:, None]  # (prompts, all columns)

    def read(self, lm: nn.Module, cache: Cache) -> torch.Tensor:
        """Fill the cache with the prompts; logits (prompts, vocabulary) of the first new token."""
        inputs: dict[str, torch.Tensor] = {}
        if self.padded:
            mask = self.mask[:, : self.width].long()
            inputs = {"attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}
        return lm(input_ids=self.ids, past_key_values=cache, use_cache=True, logits_to_keep=1, **inputs).logits[:, -1]


class _OwnPast:
    """Every row has its prompt's keys and values before its own."""

    def __init__(self, prefix: _Prefix, cache: Cache) -> None:
        select_rows(cache, prefix.owner)
        self.cache, self.width, self.padded = cache, prefix.width, prefix.padded
        self.mask, self.lengths = prefix.mask[prefix.owner], prefix.lengths

    def select(self, rows: torch.Tensor) -> None:
        """Keep only ``rows``."""
        select_rows(self.cache, rows)
        self.mask, self.lengths = self.mask[rows], self.lengths[rows]

    def inputs(self, step: int) -> dict[str, Any]:
        """What the model needs beside the token sampled at ``step``; masks and positions only where prompts differ."""
        if not self.padded:
            return {"past_key_values": self.cache}
        return {
            "past_key_values": self.cache,
            "attention_mask": self.mask[:, : self.width + step + 1].long(),
            "position_ids": (self.lengths + step)[:, None],
        }


class _SharedPast:
    """The rows of a group have their prompt's keys and values in common."""

    def __init__(self, prefix: _Prefix, cache: Cache) -> None:
        self.groups = Groups(cache, prefix.mask[:, : prefix.width], prefix.owner, prefix.new_tokens)
        self.lengths = prefix.lengths

    def select(self, rows: torch.Tensor) -> None:
        """Keep only ``rows``."""
        self.groups.select(rows)
        self.lengths = self.lengths[rows]

    def inputs(self, step: int) -> dict[str, Any]:
        """What the model needs beside the token sampled at ``step``."""
        positions = (self.lengths + step)[:, None]
        return {"past_key_values": self.groups.cache, "groups": self.groups, "position_ids": positions}


def _decode_trial(base: PreTrainedModel, shares: bool) -> Decoded:
    """The completions of a trial; no end among them."""
    requests = [Request(Prompt(""), ids, [ROWS * n + m for m in range(ROWS)]) for n, ids in enumerate(PROMPTS)]
    return _decode(base, [], requests, SamplingParams(NEW_TOKENS), shares)


@once
def groups_rightly(base: PreTrainedModel) -> bool:
    """Whether ``base`` decodes groups behind one copy of their prompt as it does rows of their own, by trial."""
    shared, own = _decode_trial(base, True), _decode_trial(base, False)
    return torch.equal(shared.ids, own.ids) and alike(shared.logprobs, own.logprobs, own.logprobs.std(), base.dtype)


@torch.no_grad()
def check_decoding(lm: nn.Module) -> None:
    """Refuse an architecture that this sampler cannot read token by token, and try how to sample from any other.

    Args:
        lm: a transformers causal LM in evaluation mode, with or without adapters.

    Raises:
        UserError: if decoding fails, or its log-probabilities are not those of the whole text.
    """
    base = base_lm(lm)
    if too_short(base):
        return
    try:
        problem = "" if _decodes_rightly(base) else "its log-probabilities are not those of the text read at once"
    except Exception as error:  # architectures trip over anything here
        problem = first_line(error)
    if problem:
        raise UserError(
            f"models of type '{base.config.model_type}' cannot be sampled from here, token by token behind a cache "
            f"({problem}); choose another model"
        )
    if can_group(base):
        groups_rightly(base)


def _decodes_rightly(base: PreTrainedModel) -> bool:
    decoded = _decode_trial(base, False)
    right, spreads = [], []
    for prompt, completions in zip(PROMPTS, decoded.ids.to(base.device).split(ROWS), strict=True):
        ids = torch.cat([completions.new_tensor([prompt] * ROWS), completions], dim=1)
        logits = base(input_ids=ids, use_cache=False).logits[:, -NEW_TOKENS - 1 : -1].float()
        right.append(torch.log_softmax(logits, -1).gather(-1, completions[..., None]).squeeze(-1))
        spreads.append(logits.std(-1).mean())
    return alike(decoded.logprobs, torch.cat(right).cpu(), torch.stack(spreads).mean().cpu(), base.dtype)


class HFSampler:
    """``transformers.generate``, one completion at a time: what :class:`LoopSampler` is tested against."""

    @torch.no_grad()
    def sample(
        self, lm: nn.Module, tokenizer: PreTrainedTokenizerBase, requests: Sequence[Request], params: SamplingParams
    ) -> list[Rollout]:
        """Complete every request; seeds drive the library's own random draws."""
        base, ends, rollouts = base_lm(lm), end_ids(lm, tokenizer), []
        for group, request in enumerate(requests):
            ids = torch.tensor([request.ids], device=next(lm.parameters()).device)
            for seed in request.seeds:
                with torch.random.fork_rng():
                    torch.manual_seed(seed)
                    output = base.generate(  # type: ignore[operator]
                        ids, attention_mask=torch.ones_like(ids), **_generate_options(params, tokenizer, ends)
                    )
                completion = output.sequences[:, ids.shape[1] :].cpu()
                scores = torch.stack([torch.log_softmax(s.float(), -1)[0] for s in output.scores]).cpu()
                decoded = Decoded(completion, scores.gather(1, completion.T).T, torch.tensor([completion.shape[1]]))
                single = Request(request.prompt, request.ids, (seed,))
                rollouts += as_rollouts(tokenizer, [single], decoded, ends, group)
        return rollouts


def _generate_options(
    params: SamplingParams, tokenizer: PreTrainedTokenizerBase, ends: Sequence[int]
) -> dict[str, Any]:
    return {
        "do_sample": True,
        "temperature": params.temperature,
        "top_k": params.top_k,
        "top_p": params.top_p,
        "max_new_tokens": params.max_new_tokens,
        "eos_token_id": list(ends),
        "pad_token_id": tokenizer.pad_token_id,
        "return_dict_in_generate": True,
        "output_scores": True,
    }
