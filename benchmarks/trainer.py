"""A Trainer that does nothing but train and log, for benchmarks."""

import logging
import warnings
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import CSVLogger


def bare_trainer(folder: str | Path, steps: int, callback: Callback, **options: Any) -> Trainer:
    """For ``steps`` optimizer steps, on the CPU by default, its metrics as a table in ``folder``."""
    for library in ("lightning.pytorch", "lit_narrative"):  # ours warns that no checkpoint is saved
        logging.getLogger(library).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    return Trainer(
        default_root_dir=folder,
        max_steps=steps,
        logger=CSVLogger(folder),
        callbacks=[callback],
        limit_val_batches=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"accelerator": "cpu", **options},
    )
