"""A job of the command line takes as many threads as pay."""

import logging

from lightning.pytorch import Callback, LightningModule, Trainer

from lit_narrative.lm.load import base_lm
from lit_narrative.lm.threads import choose_threads, threads_are_given
from lit_narrative.modules.language import LanguageModule

logger = logging.getLogger(__name__)


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
