"""The cycle: read what the policy writes, refresh the SAE on it, and reward what the SAE can read.

Any task with a reward that uses an encoder will do, and for ``view: states`` one with plays; this file names neither.
"""

import logging
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer

from lit_narrative.callbacks.base import RolloutCallback, RolloutModule, dry_run, show_images, shows_images, task
from lit_narrative.callbacks.policy_states import (
    Read,
    StateReader,
    View,
    describe_features,
    draw_features,
    feature_metrics,
    readable,
    state_vectors,
)
from lit_narrative.distributed import gather_lists
from lit_narrative.errors import UserError, check_choice, check_least
from lit_narrative.interrupts import may_be_left
from lit_narrative.lm.vectors.residual import ResidualLayout
from lit_narrative.modules.sae import SAEModule
from lit_narrative.rl.rewards.base import AnyReward, UsesEncoder, UsesViews
from lit_narrative.sae.autoencoder import SAESettings
from lit_narrative.sae.controls import FROZEN_PARTS, FrozenPart, freeze
from lit_narrative.seeds import run_seed, stream_seed
from lit_narrative.views import Layout, ScoredRollouts

logger = logging.getLogger(__name__)


class SAERefresh(RolloutCallback):
    """Refreshes the SAE on what the policy writes, at the start of every cycle.

    Texts of the current policy are played, the SAE is trained on the moments of their plays, and every reward that uses
    an encoder (`UsesEncoder`, such as ``feature_quality``) gets the new SAE. A moment is a vector of the game's state,
    or, with ``view: activations``, of the policy's residual stream.

    Training starts from the last cycle's weights, and the latents are matched to the old ones, so that a feature keeps
    its index. Metrics ``cycle/*``; ``sae/cycle_<n>/`` holds the SAE (sae-lens reads it), its layout and its features,
    beside those of controls with a random part. W&B and TensorBoard get a figure of them as ``cycle/features``.

    Args:
        sae: the SAE and its training. A factory of SAEModule is accepted for one release.
        worlds: texts to write a cycle.
        plays_per_world: random plays of each.
        steps: training steps of a refresh.
        batch_size: states a step.
        heldout: share of worlds kept from training, to measure on.
        min_worlds: with fewer playable worlds the refresh is skipped, with a warning.
        threshold: mean reward of a cycle that counts as reached, for ``cycle/to_threshold``.
        view: ``states`` of the games, or ``activations``: the policy's residual stream, on any task.
        layer: of the policy (activations): 0 is what its first block reads, l the output of block l; default: the
            middle.
        refresh: train in every cycle; false: in the first alone, and keep that SAE (a control).
        frozen_part: leave the encoder, or the decoder, of the SAE as it was drawn (a control).
        controls: of each cycle's report: autoencoders with a random encoder, and as many with a random decoder, that
            are trained and measured likewise; 0: none.

    Raises:
        UserError: an argument is out of range.
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
        view: View = "states",
        layer: int | None = None,
        refresh: bool = True,
        frozen_part: FrozenPart | None = None,
        controls: int = 1,
    ) -> None:
        if not 0 < heldout < 1 or min_worlds < 2:
            raise UserError(
                f"callback SAERefresh: heldout={heldout} must lie between 0 and 1 and min_worlds={min_worlds} be at "
                "least 2, so that there are worlds to train on and worlds to measure on"
            )
        self.reader = StateReader(view, layer, plays_per_world)
        self.reader.check("SAERefresh")
        check_least("SAERefresh.controls", controls, 0)
        if frozen_part is not None:
            check_choice("SAERefresh.frozen_part", frozen_part, FROZEN_PARTS)
        self._build_sae: Callable[[], SAEModule]
        if isinstance(sae, SAESettings):
            self._build_sae = partial(SAEModule, **vars(sae))
        else:
            logger.warning("SAERefresh takes the settings themselves as `sae:`; class_path works for one more release")
            self._build_sae = sae
        self.worlds, self.steps, self.batch_size = worlds, steps, batch_size
        self.heldout, self.min_worlds, self.threshold = heldout, min_worlds, threshold
        self.refresh, self.frozen_part, self.controls = refresh, frozen_part, controls
        self.version = -1
        self.layout: Layout | None = None
        self._statistics: dict[str, Any] | None = None
        self._rewards: list[float] = []
        self._had_sae = False
        self._refreshed: dict[str, float] = {}
        self._sum, self._count, self._started, self._spent = 0.0, 0, 0.0, 0.0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Build the SAE, so that a checkpoint has weights to go into."""
        super().setup(trainer, pl_module, stage)
        self.sae = self._build_sae()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a view that task, model or rewards do not have, and a run whose rewards do not use the SAE."""
        # Not in `setup`: Lightning calls that of callbacks before the module's, which asks the task for its rewards.
        data, module = task(trainer), self.rollout_module(pl_module)
        self.reader.check_run("SAERefresh", data, pl_module)
        rewards, view = module.reward_functions, self.reader.view
        if not _readers(rewards):
            raise UserError(
                f"callback SAERefresh: no reward of model.rewards ({', '.join(rewards)}) reads by an SAE; add one that "
                f"does, with its weight ({type(data).__name__} has {', '.join(data.rewards)})"
            )
        for name, reward in rewards.items():
            known = reward.encoder_views if isinstance(reward, UsesViews) else {"states"}
            if isinstance(reward, UsesEncoder) and view not in known:
                raise UserError(
                    f"callback SAERefresh: reward '{name}' reads the view {' or '.join(sorted(known))}, and view is "
                    f"{view}; set another view, or take the reward out of model.rewards"
                )
        if view == "activations" and module.scoring.workers:
            raise UserError(
                f"callback SAERefresh: view=activations reads the policy in this process, and model.scoring.workers is "
                f"{module.scoring.workers}; set it to 0"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """After a resume the rewards get the SAE of the interrupted cycle back."""
        if self.version >= 0:
            module = self.rollout_module(pl_module)
            self.layout = self._restored_layout(trainer, module)
            self._update_rewards(module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write, play, refresh and update the rewards, before the cycle's first rollout."""
        module = self.rollout_module(pl_module)
        self._sum, self._count, self._started = 0.0, 0, time.perf_counter()
        cycle = trainer.current_epoch
        needed = 2 if dry_run(trainer) else self.min_worlds
        with may_be_left(alone=trainer.world_size == 1):
            read = self._read(trainer, module, cycle)
        metrics: dict[str, float] = {
            "number": cycle,
            "worlds": read.written,
            "valid_worlds": read.valid,
            "states": len(read.train) + len(read.heldout),
            "skipped": float(read.valid < needed),
        }
        if read.valid < needed:
            logger.warning(
                "cycle %d: only %d of %d worlds can be played (min_worlds=%d); the SAE stays as it is",
                cycle,
                read.valid,
                read.written,
                needed,
            )
        else:
            metrics |= self._refresh(trainer, module, read, cycle)
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

    def _read(self, trainer: Trainer, module: RolloutModule, cycle: int) -> Read:
        """Texts of the current policy, and their moments."""
        data = task(trainer)
        prompts = data.rows_for("prompts", "train")
        rng = np.random.default_rng([run_seed(), cycle])
        count = min(8 if dry_run(trainer) else self.worlds, len(prompts))
        chosen = rng.choice(len(prompts), size=count, replace=False)
        local = [prompts[int(index)] for index in chosen[trainer.global_rank :: trainer.world_size]]
        rollouts = gather_lists(trainer, module.generate(local, seed=stream_seed(run_seed(), cycle, 0x5AE)))
        # In one order whatever the number of processes: the plays' seeds and the held-out worlds depend on it.
        rollouts.sort(key=lambda rollout: int(rollout.columns["index"]))
        texts, layout = self.reader.read(data, module, rollouts, stream_seed(run_seed(), cycle), self.layout)
        return Read.split(len(rollouts), texts, self.heldout, layout)

    def _refresh(self, trainer: Trainer, module: RolloutModule, read: Read, cycle: int) -> dict[str, float]:
        matched = None
        if self.refresh or self.version < 0:
            matched = self._train(trainer, module, read, cycle)
            self.version, self.layout = cycle, read.layout
        self._update_rewards(module)
        return self._report(trainer, read, matched, cycle)

    def _train(self, trainer: Trainer, module: RolloutModule, read: Read, cycle: int) -> float | None:
        """Train the SAE; the mean cosine of its features with those of the last cycle, None in the first."""
        vectors = state_vectors(read.train)
        before = self.sae.decoder() if self.version >= 0 else None
        self._build(vectors.shape[1])
        self.sae.to(module.device)
        generator = torch.Generator().manual_seed(stream_seed(run_seed(), cycle))
        with torch.enable_grad():
            self.sae.train_on(torch.from_numpy(vectors).to(module.device), self.steps, self.batch_size, generator)
        # Training may move a feature to another latent; matched to those of the last cycle, it keeps its index.
        matched = None if before is None else self.sae.align(before).mean_cosine
        # Every process has trained on the same states, but sums on different devices may round differently.
        self.sae.load_state_dict(trainer.strategy.broadcast(self.sae.state_dict()))
        return matched

    def _build(self, width: int) -> None:
        self.sae.build(width)
        if self.frozen_part is not None:
            freeze(self.sae.sae, self.frozen_part)

    def _report(self, trainer: Trainer, read: Read, matched: float | None, cycle: int) -> dict[str, float]:
        """Measure the SAE, analyse its features beside those of the controls, write them."""
        seed = stream_seed(run_seed(), cycle)
        found = describe_features(self.sae, read, self.steps, self.batch_size, seed, self.controls)
        summary = {"cycle": cycle, "view": self.reader.view, "matched_cosine": matched, **found}
        if trainer.is_global_zero and not dry_run(trainer):
            folder = Path(trainer.default_root_dir, "sae", f"cycle_{cycle:03d}")
            self.sae.save(folder, {"layout.json": read.layout.to_json(), "features.json": summary})
            if shows_images(trainer):
                show_images(trainer, {"cycle/features": draw_features(found)})
        logged = feature_metrics(found)
        return logged if matched is None else logged | {"matched_cosine": matched}

    def _update_rewards(self, module: RolloutModule) -> None:
        assert self.layout is not None
        for reward in _readers(module.reward_functions):
            reward.update_encoder(self.sae.encoder(), self.layout, self.version)

    def _restored_layout(self, trainer: Trainer, module: RolloutModule) -> Layout:
        """The layout of the SAE that a checkpoint brought."""
        if self._statistics is None:
            return task(trainer).layout
        mean, std = (self._statistics[name].cpu().numpy() for name in ("mean", "std"))
        return ResidualLayout(self._statistics["layer"], mean, std, readable("SAERefresh", module))

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
            "layout": self._statistics_of_layout(),
        }

    def _statistics_of_layout(self) -> dict[str, Any] | None:
        """Of the residual stream; a layout of states is the task's."""
        if not isinstance(self.layout, ResidualLayout):
            return self._statistics
        mean, std = torch.from_numpy(self.layout.mean), torch.from_numpy(self.layout.std)
        return {"layer": self.layout.layer, "mean": mean, "std": std}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore them; the reward gets the SAE in `on_train_start`, when there are rewards."""
        self.version, self._rewards = state_dict["version"], state_dict["rewards"]
        self._had_sae = state_dict.get("had_sae", self.version >= 0)  # older checkpoints lack these two
        self._refreshed = state_dict.get("refreshed", {})
        self._sum, self._count = state_dict["progress"][0], int(state_dict["progress"][1])
        self._statistics = state_dict.get("layout")
        self._started = time.perf_counter()
        if state_dict["sae"] is not None:
            self._build(state_dict["sae"]["sae.b_dec"].shape[0])  # a state's width, known here alone
            self.sae.load_state_dict(state_dict["sae"])


def _cycle_metrics(metrics: Mapping[str, float]) -> dict[str, torch.Tensor]:
    return {f"cycle/{name}": torch.tensor(float(value)) for name, value in metrics.items()}


def _readers(rewards: Mapping[str, AnyReward]) -> list[UsesEncoder]:
    return [reward for reward in rewards.values() if isinstance(reward, UsesEncoder)]
