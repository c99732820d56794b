"""Writers of what the policy wrote: a table of samples, files of rollouts, files of predictions."""

import hashlib
import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger

from lit_narrative.callbacks.base import RolloutCallback, RolloutModule, dry_run, first_process_works, task
from lit_narrative.datamodules.order import own_shards
from lit_narrative.distributed import gather_lists, gather_objects
from lit_narrative.errors import UserError, check_choice, check_least
from lit_narrative.files import csv_text, write_jsonl, write_table
from lit_narrative.redaction import redact
from lit_narrative.seeds import run_seed
from lit_narrative.shards import ShardFormat, Shards, text_digest
from lit_narrative.views import Rollout, ScoredRollouts, prompt_text

logger = logging.getLogger(__name__)


class SampleTable(RolloutCallback):
    """A few rollouts with their rewards as a table, for the loggers that show tables, and as ``samples/train.csv``.

    The file holds the latest table; the report shows it.

    Args:
        rows: completions of the table, from the first groups of the rollout batch.
        every_n_rollout_batches: how often.
        every_n_windows: former name of ``every_n_rollout_batches``, accepted for one release.
    """

    def __init__(self, rows: int = 8, every_n_rollout_batches: int = 10, *, every_n_windows: int | None = None) -> None:
        if every_n_windows is not None:
            logger.warning("SampleTable: every_n_windows is now every_n_rollout_batches")
            every_n_rollout_batches = every_n_windows
        check_least("callback SampleTable: rows", rows, 1)
        check_least("callback SampleTable: every_n_rollout_batches", every_n_rollout_batches, 1)
        self.rows, self.every_n_rollout_batches = rows, every_n_rollout_batches
        self._batches = 0

    def state_dict(self) -> dict[str, Any]:
        """How many rollout batches have gone by."""
        return {"windows": self._batches}  # the key of earlier checkpoints

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume the count."""
        self._batches = state_dict["windows"]

    def on_rollouts(self, trainer: Trainer, module: RolloutModule, scored: ScoredRollouts) -> None:
        """Write the table, and hand it to the loggers that show tables."""
        due = self._batches % self.every_n_rollout_batches == 0
        self._batches += 1
        if not due or not trainer.is_global_zero or dry_run(trainer):
            return
        rows = [{"step": trainer.global_step, **row} for row in rollout_rows(scored)[: self.rows]]
        columns, table = list(rows[0]), [list(row.values()) for row in rows]
        write_table(Path(trainer.default_root_dir, "samples", "train.csv"), columns, table)
        for target in trainer.loggers:
            # Lightning's loggers have no common method for tables or text: the two that can show one are asked by type.
            if isinstance(target, WandbLogger):
                target.log_table("samples/train", columns=columns, data=table, step=trainer.global_step)
            elif isinstance(target, TensorBoardLogger):
                target.experiment.add_text("samples/train", csv_text([columns, *table]), trainer.global_step)


class RolloutWriter(RolloutCallback):
    """Writes every rollout of a cycle to ``rollouts/cycle_<n>.jsonl``: prompt, messages, text, rewards, advantage."""

    def __init__(self) -> None:
        self._rows: list[dict[str, Any]] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin a cycle's file."""
        # Lightning leaves this hook out for an epoch that it resumes in the middle, whose rows the checkpoint holds.
        self._rows = []

    def on_rollouts(self, trainer: Trainer, module: RolloutModule, scored: ScoredRollouts) -> None:
        """Keep the rows of a rollout batch, those of all processes."""
        rows = zip(rollout_rows(scored), scored.rollouts, strict=True)
        own = [{"window": scored.number, **row, **rollout.prompt_columns} for row, rollout in rows]
        self._rows += gather_lists(trainer, own)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the cycle's file."""
        if trainer.is_global_zero and not dry_run(trainer):
            path = Path(trainer.default_root_dir, "rollouts", f"cycle_{trainer.current_epoch:03d}.jsonl")
            write_jsonl(path, self._rows)

    def state_dict(self) -> dict[str, Any]:
        """The rows of the cycle in progress."""
        return {"rows": self._rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume the cycle in progress."""
        self._rows = state_dict["rows"]


def rollout_rows(scored: ScoredRollouts) -> list[dict[str, Any]]:
    """Scored rollouts as plain rows."""
    return [
        {
            "prompt": rollout.prompt,
            "text": rollout.text,
            "reward": _number(scored.totals[i]),
            **{f"rewards/{name}": _number(values[i]) for name, values in scored.rewards.items()},
            "advantage": _number(scored.advantages[i]),
            "finished": rollout.finished,
        }
        for i, rollout in enumerate(scored.rollouts)
    ]


def _number(value: torch.Tensor) -> float | None:
    return None if value.isnan() else float(value)


class PredictionWriter(BasePredictionWriter):
    """Writes what ``predict`` samples: prompt, its number, text, log-probability, tokens, whether the model ended it.

    By default all of it becomes one file at the end, ``samples/predictions.jsonl``. With ``shard_rows`` it becomes the
    files of a folder, ``samples/predictions/`` (`lit_narrative.shards`): each is written as soon as its prompts are
    complete, and memory holds the texts of one. Processes share out whole files, so that these depend on prompts, seed
    and ``shard_rows``, and not on batch size or number of processes. The same command in the same run folder goes on
    where an earlier one, with as many processes or not, was broken off; unfinished files are begun again.

    ``predict/texts_per_second`` and ``predict/tokens_per_second`` are logged with each file, of one process, and at the
    end of all; ``predict/unique`` is the share of different texts, within each file, and at the end among all.

    Args:
        shard_rows: prompts a file; None: one file, of everything.
        format: of these files, ``jsonl`` or ``parquet``.
        deduplicate: of texts that differ in white space alone keep the first by the order of prompts, over all files.

    Attributes:
        written: what was written, in a line; on the first process, at the end.
    """

    written = ""

    def __init__(self, shard_rows: int | None = None, format: ShardFormat = "jsonl", deduplicate: bool = True) -> None:
        super().__init__(write_interval="epoch" if shard_rows is None else "batch")
        check_least("callback PredictionWriter: shard_rows", shard_rows, 1)
        check_choice("callback PredictionWriter: format", format, get_args(ShardFormat))
        if shard_rows is None and format != "jsonl":
            raise UserError(f"callback PredictionWriter: format={format} is of shards; give shard_rows as well")
        self.shard_rows, self.format, self.deduplicate = shard_rows, format, deduplicate
        self._pending: list[dict[str, Any]] = []
        self._own: frozenset[int] = frozenset()
        self._prompts, self._since = 0, 0.0
        self._totals = np.zeros(4)  # texts, tokens, seconds, texts kept; of this process and this run

    # --- one file ---------------------------------------------------------------------------------------------------

    def write_on_epoch_end(
        self, trainer: Trainer, pl_module: LightningModule, predictions: Sequence[Any], batch_indices: Sequence[Any]
    ) -> None:
        """Write the completions of all processes in one file."""
        rollouts = gather_lists(trainer, [rollout for batch in predictions for rollout in batch])
        if trainer.is_global_zero and not dry_run(trainer):
            rows = map(prediction_row, rollouts)
            path = write_jsonl(Path(trainer.default_root_dir, "samples", "predictions.jsonl"), rows)
            self.written = f"{len(rollouts):,} texts in '{path}'"

    # --- shards -----------------------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Have the task deal the prompts by shards, without those that an earlier run has written."""
        data = task(trainer)
        if self.shard_rows is None or stage != "predict" or dry_run(trainer):
            return
        if data is None:
            raise UserError("callback PredictionWriter: shard_rows needs a task, as Trainer.predict(datamodule=...)")
        folder = Path(trainer.default_root_dir, "samples", "predictions")
        self.shards = Shards(folder, self.format, self.deduplicate)
        data.predict_shards = (self.shard_rows, self.shards.done())

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the settings of the run, or see that it goes on with the same ones.

        Raises:
            UserError: it does not.
        """
        data = task(trainer)
        if self.shard_rows is None or data.predict_shards is None:
            return
        with first_process_works(trainer) as works:
            if works:
                self.shards.begin(self._settings(trainer, pl_module))
        rows, (size, done) = data.rows_for("prompts", data.predict_split), data.predict_shards
        if done:
            logger.info("%d of %d shards in '%s' are there", len(done), -(-len(rows) // size), self.shards.folder)
        self._own = frozenset(own_shards(len(rows), size, done, trainer.global_rank, trainer.world_size))
        self._pending, self._prompts, self._totals = [], 0, np.zeros(4)
        self._since = time.perf_counter()

    def _settings(self, trainer: Trainer, module: LightningModule) -> dict[str, Any]:
        """What the texts depend on, as plain values: they are compared with those of an earlier run."""
        rows = task(trainer).rows_for("prompts", task(trainer).predict_split)
        some = [prompt_text(rows[place].text) for place in range(0, len(rows), max(1, len(rows) // 64))]
        files = {"ckpt_path": trainer.ckpt_path, "model.model": module.hparams.get("model")}
        return {
            "prompts": len(rows),
            "some prompts": text_digest("\0".join(some)).hex(),
            "seed_everything": run_seed(),
            "trainer.precision": str(trainer.precision),
            "shard_rows": self.shard_rows,
            "format": self.format,
            "deduplicate": self.deduplicate,
            "model": json.loads(json.dumps(redact(dict(module.hparams)), default=str)),
            "content": {name: _content(path) for name, path in files.items() if isinstance(path, str)},
        }

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: Sequence[Rollout],
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Keep the completions of a batch, and write each shard that they complete."""
        data = task(trainer)
        if data.predict_shards is None or not batch_indices:
            return
        size, _ = data.predict_shards
        total, samples = len(data.rows_for("prompts", data.predict_split)), len(prediction) // len(batch_indices)
        for place, position in enumerate(batch_indices):
            shard = position // size
            if shard not in self._own:  # a process without shards completes a prompt, to be there when the others meet
                continue
            self._pending += map(prediction_row, prediction[place * samples : (place + 1) * samples])
            self._prompts += 1
            if self._prompts == min(size, total - shard * size):
                self._write(trainer, shard)

    def _write(self, trainer: Trainer, shard: int) -> None:
        now = time.perf_counter()
        record = self.shards.write(shard, self._pending, now - self._since)
        self._pending, self._prompts, self._since = [], 0, now
        self._totals += (record.drawn, record.tokens, record.seconds, record.kept)
        rates = _rates(record.drawn, record.tokens, record.seconds, record.kept)
        _log(trainer, {**rates, "predict/texts": self._totals[0]}, int(self._totals[0]))

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take out what stands in several shards, once all are there, and log the totals of this run."""
        data = task(trainer)
        if self.shard_rows is None or data.predict_shards is None:
            return
        data.predict_shards = None
        if self._pending:
            logger.warning("%d texts of a shard that is not complete are left out", len(self._pending))
        parts = gather_objects(trainer, self._totals)  # behind which every process has written its shards
        count, done = -(-len(data.rows_for("prompts", data.predict_split)) // self.shard_rows), self.shards.done()
        if len(done) < count:
            logger.warning("%d of %d shards are written; the same command goes on", len(done), count)
            return
        if self.deduplicate:
            self.shards.remove_repeated([n for n in done if n % trainer.world_size == trainer.global_rank])
        trainer.strategy.barrier("shards are free of repetitions")
        with first_process_works(trainer) as works:
            if works:
                self._finish(trainer, np.stack(parts))

    def _finish(self, trainer: Trainer, parts: np.ndarray) -> None:
        totals = self.shards.finish()
        drawn, tokens, _, _ = parts.sum(0)
        rates = _rates(drawn, tokens, parts[:, 2].max(), 0)
        unique = totals["texts"] / totals["drawn"]
        _log(trainer, {**rates, "predict/unique": unique, "predict/texts": totals["drawn"]}, totals["drawn"])
        speed = f"{rates['predict/texts_per_second']:.3g} texts/s, {rates['predict/tokens_per_second']:.4g} tokens/s"
        self.written = (
            f"{totals['texts']:,} different texts of {totals['drawn']:,} ({unique:.2%}), {totals['tokens']:,} tokens, "
            f"in '{self.shards.folder}'; this run: {speed}"
        )
        logger.info(self.written)


def prediction_row(rollout: Rollout) -> dict[str, Any]:
    """A completion as plain values."""
    return {
        **rollout.prompt_columns,
        "index": rollout.columns.get("index"),
        "text": rollout.text,
        "finished": rollout.finished,
        "logprob": float(rollout.logprobs.sum()),
        "tokens": len(rollout.completion_ids),
    }


def _rates(drawn: float, tokens: float, seconds: float, kept: float) -> dict[str, float]:
    """Speed, and the share of texts that were kept."""
    seconds = max(seconds, 1e-9)
    return {
        "predict/texts_per_second": drawn / seconds,
        "predict/tokens_per_second": tokens / seconds,
        "predict/unique": kept / max(drawn, 1),
    }


def _log(trainer: Trainer, metrics: dict[str, float], step: int) -> None:
    # Not module.log, which Lightning refuses in predictions.
    for target in trainer.loggers:
        target.log_metrics(metrics, step)
        target.save()


def _content(path: str) -> str:
    """What tells a model from another of its name: the digest of a file, the sizes of the files in a folder."""
    place = Path(path)
    if place.is_file():
        with place.open("rb") as file:
            return hashlib.file_digest(file, "blake2b").hexdigest()[:32]
    return " ".join(f"{one.name}:{one.stat().st_size}" for one in sorted(place.glob("*")) if one.is_file())
