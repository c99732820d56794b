"""Sampling completions from a causal LM.

Every completion has its own random stream: one uniform number a token, drawn ahead from the completion's seed, turned
into a token by inverting the cumulative distribution. A completion therefore depends neither on the others in its
batch, nor on the batch split, nor on the number of devices.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

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
from lit_narrative.lm.fast.kv_cache import decoding_cache
from lit_narrative.lm.fast.llama_decoding import can_fuse
from lit_narrative.lm.fast.pasts import CopiedPast, Past, Prefix, SharedPast, StaticPast
from lit_narrative.lm.fast.prefix_decoding import can_share_prefix, prefix_decoding
from lit_narrative.lm.fast.self_check import NEW_TOKENS, PROMPTS, ROWS, allclose, cached_check, too_short
from lit_narrative.lm.grammar import Constraint
from lit_narrative.lm.load import base_lm, end_ids
from lit_narrative.seeds import stream_seed
from lit_narrative.views import Prompt, Rollout, TokenMasks, prompt_number, prompt_text

# Finished rows leave the batch when at most this share is unfinished: each time the whole cache is copied.
COMPACT_BELOW = 0.75
CHECK_EVERY = {"cuda": 16}
"""Tokens from one look at which rows have ended to the next, by device; elsewhere each token. To look, the processor
waits for the GPU, which then waits for the processor; rows that have ended draw on, and nothing else depends on it."""


@dataclass(frozen=True)
class SamplingParams:
    """One object for sampling and scoring.

    Args:
        max_new_tokens: longest completion, the end token included.
        temperature: logits are divided by it, in sampling and wherever the samples are scored; above 0.
        top_k: sample among the k most likely tokens; 0 is off.
        top_p: sample among the smallest set of tokens with this probability; 1 is off.
        grammar: a JSON Schema that every text keeps to: a file, the name of one that comes along (``storyworld``), or
            ``prompt`` for the one in each prompt's column ``grammar``. It is part of the distribution, in sampling and
            wherever the samples are scored (`lit_narrative.lm.grammar`).
        compile: draw by a step that ``torch.compile`` made, with keys and values at fixed places; on CUDA a graph. It
            is compiled anew for other numbers of rows, and pays where many batches of the same sizes are drawn.
    """

    max_new_tokens: int = 160
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    grammar: str | None = None
    compile: bool = False

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
        seeds: one random stream a completion. The prompt is read once for all of them, and never for those of another
            request, which may have other vectors.
    """

    prompt: Prompt
    ids: Sequence[int]
    seeds: Sequence[int]


def seeded_requests(
    prompts: Sequence[Prompt],
    ids: Sequence[Sequence[int]],
    samples: int,
    seed: int,
    streams: Sequence[int] | None = None,
) -> list[Request]:
    """A request for ``samples`` completions of each prompt.

    Args:
        prompts: text and columns of each.
        ids: token ids of each.
        samples: completions a prompt.
        seed: of all of them.
        streams: the number of each prompt, on which its random streams depend with ``seed`` and the number of the
            sample; default: `prompt_number`, the position in ``prompts`` where a prompt has none.
    """
    numbers = streams or [prompt_number(prompt, position) for position, prompt in enumerate(prompts)]
    return [
        Request(prompt, row, [stream_seed(seed, number, n) for n in range(samples)])
        for number, prompt, row in zip(numbers, prompts, ids, strict=True)
    ]


class Sampler(Protocol):
    """An object that turns requests into rollouts, in the order of requests, then seeds."""

    def sample(
        self, lm: nn.Module, tokenizer: PreTrainedTokenizerBase, requests: Sequence[Request], params: SamplingParams
    ) -> list[Rollout]:
        """Complete every request."""


def draw_uniforms(seeds: Sequence[int], count: int) -> torch.Tensor:
    """(len(seeds), count) float32 in [0, 1): ``count`` draws of every stream."""
    # Philox is counter-based: a stream costs no warm-up, and equal on every machine, unlike torch's across devices.
    rows = [np.random.Generator(np.random.Philox(key=seed)).random(count, dtype=np.float32) for seed in seeds]
    return torch.from_numpy(np.stack(rows))


def sample_token(logits: torch.Tensor, uniform: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Sample one token a row by inverting the cumulative distribution.

    Args:
        logits: (rows, vocabulary) float32, already divided by the temperature.
        uniform: (rows,) in [0, 1).

    Returns:
        Token ids (rows,) and their log-probabilities (rows,).
    """
    probabilities = torch.softmax(logits, dim=-1)
    cumulative = probabilities.cumsum(-1)
    # Scaled by the rounded total and not compared with 1: the sum of float32 probabilities may end below 1. The largest
    # uniform is 1 - 2^-24, whose product with the total stays below the total, so there is always a token.
    tokens = torch.searchsorted(cumulative, uniform[:, None] * cumulative[:, -1:], right=True)
    tokens.clamp_(max=logits.shape[-1] - 1)  # needed only where logits are not finite, which the caller reports
    return tokens.squeeze(1), probabilities.gather(1, tokens).log().squeeze(1)


class LoopSampler:
    """The default sampler: our decode loop over the library's models.

    A prompt is read once for its whole group, finished rows leave the batch, and the log-probability of every sampled
    token is computed from the logits that it was drawn from.

    Args:
        rows: largest number of completions in a batch.
    """

    def __init__(self, rows: int = 256) -> None:
        self.rows = rows

    @torch.no_grad()
    def sample(
        self, lm: nn.Module, tokenizer: PreTrainedTokenizerBase, requests: Sequence[Request], params: SamplingParams
    ) -> list[Rollout]:
        """Complete every request; the model should be in evaluation mode."""
        rollouts: list[Rollout] = []
        first_group, ends = 0, end_ids(lm, tokenizer)
        way: Way = "compiled" if params.compile else _fastest_way(base_lm(lm))
        for batch in split_requests(requests, self.rows):
            decoded = _decode(lm, ends, batch, params, way, tokenizer)
            rollouts += as_rollouts(tokenizer, batch, decoded, ends, first_group)
            first_group += len(batch)
        return rollouts


def split_requests(requests: Sequence[Request], rows: int) -> list[list[Request]]:
    """Split requests into batches of at most ``rows`` completions; a request with more is a batch by itself."""
    batches: list[list[Request]] = []
    count = rows
    for request in requests:
        if count + len(request.seeds) > rows:
            batches.append([])
            count = 0
        batches[-1].append(request)
        count += len(request.seeds)
    return batches


def as_rollouts(
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[Request],
    decoded: "Decoded",
    ends: Sequence[int],
    first_group: int,
) -> list[Rollout]:
    """The decoded completions of ``requests`` as rollouts; groups are numbered from ``first_group``."""
    completions = [ids[:n] for ids, n in zip(decoded.ids, decoded.lengths.tolist(), strict=True)]
    # A mark that was added as an ordinary token (ChatML's, often) is no special one, and would stay in the text.
    marks = set(ends).intersection(tokenizer.added_tokens_decoder)
    written = [ids[:-1] if int(ids[-1]) in marks else ids for ids in completions]
    texts = tokenizer.batch_decode(written, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    owners = [(group, request) for group, request in enumerate(requests, first_group) for _ in request.seeds]
    return [
        Rollout(
            prompt_ids=torch.tensor(request.ids),
            completion_ids=ids.clone(),
            logprobs=logprobs[: len(ids)].clone(),
            finished=int(ids[-1]) in ends,
            text=text,
            prompt=prompt_text(request.prompt.text),
            columns=request.prompt.columns,
            group=group,
            injection=None if request.prompt.injection is None else torch.tensor(request.prompt.injection),
            messages=() if isinstance(request.prompt.text, str) else request.prompt.text,
            masks=None if decoded.masks is None else decoded.masks._replace(rows=decoded.masks.rows[row, : len(ids)]),
        )
        for row, ((group, request), ids, logprobs, text) in enumerate(
            zip(owners, completions, decoded.logprobs, texts, strict=True)
        )
    ]


class Decoded(NamedTuple):
    """Sampled ids (rows, steps), their log-probabilities, and the length of each completion, (rows,).

    With a grammar, the masks that they were drawn under, (rows, steps).
    """

    ids: torch.Tensor
    logprobs: torch.Tensor
    lengths: torch.Tensor
    masks: TokenMasks | None = None


Way = Literal["copied", "shared", "fused", "compiled"]
"""Every row behind a copy of its prompt; a group behind one copy; so by a step of our own; or by a compiled step."""


def _fastest_way(base: PreTrainedModel) -> Way:
    if not can_share_prefix(base) or not supports_prefix_decoding(base):
        return "copied"
    return "fused" if can_fuse(base) and supports_fused_decoding(base) else "shared"


def _decode(
    lm: nn.Module,
    ends: Sequence[int],
    requests: Sequence[Request],
    params: SamplingParams,
    way: Way,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> Decoded:
    """Sample all completions of ``requests`` in one batch; only grammars ask for the tokenizer."""
    base, device = base_lm(lm), next(lm.parameters()).device
    prefix = Prefix(
        [request.ids for request in requests],
        [len(request.seeds) for request in requests],
        [request.prompt.injection for request in requests],
        params.max_new_tokens,
        device,
    )
    noise = draw_uniforms([seed for request in requests for seed in request.seeds], params.max_new_tokens).to(device)
    warp = warper(params)
    if way == "shared" and len(prefix.owner) == len(requests):  # groups of one have nothing to share
        way = "copied"
    cache = decoding_cache(base, prefix.width + (params.max_new_tokens if way == "copied" else 0))
    logits = prefix.read(lm, cache)[prefix.owner]
    constraint = None if params.grammar is None else _constraint(params, requests, tokenizer, logits.shape[-1], ends)
    past = _past(way, prefix, cache, lm)

    count, steps = noise.shape
    ids, stops = torch.zeros(count, steps, dtype=torch.long, device=device), torch.tensor(ends, device=device)
    logprobs = torch.zeros(count, steps, device=device, dtype=torch.float32)
    # `rows`, `alive`, `noise` and the cache hold the rows still in the batch; `ids` and `logprobs` all rows.
    rows, alive = torch.arange(count, device=device), torch.ones(count, dtype=torch.bool, device=device)
    with prefix_decoding(base) if way == "shared" else nullcontext():
        for step in range(steps):
            logits = logits.float() if constraint is None else constraint.allow(logits.float())
            tokens, ids_logprobs = sample_token(warp(logits), noise[:, step])
            ids[rows, step], logprobs[rows, step] = tokens, ids_logprobs
            alive &= (tokens[:, None] != stops).all(1)
            if step + 1 == steps:
                break
            unfinished = int(alive.sum()) if (step + 1) % CHECK_EVERY.get(device.type, 1) == 0 else len(rows)
            if unfinished == 0:
                break
            if unfinished <= COMPACT_BELOW * len(rows) and way != "compiled":
                keep = alive.nonzero().squeeze(1)
                past.select(keep)
                if constraint is not None:
                    constraint.select(keep)
                rows, tokens, alive, noise = rows[keep], tokens[keep], alive[keep], noise[keep]
            if constraint is not None:
                constraint.advance(tokens)
            logits = past.read(tokens, step)
    # Rows went on drawing after their end until they were dropped: only tokens up to the first end count.
    before_end = (ids[..., None] != stops).all(-1).cumprod(1).sum(1)
    if not logprobs.isfinite().all():
        raise UserError("the policy's logits are not finite: it has diverged; lower model.lr or use a wider precision")
    lengths = (before_end + 1).clamp(max=steps).cpu()
    return Decoded(ids.cpu(), logprobs.cpu(), lengths, None if constraint is None else constraint.masks)


def _past(way: Way, prefix: Prefix, cache: Cache, lm: nn.Module) -> Past:
    """What each row has read: its prompt, which ``cache`` holds."""
    if way == "compiled":
        return StaticPast(prefix, cache, lm)
    return CopiedPast(prefix, cache, lm) if way == "copied" else SharedPast(prefix, cache, lm, way == "fused")


def _constraint(
    params: SamplingParams,
    requests: Sequence[Request],
    tokenizer: PreTrainedTokenizerBase | None,
    vocab: int,
    ends: Sequence[int],
) -> Constraint:
    """The grammars of all completions of some requests."""
    assert params.grammar is not None and tokenizer is not None
    prompts = [request.prompt for request in requests for _ in request.seeds]
    return Constraint(params.grammar, prompts, tokenizer, vocab, ends, params.max_new_tokens)


def warper(params: SamplingParams) -> Callable[[torch.Tensor], torch.Tensor]:
    """Temperature and filters as one function of float32 logits, in the order that ``generate`` applies them."""
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


def _decode_self_check(base: PreTrainedModel, way: Way) -> Decoded:
    """The completions of a self-check, which no token ends."""
    requests = [Request(Prompt(""), ids, [ROWS * n + m for m in range(ROWS)]) for n, ids in enumerate(PROMPTS)]
    return _decode(base, [], requests, SamplingParams(NEW_TOKENS), way)


@cached_check
def supports_prefix_decoding(base: PreTrainedModel) -> bool:
    """Whether ``base`` samples the same behind one shared copy of a prompt as behind a copy for each row."""
    return _samples_the_same(base, "shared")


@cached_check
def supports_fused_decoding(base: PreTrainedModel) -> bool:
    """Whether ``base`` samples the same by our own step."""
    return _samples_the_same(base, "fused")


def _samples_the_same(base: PreTrainedModel, way: Way) -> bool:
    found, copied = _decode_self_check(base, way), _decode_self_check(base, "copied")
    same = allclose(found.logprobs, copied.logprobs, copied.logprobs.std(), base.dtype)
    return same and torch.equal(found.ids, copied.ids)


@torch.no_grad()
def check_decoding(lm: nn.Module) -> None:
    """Refuse an architecture that cannot be read token by token, and run the self-check of prefix sharing on others.

    Args:
        lm: a transformers causal LM in evaluation mode, with or without adapters.

    Raises:
        UserError: if decoding fails, or its log-probabilities are not those of the whole text.
    """
    base = base_lm(lm)
    if too_short(base):
        return
    try:
        same = _supports_cached_decoding(base)
        problem = "" if same else "its log-probabilities are not those of the text read at once"
    except Exception as error:  # an architecture may fail anywhere: what it says is passed on
        problem = first_line(error)
    if problem:
        raise UserError(
            f"models of type '{base.config.model_type}' cannot be sampled from here, token by token behind a cache "
            f"({problem}); choose another model"
        )
    _fastest_way(base)


def _supports_cached_decoding(base: PreTrainedModel) -> bool:
    """Whether log-probabilities from token-by-token decoding are those of whole texts."""
    decoded = _decode_self_check(base, "copied")
    expected, spreads = [], []
    for prompt, completions in zip(PROMPTS, decoded.ids.to(base.device).split(ROWS), strict=True):
        ids = torch.cat([completions.new_tensor([prompt] * ROWS), completions], dim=1)
        logits = base(input_ids=ids, use_cache=False).logits[:, -NEW_TOKENS - 1 : -1].float()
        expected.append(torch.log_softmax(logits, -1).gather(-1, completions[..., None]).squeeze(-1))
        spreads.append(logits.std(-1).mean())
    return allclose(decoded.logprobs, torch.cat(expected).cpu(), torch.stack(spreads).mean().cpu(), base.dtype)
