"""The cycle: play what the policy writes, refresh the SAE on the states, and reward what the SAE can read.

Any task with plays (``states_of``) and a reward that uses an encoder will do; this file names neither.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer

from lit_narrative.callbacks.base import RolloutCallback, RolloutModule, dry_run, task
from lit_narrative.distributed import gather_lists
from lit_narrative.errors import UserError
from lit_narrative.interrupts import may_be_left
from lit_narrative.modules.sae import SAEModule
from lit_narrative.rl.rewards.base import AnyReward, UsesEncoder
from lit_narrative.sae.affordances import analyse
from lit_narrative.sae.autoencoder import SAESettings
from lit_narrative.seeds import run_seed, stream_seed
from lit_narrative.views import ScoredRollouts, State

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Played:
    """States of the worlds that could be played, training worlds and held-out worlds apart.

    Attributes:
        written: worlds that the policy wrote.
        valid: those among them that could be played.
        train: states to train the SAE on.
        heldout: states of other worlds.
    """

    written: int
    valid: int
    train: list[State]
    heldout: list[State]


class SAERefresh(RolloutCallback):
    """Refreshes the SAE on plays of what the policy writes, at the start of every cycle.

    Worlds of the current policy are played, the SAE is trained on their states, and every reward that uses an encoder
    (`UsesEncoder`, such as ``feature_quality``) gets the new SAE.

    Training starts from the last cycle's weights, and the latents are matched to the old ones, so that a feature keeps
    its index. Metrics ``cycle/*``; ``sae/cycle_<n>/`` holds the SAE (sae-lens reads it), its layout and its features.

    Args:
        sae: the SAE and its training. A factory of SAEModule is accepted for one release.
        worlds: worlds to write a cycle.
        plays_per_world: random plays of each.
        steps: training steps of a refresh.
        batch_size: states a step.
        heldout: share of worlds kept from training, to measure on.
        min_worlds: with fewer playable worlds the refresh is skipped, with a warning.
        threshold: mean reward of a cycle that counts as reached, for ``cycle/to_threshold``.
    """

    def __init__(
        self,
        sae: SAESettings | Callable[[], SAEModule],
        worlds: int = 128,
        plays_per_world: int = 3,
        steps: int = 600,
        batch_size: int = 256,
        heldout: float = 0.2,
        min_worlds: int = 16,
        threshold: float | None = None,
    ) -> None:
        if not 0 < heldout < 1 or min_worlds < 2:
            raise UserError(
                f"callback SAERefresh: heldout={heldout} must lie between 0 and 1 and min_worlds={min_worlds} be at "
                "least 2, so that there are worlds to train on and worlds to measure on"
            )
        self._build_sae: Callable[[], SAEModule]
        if isinstance(sae, SAESettings):
            self._build_sae = partial(SAEModule, **vars(sae))
        else:
            logger.warning("SAERefresh takes the settings themselves as `sae:`; class_path works for one more release")
            self._build_sae = sae
        self.worlds, self.plays_per_world, self.steps, self.batch_size = worlds, plays_per_world, steps, batch_size
        self.heldout, self.min_worlds, self.threshold = heldout, min_worlds, threshold
        self.version = -1
        self._rewards: list[float] = []
        self._had_sae = False
        self._refreshed: dict[str, float] = {}
        self._sum, self._count, self._started, self._spent = 0.0, 0, 0.0, 0.0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Build the SAE, so that a checkpoint has weights to go into."""
        super().setup(trainer, pl_module, stage)
        self.sae = self._build_sae()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a task without plays, and a run whose rewards do not use the SAE."""
        # Not in `setup`: Lightning calls that of callbacks before the module's, which asks the task for its rewards.
        data = task(trainer)
        data.states_of((), self.plays_per_world, seed=0)  # plays nothing, and raises where there is nothing to play
        rewards = self.rollout_module(pl_module).reward_functions
        if not _readers(rewards):
            raise UserError(
                f"callback SAERefresh: no reward of model.rewards ({', '.join(rewards)}) reads states by an SAE; add "
                f"one that does, with its weight ({type(data).__name__} has {', '.join(data.rewards)})"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """After a resume the rewards get the SAE of the interrupted cycle back."""
        if self.version >= 0:
            self._update_rewards(trainer, self.rollout_module(pl_module))

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write, play, refresh and update the rewards, before the cycle's first rollout."""
        module = self.rollout_module(pl_module)
        self._sum, self._count, self._started = 0.0, 0, time.perf_counter()
        cycle = trainer.current_epoch
        needed = 2 if dry_run(trainer) else self.min_worlds
        with may_be_left(alone=trainer.world_size == 1):
            played = self._play(trainer, module, cycle)
        metrics: dict[str, float] = {
            "number": cycle,
            "worlds": played.written,
            "valid_worlds": played.valid,
            "states": len(played.train) + len(played.heldout),
            "skipped": float(played.valid < needed),
        }
        if played.valid < needed:
            logger.warning(
                "cycle %d: only %d of %d worlds can be played (min_worlds=%d); the SAE stays as it is",
                cycle,
                played.valid,
                played.written,
                needed,
            )
        else:
            metrics |= self._refresh(trainer, module, played, cycle)
        self._spent = time.perf_counter() - self._started
        # Logged with the cycle's end: what Lightning keeps until then is not in a checkpoint.
        self._refreshed = {name: float(value) for name, value in metrics.items()}

    def on_rollouts(self, trainer: Trainer, module: RolloutModule, scored: ScoredRollouts) -> None:
        """Add a rollout batch to the cycle's mean reward."""
        totals = torch.tensor(gather_lists(trainer, scored.totals.tolist()))
        self._sum += float(totals.nansum())
        self._count += int((~totals.isnan()).sum())

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log how the cycle went: its mean reward, and what has changed since the last one."""
        pl_module.log_dict(_cycle_metrics(self._refreshed))
        if not self._count:
            return
        reward = self._sum / self._count
        metrics = {"reward": reward, "refresh_share": self._spent / (time.perf_counter() - self._started)}
        # Before the first SAE its reward has no score, and the total lacks a term: such a mean compares with no other.
        if self._rewards and self._had_sae == (self.version >= 0):
            metrics["improvement"] = reward - self._rewards[-1]
        self._rewards.append(reward)
        self._had_sae = self.version >= 0
        if self.threshold is not None:
            reached = [cycle for cycle, mean in enumerate(self._rewards, 1) if mean >= self.threshold]
            metrics |= {"to_threshold": reached[0]} if reached else {}
        pl_module.log_dict(_cycle_metrics(metrics))

    # --- the steps of a refresh -------------------------------------------------------------------------------------

    def _play(self, trainer: Trainer, module: RolloutModule, cycle: int) -> Played:
        """Worlds of the current policy, and the states of their plays."""
        data = task(trainer)
        prompts = data.rows_for("prompts", "train")
        rng = np.random.default_rng([run_seed(), cycle])
        count = min(8 if dry_run(trainer) else self.worlds, len(prompts))
        chosen = rng.choice(len(prompts), size=count, replace=False)
        local = [prompts[int(index)] for index in chosen[trainer.global_rank :: trainer.world_size]]
        rollouts = gather_lists(trainer, module.generate(local, seed=stream_seed(run_seed(), cycle, 0x5AE)))
        # In one order whatever the number of processes: the plays' seeds and the held-out worlds depend on it.
        rollouts.sort(key=lambda rollout: int(rollout.columns["index"]))
        texts = [rollout.text for rollout in rollouts]
        worlds = data.states_of(texts, self.plays_per_world, seed=stream_seed(run_seed(), cycle))
        # Whole worlds are held out, one at least: states of one world are too alike for one of them to be new.
        border = min(max(round(len(worlds) * (1 - self.heldout)), 1), len(worlds) - 1)
        train, heldout = worlds[:border], worlds[border:]
        return Played(len(rollouts), len(worlds), [s for w in train for s in w], [s for w in heldout for s in w])

    def _refresh(self, trainer: Trainer, module: RolloutModule, played: Played, cycle: int) -> dict[str, float]:
        train, heldout = _vectors(played.train), _vectors(played.heldout)
        before = self.sae.decoder() if self.version >= 0 else None
        self.sae.build(train.shape[1])
        self.sae.to(module.device)
        generator = torch.Generator().manual_seed(stream_seed(run_seed(), cycle))
        with torch.enable_grad():
            self.sae.train_on(torch.from_numpy(train).to(module.device), self.steps, self.batch_size, generator)
        # Training may move a feature to another latent; matched to those of the last cycle, it keeps its index.
        matched = None if before is None else self.sae.align(before).mean_cosine
        # Every process has trained on the same states, but sums on different devices may round differently.
        self.sae.load_state_dict(trainer.strategy.broadcast(self.sae.state_dict()))
        self.version = cycle
        self._update_rewards(trainer, module)
        return self._report(trainer, played, heldout, matched)

    def _report(self, trainer: Trainer, played: Played, heldout: np.ndarray, matched: float | None) -> dict[str, float]:
        """Measure the SAE, analyse its features, write both."""
        seen = self.sae.measure(torch.from_numpy(_vectors(played.train)).to(self.sae.device))
        unseen = self.sae.measure(torch.from_numpy(heldout).to(self.sae.device))
        states = [*played.train, *played.heldout]
        features = analyse(states, self.sae.encoder(), seed=stream_seed(run_seed(), self.version))
        metrics = {name: seen[name] for name in ("explained_variance", "l0", "dead_fraction", "mse")}
        metrics["explained_variance_heldout"] = unseen["explained_variance"]
        summary = {"cycle": self.version, "metrics": metrics, "matched_cosine": matched, **features}
        if trainer.is_global_zero and not dry_run(trainer):
            folder = Path(trainer.default_root_dir, "sae", f"cycle_{self.version:03d}")
            self.sae.save(folder, {"layout.json": task(trainer).layout.to_json(), "features.json": summary})
        logged = dict(metrics, significant_features=features["significant"])
        logged |= {f"auc_{name}": value for name, value in features["readout"].items() if value is not None}
        return logged if matched is None else logged | {"matched_cosine": matched}

    def _update_rewards(self, trainer: Trainer, module: RolloutModule) -> None:
        for reward in _readers(module.reward_functions):
            reward.update_encoder(self.sae.encoder(), task(trainer).layout, self.version)

    # --- checkpoints ------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The SAE, and where the cycle stands."""
        return {
            "sae": self.sae.state_dict() if self.version >= 0 else None,
            "version": self.version,
            "rewards": self._rewards,
            "had_sae": self._had_sae,
            "refreshed": self._refreshed,
            "progress": [self._sum, float(self._count)],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore them; the reward gets the SAE in `on_train_start`, when there are rewards."""
        self.version, self._rewards = state_dict["version"], state_dict["rewards"]
        self._had_sae = state_dict.get("had_sae", self.version >= 0)  # older checkpoints lack these two
        self._refreshed = state_dict.get("refreshed", {})
        self._sum, self._count = state_dict["progress"][0], int(state_dict["progress"][1])
        self._started = time.perf_counter()
        if state_dict["sae"] is not None:
            self.sae.build(state_dict["sae"]["sae.b_dec"].shape[0])  # a state's width, known here alone
            self.sae.load_state_dict(state_dict["sae"])


def _cycle_metrics(metrics: Mapping[str, float]) -> dict[str, torch.Tensor]:
    return {f"cycle/{name}": torch.tensor(float(value)) for name, value in metrics.items()}


def _readers(rewards: Mapping[str, AnyReward]) -> list[UsesEncoder]:
    return [reward for reward in rewards.values() if isinstance(reward, UsesEncoder)]


def _vectors(states: list[State]) -> np.ndarray:
    return np.stack([state.vector for state in states]).astype(np.float32, copy=False)
