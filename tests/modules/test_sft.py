"""Supervised fine-tuning."""

import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from torch import nn

from lit_narrative.errors import UserError
from lit_narrative.lm.load import Lora
from lit_narrative.lm.logprobs import CompletionBatch
from lit_narrative.lm.sampler import SamplingParams
from lit_narrative.lm.tokenizer import tokenizer_files, tokenizer_from_files
from lit_narrative.modules.sft import SFTModule
from lit_narrative.views import Example, Prompt
from tests.helpers import (
    ARCHITECTURES,
    TEXTS,
    Recorder,
    TinyTask,
    fit,
    sizes,
    tokenizer,
    tokenizer_folder,
    trainer,
    weights,
)


def cross_entropy(lm: nn.Module, batch: CompletionBatch) -> torch.Tensor:
    """Mean over completion tokens, as transformers computes it from labels."""
    labels = batch.ids.masked_fill(~batch.targets, -100)
    loss: torch.Tensor = lm(input_ids=batch.ids, labels=labels).loss
    return loss


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_loss_is_that_of_the_completion_tokens(architecture: str, tmp_path: Path) -> None:
    module, seen = SFTModule(sizes(architecture), tokenizer_folder(tmp_path), lr=0.0), Recorder()
    fit(module, TinyTask(), tmp_path, seen, max_steps=2)
    for batch, loss in zip(seen.batches, seen.losses, strict=True):
        assert not batch.targets.all()
        assert loss == pytest.approx(float(cross_entropy(module.lm, batch)), abs=1e-5)


def test_it_learns(tmp_path: Path) -> None:
    seen = Recorder()
    fit(SFTModule(sizes(), tokenizer_folder(tmp_path), lr=2e-2), TinyTask(), tmp_path, seen, max_steps=40)
    assert seen.losses[-1] < 0.7 * seen.losses[0]


def test_dropout_is_on_in_training_and_off_in_validation_and_sampling(tmp_path: Path) -> None:
    """Also after a checkpoint or a folder was loaded, which comes in evaluation mode."""
    settings = {"sampling": SamplingParams(8), "lr": 0.0}
    module, seen = SFTModule(sizes("gpt2", dropout=0.5), tokenizer_folder(tmp_path), **settings), Recorder()
    runner = fit(module, TinyTask(rows=4), tmp_path, seen, max_epochs=3, limit_val_batches=1)
    assert len(set(seen.losses)) == 3
    module.lm.eval()
    assert float(runner.callback_metrics["val/loss"]) == pytest.approx(
        float(cross_entropy(module.lm, seen.batches[0])), abs=1e-5
    )
    module.train()
    first, again = (module.generate([Prompt("A")], samples=3)[2] for _ in range(2))
    assert torch.equal(first.logprobs, again.logprobs)
    assert module.lm.training


def test_held_out_likelihood_is_a_mean_over_tokens_not_batches(tmp_path: Path) -> None:
    module = SFTModule(sizes(), tokenizer_folder(tmp_path))
    data = TinyTask(rows=7, batch_size=3)
    runner = trainer(tmp_path)
    (metrics,) = runner.test(module, data, verbose=False)
    whole = cross_entropy(module.lm, module.collate(data.examples("test")))
    assert metrics["test/loss"] == pytest.approx(float(whole), abs=1e-5)
    assert metrics["test/perplexity"] == pytest.approx(float(whole.exp()), rel=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("lora", [None, Lora(r=2)], ids=["full", "lora"])
def test_checkpointing_the_activations_gives_the_same_gradients(
    architecture: str, lora: Lora | None, tmp_path: Path
) -> None:
    found = []
    for saving in (False, True):
        seen = Recorder()
        module = SFTModule(
            sizes(architecture, layers=2), tokenizer_folder(tmp_path), lora, gradient_checkpointing=saving, lr=0.1
        )
        fit(module, TinyTask(), tmp_path, seen, max_steps=2)
        found.append(seen.gradients)
    for plain, saved in zip(*found, strict=True):
        assert plain.keys() == saved.keys()
        assert plain
        for name, gradient in plain.items():
            torch.testing.assert_close(saved[name], gradient, atol=1e-6, rtol=1e-4)


def test_the_learning_rate_warms_up_and_decays_by_step(tmp_path: Path) -> None:
    rates = []

    class Rates(Recorder):
        def on_before_optimizer_step(
            self, trainer: object, pl_module: object, optimizer: torch.optim.Optimizer
        ) -> None:
            rates.append(optimizer.param_groups[0]["lr"])

    module = SFTModule(sizes(), tokenizer_folder(tmp_path), lr=0.4, warmup_steps=2, schedule="linear")
    fit(module, TinyTask(), tmp_path, Rates(), max_epochs=3)  # two steps an epoch
    assert rates == pytest.approx([0, 0.2, 0.4, 0.3, 0.2, 0.1])


def test_an_example_beyond_the_positions_stops_before_any_step(tmp_path: Path) -> None:
    module = SFTModule(sizes(positions=8), tokenizer_folder(tmp_path))
    with pytest.raises(UserError, match="exceeds the model's 8 positions"):
        fit(module, TinyTask(), tmp_path, max_steps=1)
    cut, seen = SFTModule(sizes(positions=37), tokenizer_folder(tmp_path), long_examples="truncate"), Recorder()
    fit(cut, TinyTask(), tmp_path, seen, max_epochs=1)
    assert max(batch.ids.shape[1] for batch in seen.batches) == 37


class Given(TinyTask):
    """Examples as they are given, of training and of validation."""

    def __init__(self, train: list[Example], val: list[Example]) -> None:
        super().__init__(batch_size=2)
        self.given = {"train": train, "val": val}

    def examples(self, split: Any) -> list[Example]:
        return self.given[split]


@pytest.mark.parametrize("treatment", ["error", "drop", "truncate"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_examples_that_are_too_long_are_refused_dropped_or_cut_and_counted(
    treatment: Any, split: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = {"train": [Example("A", "a")] * 4, "val": [Example("A", "a")] * 4}
    rows[split] = [Example("A", "a b c d e f g"), *rows[split]]
    module = SFTModule(sizes(), tokenizer_folder(tmp_path), max_length=6, long_examples=treatment)
    options: dict[str, Any] = {"max_epochs": 1, "limit_val_batches": 1.0, "check_val_every_n_epoch": 5}
    seen = Recorder()
    if treatment == "error":
        with pytest.raises(UserError, match=r"example 0 .* exceeds model\.max_length=6; shorten it, raise it, or set"):
            fit(module, Given(**rows), tmp_path, seen, **options)
        assert not seen.batches
        return
    with caplog.at_level(logging.WARNING, "lit_narrative.modules"):
        fit(module, Given(**rows), tmp_path, seen, **options)
    done = {"drop": "left out", "truncate": "cut"}[treatment]
    assert f"{done} 1 of 5 examples that exceed 6 tokens" in caplog.messages
    learned = 4 if (split, treatment) != ("train", "truncate") else 5
    assert sum(len(batch.ids) for batch in seen.batches) == learned
    assert max(batch.ids.shape[1] for batch in seen.batches) == (6 if learned == 5 else 3)


def test_a_length_beyond_the_positions_is_refused(tmp_path: Path) -> None:
    module = SFTModule(sizes(positions=64), tokenizer_folder(tmp_path), max_length=65)
    with pytest.raises(UserError, match=r"model\.max_length=65 exceeds the model's 64 positions"):
        fit(module, TinyTask(), tmp_path, max_steps=1)


@pytest.mark.parametrize("split", ["train", "val"])
def test_an_empty_prompt_is_refused_before_any_step_where_nothing_begins_a_text(split: str, tmp_path: Path) -> None:
    rows = {"train": [Example("A", "a")] * 4, "val": [Example("A", "a")] * 4}
    rows[split] = [Example("A", ""), Example("", "a"), *rows[split]]
    seen = Recorder()
    with pytest.raises(UserError, match="example 1 has an empty prompt"):
        fit(
            SFTModule(sizes(), tokenizer_folder(tmp_path), long_examples="truncate"),
            Given(**rows),
            tmp_path,
            seen,
            max_epochs=1,
            limit_val_batches=1.0,
            check_val_every_n_epoch=5,
        )
    assert not seen.batches


def test_empty_texts_are_learned_where_a_token_begins_the_text(tmp_path: Path) -> None:
    """Of an empty completion its end is learned, whatever begins the text."""
    begins = tokenizer_from_files(tokenizer_files(tokenizer()))
    begins.backend_tokenizer.post_processor = TemplateProcessing(single="<|pad|> $A", special_tokens=[("<|pad|>", 0)])
    begins.save_pretrained(tmp_path / "begins")
    rows, seen = [Example("", "a"), Example("", ""), Example("A", "")], Recorder()
    fit(SFTModule(sizes(), str(tmp_path / "begins")), Given(rows, rows), tmp_path, seen, max_epochs=1)
    assert sum(int(batch.targets.sum()) for batch in seen.batches) == 2 + 1 + 1
    assert all(math.isfinite(loss) for loss in seen.losses)


def test_a_run_with_a_seed_repeats_itself(tmp_path: Path) -> None:
    found = []
    for seed in (3, 3, 4):
        module = SFTModule(sizes(seed=None, dropout=0.1), tokenizer_folder(tmp_path))
        fit(module, TinyTask(), tmp_path, seed=seed, max_steps=3)
        found.append(weights(module))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    assert not all(torch.equal(found[0][name], found[2][name]) for name in found[0])


def test_collate_leaves_prompts_as_they_are(tmp_path: Path) -> None:
    module = SFTModule(sizes(), tokenizer_folder(tmp_path))
    assert module.collate([Prompt("a"), Prompt("b")]) == [Prompt("a"), Prompt("b")]
    fit(module, TinyTask(), tmp_path, max_steps=1)
    assert isinstance(module.collate([Example("A", TEXTS[0])]), CompletionBatch)
