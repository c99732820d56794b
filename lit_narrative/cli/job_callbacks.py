"""Callbacks of every job of the command line: its model in one line, how far it is, and the threads that pay."""

import logging
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelSummary, ProgressBar, RichProgressBar
from lightning.pytorch.utilities.model_summary.model_summary import get_human_readable_count
from torch import nn

from lit_narrative.callbacks.writers import PredictionWriter
from lit_narrative.lm.load import base_lm
from lit_narrative.lm.threads import choose_threads, threads_are_given
from lit_narrative.modules.language import LanguageModule

logger = logging.getLogger(__name__)


class EpochBar(RichProgressBar):
    """Lightning's bar, which counts epochs from 1; where their number has no limit, it names none."""

    def _get_train_description(self, current_epoch: int) -> str:
        last = self.trainer.max_epochs
        text = f"Epoch {current_epoch + 1}" + (f" of {last}" if last is not None and last > 0 else "")
        return text.ljust(len(self.validation_description))  # of one length, so that nothing flickers


class ModelLine(Callback):
    """A line on the models of a run, in place of Lightning's table of layers, modes and operations."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say of each model how many parameters it has, and whether they are trained."""
        parts = [f"{name} {text}" for name, part in pl_module.named_children() if (text := _size(part))]
        if parts and trainer.is_global_zero:
            print(f"{type(pl_module).__name__}: {'; '.join(parts)}")


class PredictionLine(Callback):
    """A line on what a prediction has written, and where."""

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Behind whatever is written at the end."""
        for one in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(one, PredictionWriter) and one.written:
                print(one.written)


def _size(part: nn.Module) -> str:
    """``LlamaForCausalLM, 8.2 K parameters, of which 1 K are trained``; nothing where there are no parameters."""
    counts = [(parameter.numel(), parameter.requires_grad) for parameter in part.parameters()]
    total, trained = sum(count for count, _ in counts), sum(count for count, trains in counts if trains)
    if not total:
        return ""
    words = "" if trained == total else f", of which {_count(trained)} are trained" if trained else ", not trained"
    return f"{type(part).__name__}, {_count(total)} parameters{words}"


def _count(number: int) -> str:
    return get_human_readable_count(number).strip()


def console_callbacks(settings: Any) -> list[Callback]:
    """The callbacks that show a job, as far as the Trainer's settings leave that to us.

    Args:
        settings: of the Trainer, with its callbacks as a list.
    """
    given, ours = settings.callbacks, list[Callback]()
    if settings.barebones:
        return ours
    if settings.enable_progress_bar is not False and not any(isinstance(one, ProgressBar) for one in given):
        ours.append(EpochBar())
    if settings.enable_model_summary is not False and not any(isinstance(one, ModelSummary) for one in given):
        ours.append(ModelLine())
    return ours


class FastestThreads(Callback):
    """Measures, once a job and before its first step, with how many threads the language model is fastest.

    What the environment says stands (``OMP_NUM_THREADS``), and so does PyTorch's choice where several processes share
    the machine.
    """

    _chosen = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Before training."""
        self._choose(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Before a validation by itself."""
        self._choose(trainer, pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Before a test."""
        self._choose(trainer, pl_module)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Before prompts are completed."""
        self._choose(trainer, pl_module)

    def _choose(self, trainer: Trainer, module: LightningModule) -> None:
        if self._chosen or not isinstance(module, LanguageModule) or trainer.world_size > 1 or threads_are_given():
            return
        self._chosen = True
        logger.info("threads: %d, by measurement", choose_threads(base_lm(module.lm)))
