"""The verbalizer: vectors put into words by an actor, and found again by a critic, for notebooks and commands.

It takes any vector of the width that the actor learned: activations, their means and differences, and directions such
as the decoder rows of a sparse autoencoder.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from lit_narrative.errors import UserError, check_least
from lit_narrative.lm.chat import chat_prompt
from lit_narrative.lm.checkpoint import load_checkpoint, read_language_model
from lit_narrative.lm.load import base_lm, max_positions
from lit_narrative.lm.sampler import LoopSampler, Request, SamplingParams
from lit_narrative.lm.tokenizer import encode_prompt
from lit_narrative.lm.vectors.inject import Injector
from lit_narrative.lm.vectors.patching import at_norm
from lit_narrative.lm.vectors.reconstructor import Reconstructor
from lit_narrative.seeds import stream_seed
from lit_narrative.views import Prompt, Rollout

MARKER = "{marker}"
"""What stands for the marker in the template of the actor's prompt."""
Vectors = np.ndarray | Tensor


@dataclass(frozen=True, slots=True)
class Explanation:
    """What an actor says of a vector.

    Attributes:
        text: the explanation; None: its answer has none.
        answer: the whole answer.
        score: as `Verbalizer.score`; None without a critic, or without an explanation.
    """

    text: str | None
    answer: str
    score: float | None


class Verbalizer:
    """An actor, and the critic that reads it.

    Args:
        lm: the actor: a causal LM that takes vectors, with or without adapters.
        tokenizer: its tokenizer.
        template: the actor's prompt, with ``{marker}`` once.
        parse: cuts the explanation out of an answer; None where it has none.
        critic: finds vectors again; None: nothing is scored.
        max_new_tokens: longest answer; less where the model's positions end before.
        chat: write the prompt by the tokenizer's chat template, as the actor learned to read it.

    Raises:
        UserError: the model takes no vectors, or the template does not hold ``{marker}`` once.
    """

    def __init__(
        self,
        lm: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        template: str,
        parse: Callable[[str], str | None],
        critic: Reconstructor | None = None,
        max_new_tokens: int = 160,
        chat: bool = False,
    ) -> None:
        injector: Injector | None = getattr(base_lm(lm), "injector", None)
        if injector is None:
            raise UserError("this model takes no vectors: give an actor, which was trained with model.injection")
        if template.count(MARKER) != 1:
            raise UserError(f"the actor's prompt holds {MARKER} {template.count(MARKER)} times and must hold it once")
        self.lm, self.tokenizer, self.parse, self.critic = lm.eval(), tokenizer, parse, critic
        self.width, self.max_new_tokens = int(injector.settings.width or 0), max_new_tokens
        self.prompt, self.chat = template.replace(MARKER, str(injector.settings.marker)), chat
        if critic is not None and critic.width != self.width:
            raise UserError(
                f"the critic gives vectors {critic.width} wide, and the actor takes them {self.width} wide: they are "
                "of different models"
            )

    @classmethod
    def load(
        cls,
        actor: str | Path,
        critic: str | Path | None,
        template: str,
        parse: Callable[[str], str | None],
        max_new_tokens: int = 160,
    ) -> Self:
        """Read actor and critic from checkpoints; a run in which both were trained has both in one file.

        ``template`` and ``parse`` are those of ``lit_narrative.tasks.verbalize.prompts``, or of your own.

        Raises:
            UserError: a file is missing, or does not hold what it should.
        """
        lm, tokenizer = read_language_model(actor)
        chat = bool(load_checkpoint(actor).get("hyper_parameters", {}).get("chat"))
        found = Reconstructor.load(critic) if critic else None
        return cls(lm, tokenizer, template, parse, found, max_new_tokens, chat)

    # --- into words -------------------------------------------------------------------------------------------------

    def explain(
        self, vectors: Vectors, samples: int = 1, seed: int = 0, norm: float | None = None
    ) -> list[Explanation]:
        """Put vectors into words.

        Args:
            vectors: (n, a), or one (a,).
            samples: 1: the likeliest words; more: the best of so many by the critic, drawn at temperature 1.
            seed: of the draw.
            norm: that vectors are brought to first, such as the mean norm of activations for directions of norm 1,
                which actors that inject raw vectors have never seen; None: as they are.

        Raises:
            UserError: the vectors have another width, one is not finite, or there is no critic to choose by.
        """
        check_least("samples", samples, 1)
        if samples > 1 and self.critic is None:
            raise UserError(f"samples={samples} asks for the best by the critic, and there is none; give one")
        rows = self._rows(vectors)
        if norm is not None:
            rows = at_norm(rows, torch.full((len(rows), 1), norm))
        answers = [rollout.text for rollout in self._answers(rows, samples, seed)]
        texts = [self.parse(answer) for answer in answers]
        scores = self._scores(texts, rows.repeat_interleave(samples, 0))
        made = [Explanation(*one) for one in zip(texts, answers, scores, strict=True)]
        groups = [made[start : start + samples] for start in range(0, len(made), samples)]
        return [max(group, key=lambda one: float("-inf") if one.score is None else one.score) for group in groups]

    def _answers(self, rows: Tensor, samples: int, seed: int) -> list[Rollout]:
        read = chat_prompt if self.chat else encode_prompt
        ids = read(self.tokenizer, self.prompt)
        requests = [
            Request(
                Prompt(self.prompt, injection=row.numpy()), ids, [stream_seed(seed, number, n) for n in range(samples)]
            )
            for number, row in enumerate(rows)
        ]
        # A model that has not learned to end its answers would write on behind its last position.
        longest = min(self.max_new_tokens, (max_positions(self.lm) or 2**31) - len(ids))
        if longest < 1:
            raise UserError(f"the actor has no position left behind its prompt of {len(ids)} tokens")
        # Of one candidate the likeliest token is certain, whatever the random stream.
        params = SamplingParams(longest, top_k=1 if samples == 1 else 0)
        return LoopSampler().sample(self.lm, self.tokenizer, requests, params)

    def _scores(self, texts: Sequence[str | None], rows: Tensor) -> list[float | None]:
        known = [number for number, text in enumerate(texts) if text is not None]
        if self.critic is None or not known:
            return [None] * len(texts)
        found = dict(zip(known, self.score([text for text in texts if text is not None], rows[known]), strict=True))
        return [found.get(number) for number in range(len(texts))]

    # --- and back ---------------------------------------------------------------------------------------------------

    def reconstruct(self, texts: Sequence[str], norms: Tensor | None = None) -> Tensor:
        """(n, a) float32: the vectors that texts describe.

        Args:
            texts: n of them.
            norms: (n,) that they are brought to; None: as the critic gives them, where their norm means nothing if it
                compares directions.

        Raises:
            UserError: there is no critic.
        """
        if self.critic is None:
            raise UserError("there is no critic to get vectors back from texts; give one")
        vectors = self.critic.reconstruct(texts)
        return vectors if norms is None else at_norm(vectors, norms.reshape(-1, 1))

    def score(self, texts: Sequence[str], vectors: Vectors) -> list[float]:
        """How well each text describes its vector: the critic's loss with its sign turned, 0 of a perfect one.

        Raises:
            UserError: there is no critic, or the vectors do not fit.
        """
        predicted = self.reconstruct(texts)
        assert self.critic is not None
        return [-float(loss) for loss in self.critic.losses(predicted, self._rows(vectors))]

    def _rows(self, vectors: Vectors) -> Tensor:
        """Vectors (n, a) float32 on the CPU."""
        rows = torch.as_tensor(vectors).detach().float().cpu()
        rows = rows[None] if rows.ndim == 1 else rows
        if rows.ndim != 2 or rows.shape[1] != self.width:
            raise UserError(f"the vectors are {tuple(rows.shape)}, and the actor takes them {self.width} wide")
        if not rows.isfinite().all():
            raise UserError("a vector to explain holds NaN or infinity")
        return rows
