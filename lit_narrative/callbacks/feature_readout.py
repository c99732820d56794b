"""What an SAE reads off a tested policy's texts: its features of held-out worlds against the options that are open."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lit_narrative.callbacks.base import dry_run, isolated, task
from lit_narrative.callbacks.policy_states import (
    Read,
    StateReader,
    View,
    describe_features,
    feature_metrics,
    state_vectors,
)
from lit_narrative.distributed import gather_lists
from lit_narrative.errors import UserError, check_least
from lit_narrative.files import write_json
from lit_narrative.modules.language import LanguageModule
from lit_narrative.modules.sae import SAEModule
from lit_narrative.sae.autoencoder import SAESettings
from lit_narrative.seeds import run_seed, stream_seed
from lit_narrative.views import Rollout


class FeatureReadout(Callback):
    """Trains an SAE at a test on what the policy wrote, and measures how well its features tell which options are open.

    The SAE is a fresh one of the same settings for every policy, so that policies are compared and not the SAEs of
    their trainings. Logged as ``test/readout/<view>/…``: ``auc_sae``, ``auc_raw`` (the vectors themselves),
    ``auc_permuted`` (chance), ``auc_random_encoder`` and ``auc_random_decoder`` (controls), ``worlds``, and the
    measures of the SAE. ``readout/<view>.json`` holds all of it. Where too few texts have moments, the counts alone
    are logged.

    Args:
        sae: the SAE and its training.
        views: what is read of the texts: ``states`` of the games, ``activations`` of the policy, or both.
        layer: of the policy (activations): 0 is what its first block reads, l the output of block l; default: the
            middle.
        samples: how many held-out prompts to complete, once each.
        plays_per_world: random plays of each.
        steps: of the SAE's training.
        batch_size: states a step.
        heldout: share of worlds kept from training, to measure on.
        min_worlds: with fewer there is no measurement.
        controls: as of `SAERefresh`.
        seed: of the random streams.

    Raises:
        UserError: an argument is out of range.
    """

    def __init__(
        self,
        sae: SAESettings,
        views: Sequence[View] = ("states",),
        layer: int | None = None,
        samples: int = 256,
        plays_per_world: int = 2,
        steps: int = 600,
        batch_size: int = 256,
        heldout: float = 0.2,
        min_worlds: int = 16,
        controls: int = 1,
        seed: int = 0,
    ) -> None:
        if not 0 < heldout < 1:
            raise UserError(f"callback FeatureReadout: heldout={heldout} must lie between 0 and 1")
        limits = (
            ("samples", samples, 1),
            ("steps", steps, 1),
            ("min_worlds", min_worlds, 2),
            ("controls", controls, 0),
        )
        for name, value, least in limits:
            check_least(f"FeatureReadout.{name}", value, least)
        if not views:
            raise UserError("callback FeatureReadout: views is empty; name states, activations or both")
        self.sae = sae
        readers = [StateReader(view, layer if view == "activations" else None, plays_per_world) for view in views]
        self.readers = {reader.view: reader for reader in readers}
        for reader in readers:
            reader.check("FeatureReadout")
        self.samples, self.steps, self.batch_size, self.heldout = samples, steps, batch_size, heldout
        self.min_worlds, self.controls, self.seed = min_worlds, controls, seed

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a module that writes no text, a task without plays, and a layer that the model lacks."""
        if not isinstance(pl_module, LanguageModule):
            name = type(pl_module).__name__
            raise UserError(f"callback FeatureReadout needs a module that writes text; {name} does not")
        if not task(trainer).has_plays:
            raise UserError(
                f"callback FeatureReadout: {type(task(trainer)).__name__} offers no plays of texts, so nothing is open "
                "or closed in them; leave the callback out"
            )
        for reader in self.readers.values():
            reader.check_run("FeatureReadout", task(trainer), pl_module)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write, play, train, measure."""
        assert isinstance(pl_module, LanguageModule)
        prompts = list(islice(task(trainer).rows_for("prompts", "test"), 8 if dry_run(trainer) else self.samples))
        written = pl_module.generate(prompts[trainer.global_rank :: trainer.world_size], seed=self.seed)
        rollouts = gather_lists(trainer, written)
        rollouts.sort(key=lambda rollout: int(rollout.columns["index"]))
        for view, reader in self.readers.items():
            found = self._measure(trainer, pl_module, reader, rollouts)
            metrics = {"worlds": float(found["worlds"]), **(feature_metrics(found) if "metrics" in found else {})}
            named = {f"test/readout/{view}/{name}": torch.tensor(float(value)) for name, value in metrics.items()}
            pl_module.log_dict(named, rank_zero_only=False)
            if trainer.is_global_zero and not dry_run(trainer):
                write_json(Path(trainer.default_root_dir, "readout", f"{view}.json"), found)

    def _measure(
        self, trainer: Trainer, module: LanguageModule, reader: StateReader, rollouts: Sequence[Rollout]
    ) -> dict[str, Any]:
        seed = stream_seed(run_seed(), self.seed)
        texts, layout = reader.read(task(trainer), module, rollouts, seed, None)
        counts = {"view": reader.view, "written": len(rollouts), "worlds": len(texts)}
        if len(texts) < (2 if dry_run(trainer) else self.min_worlds):
            return counts
        read = Read.split(len(rollouts), texts, self.heldout, layout)
        vectors = torch.from_numpy(state_vectors(read.train)).to(module.device)
        with isolated():  # a Trainer tests under inference mode
            sae = SAEModule(**vars(self.sae))
            sae.build(vectors.shape[1])
            sae.train_on(vectors.clone(), self.steps, self.batch_size, torch.Generator().manual_seed(seed))
            return counts | describe_features(sae, read, self.steps, self.batch_size, seed, self.controls)
