"""Steered decoding: one loop for every way to change what a model writes while it writes.

A :class:`Steerer` begins with the prompts and gives, token by token, the scores that the next token is drawn from and
those of the plain model. Random streams are the sampler's: without steering the same tokens come out.

Notation: B living rows, V vocabulary.
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
from lit_narrative.lm.sampler import Decoded, Request, SamplingParams, as_rollouts, lots, pick, uniforms, warper
from lit_narrative.lm.tokenizer import pad_left
from lit_narrative.steering.losses import SMALL, Bags, bag_mass
from lit_narrative.views import Rollout

logger = logging.getLogger(__name__)

# Finished rows leave the batch once at most this share is still alive: every steerer's state is copied then.
COMPACT_BELOW = 0.5


class TooStrong(UserError):
    """The steering is so strong that the model's scores are no numbers any more."""


class Scores(NamedTuple):
    """Log-scores (B, V) of the next token, float32, at the sampling temperature; not filtered, not normalised.

    Attributes:
        steered: what the token is drawn from.
        plain: of the untouched model; None if nobody asked for it.
    """

    steered: torch.Tensor
    plain: torch.Tensor | None


@dataclass(frozen=True)
class Texts:
    """Texts to steer: their prompts, and how many texts begin with each.

    Attributes:
        ids: (U, n) int64, left-padded prompts.
        mask: (U, n) bool, true where a prompt has a token.
        owner: (B,) the prompt of each text.
        columns: (B,) what each text's prompt carries.
        new_tokens: longest completion.
        temperature: of sampling.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    owner: torch.Tensor
    columns: Sequence[Mapping[str, Any]]
    new_tokens: int
    temperature: float


class Writing(Protocol):
    """Texts in the making under one steerer."""

    passes: int
    """Forward and backward passes so far, each of one token a row."""
    aside: float
    """Seconds so far of passes that are made for the record alone."""

    def scores(self, tokens: torch.Tensor | None) -> Scores:
        """Scores of the next token, given what was drawn last, (B,); None at first."""

    def keep(self, rows: torch.Tensor) -> None:
        """Go on with ``rows`` only."""


class Steerer(Protocol):
    """A way to steer."""

    remedy: str
    """What to change if it goes too far."""

    def begin(self, lm: PreTrainedModel, texts: Texts) -> Writing:
        """Read the prompts."""


@dataclass
class Figures:
    """What steering did and cost, summed over tokens.

    Attributes:
        tokens: drawn, of living texts.
        steps: of the loop; a step draws one token of every living text.
        passes: forward and backward passes of one token a row.
        seconds: on the clock, from reading the prompts to the last token, without passes for the record alone.
        kl: KL(steered || plain) in nats, before filters.
        measured: tokens that have a plain distribution beside the steered.
        mass_plain: probability of the bags under the plain model.
        mass_steered: under the steered one, before filters.
        mass_kept: after filters.
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
        """Means a token, by name."""
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
"""The bags whose probability is recorded, given the rows' columns."""


class SteeredSampler:
    """A sampler whose texts are steered.

    Args:
        steerer: how.
        watch: the bags whose probability is recorded.
        rows: texts decoded side by side at most.

    Attributes:
        figures: of all calls so far; set it anew to start again.
    """

    def __init__(self, steerer: Steerer, watch: Watch | None = None, rows: int = 64) -> None:
        self.steerer, self.watch, self.rows = steerer, watch, rows
        self.figures = Figures()

    def sample(
        self, lm: nn.Module, tokenizer: PreTrainedTokenizerBase, requests: Sequence[Request], params: SamplingParams
    ) -> list[Rollout]:
        """Complete every request; the model should be in evaluation mode."""
        rollouts: list[Rollout] = []
        first_group, ends = 0, end_ids(lm, tokenizer)
        # What a gradient passes through may not be made in inference mode, as the Trainer's predictions are.
        with torch.inference_mode(False), torch.no_grad(), frozen(lm):
            for lot in lots(requests, self.rows):
                rollouts += as_rollouts(tokenizer, lot, self._decode(lm, ends, lot, params), ends, first_group)
                first_group += len(lot)
        figures = self.figures
        if figures.mass_steered > 0 and figures.mass_kept == 0:
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
        texts = as_texts(requests, params, device)
        noise = uniforms([seed for request in requests for seed in request.seeds], params.max_new_tokens).to(device)
        bags = self.watch(texts.columns, device) if self.watch else None
        record = _Record(self.figures, bags, warper(replace(params, temperature=1.0)), self.steerer.remedy)
        writing = self.steerer.begin(base_lm(lm), texts)
        ids = torch.zeros(noise.shape, dtype=torch.long, device=device)
        logprobs, stops = torch.zeros_like(noise), torch.tensor(ends, device=device)
        rows, alive = torch.arange(len(noise), device=device), torch.ones(len(noise), dtype=torch.bool, device=device)
        lengths, tokens = torch.zeros_like(rows), None
        for step in range(params.max_new_tokens):
            tokens, tokens_logprobs = pick(record(writing.scores(tokens), alive), noise[rows, step])
            ids[rows, step], logprobs[rows, step] = tokens, tokens_logprobs
            lengths[rows] += alive
            alive &= (tokens[:, None] != stops).all(1)
            living = int(alive.sum())
            if living == 0:
                break
            if living <= COMPACT_BELOW * len(rows):
                keep = alive.nonzero().squeeze(1)
                writing.keep(keep)
                record.keep(keep)
                rows, tokens, alive = rows[keep], tokens[keep], alive[keep]
        self.figures.passes += writing.passes
        self.figures.seconds += now(device) - start - writing.aside
        return Decoded(ids.cpu(), logprobs.cpu(), lengths.cpu())


class _Record:
    """Filters scores, and sums up what the steering did to living rows."""

    def __init__(
        self, figures: Figures, bags: Bags | None, warp: Callable[[torch.Tensor], torch.Tensor], remedy: str
    ) -> None:
        self.figures, self.bags, self.warp, self.remedy = figures, bags, warp, remedy

    def keep(self, rows: torch.Tensor) -> None:
        """Go on with ``rows`` only."""
        self.bags = self.bags.rows(rows) if self.bags else None

    def __call__(self, scores: Scores, alive: torch.Tensor) -> torch.Tensor:
        """The filtered scores to draw from.

        Raises:
            TooStrong: scores of a living row are not finite.
        """
        steered = torch.log_softmax(scores.steered, -1)
        if steered[alive].isnan().any():
            raise TooStrong(f"the steered model's scores are no numbers any more; {self.remedy}")
        kept = self.warp(steered)
        figures, living = self.figures, int(alive.sum())
        figures.tokens, figures.steps = figures.tokens + living, figures.steps + 1
        if scores.plain is not None:
            plain, probabilities = torch.log_softmax(scores.plain, -1), steered.exp()
            figures.measured += living
            # 0 log 0 is 0: a token that steering rules out adds nothing
            gap = (probabilities * (steered - plain)).where(probabilities > 0, 0.0).sum(-1)
            figures.kl += float(gap[alive].clamp(min=0).sum())
            self._record_bags(plain.exp(), probabilities, alive)
        if self.bags:
            figures.mass_kept += float(bag_mass(kept.softmax(-1), self.bags)[alive].sum())
        return kept

    def _record_bags(self, plain: torch.Tensor, steered: torch.Tensor, alive: torch.Tensor) -> None:
        if not self.bags:
            return
        before, after = (bag_mass(probabilities, self.bags)[alive] for probabilities in (plain, steered))
        self.figures.mass_plain += float(before.sum())
        self.figures.mass_steered += float(after.sum())
        self.figures.bag_losses = self.figures.bag_losses - after.clamp(min=SMALL).log().sum(0).double().cpu()


def now(device: torch.device) -> float:
    """Seconds on the clock, once ``device`` has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def as_texts(requests: Sequence[Request], params: SamplingParams, device: torch.device) -> Texts:
    """Left-padded prompts, each with as many texts as it has seeds."""
    ids = pad_left([request.ids for request in requests])
    mask = pad_left([[1] * len(request.ids) for request in requests]).bool()
    owner = torch.tensor([row for row, request in enumerate(requests) for _ in request.seeds])
    columns = [request.prompt.columns for request in requests for _ in request.seeds]
    return Texts(ids.to(device), mask.to(device), owner.to(device), columns, params.max_new_tokens, params.temperature)


@contextmanager
def frozen(lm: nn.Module) -> Iterator[None]:
    """No weight of a model asks for a gradient for a while; then each does as before."""
    trained = [parameter for parameter in lm.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
