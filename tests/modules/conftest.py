"""Models of the same sizes with a head on one of them, shared by the classifier and steering."""

from pathlib import Path

import pytest

from lit_narrative.modules.classifier import ClassifierModule
from lit_narrative.modules.sft import SFTModule
from tests.helpers import TinyTask, sizes, tokenizer_folder, trainer
from tests.modules.labelled import LabelledTask


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tokenizer and two checkpoints of models of the same sizes, trained a little."""
    where = tmp_path_factory.mktemp("models")
    for seed in (0, 1):
        module = SFTModule(sizes(seed=seed), tokenizer_folder(where))
        run = trainer(where, max_steps=20)
        run.fit(module, datamodule=TinyTask())
        run.save_checkpoint(where / f"lm{seed}.ckpt")
    return where


@pytest.fixture(scope="session")
def head(folder: Path) -> Path:
    """A trained head."""
    module = ClassifierModule(model=str(folder / "lm0.ckpt"), lr=0.1)
    run = trainer(folder, max_epochs=80, limit_val_batches=1.0)
    run.fit(module, datamodule=LabelledTask(batch_size=30))
    assert run.callback_metrics["val/accuracy"] > 0.8
    run.save_checkpoint(folder / "head.ckpt")
    return folder / "head.ckpt"
