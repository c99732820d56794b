"""Write what a model wrote."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter

from lit_narrative.callbacks.processes import dry_run, gather_lists
from lit_narrative.files import write_jsonl


class PredictionWriter(BasePredictionWriter):
    """Writes ``samples/predictions.jsonl``: prompt, text, whether the model ended it, its log-probability."""

    def __init__(self) -> None:
        super().__init__(write_interval="epoch")

    def write_on_epoch_end(
        self, trainer: Trainer, pl_module: LightningModule, predictions: Sequence[Any], batch_indices: Sequence[Any]
    ) -> None:
        """Write the completions of all processes in one file."""
        rollouts = gather_lists(trainer, [rollout for batch in predictions for rollout in batch])
        if trainer.is_global_zero and not dry_run(trainer):
            rows = (
                {
                    "prompt": rollout.prompt,
                    "text": rollout.text,
                    "finished": rollout.finished,
                    "logprob": float(rollout.logprobs.sum()),
                }
                for rollout in rollouts
            )
            write_jsonl(Path(trainer.default_root_dir, "samples", "predictions.jsonl"), rows)
