"""The sampler behind which an inference server stands, and how the policy's weights reach it."""

import logging
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from lit_narrative.errors import UserError
from lit_narrative.files import atomic_folder
from lit_narrative.lm.checkpoint import write_model
from lit_narrative.lm.load import base_lm, end_ids
from lit_narrative.lm.logprobs import to_rows
from lit_narrative.lm.sampler import Decoded, Request, SamplingParams, as_rollouts
from lit_narrative.rl.batch import RolloutBatch
from lit_narrative.rl.rewards.http import InThread, run_in_thread
from lit_narrative.rl.sampling import Policy
from lit_narrative.rl.served.client import THREAD, Call, Client
from lit_narrative.rl.served.engines import (
    ENGINES,
    LIST_MODELS,
    OWNERS,
    Completion,
    ServerInfo,
    Weights,
    WrongWeightsError,
    read_loaded,
    read_models,
    read_version,
)
from lit_narrative.rl.served.settings import PREFIX, ServedSettings
from lit_narrative.views import Prompt, Rollout

logger = logging.getLogger(__name__)
RELOADS = 2
"""How often one rollout batch may find other weights than the run's at the server."""
PROBES = 4
"""Completions of the first prompt that are compared before the run begins."""


def one_process(value: Any) -> Any:
    """What the first process says, where there is no other."""
    return value


def alone(value: Any) -> list[Any]:
    """What each process says, where there is no other."""
    return [value]


class Drawing(NamedTuple):
    """Completions that are being drawn while the trainer goes on.

    Attributes:
        requests: ids and seeds of each, by which its completions are found again.
        step: optimizer steps of the weights that draw them.
        work: the completions, in order.
    """

    requests: list[tuple[list[int], list[int]]]
    step: int
    work: InThread[list[Completion]]


class ServedSampler:
    """Samples by a server; see `ServedSettings`.

    The ids are the server's own, never tokenised again. Which of them end a completion is said with each request, so
    that a policy ends its texts as it does here. Each completion has a seed; whether it is then the same on another
    day depends on the server (batch invariance).

    Args:
        settings: which server.
        folder: for the weights, where the settings name none.
        rank: of this process. The first one writes the weights, and has the server load them.
        broadcast: gives every process the value of the first.
        gather: gives every process the values of all, once all are there.

    Attributes:
        weights: those that the server is to have; None before the first update.
        step: optimizer steps that the policy had taken by then.
        drawn_step: optimizer steps that the policy had taken whose completions `sample` gave last.
    """

    def __init__(
        self,
        settings: ServedSettings,
        folder: Path,
        rank: int = 0,
        broadcast: Callable[[Any], Any] = one_process,
        gather: Callable[[Any], list[Any]] = alone,
    ) -> None:
        self.settings, self.rank, self.broadcast, self.gather = settings, rank, broadcast, gather
        self.folder = Path(settings.folder or folder).absolute()
        self.engine, self.client = ENGINES[settings.engine], Client(settings)
        self.weights: Weights | None = None
        self.step = self.drawn_step = 0
        self._drawing: Drawing | None = None
        self._drawn: tuple[Drawing, list[Completion]] | None = None
        # Of this run alone: a server may still have weights of an earlier one, by the same number of steps.
        self.run = ""
        self._info: ServerInfo | None = None

    # --- weights ----------------------------------------------------------------------------------------------------

    @property
    def info(self) -> ServerInfo:
        """What the server serves, asked once.

        Raises:
            UserError: it is not there, or is one of another kind.
        """
        if self._info is None:
            ((self._info, owner),) = self.client.ask([LIST_MODELS], read_models)
            if owner in OWNERS and owner != self.settings.engine:
                raise UserError(f"{PREFIX}engine={self.settings.engine}, but {self.settings.url} is {owner}; give that")
        return self._info

    def update(self, lm: nn.Module, tokenizer: PreTrainedTokenizerBase, step: int) -> None:
        """Give the server the policy's weights, where ``sync_steps`` optimizer steps were made since the last time.

        What is being drawn is waited for: one rollout batch is of one policy. All processes have to call it, and
        fail together.

        Args:
            lm: the policy; of sharded weights every process gathers its part.
            tokenizer: the policy's.
            step: optimizer steps made so far.

        Raises:
            UserError: they cannot be written, or the server does not take them.
        """
        self.wait()
        before = self.weights
        if before is not None and step - self.step < self.settings.sync_steps:
            return
        self.run = self.run or self.broadcast(secrets.token_hex(4))
        version = f"{self.run}-{step}"
        adapters = not isinstance(lm, PreTrainedModel)
        self.weights, self.step = Weights(version, str(self.folder / version), adapters), step
        state = _whole_state(lm)
        self._on_first(lambda: self._put(lm, tokenizer, state, before))

    def _on_first(self, work: Callable[[], None]) -> None:
        """Do something on the first process; where it fails, all processes end by its error."""
        failure = None
        if self.rank == 0:
            try:
                work()
            except (UserError, OSError) as error:
                failure = str(error) if isinstance(error, UserError) else f"{PREFIX}folder: {error}"
        if failure := self.broadcast(failure):
            raise UserError(failure)

    def _put(
        self, lm: nn.Module, tokenizer: PreTrainedTokenizerBase, state: dict[str, Any] | None, before: Weights | None
    ) -> None:
        assert self.weights is not None
        _ = self.info  # a server that is not there is found before gigabytes are written
        with atomic_folder(self.weights.path) as fresh, _without_progress_bars():
            if self.weights.adapters:
                lm.save_pretrained(fresh, selected_adapters=["default"], state_dict=state)  # type: ignore[operator]
            else:
                write_model(base_lm(lm), tokenizer, fresh, state)
        run_in_thread(self._load(self.weights), THREAD)
        if before is not None:
            if before.adapters:
                # A server that has started anew since then knows nothing of them.
                self.client.ask([self.engine.unload(before)], lambda status, answer: None)
            shutil.rmtree(before.path, ignore_errors=True)

    def close(self) -> None:
        """End what is being drawn, and remove what was written for the server; the run needs it no longer."""
        self.forget()
        if self.weights is not None and self.rank == 0:
            shutil.rmtree(self.weights.path, ignore_errors=True)
        self.weights = None

    async def _load(self, weights: Weights) -> None:
        for call in self.engine.load(weights):
            await self.client.ask_all([call], read_loaded)

    # --- ahead ------------------------------------------------------------------------------------------------------

    @property
    def drawn(self) -> bool:
        """Whether completions wait for the `sample` that takes them."""
        return self._drawn is not None

    def start(
        self, lm: nn.Module, tokenizer: PreTrainedTokenizerBase, requests: Sequence[Request], params: SamplingParams
    ) -> None:
        """Begin to draw what `sample` will be asked for, by the weights of the last update; the trainer may go on.

        Raises:
            UserError: the server reads no sequence as long as these may become.
        """
        assert self._drawing is None
        self._check(requests, params)
        # The thread gets plain numbers alone: the model and the tokenizer are the trainer's meanwhile.
        work = InThread(self._draw(*self._calls(requests, params, end_ids(lm, tokenizer))), THREAD)
        self._drawing = Drawing(_key(requests), self.step, work)

    def wait(self) -> None:
        """Wait for what was begun; the processes go on together, or fail together.

        Raises:
            UserError: it could not be drawn.
        """
        drawing, self._drawing = self._drawing, None
        if drawing is None:
            return
        failure = None
        try:
            self._drawn = drawing, drawing.work.result()
        except UserError as error:
            failure = str(error)
        if failure := next(filter(None, self.gather(failure)), None):
            raise UserError(failure)

    def forget(self) -> None:
        """End what is being drawn, and leave out what was."""
        drawing, self._drawing, self._drawn = self._drawing, None, None
        if drawing is not None:
            drawing.work.cancel()

    # --- sampling ---------------------------------------------------------------------------------------------------

    def sample(
        self, lm: nn.Module, tokenizer: PreTrainedTokenizerBase, requests: Sequence[Request], params: SamplingParams
    ) -> list[Rollout]:
        """Complete every request, by the weights of the last update; what `start` and `wait` have drawn is there.

        Where the server has others (it was started anew, or another run uses it), it gets these again and all
        completions are drawn again.

        Raises:
            UserError: the server does not answer, loses the weights again and again, answers what the policy cannot
                have written, or reads no sequence as long as these may become; or a request has vectors or a grammar.
        """
        ends = end_ids(lm, tokenizer)
        if self._drawn is None:
            self._check(requests, params)
            self.drawn_step = self.step
            completions = run_in_thread(self._draw(*self._calls(requests, params, ends)), THREAD)
        else:
            (drawing, completions), self._drawn = self._drawn, None
            assert drawing.requests == _key(requests)
            self.drawn_step = drawing.step
        self._check_completions(completions, base_lm(lm), params, ends)
        ids = [torch.tensor(completion.ids) for completion in completions]
        logprobs = [torch.tensor(completion.logprobs) for completion in completions]
        lengths = torch.tensor([len(row) for row in ids])
        decoded = Decoded(pad_sequence(ids, batch_first=True), pad_sequence(logprobs, batch_first=True), lengths)
        return as_rollouts(tokenizer, requests, decoded, ends, 0)

    def _calls(
        self, requests: Sequence[Request], params: SamplingParams, ends: Sequence[int]
    ) -> tuple[Weights, list[Call]]:
        assert self.weights is not None
        return self.weights, [
            self.engine.complete(self.weights, request.ids, seed, params, ends)
            for request in requests
            for seed in request.seeds
        ]

    async def _draw(self, weights: Weights, calls: Sequence[Call]) -> list[Completion]:
        found: object = None
        for attempt in range(RELOADS + 1):
            if attempt:
                logger.warning("%s has other weights (%s) than the run's; loading them again", self.where, found)
                await self._load(weights)
            try:
                return await self._draw_once(weights, calls)
            except WrongWeightsError as error:
                found = error
        raise UserError(
            f"model.served: {self.where} has lost the weights '{weights.version}' {RELOADS + 1} times in one "
            f"rollout batch, and has {found}; give each run a server of its own, and see what it logs"
        )

    async def _draw_once(self, weights: Weights, calls: Sequence[Call]) -> list[Completion]:
        await self._check_version(weights)
        completions = await self.client.ask_all(calls, lambda status, answer: self.engine.read(weights, status, answer))
        await self._check_version(weights)
        return completions

    async def _check_version(self, weights: Weights) -> None:
        if call := self.engine.ask_version(weights):
            (version,) = await self.client.ask_all([call], read_version)
            if version != weights.version:
                raise WrongWeightsError(version)

    @property
    def where(self) -> str:
        """The server as messages name it."""
        return self.settings.where

    def _check(self, requests: Sequence[Request], params: SamplingParams) -> None:
        if any(request.prompt.injection is not None for request in requests) or params.grammar is not None:
            raise UserError("model.served: a server knows neither vectors to inject nor model.sampling.grammar")
        longest = max(len(request.ids) for request in requests) + params.max_new_tokens
        if self.info.positions is not None and longest > self.info.positions:
            raise UserError(
                f"model.served: {self.where} reads at most {self.info.positions} tokens, and a prompt with its "
                f"completion takes up to {longest}: start the server with a longer context, or lower "
                "model.sampling.max_new_tokens or model.max_prompt_length"
            )

    def _check_completions(
        self, completions: Sequence[Completion], base: PreTrainedModel, params: SamplingParams, ends: Sequence[int]
    ) -> None:
        vocabulary, most = base.config.get_text_config().vocab_size, params.max_new_tokens
        for ids, _ in completions:
            if max(ids) >= vocabulary:
                problem = f"a token {max(ids)}, and the policy has {vocabulary}"
            elif len(ids) > most or any(token in ends for token in ids[:-1]):
                problem = "completions that go on behind their end"
            elif len(ids) < most and ids[-1] not in ends:
                problem = f"a completion that ends with token {ids[-1]}, which ends none of the policy's"
            else:
                continue
            raise UserError(
                f"model.served: {self.where} serves '{self.info.model}', which writes {problem}; serve the model that "
                "is trained"
            )


def _key(requests: Sequence[Request]) -> list[tuple[list[int], list[int]]]:
    return [(list(request.ids), list(request.seeds)) for request in requests]


def measure_drift(policy: Policy, prompts: Sequence[Prompt]) -> float:
    """Mean over tokens of |log p sampler - log p policy|, nats, of a few completions of each prompt."""
    batch = RolloutBatch.of(policy.generate(prompts, PROBES))
    with policy.precision(), torch.no_grad():
        logprobs = to_rows(policy.score(policy.lm, batch.batch).logprobs.float().cpu(), batch.mask)
    return float((logprobs - batch.old).abs()[batch.mask].mean())


@contextmanager
def _without_progress_bars() -> Iterator[None]:
    """Within it transformers draws none: they would stand between the lines of the Trainer's, step by step."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def _whole_state(lm: nn.Module) -> dict[str, Any] | None:
    """The weights of a model that is sharded over processes, whole on each of them; None of any other."""
    state = lm.state_dict()
    if not any(isinstance(value, DTensor) for value in state.values()):
        return None
    return {name: value.full_tensor() if isinstance(value, DTensor) else value for name, value in state.items()}
