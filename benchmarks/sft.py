"""SFT tokens a second, our module under the Trainer against a bare PyTorch loop: ``python -m benchmarks.sft``.

Target: at least 0.9 times the bare loop's tokens per CPU second, with the settings of ``storyworld/sft``.

Both sides train the same seeded model on the same rows, tokenised batch by batch, with AdamW and clipped gradients.
The bare loop calls the model with ``labels`` and does nothing else: no log, no schedule, no checkpoint, no callback.
The Trainer logs to a CSV file as configured; its progress bar is off. Rounds alternate, so that a busy machine slows
both; the first steps of each are left out; medians and the median of neighbouring rounds' ratios are printed.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import Callback, Trainer
from torch import nn
from torch.utils.data import DataLoader
from transformers import AutoTokenizer

from benchmarks.rounds import Rates, alternate, print_rates
from benchmarks.trainer import bare_trainer
from lit_narrative.datamodules.storyworld import StoryworldData
from lit_narrative.lm.load import ScratchModel, build_lm, scratch_config
from lit_narrative.lm.logprobs import CompletionBatch
from lit_narrative.lm.tokenizer import TrainedTokenizer, train_tokenizer
from lit_narrative.lookup import shipped_configs
from lit_narrative.modules.sft import SFTModule

SKIP = 10
"""Steps at the start that are not timed."""


class Clock:
    """Tokens a second, CPU and wall, from the first step that counts."""

    def __init__(self) -> None:
        self.step, self.tokens = 0, 0

    def tick(self, batch: CompletionBatch) -> None:
        """A step is over."""
        self.step += 1
        if self.step == SKIP:
            self.cpu, self.wall = time.process_time(), time.perf_counter()
        elif self.step > SKIP:
            ends = (batch.targets * torch.arange(1, batch.ids.shape[1] + 1)).amax(1)
            self.tokens += int(ends.sum())

    def rates(self) -> Rates:
        """Prompt and completion tokens a second."""
        return Rates(self.tokens / (time.process_time() - self.cpu), self.tokens / (time.perf_counter() - self.wall))


class ClockCallback(Callback):
    """Runs a clock in the Trainer."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.rates: Rates | None = None

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Tick; read it at the last step."""
        self.clock.tick(batch)
        if trainer.global_step == trainer.max_steps:
            self.rates = self.clock.rates()


def with_trainer(settings: Mapping[str, Any], folder: str, steps: int) -> Rates:
    """Our module."""
    module = SFTModule(**{**settings["model"]["init_args"], "tokenizer": f"{folder}/tokenizer"})
    watch = ClockCallback()
    given = settings["trainer"]
    options = {name: given[name] for name in ("gradient_clip_val", "log_every_n_steps")}
    fit = bare_trainer(folder, steps, watch, **options)
    fit.fit(module, StoryworldData(**settings["data"]["init_args"]))
    assert watch.rates is not None
    return watch.rates


def bare(settings: Mapping[str, Any], folder: str, steps: int) -> Rates:
    """The loop that a person would write."""
    arguments = settings["model"]["init_args"]
    tokenizer = AutoTokenizer.from_pretrained(f"{folder}/tokenizer")
    spec = ScratchModel(**arguments["model"])
    lm = build_lm(scratch_config(spec, len(tokenizer), tokenizer.eos_token_id)).train()
    optimizer = torch.optim.AdamW(lm.parameters(), lr=arguments["lr"], weight_decay=0.01)
    clock = Clock()
    for batch in batches(settings, lm, tokenizer, steps):
        labels = batch.ids.masked_fill(~batch.targets, -100)
        loss = lm(input_ids=batch.ids, labels=labels, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(lm.parameters(), settings["trainer"]["gradient_clip_val"])
        optimizer.step()
        optimizer.zero_grad()
        clock.tick(batch)
    return clock.rates()


def batches(settings: Mapping[str, Any], lm: nn.Module, tokenizer: Any, steps: int) -> Iterator[CompletionBatch]:
    """Shuffled batches of the same rows, laid out by a module's own collate."""
    module = SFTModule()
    module.tokenizer, module.lm = tokenizer, lm
    arguments = settings["data"]["init_args"]
    rows: Any = StoryworldData(**arguments).examples("train")
    generator = torch.Generator().manual_seed(0)
    loader = DataLoader(rows, arguments["batch_size"], shuffle=True, collate_fn=module.collate, generator=generator)
    for step, batch in enumerate(loader):
        if step == steps:
            return
        yield batch


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=70, help="optimizer steps a round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    settings = yaml.safe_load(shipped_configs()["storyworld/sft"].read_text())
    with tempfile.TemporaryDirectory() as folder:
        task = StoryworldData(**settings["data"]["init_args"])
        spec = TrainedTokenizer(**settings["model"]["init_args"]["tokenizer"])
        train_tokenizer(task.tokenizer_texts(), spec, task.tokenizer_names()).save_pretrained(Path(folder, "tokenizer"))
        sides = [lambda _, run=run: run(settings, folder, options.steps) for run in (with_trainer, bare)]
        rates = alternate(sides, options.rounds)
    print_rates(("Trainer", "bare"), *rates)


if __name__ == "__main__":
    main()
