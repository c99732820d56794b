"""Steered decoding: one loop for every steering method.

A `Steerer` reads the prompts and gives, token by token, the log-scores that the next token is sampled from and
those of the plain model. Random streams are those of the plain sampler: without steering the same tokens come out.

Notation: B unfinished rows, V vocabulary.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lit_narrative.errors import UserError
from lit_narrative.lm.load import base_lm, end_ids
from lit_narrative.lm.sampler import (
    Decoded,
    Request,
    SamplingParams,
    as_rollouts,
    draw_uniforms,
    sample_token,
    split_requests,
    warper,
)
from lit_narrative.lm.tokenizer import pad_left
from lit_narrative.steering.losses import SMALL, Bags, bag_mass
from lit_narrative.views import Rollout

logger = logging.getLogger(__name__)

# Finished rows leave the batch when at most this share is unfinished: each time the whole state is copied, two pasts of
# PPLM among it, so this is lower than in plain sampling.
COMPACT_BELOW = 0.5


class TooStrong(UserError):
    """The steering is so strong that the model's scores are not numbers any more."""


class Scores(NamedTuple):
    """Log-scores (B, V) of the next token, float32, at the sampling temperature; not filtered, not normalised.

    Attributes:
        steered: the scores that the token is sampled from.
        plain: of the plain model; None if they were not computed.
    """

    steered: torch.Tensor
    plain: torch.Tensor | None


@dataclass(frozen=True)
class Texts:
    """Texts to steer: prompts, and the texts that begin with each of them.

    Attributes:
        ids: (U, n) int64, left-padded prompts.
        mask: (U, n) bool, true where a prompt has a token.
        owner: (B,) the prompt of each text.
        columns: (B,) of each text's prompt.
        new_tokens: longest completion.
        temperature: of sampling.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    owner: torch.Tensor
    columns: Sequence[Mapping[str, Any]]
    new_tokens: int
    temperature: float


class SteeredDecoding(Protocol):
    """The state of decoding under one steerer."""

    passes: int
    """Forward and backward passes so far, each of one token per row."""
    recording_seconds: float
    """Seconds so far spent on passes that serve the record alone."""

    def scores(self, tokens: torch.Tensor | None) -> Scores:
        """Scores of the next token, given the token sampled last, (B,); None at first."""

    def keep(self, rows: torch.Tensor) -> None:
        """Keep only ``rows``."""


class Steerer(Protocol):
    """A steering method."""

    remedy: str
    """Advice for a message when the steering is too strong."""

    def begin(self, lm: PreTrainedModel, texts: Texts) -> SteeredDecoding:
        """Read the prompts."""


@dataclass
class SteeringTotals:
    """Effect and cost of steering, summed over tokens.

    Attributes:
        tokens: sampled tokens of unfinished texts.
        steps: of the loop; a step samples one token of every unfinished text.
        passes: forward and backward passes of one token per row.
        seconds: wall-clock time from reading the prompts to the last token, without passes for the record alone.
        kl: KL(steered || plain) in nats, before filters.
        measured: tokens with both a plain and a steered distribution.
        mass_plain: probability of the bags under the plain model.
        mass_steered: probability of the bags under the steered model, before filters.
        mass_kept: the same after filters.
        bag_losses: (K,) -log of each bag's probability under the steered model; 0 without bags.
    """

    tokens: int = 0
    steps: int = 0
    passes: int = 0
    seconds: float = 0.0
    kl: float = 0.0
    measured: int = 0
    mass_plain: float = 0.0
    mass_steered: float = 0.0
    mass_kept: float = 0.0
    bag_losses: torch.Tensor | float = 0.0

    def metrics(self) -> dict[str, float]:
        """Means per token, by name."""
        tokens, measured = max(self.tokens, 1), max(self.measured, 1)
        return {
            "kl": self.kl / measured,
            "mass_plain": self.mass_plain / measured,
            "mass_steered": self.mass_steered / measured,
            "mass_kept": self.mass_kept / tokens,
            "passes_per_token": self.passes / max(self.steps, 1),
            "tokens_per_second": self.tokens / self.seconds if self.seconds else 0.0,
        }


Watch = Callable[[Sequence[Mapping[str, Any]], torch.device], Bags | None]
"""From the columns of the rows' prompts to the bags whose probability is recorded."""


class SteeredSampler:
    """A sampler of steered text.

    Args:
        steerer: the method.
        watch: the bags whose probability is recorded.
        rows: largest number of texts in a batch.

    Attributes:
        totals: of all calls so far; assign ``SteeringTotals()`` to reset them.
    """

    def __init__(self, steerer: Steerer, watch: Watch | None = None, rows: int = 64) -> None:
        self.steerer, self.watch, self.rows = steerer, watch, rows
        self.totals = SteeringTotals()

    def sample(
        self, lm: nn.Module, tokenizer: PreTrainedTokenizerBase, requests: Sequence[Request], params: SamplingParams
    ) -> list[Rollout]:
        """Complete every request; the model should be in evaluation mode."""
        if params.grammar is not None:
            raise UserError("model.sampling.grammar is not known to steered sampling; leave it out")
        rollouts: list[Rollout] = []
        first_group, ends = 0, end_ids(lm, tokenizer)
        # The Trainer predicts in inference mode, whose tensors can never take part in a gradient.
        with torch.inference_mode(False), torch.no_grad(), frozen(lm):
            for batch in split_requests(requests, self.rows):
                rollouts += as_rollouts(tokenizer, batch, self._decode(lm, ends, batch, params), ends, first_group)
                first_group += len(batch)
        if self.totals.mass_steered > 0 and self.totals.mass_kept == 0:
            logger.warning(
                "no word of the bags ever survived top_k=%d and top_p=%g: they cannot be written; raise or drop them",
                params.top_k,
                params.top_p,
            )
        return rollouts

    def _decode(
        self, lm: nn.Module, ends: Sequence[int], requests: Sequence[Request], params: SamplingParams
    ) -> Decoded:
        device = next(lm.parameters()).device
        start = now(device)
        texts = lay_out_prompts(requests, params, device)
        noise = draw_uniforms([seed for request in requests for seed in request.seeds], params.max_new_tokens).to(
            device
        )
        bags = self.watch(texts.columns, device) if self.watch else None
        # Temperature 1 for the filters: scores are divided by the temperature already, which fusion needs before them.
        record = _Record(self.totals, bags, warper(replace(params, temperature=1.0)), self.steerer.remedy)
        decoding = self.steerer.begin(base_lm(lm), texts)
        ids = torch.zeros(noise.shape, dtype=torch.long, device=device)
        logprobs, stops = torch.zeros_like(noise), torch.tensor(ends, device=device)
        rows, alive = torch.arange(len(noise), device=device), torch.ones(len(noise), dtype=torch.bool, device=device)
        lengths, tokens = torch.zeros_like(rows), None
        for step in range(params.max_new_tokens):
            # Random numbers belong to a text and not to its row, so compaction changes nothing that is drawn.
            tokens, tokens_logprobs = sample_token(record(decoding.scores(tokens), alive), noise[rows, step])
            ids[rows, step], logprobs[rows, step] = tokens, tokens_logprobs
            lengths[rows] += alive  # before `alive` is updated: the end token counts
            alive &= (tokens[:, None] != stops).all(1)
            unfinished = int(alive.sum())
            if unfinished == 0:
                break
            if unfinished <= COMPACT_BELOW * len(rows):
                keep = alive.nonzero().squeeze(1)
                decoding.keep(keep)
                record.keep(keep)
                rows, tokens, alive = rows[keep], tokens[keep], alive[keep]
        self.totals.passes += decoding.passes
        self.totals.seconds += now(device) - start - decoding.recording_seconds
        return Decoded(ids.cpu(), logprobs.cpu(), lengths.cpu())


class _Record:
    """Filters scores, and adds the effect of the steering on unfinished rows to the totals."""

    def __init__(
        self, totals: SteeringTotals, bags: Bags | None, warp: Callable[[torch.Tensor], torch.Tensor], remedy: str
    ) -> None:
        self.totals, self.bags, self.warp, self.remedy = totals, bags, warp, remedy

    def keep(self, rows: torch.Tensor) -> None:
        """Keep only ``rows``."""
        self.bags = self.bags.rows(rows) if self.bags else None

    def __call__(self, scores: Scores, alive: torch.Tensor) -> torch.Tensor:
        """The filtered scores to sample from.

        Raises:
            TooStrong: scores of an unfinished row are not numbers.
        """
        steered = torch.log_softmax(scores.steered, -1)  # a geometric mean of distributions sums to less than 1
        # Finished rows stay in the batch for a while: nobody reads what becomes of them.
        if steered[alive].isnan().any():
            raise TooStrong(f"the steered model's scores are not numbers any more; {self.remedy}")
        kept = self.warp(steered)
        totals, count = self.totals, int(alive.sum())
        totals.tokens, totals.steps = totals.tokens + count, totals.steps + 1
        if scores.plain is not None:
            plain, probabilities = torch.log_softmax(scores.plain, -1), steered.exp()
            totals.measured += count
            # 0 log 0 is 0: a token that steering excludes adds nothing
            gap = (probabilities * (steered - plain)).where(probabilities > 0, 0.0).sum(-1)
            # Rounding can leave a divergence just below 0.
            totals.kl += float(gap[alive].clamp(min=0).sum())
            self._record_bags(plain.exp(), probabilities, alive)
        if self.bags:
            totals.mass_kept += float(bag_mass(kept.softmax(-1), self.bags)[alive].sum())
        return kept

    def _record_bags(self, plain: torch.Tensor, steered: torch.Tensor, alive: torch.Tensor) -> None:
        if not self.bags:
            return
        before, after = (bag_mass(probabilities, self.bags)[alive] for probabilities in (plain, steered))
        self.totals.mass_plain += float(before.sum())
        self.totals.mass_steered += float(after.sum())
        self.totals.bag_losses = self.totals.bag_losses - after.clamp(min=SMALL).log().sum(0).double().cpu()


def now(device: torch.device) -> float:
    """Wall-clock seconds, after ``device`` has finished its queue: kernels of a GPU run asynchronously."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def lay_out_prompts(requests: Sequence[Request], params: SamplingParams, device: torch.device) -> Texts:
    """Left-padded prompts, each with one text per seed.

    Raises:
        UserError: a prompt carries vectors.
    """
    if any(request.prompt.injection is not None for request in requests):
        raise UserError("steered decoding reads prompts without vectors, and one carries some; sample without steering")
    ids = pad_left([request.ids for request in requests])
    mask = pad_left([[1] * len(request.ids) for request in requests]).bool()
    owner = torch.tensor([row for row, request in enumerate(requests) for _ in request.seeds])
    columns = [request.prompt.columns for request in requests for _ in request.seeds]
    return Texts(ids.to(device), mask.to(device), owner.to(device), columns, params.max_new_tokens, params.temperature)


@contextmanager
def frozen(lm: nn.Module) -> Iterator[None]:
    """Within the context no weight of a model requires a gradient: steering differentiates keys and values alone."""
    # Otherwise each step on the past would compute gradients of all weights too.
    trained = [parameter for parameter in lm.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
