"""Models of the same sizes with a head on one of them, shared by the classifier and steering."""

from pathlib import Path

import pytest

from lit_narrative.modules.classifier import ClassifierModule
from lit_narrative.modules.sft import SFTModule
from tests.helpers import TinyTask, sizes, tokenizer_folder, trainer
from tests.modules.labelled import LabelledTask
from tests.once import MadeOnce


@pytest.fixture(scope="session")
def folder(made_once: MadeOnce) -> Path:
    """A folder with a tokenizer, two checkpoints of models of the same sizes, trained a little, and a head of one."""
    return made_once("models", make_models)


@pytest.fixture(scope="session")
def head(folder: Path) -> Path:
    """A trained head."""
    return folder / "head.ckpt"


def make_models(where: Path) -> None:
    for seed in (0, 1):
        module = SFTModule(sizes(seed=seed), tokenizer_folder(where))
        run = trainer(where, max_steps=20)
        run.fit(module, datamodule=TinyTask())
        run.save_checkpoint(where / f"lm{seed}.ckpt")
    classifier = ClassifierModule(model=str(where / "lm0.ckpt"), lr=0.1)
    run = trainer(where, max_epochs=80, limit_val_batches=1.0)
    run.fit(classifier, datamodule=LabelledTask(batch_size=30))
    assert run.callback_metrics["val/accuracy"] > 0.8
    run.save_checkpoint(where / "head.ckpt")
