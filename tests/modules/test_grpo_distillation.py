"""Distillation on what the policy writes, beside rewards and without any."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_narrative.datamodules.base import Split
from lit_narrative.errors import UserError
from lit_narrative.lm.load import Lora
from lit_narrative.lm.logprobs import Teacher, score_completions
from lit_narrative.lm.sampler import SamplingParams
from lit_narrative.modules.grpo import GRPOModule
from lit_narrative.modules.sft import SFTModule
from lit_narrative.rl.loss_settings import LossSettings
from lit_narrative.rl.reference import DistillationSettings
from lit_narrative.views import Prompt
from tests.helpers import (
    PROMPTS,
    Recorder,
    TinyTask,
    fit,
    grpo,
    sizes,
    tiny_lm,
    tokenizer,
    tokenizer_folder,
    trainer,
    weights,
)


class Unrewarded(TinyTask):
    """Prompts of which those held out are others."""

    def prompts(self, split: Split) -> list[Prompt]:
        return [Prompt(f"{split} {PROMPTS[n % 4]} {n}", {"index": n}) for n in range(self.rows)]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A larger model that has learned something, as a folder."""
    folder = tmp_path_factory.mktemp("teacher")
    module = SFTModule(sizes(hidden_size=32, layers=2, seed=5), tokenizer_folder(folder), lr=1e-2)
    fit(module, TinyTask(rows=16), folder, max_steps=40, max_epochs=-1)
    module.lm.save_pretrained(folder / "model")
    tokenizer().save_pretrained(folder / "model")
    return str(folder / "model")


def distilled(folder: Path, teacher: str, **settings: Any) -> GRPOModule:
    given: dict[str, Any] = {
        "distillation": DistillationSettings(teacher),
        "num_generations": 2,
        "sampling": SamplingParams(12, temperature=0.9),
        "loss": LossSettings(beta=0.0),
        "lr": 1e-2,
    }
    return grpo(folder, **{**given, **settings})


def held_out_divergence(module: GRPOModule, teacher: str) -> float:
    """Mean KL(policy || teacher) of a token, on what the policy writes to prompts that it never saw."""
    from lit_narrative.lm.load import load_lm
    from lit_narrative.lm.logprobs import completion_batch

    rollouts = module.generate([row.text for row in Unrewarded(rows=16).prompts("test")], seed=7)
    batch = completion_batch([r.prompt_ids for r in rollouts], [r.completion_ids for r in rollouts])
    with torch.no_grad():
        found = score_completions(module.lm, batch, temperature=0.9, teacher=Teacher(load_lm(teacher), 1.0)).divergence
    assert found is not None
    return float(found.mean())


def test_without_rewards_the_policy_comes_nearer_to_its_teacher(teacher: str, tmp_path: Path) -> None:
    module, seen = distilled(tmp_path, teacher, rewards={}), Recorder()
    module.load_model() if not module.source.trains_tokenizer else None
    fit(module, Unrewarded(), tmp_path, seen, max_epochs=10)
    logged = [metrics["distillation"] for metrics in seen.metrics]
    assert sum(logged[-3:]) < 0.6 * sum(logged[:3])
    start = distilled(tmp_path, teacher, rewards={}, lr=0.0)
    fit(start, Unrewarded(), tmp_path, max_epochs=1)
    assert held_out_divergence(module, teacher) < 0.7 * held_out_divergence(start, teacher)


def test_the_stream_has_a_denominator_of_its_own(teacher: str, tmp_path: Path) -> None:
    """However the completions are cut, and though the policy loss leaves out those that were cut off."""
    found = []
    for size, parts in ((16, 1), (3, 6)):
        seen = Recorder()
        loss = LossSettings("dapo", beta=0.0, mask_truncated_completions=True)
        module = distilled(tmp_path, teacher, loss=loss, num_generations=4, micro_batch_size=size)
        fit(module, TinyTask(), tmp_path, seen, max_steps=1, accumulate_grad_batches=parts)
        found.append((seen.gradients[0], seen.metrics[-1]["distillation"], seen.batches[0]))
    batch = found[0][2]
    assert batch.totals.completion_tokens == int(batch.mask.sum()) > batch.totals.tokens
    assert found[0][1] == pytest.approx(found[1][1], abs=1e-6)
    for name, value in found[0][0].items():
        torch.testing.assert_close(value, found[1][0][name], atol=1e-6, rtol=1e-3)


def test_checkpoints_leave_the_teacher_out_and_runs_resume(teacher: str, tmp_path: Path) -> None:
    given = {"rewards": {"low": 1.0}, "lora": Lora(2)}
    saved = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    whole = distilled(tmp_path, teacher, **given)
    fit(whole, TinyTask(), tmp_path, saved, max_steps=3, max_epochs=-1, enable_checkpointing=True)
    state = torch.load(tmp_path / "step=1.ckpt", weights_only=True)["state_dict"]
    assert state and not any(name.startswith("teacher.") for name in state)
    resumed = distilled(tmp_path, teacher, **given)
    trainer(tmp_path, max_steps=3, max_epochs=-1).fit(resumed, TinyTask(), ckpt_path=str(tmp_path / "step=1.ckpt"))
    for name, value in weights(resumed).items():
        torch.testing.assert_close(value, weights(whole)[name], atol=1e-6, rtol=0)
    loaded = GRPOModule.load_from_checkpoint(tmp_path / "step=3.ckpt")
    assert "teacher" not in loaded._modules


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"distillation": {"weight": 0.0}}, r"weight=0\.0 must be a number above 0"),
        ({"distillation": {"beta": 1.5}}, r"beta=1\.5 must be in 0\.\.1"),
        ({"distillation": {"beta": 0.5}}, "name it by model.distillation.model"),
        ({"distillation": {"model": "x"}, "rewards": {}, "dynamic_sampling": 1}, "dynamic_sampling is about rewards"),
        ({"distillation": {"model": "x"}, "rewards": {}, "advantage": "gae"}, "learns the value of rewards"),
        ({"rewards": {}}, r"model\.rewards is empty"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        grpo(tmp_path, **settings)


def test_a_teacher_of_another_vocabulary_is_refused(tmp_path: Path) -> None:
    from lit_narrative.lm.tokenizer import TrainedTokenizer, train_tokenizer

    tiny_lm().save_pretrained(tmp_path / "other")
    train_tokenizer(["another"], TrainedTokenizer(260)).save_pretrained(tmp_path / "other")
    with pytest.raises(UserError, match=r"model\.distillation\.model '.*other' has another vocabulary"):
        fit(distilled(tmp_path, str(tmp_path / "other")), TinyTask(), tmp_path, max_steps=1)
