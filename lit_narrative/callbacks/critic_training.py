"""Training of the critic along with the policy: it learns to read what the policy writes now."""

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, Literal, NamedTuple, get_args

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from lit_narrative.callbacks.base import RolloutCallback, RolloutModule, task
from lit_narrative.distributed import gather, sum_gradients
from lit_narrative.errors import UserError, check_choice, check_finite, check_least
from lit_narrative.lm.optim import GradientGuard, adamw, schedule_by_step
from lit_narrative.lm.vectors.reconstructor import RECONSTRUCTOR, Reconstructor
from lit_narrative.rl.rewards.base import UsesCritic
from lit_narrative.rl.rewards.reconstruction import ReconstructionReward
from lit_narrative.views import Rollout, ScoredRollouts

COMPARED = 64
"""Explanations that are read in both ways, to compare them."""
TOLERANCE = 1e-4
"""Relative difference of an error in the reward and in training above which they are not the same."""
WEIGHTS = "weights"


class ReadRollouts(NamedTuple):
    """The explanations of a rollout batch that the critic learns from, with their vectors (n, a)."""

    texts: list[str]
    targets: Tensor


class CriticTraining(RolloutCallback):
    """Trains the critic of the reconstruction reward on each rollout batch, after that has been scored.

    A reward of a critic that stands still loses its meaning as the policy moves away from the texts that the critic
    knows. Each pass over a rollout batch is one optimizer step, of all its explanations over all processes. What
    changes is handed to every reward and to the task, where they use a critic (`UsesCritic`); the checkpoints of the
    run hold it (``Reconstructor.load`` reads them). Each process has the critic whole, in float32: of a large model
    train adapters, by ``lora`` of `ReconstructorModule`. Metrics ``critic/*``.

    Args:
        checkpoint: of the critic that the run begins with; default: that of the run's reconstruction reward.
        learns_from: ``all`` explanations of a group, or the one of the highest total reward, the ``best``.
        epochs: passes over each rollout batch.
        micro_batch_size: explanations per forward and backward pass.
        lr: peak learning rate of AdamW.
        weight_decay: on matrices.
        warmup_steps: linear warm-up, in steps of the critic.
        gradient_clip_val: norm that gradients are cut to; 0: none.
        max_skipped_steps: stop after so many steps in a row whose gradients were not finite; fewer are skipped and
            counted.
        trust_remote_code: run the Python code that the critic's model brings along.
    """

    def __init__(
        self,
        checkpoint: str | None = None,
        learns_from: Literal["all", "best"] = "all",
        epochs: int = 1,
        micro_batch_size: int = 128,
        lr: float = 3e-4,
        weight_decay: float = 0.01,
        warmup_steps: int = 0,
        gradient_clip_val: float = 1.0,
        max_skipped_steps: int = 10,
        trust_remote_code: bool = False,
    ) -> None:
        check_choice("callback CriticTraining: learns_from", learns_from, get_args(Literal["all", "best"]))
        check_least("callback CriticTraining: epochs", epochs, 1)
        check_least("callback CriticTraining: micro_batch_size", micro_batch_size, 1)
        check_least("callback CriticTraining: warmup_steps", warmup_steps, 0)
        rates = {"lr": lr, "weight_decay": weight_decay, "gradient_clip_val": gradient_clip_val}
        check_finite("callback CriticTraining: ", **rates)
        self.checkpoint, self.learns_from, self.epochs = checkpoint, learns_from, epochs
        self.micro_batch_size, self.lr, self.weight_decay = micro_batch_size, lr, weight_decay
        self.warmup_steps, self.gradient_clip_val = warmup_steps, gradient_clip_val
        self.trust_remote_code = trust_remote_code
        self.guard = GradientGuard(max_skipped_steps, "CriticTraining")
        self.version = 0
        self.critic: Reconstructor | None = None
        self.reward: ReconstructionReward | None = None
        self._restored: dict[str, Any] = {}
        self._compared = False

    # --- building ---------------------------------------------------------------------------------------------------

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the reward whose critic learns, and read that.

        Raises:
            UserError: the run has no such reward, or there is no such critic.
        """
        rewards = self.rollout_module(pl_module).reward_functions
        found = [reward for reward in rewards.values() if isinstance(reward, ReconstructionReward)]
        if not found:
            raise UserError(
                f"callback CriticTraining: no reward of model.rewards ({', '.join(rewards)}) reads by a critic; add "
                "`reconstruction` with its weight, or take the callback out"
            )
        self.reward, self._compared = found[0], False
        if self.critic is None:
            self.set_critic(Reconstructor.load(self.checkpoint or self.reward.checkpoint, self.trust_remote_code))

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hand the critic over, before anything is measured by it."""
        self.on_train_start(trainer, pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on with the critic of the checkpoint that is resumed, and hand it over."""
        # Not in `on_fit_start`: a strategy that shards weights reads the checkpoint after that.
        assert self.critic is not None
        assert self.reward is not None
        if state := self._restored:
            self.set_critic(self._of_checkpoint(state))
            self.critic.to(pl_module.device)  # before the optimizer's state, which goes to where the weights are
            self.optimizer.load_state_dict(state["optimizer"])
            self.schedule.load_state_dict(state["schedule"])
            self.guard.load_state_dict(state["gradients"])
            self.reward.load_state_dict(state["baseline"])
            self._restored = {}
        self.critic.to(pl_module.device)
        self._hand_over(trainer, self.rollout_module(pl_module))

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the task measure by the critic of the checkpoint that is tested."""
        data = task(trainer)
        if self._restored and isinstance(data, UsesCritic):
            critic = self._of_checkpoint(self._restored).to(pl_module.device)
            data.update_critic(critic.reconstruct, self.version)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """As in a test, where this is no part of a fit."""
        if trainer.state.fn != TrainerFn.FITTING:
            self.on_test_start(trainer, pl_module)

    def _of_checkpoint(self, state: Mapping[str, Any]) -> Reconstructor:
        critic = Reconstructor.rebuild(state[RECONSTRUCTOR], self.trust_remote_code)
        critic.load_state_dict(state[WEIGHTS])
        return critic.eval()

    def set_critic(self, critic: Reconstructor) -> None:
        """Take a critic, with a new optimizer; it is without dropout, as the policy is."""
        self.critic = critic.eval()
        self.optimizer = adamw(critic, self.lr, self.weight_decay)
        self.schedule = schedule_by_step(self.optimizer, "constant", self.warmup_steps, None)

    def _hand_over(self, trainer: Trainer, module: RolloutModule) -> None:
        assert self.critic is not None
        for user in (*module.reward_functions.values(), task(trainer)):
            if isinstance(user, UsesCritic):
                user.update_critic(self.critic.reconstruct, self.version)

    # --- learning ---------------------------------------------------------------------------------------------------

    def on_rollouts(self, trainer: Trainer, module: RolloutModule, scored: ScoredRollouts) -> None:
        """Learn from a rollout batch."""
        assert self.critic is not None
        assert self.reward is not None
        texts = self.reward.explanations(scored.rollouts)
        read = [number for number, text in enumerate(texts) if text is not None]
        if not self._compared:
            compare_paths(self.critic, self.reward, scored.rollouts)
            self._compared = True
        chosen = best_of_groups(scored, read) if self.learns_from == "best" else read
        targets = self.reward.targets([scored.rollouts[number] for number in chosen])
        rows = ReadRollouts([str(texts[number]) for number in chosen], targets)
        counts = gather(module, torch.tensor([[len(texts), len(read), len(chosen)]])).sum(0).tolist()  # type: ignore[arg-type]
        metrics = {"explained": counts[1] / max(counts[0], 1)}
        for _ in range(self.epochs if counts[2] else 0):
            with torch.enable_grad():
                metrics |= self._step(module, rows, counts[2])
        self.version += 1
        self._hand_over(trainer, module)
        module.log_dict({f"critic/{name}": torch.tensor(float(value)) for name, value in metrics.items()})

    def _step(self, module: RolloutModule, rows: ReadRollouts, total: int) -> dict[str, float]:
        """One optimizer step on the explanations of all processes; metrics of it."""
        assert self.critic is not None
        self.optimizer.zero_grad()
        loss = 0.0
        for start in range(0, len(rows.texts), self.micro_batch_size):
            part = slice(start, start + self.micro_batch_size)
            losses = self.critic.losses(self.critic.read(rows.texts[part]), rows.targets[part].to(self.critic.device))
            (losses.sum() / total).backward()  # type: ignore[no-untyped-call]
            loss += float(losses.detach().sum()) / total
        # Each process has its part of one mean, maybe none of it; all take part, so that the critics stay equal.
        sum_gradients(self.critic)
        loss = float(gather(module, torch.tensor([loss])).sum())  # type: ignore[arg-type]
        norm = self.guard.clip(self.optimizer, self.gradient_clip_val, "norm")
        rate = self.optimizer.param_groups[0]["lr"]
        self.optimizer.step()
        self.schedule.step()
        return {
            "loss": loss,
            "grad_norm": float(norm),
            "learning_rate": rate,
            "skipped_steps": float(self.guard.skipped),
        }

    # --- checkpoints ------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The critic whole, its optimizer, and what is counted."""
        if self.critic is None or self.reward is None:
            return self._restored
        return {
            RECONSTRUCTOR: self.critic.content(),
            WEIGHTS: {name: value.detach().clone() for name, value in self.critic.state_dict().items()},
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "gradients": self.guard.state_dict(),
            "version": self.version,
            "baseline": self.reward.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep them until `on_train_start`, when there is a critic to take them."""
        self._restored, self.version = state_dict, state_dict.get("version", 0)


def best_of_groups(scored: ScoredRollouts, numbers: Sequence[int]) -> list[int]:
    """Of some rollouts by their numbers, in order, that of the highest total of each group, the first if equal."""
    groups = groupby(numbers, key=lambda number: scored.rollouts[number].group)
    return [max(group, key=lambda number: float(scored.totals[number].nan_to_num(-math.inf))) for _, group in groups]


def compare_paths(critic: Reconstructor, reward: ReconstructionReward, rollouts: Sequence[Rollout]) -> None:
    """Check that the critic reads the same in the reward and in training, where it reads in other batches.

    Raises:
        UserError: it does not; every reward would be of another text, or by other weights, than what is learned.
    """
    errors = reward.errors(rollouts)
    texts = reward.explanations(rollouts)
    chosen = [number for number, text in enumerate(texts) if text is not None][:COMPARED]
    if not chosen:
        return
    with torch.no_grad():
        predicted = critic.read([str(texts[number]) for number in chosen])
    trained = reward.error(predicted, reward.targets([rollouts[number] for number in chosen]))
    rewarded = torch.tensor([errors[number] for number in chosen])
    if not torch.allclose(trained, rewarded, rtol=TOLERANCE, atol=TOLERANCE / 10):
        worst = int((trained - rewarded).abs().argmax())
        raise UserError(
            f"callback CriticTraining: the critic reads {texts[chosen[worst]]!r:.80} with an error of "
            f"{float(rewarded[worst]):.6g} in the reward and of {float(trained[worst]):.6g} in training; the "
            "reward must read by the critic that is trained: leave CriticTraining.checkpoint out"
        )
