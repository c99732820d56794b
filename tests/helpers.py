"""Tiny language models, a tokenizer, a task of a few words, and a quiet Trainer."""

import functools
from collections.abc import Container, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lit_narrative.datamodules.base import Split, TaskDataModule
from lit_narrative.lm.load import ScratchModel, build_lm, scratch_config
from lit_narrative.lm.sampler import Request
from lit_narrative.lm.tokenizer import TrainedTokenizer, encode_prompt, train_tokenizer
from lit_narrative.modules.grpo import GRPOModule
from lit_narrative.rl.rewards.base import Reward
from lit_narrative.seeds import stream_seed
from lit_narrative.views import Example, Prompt, Rollout, Verdict
from tests.rewards import VOCABULARY, LowTokens

ARCHITECTURES = ("gpt2", "llama")
TEXTS = [f'{{"name":"{name}","count":{n}}}' for n in range(40) for name in ("salt", "tide", "lantern")]
PROMPTS = ["Write.", "Write of the salt road:", "A", "A lantern, a tide, and no more than that.\n"]


@functools.cache
def tokenizer() -> PreTrainedTokenizerBase:
    """A tokenizer trained on `TEXTS`."""
    return train_tokenizer(TEXTS, TrainedTokenizer(VOCABULARY))


def sizes(architecture: str = "llama", **other: Any) -> ScratchModel:
    """A model of one narrow block."""
    given: dict[str, Any] = {"hidden_size": 16, "layers": 1, "heads": 2, "positions": 128, "seed": 0, **other}
    return ScratchModel(architecture, **given)  # type: ignore[arg-type]


def tiny_lm(
    architecture: str = "llama", *, scale: float = 1.0, vocabulary: int = VOCABULARY, **other: Any
) -> PreTrainedModel:
    """A tiny model in evaluation mode; ``scale`` multiplies its weights, so that its choices are less even."""
    spec = sizes(architecture, **{"layers": 2, **other})
    lm = build_lm(scratch_config(spec, vocabulary, 1), seed=spec.seed or 0).eval()
    with torch.no_grad():
        for parameter in lm.parameters():
            if parameter.ndim > 1:
                parameter.mul_(scale)
    return lm


def requests(prompts: Sequence[str] = PROMPTS, group: int = 3, seed: int = 0) -> list[Request]:
    """A group of completions of each prompt; a prompt's seeds depend on its text's place in `PROMPTS`."""
    return [
        Request(
            Prompt(text),
            encode_prompt(tokenizer(), text),
            [stream_seed(seed, PROMPTS.index(text), n) for n in range(group)],
        )
        for text in prompts
    ]


def tokenizer_folder(folder: Path) -> str:
    """The tokenizer as a folder, for ``tokenizer=``."""
    tokenizer().save_pretrained(folder / "given_tokenizer")
    return str(folder / "given_tokenizer")


def grpo(folder: Path, kind: type[GRPOModule] = GRPOModule, **settings: Any) -> GRPOModule:
    """A GRPO module of a tiny model that `LowTokens` rewards, with its tokenizer under ``folder``."""
    given = {"model": sizes(), "tokenizer": tokenizer_folder(folder), "rewards": {"low": 1.0}}
    return kind(**{**given, **settings})


def critic(rollouts: Sequence[Rollout]) -> list[str | None]:
    """An environment that answers every text but each third, by its length."""
    return [f"No: {len(rollout.text)}.\n" if len(rollout.text) % 3 else None for rollout in rollouts]


class TinyTask(TaskDataModule):
    """A few prompts with completions to imitate; text is judged by how much of it is lower case.

    Args:
        rows: of each split.
        rewards: what it offers; default: `LowTokens`.
    """

    environments = {"critic": lambda task: critic}  # noqa: RUF012 (read only)

    def __init__(self, rows: int = 8, rewards: Sequence[Reward] = (LowTokens(),), **kwargs: Any) -> None:
        super().__init__(**{"batch_size": 4, **kwargs})
        self.rows, self.rewards = rows, {reward.name: reward for reward in rewards}

    def examples(self, split: Split) -> list[Example]:
        return [Example(PROMPTS[n % len(PROMPTS)], TEXTS[n % len(TEXTS)]) for n in range(self.rows)]

    def prompts(self, split: Split) -> list[Prompt]:
        rows = enumerate(self.examples(split))
        return [Prompt(row.prompt, {"index": n, "reference": row.completion}) for n, row in rows]

    def reward_functions(self, names: Sequence[str]) -> dict[str, Reward]:
        return {name: self.rewards[name] for name in names}

    def verify(self, rollouts: Sequence[Rollout]) -> list[Verdict]:
        verdicts = []
        for rollout in rollouts:
            lower = sum(letter.islower() for letter in rollout.text) / max(len(rollout.text), 1)
            issues = () if lower == 1 else ({"path": "$", "message": "not lower case", "severity": "warning"},)
            verdicts.append(Verdict(lower, {"lower": lower}, lower > 0, issues, {"length": float(len(rollout.text))}))
        return verdicts


class Recorder(Callback):
    """Keeps what each training step saw and gave: batches, losses, metrics, and the gradients of optimizer steps."""

    def __init__(self) -> None:
        self.batches: list[Any] = []
        self.losses: list[float] = []
        self.metrics: list[dict[str, float]] = []
        self.gradients: list[dict[str, torch.Tensor]] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.batches.append(batch)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.losses.append(float(outputs["loss"]))
        self.metrics.append({name: float(value) for name, value in trainer.callback_metrics.items()})

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        named = pl_module.named_parameters()
        self.gradients.append({name: p.grad.clone() for name, p in named if p.grad is not None})


def trainer(folder: Path, *callbacks: Callback, **options: Any) -> Trainer:
    """A quiet Trainer on the CPU in ``folder``, without logger, checkpoints and validation unless asked for."""
    quiet: dict[str, Any] = {
        "accelerator": "cpu",
        "enable_checkpointing": False,
        "enable_model_summary": False,
        "enable_progress_bar": False,
        "limit_val_batches": 0,
        "logger": False,
        "num_sanity_val_steps": 0,
    }
    return Trainer(default_root_dir=folder, callbacks=list(callbacks), **{**quiet, **options})


def fit(
    module: LightningModule, data: TaskDataModule, folder: Path, *callbacks: Callback, seed: int = 0, **options: Any
) -> Trainer:
    """Train quietly with a seed; the Trainer afterwards."""
    seed_everything(seed, verbose=False)
    runner = trainer(folder, *callbacks, **options)
    runner.fit(module, data)
    return runner


def weights(module: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of a module's parameters by name."""
    return {name: value.detach().clone() for name, value in module.named_parameters()}


def others_slow(names: Iterable[str], quick: Container[str]) -> list[Any]:
    """Parameters of a test: those that are not quick are marked slow."""
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in names]
