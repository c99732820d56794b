"""Settings of a server that samples for the trainer, and the bound on how far the two may differ."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from lit_narrative.errors import UserError, check_choice, check_least
from lit_narrative.rl.rewards.http import check_url, request_headers

EngineName = Literal["vllm", "sglang"]
PREFIX = "model.served."


@dataclass(frozen=True)
class ServedSettings:
    """A server that draws the rollouts, in place of the sampler in this process.

    Weights reach it by a folder that both can read: after an optimizer step they are written there, and the server is
    told to load them; with ``model.lora`` the adapters alone. All else that the policy writes (validation, tests,
    predictions) is sampled here.

    Args:
        engine: ``vllm`` or ``sglang``, as ``vllm serve`` and ``sglang.launch_server`` start them.
        url: of the server, such as ``http://localhost:8000``.
        folder: for the weights, by the same path on both machines; default: ``served`` in the run's folder. On one
            machine ``/dev/shm/NAME`` spares the disk.
        sync_steps: optimizer steps from one update of the server's weights to the next.
        ahead: draw each rollout batch but the first of an epoch while the one before it is learned from, by the
            weights of before that.
        key_env: environment variable with a key, sent as ``Authorization: Bearer …``; the key itself is never stored.
        timeout: seconds that one request may take, a completion or the loading of weights.
        retries: of a request that failed or took too long, after pauses of 0.5, 1, 2 … up to 30 s.
        connections: completions that are asked for at the same time.
        max_drift: bound on the mean over tokens of |log p server - log p trainer|, nats.
        max_drift_batches: the run ends when that mean is above the bound in so many rollout batches in a row.

    Raises:
        UserError: a value is out of range, the URL is not one, or the environment variable is not set.
    """

    engine: EngineName
    url: str
    folder: str | None = None
    sync_steps: int = 1
    ahead: bool = False
    key_env: str | None = None
    timeout: float = 300.0
    retries: int = 8
    connections: int = 64
    max_drift: float = 0.2
    max_drift_batches: int = 3

    def __post_init__(self) -> None:
        check_choice(f"{PREFIX}engine", self.engine, get_args(EngineName))
        check_url(PREFIX, self.url)
        for name, least in (("sync_steps", 1), ("retries", 0), ("connections", 1), ("max_drift_batches", 1)):
            check_least(PREFIX + name, getattr(self, name), least)
        for name in ("timeout", "max_drift"):
            if not 0 < getattr(self, name) < math.inf:
                raise UserError(f"{PREFIX}{name}={getattr(self, name)} must be a number above 0")
        request_headers(PREFIX, self.key_env)

    @property
    def where(self) -> str:
        """The server as messages name it."""
        return f"{self.engine} at {self.url}"


class DriftBudget:
    """A bound on how far the log-probabilities of a server are from the trainer's, over several rollout batches.

    Args:
        settings: with the bound, and in how many batches in a row it may be passed.
    """

    def __init__(self, settings: ServedSettings) -> None:
        self.settings = settings
        self.above = 0

    def check(self, drift: float) -> None:
        """Refuse a server that differs from the policy before anything was learned.

        Raises:
            UserError: the mean difference of a few completions is above the bound.
        """
        if not drift <= self.settings.max_drift:
            raise UserError(
                f"model.served: {self.settings.where} gives its tokens other log-probabilities than the policy does: "
                f"{self._figures(drift)}. It serves another base model, rounds more coarsely, or (vLLM, with a "
                "temperature) was not started with --logprobs-mode processed_logprobs"
            )

    def update(self, drift: float) -> None:
        """Take in the mean difference of a rollout batch.

        Raises:
            UserError: it was above the bound too often in a row.
        """
        self.above = 0 if drift <= self.settings.max_drift else self.above + 1
        if self.above >= self.settings.max_drift_batches:
            raise UserError(
                f"model.served: in {self.above} rollout batches in a row the log-probabilities of "
                f"{self.settings.where} were too far from the trainer's: {self._figures(drift)}. What is learned from "
                "them is biased. Lower model.served.sync_steps, leave model.served.ahead out, serve in the trainer's "
                "precision, or raise model.served.max_drift"
            )

    def _figures(self, drift: float) -> str:
        return f"by {drift:.3g} nats a token in the mean, where model.served.max_drift={self.settings.max_drift:g}"
