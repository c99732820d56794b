"""Stages after each other on one module: fit, then test, validate, predict and fit again from its own checkpoints."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_narrative.lm.load import Lora
from lit_narrative.lm.sampler import SamplingParams
from lit_narrative.lm.sentence_encoder import StaticEncoder
from lit_narrative.modules.classifier import ClassifierModule
from lit_narrative.modules.grpo import GRPOModule
from lit_narrative.modules.reward import RewardModule
from lit_narrative.modules.sae import SAEModule
from lit_narrative.modules.sft import SFTModule
from lit_narrative.rl.reference import ReferenceSettings
from tests.helpers import TinyTask, grpo, others_slow, sizes, tokenizer_folder, trainer, weights
from tests.modules.labelled import LabelledTask
from tests.modules.ratings import Ratings
from tests.modules.test_sae import Data

FOLLOWS = ReferenceSettings(sync_ref_model=True, ref_model_sync_steps=1)


def few_rows() -> TinyTask:
    return TinyTask(rows=4)


def policy(folder: Path, **settings: Any) -> LightningModule:
    return grpo(folder, num_generations=2, sampling=SamplingParams(4), lr=2e-2, **settings)


def sft(folder: Path, **settings: Any) -> LightningModule:
    return SFTModule(sizes(), tokenizer_folder(folder), sampling=SamplingParams(4), lr=2e-2, **settings)


def reward(folder: Path) -> LightningModule:
    return RewardModule(StaticEncoder(width=16, vocab_size=300), hidden=[4])


def classifier(folder: Path) -> LightningModule:
    return ClassifierModule(model=sizes(), tokenizer=tokenizer_folder(folder), sampling=SamplingParams(4), lr=0.1)


MODULES: dict[str, tuple[Callable[[Path], LightningModule], Callable[[], LightningDataModule]]] = {
    "sft": (sft, few_rows),
    "sft lora": (lambda folder: sft(folder, lora=Lora(r=2)), few_rows),
    "grpo": (policy, few_rows),
    "grpo following": (lambda folder: policy(folder, reference=FOLLOWS), few_rows),
    "grpo lora": (lambda folder: policy(folder, lora=Lora(r=2)), few_rows),
    "grpo adapter copy": (lambda folder: policy(folder, lora=Lora(r=2), reference=FOLLOWS), few_rows),
    "grpo gae": (lambda folder: policy(folder, advantage="gae"), few_rows),
    "reward": (reward, lambda: Ratings(rows=32)),
    "classifier": (classifier, LabelledTask),
    "sae": (lambda folder: SAEModule(d_sae=16, k=2), lambda: Data(shuffle=False)),
}


QUICK = ("sft", "grpo", "grpo adapter copy", "grpo gae")


@pytest.mark.parametrize("name", others_slow(MODULES, QUICK))
def test_every_stage_follows_a_fit_on_the_same_module(name: str, tmp_path: Path) -> None:
    make, data = MODULES[name]
    seed_everything(0, verbose=False)
    unbroken = make(tmp_path)
    trainer(tmp_path / "unbroken", max_epochs=2, limit_val_batches=1).fit(unbroken, data())
    seed_everything(0, verbose=False)
    saver = ModelCheckpoint(tmp_path / "checkpoints", save_top_k=1, save_last=True)
    run: Trainer = trainer(tmp_path, saver, max_epochs=1, limit_val_batches=1, enable_checkpointing=True)
    module = make(tmp_path)
    run.fit(module, data())
    fitted = run.test(module, data(), verbose=False)
    for ckpt_path in ("best", "last"):
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(1.0)
        assert run.test(module, data(), ckpt_path=ckpt_path, verbose=False) == fitted
        run.validate(module, data(), ckpt_path=ckpt_path, verbose=False)
        if isinstance(module, SFTModule | GRPOModule):
            assert run.predict(module, data(), ckpt_path=ckpt_path)
    run.fit_loop.max_epochs = 2
    run.fit(module, data(), ckpt_path="last")
    assert run.current_epoch == 2
    for key, value in weights(unbroken).items():
        assert torch.equal(weights(module)[key], value), key
