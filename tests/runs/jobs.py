"""Small runs as a user would set them up in Python; also run in processes of their own."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_narrative.callbacks.sae_refresh import SAERefresh
from lit_narrative.datamodules.base import Split
from lit_narrative.datamodules.storyworld import StoryworldData
from lit_narrative.lm.load import Lora, ScratchModel
from lit_narrative.lm.sampler import SamplingParams
from lit_narrative.lm.tokenizer import TrainedTokenizer
from lit_narrative.modules.grpo import GRPOModule
from lit_narrative.modules.language import LanguageModule
from lit_narrative.modules.sft import SFTModule
from lit_narrative.sae.autoencoder import SAESettings
from lit_narrative.views import Example, Prompt
from tests.helpers import PROMPTS, TinyTask

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
    """Two cycles of two rollout batches of 16 completions, two passes over each; 8 steps a cycle, one process."""
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
    refresh = SAERefresh(SAESettings(d_sae=16, k=4), worlds=16, plays_per_world=2, steps=20, min_worlds=4)
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


class EvenTask(TinyTask):
    """Nineteen rows, which two processes cannot share evenly, with completions of one length.

    The loss of SFT is a mean over a batch's tokens; where all batches have as many, it is the same on any number of
    processes.
    """

    def __init__(self, batch_size: int) -> None:
        super().__init__(rows=19, batch_size=batch_size, eval_batch_size=3)

    def examples(self, split: Split) -> list[Example]:
        return [Example(PROMPTS[n % len(PROMPTS)], f"{n:03}.") for n in range(self.rows)]


class Writes(Callback):
    """Completes one prompt before training: all processes but the first have nothing to do."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, LanguageModule)
        prompts = [Prompt(PROMPTS[0])][trainer.global_rank :: trainer.world_size]
        assert len(pl_module.generate(prompts)) == len(prompts)


def imitate(folder: Path, base: Path, lora: Lora | None = None, ckpt_path: Path | None = None, **options: Any) -> None:
    """Four steps of SFT from ``base``, validated after each second, then tested; leaves what each process found."""
    seed_everything(0, verbose=False)
    module = SFTModule(
        str(base), sampling=SamplingParams(12), lora=lora, lr=1e-3, schedule="cosine", warmup_steps=1, weight_decay=0.1
    )
    saver = ModelCheckpoint(folder / "checkpoints", save_top_k=-1, every_n_train_steps=1)
    run = trainer(folder, saver, Writes(), max_steps=4, val_check_interval=2, gradient_clip_val=0.5, **options)
    data = EvenTask(4 if run.world_size == 1 else 2)
    run.fit(module, data, ckpt_path=ckpt_path)
    metrics = run.callback_metrics | run.test(module, data, verbose=False)[0]
    texts = {r.columns["index"]: r.text for batch in run.predict(module, data) or [] for r in batch}  # type: ignore[union-attr]
    torch.save((metrics, texts), folder / f"found_{run.global_rank}.pt")


def reinforce(folder: Path, base: Path, ckpt_path: Path | None = None, **options: Any) -> None:
    """Two rollout batches of 16 completions from ``base``, two passes and so two optimizer steps each.

    ``options`` that are not the Trainer's are the module's.
    """
    seed_everything(0, verbose=False)
    names = ("lora", "loss", "advantage", "reference")
    module = GRPOModule(
        {"low": 1.0},
        num_generations=4,
        micro_batch_size=4 if options.get("devices", 1) == 1 else 2,
        num_iterations=2,
        model=str(base),
        sampling=SamplingParams(12),
        lr=1e-4,
        **{name: options.pop(name) for name in names if name in options},
    )
    saver = ModelCheckpoint(folder / "checkpoints", save_top_k=-1, every_n_train_steps=1)
    settings = {"max_epochs": 1, "accumulate_grad_batches": 4, "gradient_clip_val": 1.0, "limit_val_batches": 0}
    run = trainer(folder, saver, **settings, **options)
    run.fit(module, TinyTask(rows=8, batch_size=4 if run.world_size == 1 else 2), ckpt_path=ckpt_path)
    torch.save((run.callback_metrics, {}), folder / f"found_{run.global_rank}.pt")


def found(folder: Path) -> tuple[dict[str, float], dict[int, str]]:
    """The metrics of the first process, and what all of them wrote."""
    parts = [torch.load(path) for path in sorted(folder.glob("found_*.pt"))]
    return {name: float(value) for name, value in parts[0][0].items()}, {
        k: v for _, texts in parts for k, v in texts.items()
    }
