"""The reconstruction reward: how much of a vector a critic gets back from the words that a policy found for it.

Notation: R completions, a width of the vectors, e the squared error of a reconstruction, a mean over its components.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from lit_narrative.errors import UserError, check_choice, check_least
from lit_narrative.lm.vectors.fve import losses
from lit_narrative.lm.vectors.reconstructor import Reconstructor
from lit_narrative.rl.rewards.base import Reconstruct
from lit_narrative.seeds import run_seed, stream_seed
from lit_narrative.views import Rollout

Transform = Literal["negative", "exp", "bounded", "log"]
Baseline = Literal["none", "ema", "batch"]
TARGET = "target"
"""The column of a prompt that holds the vector to get back."""
SMALLEST = 1e-6
"""The least error that its logarithm tells apart."""
MEMORY = 0.01
"""Weight of a new batch in the running baseline."""


@dataclass(frozen=True)
class ReconstructionSettings:
    """How an error becomes a reward.

    Args:
        transform: ``negative`` -e; ``exp`` exp(-steepness e), in 0..1; ``bounded`` 1 / (1 + e), in 0..1; ``log``
            -log e, which never stops asking for more.
        steepness: of ``exp``, above 0.
        scale: factor on the reward, above 0.
        clip: lowest and highest reward.
        baseline: ``ema`` takes a running mean over batches off and divides by the running deviation, ``batch`` those of
            the batch; both of this process's completions. Not needed where advantages compare a group.
        floor: reward of a completion that is no explanation: of another form, without words, or cut off.
        truncate: the critic reads a random beginning of the explanation, of at least so many words; 0: all of it.
            Completions of one prompt are cut at the same share of their length.

    Raises:
        UserError: a value is out of range.
    """

    transform: Transform = "negative"
    steepness: float = 1.0
    scale: float = 1.0
    clip: tuple[float, float] | None = None
    baseline: Baseline = "none"
    floor: float = -2.0
    truncate: int = 0

    def __post_init__(self) -> None:
        check_choice("the reconstruction reward's transform", self.transform, get_args(Transform))
        check_choice("the reconstruction reward's baseline", self.baseline, get_args(Baseline))
        check_least("the reconstruction reward's truncate", self.truncate, 0)
        for name in ("steepness", "scale"):
            if not 0 < getattr(self, name) < math.inf:
                raise UserError(f"the reconstruction reward's {name}={getattr(self, name)} must be above 0")
        if self.steepness != 1 and self.transform != "exp":
            raise UserError(f"the reconstruction reward's steepness is read by transform=exp, not by {self.transform}")
        if not math.isfinite(self.floor):
            raise UserError(f"the reconstruction reward's floor={self.floor} must be a number")
        if self.clip is not None and not self.clip[0] < self.clip[1]:
            raise UserError(f"the reconstruction reward's clip={self.clip} must be a lower and a higher number")


def transformed(errors: Tensor, transform: Transform, steepness: float = 1.0) -> Tensor:
    """Rewards (R,) of errors (R,)."""
    if transform == "exp":
        return (-steepness * errors).exp()
    if transform == "bounded":
        return 1 / (1 + errors)
    return -errors.clamp(min=SMALLEST).log() if transform == "log" else -errors


def standardised(rewards: Tensor) -> Tensor:
    """Rewards (R,) less their mean, over their unbiased deviation; a reward that is alone becomes 0."""
    if len(rewards) < 2:
        return torch.zeros_like(rewards)
    return (rewards - rewards.mean()) / (rewards.std() + 1e-8)


class RunningBaseline:
    """A running mean and deviation of rewards, which begin as those of the first batch."""

    def __init__(self) -> None:
        self.mean: float | None = None
        self.deviation = 1.0

    def __call__(self, rewards: Tensor) -> Tensor:
        """Take a batch (R,) into account, and give its rewards by the baseline."""
        if len(rewards):
            mean = float(rewards.mean())
            deviation = float(rewards.std()) if len(rewards) > 1 else self.deviation
            if self.mean is None:
                self.mean, self.deviation = mean, deviation
            else:
                self.mean += MEMORY * (mean - self.mean)
                self.deviation += MEMORY * (deviation - self.deviation)
        return (rewards - (self.mean or 0.0)) / (self.deviation + 1e-8)


def beginning(text: str, least: int, share: float) -> str:
    """The first words of a text: from ``least`` (1 or more) of them at share 0 to all of them as it nears 1."""
    words = text.split()
    keep = least + int(share * (len(words) - least + 1))
    return text if len(words) <= least else " ".join(words[:keep])


class ReconstructionReward:
    """What a critic gets back of the vector that a completion explains, compared with the vector in column ``target``.

    The critic is that of a checkpoint until another one is handed over (`UsesCritic`), as the callback
    ``CriticTraining`` does where it learns along with the policy.

    Args:
        checkpoint: of ``ReconstructorModule``, or of a run in which a critic was trained.
        parse: the explanation in a completion's text, None where it has none.
        settings: how an error becomes a reward.
        device: where the critic of the checkpoint works; default: the GPU of this process if there is one, else the
            CPU.
        name: what logs call it.
        trust_remote_code: run the Python code that the critic's model brings along.

    Raises:
        UserError: there is no such checkpoint, or it holds no critic.
    """

    def __init__(
        self,
        checkpoint: str,
        parse: Callable[[str], str | None],
        settings: ReconstructionSettings = ReconstructionSettings(),
        device: str | None = None,
        name: str = "reconstruction",
        trust_remote_code: bool = False,
    ) -> None:
        self.checkpoint, self.parse, self.settings, self.name = checkpoint, parse, settings, name
        self.trust_remote_code = trust_remote_code
        # Loaded now, so that a wrong path fails as the run begins and not at the first rewards.
        critic = Reconstructor.load(checkpoint, trust_remote_code).requires_grad_(False)
        critic.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.width, self.norm = critic.width, critic.scale
        self._reconstruct: Reconstruct = critic.reconstruct
        self._baseline = RunningBaseline()
        self.version = 0

    def update_critic(self, reconstruct: Reconstruct, version: int) -> None:
        """Score by another critic of the same kind from now on."""
        self._reconstruct, self.version = reconstruct, version

    def __call__(self, rollouts: Sequence[Rollout]) -> list[float]:
        """Rewards, in order; the floor where there is no explanation."""
        errors = self.errors(rollouts)
        read = [number for number, error in enumerate(errors) if error is not None]
        given = self._rewards(torch.tensor([error for error in errors if error is not None]))
        rewards = [self.settings.floor] * len(rollouts)
        for number, reward in zip(read, given.tolist(), strict=True):
            rewards[number] = reward
        return rewards

    def _rewards(self, errors: Tensor) -> Tensor:
        """(n,) of the errors (n,) of explanations."""
        settings = self.settings
        rewards = settings.scale * transformed(errors, settings.transform, settings.steepness)
        if settings.baseline == "ema":
            rewards = self._baseline(rewards)
        elif settings.baseline == "batch":
            rewards = standardised(rewards)
        return rewards.clamp(*settings.clip) if settings.clip else rewards

    def errors(self, rollouts: Sequence[Rollout]) -> list[float | None]:
        """The error of each reconstruction; None where there is no explanation to read.

        Raises:
            UserError: a prompt has no target, or one of another width than the critic's vectors.
        """
        texts = self.explanations(rollouts)
        read = [number for number, text in enumerate(texts) if text is not None]
        found: list[float | None] = [None] * len(rollouts)
        targets = self.targets(rollouts)  # of all: a fault of the data is told even if nothing can be read
        if read:
            predicted = self._reconstruct([text for text in texts if text is not None])
            for number, error in zip(read, self.error(predicted, targets[read]).tolist(), strict=True):
                found[number] = error
        return found

    def error(self, predicted: Tensor, targets: Tensor) -> Tensor:
        """(n,) the error of vectors (n, a) at the norm at which the critic compares them."""
        return losses(predicted.float().cpu(), targets, "mse", self.norm)

    def explanations(self, rollouts: Sequence[Rollout]) -> list[str | None]:
        """What the critic reads of each completion; None of one that is no explanation."""
        return [self._explanation(rollout) for rollout in rollouts]

    def _explanation(self, rollout: Rollout) -> str | None:
        # A text that was cut off fails even if its form is right: else lengths grow towards the limit.
        text = self.parse(rollout.text) if rollout.finished else None
        if text is None or not text.strip():
            return None
        if not self.settings.truncate:
            return text
        # By the prompt and not by the completion, so that those of a group remain comparable.
        seed = stream_seed(run_seed(), self.version, int(rollout.columns.get("index", 0)))
        return beginning(text, self.settings.truncate, seed / 2**63)

    def targets(self, rollouts: Sequence[Rollout]) -> Tensor:
        """(R, a) float32, the vectors to get back.

        Raises:
            UserError: a prompt has none, or one of another width.
        """
        rows = []
        for rollout in rollouts:
            target = rollout.columns.get(TARGET)
            if target is None:
                raise UserError(
                    f"reward '{self.name}': the prompt {rollout.prompt[:60]!r} has no column '{TARGET}', the vector to "
                    "get back; take a task whose prompts have one, such as VerbalizeData"
                )
            row = torch.tensor(target, dtype=torch.float32)
            if row.shape != (self.width,):
                raise UserError(
                    f"reward '{self.name}': a target has the shape {tuple(row.shape)}, and the critic of "
                    f"'{self.checkpoint}' gives vectors {self.width} wide; take a critic that was trained on this data"
                )
            rows.append(row)
        return torch.stack(rows) if rows else torch.zeros(0, self.width)

    def state_dict(self) -> dict[str, Any]:
        """The running baseline."""
        return {"mean": self._baseline.mean, "deviation": self._baseline.deviation}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Undo `state_dict`."""
        self._baseline.mean, self._baseline.deviation = state["mean"], state["deviation"]
