"""A reward without a judge: how much likelier a completion makes the text that really follows."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lit_narrative.errors import check_least
from lit_narrative.lm.checkpoint import read_language_model
from lit_narrative.lm.load import load_lm, max_positions
from lit_narrative.lm.logprobs import completion_batch, score_completions
from lit_narrative.lm.tokenizer import encode_prompts, load_tokenizer
from lit_narrative.text import unicode_text
from lit_narrative.views import Rollout

BATCH = 16
"""Texts that are read side by side."""


class Scorer(NamedTuple):
    """A frozen language model and its tokenizer."""

    lm: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


@dataclass(frozen=True)
class LikelihoodGain:
    """The gain in log-likelihood of a real text by a completion that stands before it, in nats a token.

    log p(text | before, completion) - log p(text | before), over the text's tokens, under a model that is not trained
    (completion likelihood improvement, Gurung and Lapata 2025): a plan or a continuation is worth what it tells of how
    the book goes on. 0 of an empty completion; None where the prompt has no such text.

    In a configuration: ``lit_narrative.rl.rewards.likelihood:LikelihoodGain(model='runs/…/last.ckpt')``. It holds the
    model's path and not the model, so that it can be sent to a worker process in a few bytes.

    Args:
        model: a ``.ckpt`` of this package, a folder, or a hub name.
        column: of the prompt: the text that really follows.
        before: of the prompt: the text that comes before; None: nothing is read before the completion.
        tokens: of the text that are scored, from its beginning.
        device: where the model works; default: the GPU of this process if there is one, else the CPU.
        name: what logs call it.
        trust_remote_code: run the Python code that the model brings along.

    Raises:
        UserError: there is no such model, or a number is out of range.
    """

    model: str
    column: str = "following"
    before: str | None = "sample"
    tokens: int = 128
    device: str | None = None
    name: str = "likelihood_gain"
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        check_least("LikelihoodGain: tokens", self.tokens, 1)
        # Loads the model, so that a wrong path fails as the run begins and not at the first rewards.
        self._scorer()

    def __call__(self, rollouts: Sequence[Rollout]) -> list[float | None]:
        """Gains, in order."""
        known = [row for row, rollout in enumerate(rollouts) if str(rollout.columns.get(self.column, "")).strip()]
        gains: list[float | None] = [None] * len(rollouts)
        befores = [str(rollouts[row].columns.get(self.before, "")) if self.before else "" for row in known]
        texts = [str(rollouts[row].columns[self.column]) for row in known]
        told = [f"{before}\n{rollouts[row].text}" for before, row in zip(befores, known, strict=True)]
        # Without a completion a text is scored once for its group.
        pairs = list(dict.fromkeys([*zip(befores, texts, strict=True), *zip(told, texts, strict=True)]))
        scores = dict(zip(pairs, self.log_likelihoods(pairs), strict=True))
        for row, before, with_it, text in zip(known, befores, told, texts, strict=True):
            gain = scores[with_it, text] - scores[before, text]
            gains[row] = gain if rollouts[row].text.strip() else 0.0
        return gains

    @torch.no_grad()
    def log_likelihoods(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Mean log-probability of a token of each text behind what comes before it, in nats."""
        lm, tokenizer = self._scorer()
        rows = self._ids(lm, tokenizer, pairs)
        found = [0.0] * len(rows)
        # By length, so that batches hold little padding.
        order = sorted(range(len(rows)), key=lambda row: len(rows[row][0]) + len(rows[row][1]))
        for start in range(0, len(order), BATCH):
            part = [row for row in order[start : start + BATCH] if rows[row][1]]
            if not part:
                continue
            batch = completion_batch([rows[row][0] for row in part], [rows[row][1] for row in part])
            scores = score_completions(lm, batch.to(lm.device)).logprobs.float().cpu()
            counts = [len(rows[row][1]) for row in part]
            for row, logprobs in zip(part, scores.split(counts), strict=True):
                found[row] = float(logprobs.mean())
        return found

    def _ids(
        self, lm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Sequence[tuple[str, str]]
    ) -> list[tuple[list[int], list[int]]]:
        """Token ids of what comes before and of each text; what does not fit is cut off at the beginning."""
        limit = max_positions(lm)
        tokens = min(self.tokens, limit // 2) if limit else self.tokens
        prompts = encode_prompts(tokenizer, [f"{before}\n" for before, _ in pairs])
        ids = (
            tokenizer([unicode_text(text) for _, text in pairs], add_special_tokens=False)["input_ids"] if pairs else []
        )
        texts = [row[:tokens] for row in ids]
        return [
            (prompt[max(len(prompt) + len(text) - limit, 0) :] if limit else prompt, text)
            for prompt, text in zip(prompts, texts, strict=True)
        ]

    def _scorer(self) -> Scorer:
        """The model; each process reads a file once, and again when it has changed."""
        file, device = Path(self.model), self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        changed = file.stat().st_mtime_ns if file.is_file() else 0
        return _loaded(self.model, changed, device, self.trust_remote_code)


@lru_cache(maxsize=2)
def _loaded(model: str, changed: int, device: str, trust_remote_code: bool) -> Scorer:
    """A model that is in use; ``changed``, the file's modification time, tells a rewritten file apart."""
    if model.endswith(".ckpt"):
        lm, tokenizer = read_language_model(model, trust_remote_code=trust_remote_code)
    else:
        lm = load_lm(model, trust_remote_code=trust_remote_code)
        tokenizer = load_tokenizer(model, trust_remote_code)
    return Scorer(lm.eval().requires_grad_(False).to(device), tokenizer)
