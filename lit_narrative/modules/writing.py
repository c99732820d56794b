"""What writes text: a policy that completes prompts, with its tokenizer and its sampling."""

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase

from lit_narrative.lm.examples import LongExamples, example_batch
from lit_narrative.lm.load import max_positions
from lit_narrative.lm.prompts import LongPrompts, PromptReader
from lit_narrative.lm.sampler import Request, Sampler, SamplingParams
from lit_narrative.lm.shard import gathered
from lit_narrative.modules.narrative import NarrativeModule
from lit_narrative.rl.rollout import Rollout
from lit_narrative.seeds import run_seed, stream_seed
from lit_narrative.views import Example, Prompt

logger = logging.getLogger(__name__)


class WritingModule(NarrativeModule):
    """Reads examples and prompts, and completes prompts.

    Attributes:
        lm: the policy.
        tokenizer: its tokenizer.
        sampler: how it is made to write.
        sampling: how completions are sampled, and scored.
        chat: prompts are wrapped as a user's turn.
        long_examples: what happens to an example longer than the model's positions.
        max_prompt_length: of prompts to complete, in tokens; None: what the positions leave beside the completion.
        long_prompts: what happens to a longer one.
        written: in the test so far, by this process; None where the test writes nothing.
    """

    lm: nn.Module
    tokenizer: PreTrainedTokenizerBase
    sampler: Sampler
    sampling: SamplingParams
    chat: bool
    long_examples: LongExamples
    max_prompt_length: int | None
    long_prompts: LongPrompts
    written: list[Rollout] | None = None

    # --- reading ----------------------------------------------------------------------------------------------------

    def admit(self, rows: Sequence[Any]) -> Sequence[Any]:
        """The rows that the model can read: all of them, or with ``long_prompts: drop`` those whose prompt fits."""
        if len(rows) and isinstance(rows[0], Example) and self.long_examples == "error":
            for row in rows:
                self.collate([row])
        if not len(rows) or not isinstance(rows[0], Prompt):
            return rows
        reader = self.prompt_reader()
        kept = reader.admit(rows)
        if (gone := len(rows) - len(kept)) and self.global_rank == 0:
            logger.warning("left out %d of %d prompts that exceed %s tokens", gone, len(rows), reader.limit)
        return kept

    def collate(self, rows: Sequence[Any]) -> Any:
        """Examples become one tokenised, right-padded batch; prompts stay as they are."""
        if not isinstance(rows[0], Example):
            return list(rows)
        return example_batch(
            rows,
            self.tokenizer,
            limit=max_positions(self.lm),
            long_examples=self.long_examples,
            chat=self.chat,
        )

    def prompt_reader(self, params: SamplingParams | None = None) -> PromptReader:
        """What turns prompts into token ids, for completions as long as ``params`` (default: the module's) allow."""
        return PromptReader(
            self.tokenizer,
            max_positions(self.lm),
            (params or self.sampling).max_new_tokens,
            self.max_prompt_length,
            self.long_prompts,
            self.chat,
        )

    # --- writing ----------------------------------------------------------------------------------------------------

    def generate(
        self,
        prompts: Sequence[Prompt],
        samples: int = 1,
        seed: int = 0,
        params: SamplingParams | None = None,
        streams: Sequence[int] | None = None,
    ) -> list[Rollout]:
        """Sample ``samples`` completions of every prompt, in order, in evaluation mode.

        The random stream of a completion depends on ``seed``, its sample number and the prompt's number in ``streams``
        (default: its ``index`` column, its place in ``prompts`` without one), so that it is the same on any number of
        processes.
        """
        numbers = [int(prompt.columns.get("index", place)) for place, prompt in enumerate(prompts)]
        ids = self.prompt_reader(params).encode([prompt.text for prompt in prompts])
        requests = [
            Request(prompt, row, [stream_seed(seed, number, n) for n in range(samples)])
            for number, prompt, row in zip(streams or numbers, prompts, ids, strict=True)
        ]
        self.lm.eval()
        try:
            with self.precision(), gathered(self.lm):
                return self.sampler.sample(self.lm, self.tokenizer, requests, params or self.sampling)
        finally:
            self.train(self.training)

    def precision(self) -> AbstractContextManager[None]:
        """The Trainer's precision, for model calls outside of its steps."""
        return self.trainer.precision_plugin.forward_context() if self._trainer else nullcontext()

    def predict_step(self, batch: list[Prompt], batch_idx: int) -> list[Rollout]:
        """Complete every prompt of the batch."""
        return self.generate(batch, seed=run_seed())
