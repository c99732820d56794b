"""A small cycle as a user would set it up in Python; also run in processes of its own."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_narrative.callbacks.sae_refresh import SAERefresh
from lit_narrative.datamodules.storyworld import StoryworldData
from lit_narrative.lm.load import ScratchModel
from lit_narrative.lm.sampler import SamplingParams
from lit_narrative.lm.tokens import TrainedTokenizer
from lit_narrative.modules.grpo import GRPOModule
from lit_narrative.modules.sae import SAEModule
from lit_narrative.modules.sft import SFTModule

REWARDS = {"valid_json": 0.4, "schema": 0.3, "endings": 0.2, "feature_quality": 0.1}


def trainer(folder: Path, *callbacks: Callback, **options: Any) -> Trainer:
    """A quiet Trainer in ``folder``."""
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    return Trainer(default_root_dir=folder, callbacks=list(callbacks), **{**quiet, "accelerator": "cpu", **options})


def warm_start(folder: Path) -> Path:
    """Teach a tiny model sixteen worlds by heart, so that it writes some that can be played."""
    seed_everything(0, verbose=False)
    module = SFTModule(
        ScratchModel(hidden_size=64, layers=2, heads=2, positions=320),
        TrainedTokenizer(vocab_size=768, sample=400),
        sampling=SamplingParams(128),
        lr=1e-2,
    )
    saver = ModelCheckpoint(folder / "checkpoints", save_last=True, save_top_k=0)
    fit = trainer(folder, saver, max_steps=150, limit_val_batches=0, gradient_clip_val=1.0)
    fit.fit(module, corpus(batch_size=16))
    return folder / "checkpoints" / "last.ckpt"


def cycle(
    folder: Path, policy: Path, callbacks: Sequence[Callback] = (), ckpt_path: Path | None = None, **options: Any
) -> Trainer:
    """Two cycles of two windows of 16 completions, two passes over each; 8 optimizer steps a cycle on one process."""
    seed_everything(0, verbose=False)
    module = GRPOModule(
        model=str(policy),
        rewards=REWARDS,
        num_generations=4,
        micro_batch_size=options.pop("micro_batch_size", 4 if options.get("devices", 1) == 1 else 2),
        num_iterations=options.pop("num_iterations", 2),
        sampling=SamplingParams(128),
        lr=1e-4,
    )
    refresh = SAERefresh(lambda: SAEModule(d_sae=16, k=4), worlds=16, plays_per_world=2, steps=20, min_worlds=4)
    saver = ModelCheckpoint(folder / "checkpoints", save_top_k=-1, every_n_train_steps=1)
    settings = {"max_epochs": 2, "limit_train_batches": 16, "accumulate_grad_batches": 2, "limit_val_batches": 0}
    fit = trainer(folder, refresh, saver, *callbacks, **{**settings, "gradient_clip_val": 1.0, **options})
    data = corpus(batch_size=4 if options.get("devices", 1) == 1 else 2)
    fit.fit(module, data, ckpt_path=ckpt_path)
    return fit


def corpus(batch_size: int) -> StoryworldData:
    """Sixteen worlds."""
    return StoryworldData(train_size=16, val_size=16, test_size=16, state_worlds=16, batch_size=batch_size)


def weights(folder: Path, step: int) -> dict[str, torch.Tensor]:
    """The weights that a run left after an optimizer step."""
    (path,) = (folder / "checkpoints").glob(f"*step={step}.ckpt")
    state: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["state_dict"]
    return state


def difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """The largest absolute difference of two sets of weights, which must have the same names."""
    assert one.keys() == other.keys()
    return max((value - other[name]).abs().max().item() for name, value in one.items())
