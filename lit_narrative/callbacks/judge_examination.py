"""Examination of a judge of similarity by the task's held-out texts, before anything is trained against it."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lit_narrative.callbacks.base import dry_run, task
from lit_narrative.errors import UserError
from lit_narrative.files import write_json
from lit_narrative.modules.similarity import SimilarityModule
from lit_narrative.report.run_folder import versions
from lit_narrative.seeds import run_seed


class JudgeExamination(Callback):
    """Examines the judge at test, as the task says (`TaskDataModule.examine_judge`).

    Logs ``test/<set>/<measure>/<figure>`` and ``test/fit``, and writes to the run folder ``eval/judge.json`` and
    ``judge/``, the judge as a sentence-transformers folder whose ``judge.json`` holds the examination too: rewards by
    that folder know what it is worth.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a module that is no judge."""
        if not isinstance(pl_module, SimilarityModule):
            raise UserError(
                f"callback JudgeExamination needs SimilarityModule, a judge; {type(pl_module).__name__} is none"
            )

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Examine, log and write."""
        assert isinstance(pl_module, SimilarityModule)
        model = pl_module.model
        record = task(trainer).examine_judge(lambda texts, others: model.similarity(texts, others).numpy())
        metrics = {f"test/{name}": torch.tensor(value) for name, value in numbers(record)}
        # Every process examined the same judge on the same texts: there is nothing to reduce.
        pl_module.log_dict(metrics, rank_zero_only=False)
        if trainer.is_global_zero and not dry_run(trainer):
            model.examination = {"seed": run_seed(), **record}
            folder = Path(trainer.default_root_dir)
            beside = {"calibration": model.calibration, "window": model.window, "versions": versions()}
            write_json(folder / "eval" / "judge.json", {**model.examination, **beside})
            model.save(folder / "judge")


def numbers(record: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """What is logged of an examination: whether the judge is fit, and every figure of every measure on every set."""
    yield "fit", float(record["fit"])
    for name, measures in record["sets"].items():
        for measure, figures in measures.items():
            if isinstance(figures, Mapping):
                values = ((f"{name}/{measure}/{key}", value) for key, value in figures.items())
                yield from ((key, float(value)) for key, value in values if isinstance(value, int | float))
