"""Vectors that a task's rows carry reach the model in training: from the row to the gradient."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import seed_everything
from safetensors import safe_open

from lit_narrative.datamodules.base import Split
from lit_narrative.errors import UserError
from lit_narrative.lm.checkpoint import export_model, read_language_model
from lit_narrative.lm.load import Lora, base_lm
from lit_narrative.lm.vectors.inject import InjectionSettings, describe_injector
from lit_narrative.modules.grpo import GRPOModule
from lit_narrative.modules.sft import SFTModule
from lit_narrative.rl.rewards.base import Reward
from lit_narrative.views import Example, InjectedVectors, Prompt, Rollout
from tests.helpers import Recorder, TinyTask, fit, grpo, sizes, tiny_lm, tokenizer, tokenizer_folder, trainer, weights

VECTORS = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)


class Carried(Reward):
    """Reads the vectors of prompts: the sign of the first number says whether high or low tokens are preferred."""

    name = "carried"

    def __call__(self, rollouts: Sequence[Rollout]) -> list[float]:
        carried = [(r.injection, r.completion_ids.float()) for r in rollouts if r.injection is not None]
        return [float(vector[0].sign() * ids.mean()) for vector, ids in carried]


class Vectors(TinyTask):
    """One text with another vector in each row."""

    def examples(self, split: Split) -> list[Example]:
        rows = zip(super().examples(split), VECTORS, strict=True)
        return [replace(row, prompt="salt ~", injection=vector) for row, vector in rows]

    def prompts(self, split: Split) -> list[Prompt]:
        return [Prompt("salt ~", {"index": n}, injection=vector) for n, vector in enumerate(VECTORS)]

    @property
    def injected_vectors(self) -> InjectedVectors:
        return InjectedVectors("~", 4, float(np.linalg.norm(VECTORS, axis=1).mean()))


PROJECT = InjectionSettings("project", [0, 1])
SHORT: dict[str, Any] = {"sampling": {"max_new_tokens": 6, "temperature": 0.5}}


def learned(recorder: Recorder) -> bool:
    return all(float(step["lm.injector.projection.weight"].abs().max()) > 0 for step in recorder.gradients)


def test_sft_learns_from_the_vectors_of_its_examples(tmp_path: Path) -> None:
    recorder = Recorder()
    module = SFTModule(model=sizes(), tokenizer=tokenizer_folder(tmp_path), injection=PROJECT)
    fit(module, Vectors(), tmp_path, recorder, max_epochs=1)
    assert [len(batch.injections) for batch in recorder.batches] == [4, 4]
    seen = torch.cat([batch.injections[:, 0] for batch in recorder.batches])
    assert sorted(seen.tolist()) == sorted(VECTORS.tolist())
    assert learned(recorder)


def test_grpo_samples_and_learns_with_the_vectors_of_its_prompts(tmp_path: Path) -> None:
    recorder = Recorder()
    module = grpo(
        tmp_path,
        injection=PROJECT,
        rewards={"carried": 1.0},
        num_generations=4,
        sampling={"max_new_tokens": 8},
    )
    fit(module, Vectors(rewards=[Carried()]), tmp_path, recorder, max_epochs=1)
    for batch in recorder.batches:
        kept = batch.batch.injections[:, 0]
        assert {tuple(row) for row in kept.tolist()} <= {tuple(row) for row in VECTORS.tolist()}
    assert learned(recorder)
    # The sampler's log-probabilities are the trainer's.
    assert recorder.metrics[0]["sampling/sampling_logp_difference/max"] < 1e-5


# --- checkpoints ----------------------------------------------------------------------------------------------------


def fitted(folder: Path, **settings: Any) -> tuple[SFTModule, str]:
    """A module after a few steps, and its checkpoint."""
    given = {"model": sizes(), "tokenizer": tokenizer_folder(folder), "injection": PROJECT, "lr": 0.1}
    module = SFTModule(**{**given, **SHORT, **settings})
    fit(module, Vectors(), folder, max_epochs=1).save_checkpoint(folder / "sft.ckpt", weights_only=True)
    return module, str(folder / "sft.ckpt")


def written(module: Any) -> list[list[int]]:
    return [row.completion_ids.tolist() for row in module.generate(Vectors().prompts("val"))]


def test_a_checkpoint_reads_vectors_in_a_notebook(tmp_path: Path) -> None:
    module, path = fitted(tmp_path)
    loaded = SFTModule.load_from_checkpoint(path)
    assert written(loaded) == written(module)
    assert (loaded.lm.injector.projection.weight == module.lm.injector.projection.weight).all()
    assert describe_injector(read_language_model(path)[0]) == describe_injector(module.lm)


def test_mean_norm_is_that_of_the_task_and_stays_in_the_checkpoint(tmp_path: Path) -> None:
    _, path = fitted(tmp_path, injection=InjectionSettings(scale="mean_norm", mode="project"))
    norm = np.linalg.norm(VECTORS, axis=1).mean()
    settings = base_lm(SFTModule.load_from_checkpoint(path).lm).injector.settings
    assert settings.scale == pytest.approx(norm) and (settings.marker, settings.width) == ("~", 4)


def test_an_added_marker_and_vectors_of_adapters_come_back_over_their_base(tmp_path: Path) -> None:
    tiny_lm().save_pretrained(tmp_path / "base")
    tokenizer().save_pretrained(tmp_path / "base")

    class Added(Vectors):
        """A marker that is no token yet."""

        def examples(self, split: Split) -> list[Example]:
            return [replace(row, prompt="salt <|here|>") for row in super().examples(split)]

        def prompts(self, split: Split) -> list[Prompt]:
            return [replace(row, text="salt <|here|>") for row in super().prompts(split)]

        @property
        def injected_vectors(self) -> InjectedVectors:
            return replace(super().injected_vectors, marker="<|here|>")

    module = SFTModule(model=str(tmp_path / "base"), lora=Lora(4), injection=PROJECT, lr=0.1, **SHORT)
    fit(module, Added(), tmp_path, max_epochs=1).save_checkpoint(tmp_path / "sft.ckpt", weights_only=True)
    stored = torch.load(tmp_path / "sft.ckpt", weights_only=True)["state_dict"]
    assert all("lora_" in name or "injector" in name for name in stored)
    loaded = SFTModule.load_from_checkpoint(tmp_path / "sft.ckpt")
    rows = Added().prompts("val")
    assert [r.text for r in loaded.generate(rows)] == [r.text for r in module.generate(rows)]
    assert (base_lm(loaded.lm).injector.projection.weight == base_lm(module.lm).injector.projection.weight).all()
    merged, _ = read_language_model(tmp_path / "sft.ckpt")
    assert describe_injector(merged) == describe_injector(module.lm)
    # The projection of a run that goes on from there is learned, too.
    assert all(parameter.requires_grad for parameter in base_lm(loaded.lm).injector.parameters())


def test_grpo_begins_from_a_checkpoint_that_takes_vectors(tmp_path: Path) -> None:
    _, path = fitted(tmp_path)
    settings = {"rewards": {"carried": 1.0}, "num_generations": 4, "sampling": {"max_new_tokens": 8}}
    module = GRPOModule(model=path, loss={"beta": 0.1}, **settings)
    recorder = Recorder()
    fit(module, Vectors(rewards=[Carried()]), tmp_path, recorder, max_epochs=1)
    assert recorder.metrics[0]["kl"] == pytest.approx(0, abs=1e-6)  # the reference reads the vectors, too
    assert learned(recorder)
    with pytest.raises(UserError, match=r"--model\.injection=null"):
        fit(GRPOModule(model=path, injection=PROJECT, **settings), Vectors(rewards=[Carried()]), tmp_path)


def test_a_run_resumes_with_its_injection(tmp_path: Path) -> None:
    def run(steps: int, path: str | None = None) -> dict[str, torch.Tensor]:
        module = SFTModule(model=sizes(), tokenizer=tokenizer_folder(tmp_path), injection=PROJECT)
        seed_everything(0, verbose=False)
        runner = trainer(tmp_path, max_steps=steps)
        runner.fit(module, Vectors(), ckpt_path=path)
        runner.save_checkpoint(tmp_path / f"{steps}.ckpt")
        return weights(module)

    whole = run(4)
    run(2)
    resumed = run(4, str(tmp_path / "2.ckpt"))
    assert whole.keys() == resumed.keys() and all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_what_does_not_fit_the_task_is_refused(tmp_path: Path) -> None:
    for injection, said in (
        (InjectionSettings(marker="@", mode="project"), "the task's prompts hold '~'"),
        (InjectionSettings(), "width=4, and the model is 16 wide"),
    ):
        module = SFTModule(model=sizes(), tokenizer=tokenizer_folder(tmp_path), injection=injection)
        with pytest.raises(UserError, match=said):
            fit(module, Vectors(), tmp_path)
    module = SFTModule(
        model=sizes(), tokenizer=tokenizer_folder(tmp_path), injection=InjectionSettings(scale="mean_norm")
    )
    with pytest.raises(UserError, match="measured on activations"):
        fit(module, TinyTask(), tmp_path)


def test_an_export_is_a_plain_model(tmp_path: Path) -> None:
    _, path = fitted(tmp_path)
    with safe_open(export_model(path, tmp_path / "out") / "model.safetensors", framework="pt") as file:
        assert not [name for name in file.keys() if "injector" in name]  # noqa: SIM118 (it is no dict)


def test_a_damaged_description_is_said_to_be(tmp_path: Path) -> None:
    _, path = fitted(tmp_path)
    content = torch.load(path, weights_only=True)
    content["language_model"]["injection"] = {"settings": {"none": 1}}
    torch.save(content, path)
    with pytest.raises(UserError, match="damaged"):
        SFTModule.load_from_checkpoint(path)
