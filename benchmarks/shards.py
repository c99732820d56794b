"""Predictions in shards without a model: ``python -m benchmarks.shards [TEXTS]``, by default 20,000 in 20 shards.

Prints what writing costs beside sampling: texts and MB a second, by how much memory grows over all shards but the
first, and what it takes to find the repetitions among a million texts.
"""

import logging
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer

from lit_narrative.callbacks.writers import PredictionWriter
from lit_narrative.datamodules.storyworld import StoryworldData
from lit_narrative.modules.base import NarrativeModule
from lit_narrative.seeds import stream_seed
from lit_narrative.shards import Record, ShardFormat, repeated
from lit_narrative.tasks.storyworld.prompt_space import PromptSpace
from lit_narrative.views import Prompt, Rollout

TEXTS, TOKENS, CHARACTERS = 20_000, 15_000, 60_000
"""Texts by default; tokens and characters of each: four characters a token."""
MILLION = 1_000_000


class Writes(NarrativeModule):
    """Answers each prompt with noise, as long as a large world; notes the memory after the first shard."""

    view = eval_view = "prompts"

    def __init__(self, shard: int) -> None:
        super().__init__()
        self.shard, self.done, self.before = shard, 0, 0.0
        self.ids, self.logprobs = torch.zeros(TOKENS, dtype=torch.long), torch.zeros(TOKENS)

    def collate(self, rows: Sequence[Prompt]) -> list[Prompt]:
        """The prompts themselves."""
        return list(rows)

    def predict_step(self, batch: Sequence[Prompt], batch_idx: int) -> list[Rollout]:
        """A text for each."""
        self.done += len(batch)
        if self.before == 0 and self.done > 2 * self.shard:
            self.before = peak()
        return [
            Rollout(self.ids[:1], self.ids, self.logprobs, True, text(row.columns["index"]), str(row.text), row.columns)
            for row in batch
        ]


def text(number: int) -> str:
    """A text that no other number has."""
    return np.random.default_rng(stream_seed(number)).bytes(CHARACTERS // 2).hex()


def peak() -> float:
    """Largest memory so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def write(count: int, format: ShardFormat) -> None:
    """Predict ``count`` texts in twenty shards."""
    shard = count // 20
    with tempfile.TemporaryDirectory() as folder:
        quiet: dict[str, Any] = {
            "logger": False,
            "enable_progress_bar": False,
            "enable_checkpointing": False,
            "accelerator": "cpu",
        }
        trainer = Trainer(default_root_dir=folder, callbacks=[PredictionWriter(shard, format)], **quiet)
        module, data = Writes(shard), StoryworldData(prompt_space=PromptSpace(), test_size=count, eval_batch_size=50)
        begun = time.process_time()
        for number in range(1000):
            text(number)
        making = (time.process_time() - begun) / 1000 * count
        begun = time.process_time()
        trainer.predict(module, datamodule=data, return_predictions=False)
        seconds = time.process_time() - begun - making
        size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    rate, bandwidth, each, grown = count / seconds, size / 1e6 / seconds, size / 1000 / count, peak() - module.before
    print(
        f"{format}: {count:,} texts of {CHARACTERS:,} characters, {rate:,.0f} texts a CPU second, "
        f"{bandwidth:,.0f} MB/s, {each:.1f} kB a text; memory +{grown:.0f} MiB"
    )


def main() -> None:
    """Write both formats, and look for repetitions."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    count = int(sys.argv[1]) if len(sys.argv) > 1 else TEXTS
    for format in ("jsonl", "parquet"):
        write(count, format)  # type: ignore[arg-type]
    rng = np.random.default_rng(0)
    records = [Record(n, 1000, 1000, 15_000_000, 1.0, rng.bytes(16_000).hex()) for n in range(MILLION // 1000)]
    before, begun = peak(), time.process_time()
    found = repeated(records)
    seconds, grown = time.process_time() - begun, peak() - before
    print(f"repetitions among {MILLION:,}: {len(found)} found in {seconds:.1f} s, memory +{grown:.0f} MiB")


if __name__ == "__main__":
    main()
