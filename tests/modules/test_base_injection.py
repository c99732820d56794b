"""Vectors that a task's rows carry reach the model in training: from the row to the gradient."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from lit_narrative.datamodules.base import Split
from lit_narrative.lm.inject import InjectionSettings, add_injector
from lit_narrative.modules.grpo import GRPOModule
from lit_narrative.modules.sft import SFTModule
from lit_narrative.rl.rewards.base import Reward
from lit_narrative.views import Example, Prompt, Rollout
from tests.helpers import Recorder, TinyTask, fit, grpo, sizes, tokenizer_folder

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


class WithInjector:
    def set_model(self, lm: nn.Module, tokenizer: PreTrainedTokenizerBase) -> None:
        add_injector(lm, tokenizer, InjectionSettings("project", [0, 1], marker="~", width=4))
        super().set_model(lm, tokenizer)  # type: ignore[misc]


class SFT(WithInjector, SFTModule):
    pass


class GRPO(WithInjector, GRPOModule):
    pass


def learned(recorder: Recorder) -> bool:
    return all(float(step["lm.injector.projection.weight"].abs().max()) > 0 for step in recorder.gradients)


def test_sft_learns_from_the_vectors_of_its_examples(tmp_path: Path) -> None:
    recorder = Recorder()
    module = SFT(model=sizes(), tokenizer=tokenizer_folder(tmp_path))
    fit(module, Vectors(), tmp_path, recorder, max_epochs=1)
    assert [len(batch.injections) for batch in recorder.batches] == [4, 4]
    seen = torch.cat([batch.injections[:, 0] for batch in recorder.batches])
    assert sorted(seen.tolist()) == sorted(VECTORS.tolist())
    assert learned(recorder)


def test_grpo_samples_and_learns_with_the_vectors_of_its_prompts(tmp_path: Path) -> None:
    recorder = Recorder()
    module = grpo(tmp_path, GRPO, rewards={"carried": 1.0}, num_generations=4, sampling={"max_new_tokens": 8})
    fit(module, Vectors(rewards=[Carried()]), tmp_path, recorder, max_epochs=1)
    for batch in recorder.batches:
        kept = batch.batch.injections[:, 0]
        assert {tuple(row) for row in kept.tolist()} <= {tuple(row) for row in VECTORS.tolist()}
    assert learned(recorder)
    # The sampler's log-probabilities are the trainer's.
    assert recorder.metrics[0]["sampling/sampling_logp_difference/max"] < 1e-5
