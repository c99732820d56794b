"""Completions in several turns: what the policy wrote is answered by an environment, and it writes again behind that.

The turns of a completion are one sequence: prompt, first text, observation, second text, and so on. Each text ends with
the token that the policy drew to end it; a text that was cut off is not answered. The policy's tokens of all turns are
the completion, with the log-probabilities that they were drawn with; observations are read and never scored, so that
losses, divergences, entropies and lengths know nothing of them. A grammar begins anew with each turn.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from lit_narrative.errors import UserError, check_least
from lit_narrative.lm.chat import chat_observation
from lit_narrative.lm.grammar import join_turns
from lit_narrative.lm.logprobs import with_observations
from lit_narrative.lm.sampler import Request, Sampler, SamplingParams
from lit_narrative.seeds import stream_seed
from lit_narrative.text import unicode_text
from lit_narrative.views import Prompt, Rollout, Turn

TURN = 7_000
"""Random stream of the first further turn of a completion, beside those that other samplers make of its seed."""


class Environment(Protocol):
    """What answers completions, so that the policy may write again.

    It is a function of the completions: its answer depends on their prompts, columns and turns so far, and on nothing
    else. It never raises on generated text, and takes bounded time.
    """

    def __call__(self, rollouts: Sequence[Rollout]) -> Sequence[str | None]:
        """The answer to each completion in order, None where it stands as it is."""


@dataclass(frozen=True)
class TurnSettings:
    """How often the policy writes, and what answers it.

    Args:
        environment: the task's, by name.
        most: turns of a completion at most, 2 or more.
        observation_tokens: tokens of an observation at most; a longer one is not read, and no further turn is taken.

    Raises:
        UserError: a number is out of range.
    """

    environment: str
    most: int = 2
    observation_tokens: int = 128

    def __post_init__(self) -> None:
        check_least("model.turns.most", self.most, 2)
        check_least("model.turns.observation_tokens", self.observation_tokens, 1)

    @property
    def tokens(self) -> int:
        """Tokens of the observations of a completion at most."""
        return (self.most - 1) * self.observation_tokens


def observation_ids(tokenizer: PreTrainedTokenizerBase, text: str, chat: bool) -> list[int]:
    """Token ids of an observation: the text alone, or with ``chat`` a user's turn and the beginning of the next answer.

    The text may hold what the policy wrote: the names of special tokens in it are text like any other, and become
    spaces.

    Raises:
        UserError: the chat template refuses a second turn.
    """
    text = unicode_text(text)
    for name in sorted({token.content for token in tokenizer.added_tokens_decoder.values()}, key=len, reverse=True):
        if name.strip():
            text = text.replace(name, " ")
    if chat:
        return chat_observation(tokenizer, text)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


class TurnSampler:
    """A wrapper around any sampler that lets the policy write again behind what an environment answers.

    Args:
        sampler: the wrapped sampler.
        environment: what answers.
        settings: how often, and at what length.
        chat: observations are users' turns of the chat template.
    """

    def __init__(self, sampler: Sampler, environment: Environment, settings: TurnSettings, chat: bool = False) -> None:
        self.sampler, self.environment, self.settings, self.chat = sampler, environment, settings, chat

    def sample(
        self, lm: nn.Module, tokenizer: PreTrainedTokenizerBase, requests: Sequence[Request], params: SamplingParams
    ) -> list[Rollout]:
        """Complete every request, in turns.

        Raises:
            UserError: a prompt has vectors to inject, which turns are not known to.
        """
        if any(request.prompt.injection is not None for request in requests):
            raise UserError("model.turns is not known to prompts with vectors to inject; leave it out")
        rows = [(request.prompt, seed) for request in requests for seed in request.seeds]
        rollouts = self.sampler.sample(lm, tokenizer, requests, params)
        masks = [[rollout.masks] for rollout in rollouts]
        left: Sequence[int] = range(len(rollouts))
        for turn in range(1, self.settings.most):
            left = self._answer(tokenizer, rollouts, [row for row in left if rollouts[row].finished])
            if not left:
                break
            # Each row has a past of its own by now: no two share a prompt.
            again = [_request(rollouts[row], *rows[row], turn) for row in left]
            for row, written in zip(left, self.sampler.sample(lm, tokenizer, again, params), strict=True):
                rollouts[row] = _continued(rollouts[row], written)
                masks[row].append(written.masks)
        if params.grammar is None:
            return rollouts
        return [replace(one, masks=its) for one, its in zip(rollouts, join_turns(masks), strict=True)]  # type: ignore[arg-type]

    def _answer(self, tokenizer: PreTrainedTokenizerBase, rollouts: list[Rollout], rows: Sequence[int]) -> list[int]:
        """Add to some rollouts what they are answered; those of them that are to be continued."""
        answers = self.environment([rollouts[row] for row in rows])
        answered = []
        for row, text in zip(rows, answers, strict=True):
            if text is None:
                continue
            ids = observation_ids(tokenizer, text, self.chat)
            if len(ids) > self.settings.observation_tokens:
                rollouts[row] = replace(rollouts[row], untaken=True)
                continue
            turn = Turn(rollouts[row].text, text, len(rollouts[row].last_ids), tuple(ids))
            rollouts[row] = replace(rollouts[row], turns=(*rollouts[row].turns, turn))
            answered.append(row)
        return answered


def _request(rollout: Rollout, prompt: Prompt, seed: int, turn: int) -> Request:
    """What comes next of a completion that was answered."""
    ids = torch.cat([rollout.prompt_ids, with_observations(rollout.completion_ids, rollout.turns)])
    return Request(prompt, ids.tolist(), [stream_seed(seed, TURN + turn)])


def _continued(rollout: Rollout, written: Rollout) -> Rollout:
    """A completion with one more turn behind it."""
    return replace(
        rollout,
        completion_ids=torch.cat([rollout.completion_ids, written.completion_ids]),
        logprobs=torch.cat([rollout.logprobs, written.logprobs]),
        finished=written.finished,
        text=written.text,
    )
