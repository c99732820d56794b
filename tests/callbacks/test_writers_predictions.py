"""What a model wrote, as a file."""

import json
from pathlib import Path

import pytest

from lit_narrative.callbacks.writers import PredictionWriter
from lit_narrative.lm.sampler import SamplingParams
from lit_narrative.modules.sft import SFTModule
from tests.helpers import TinyTask, sizes, tiny_lm, tokenizer, trainer


def writer() -> SFTModule:
    made = SFTModule(sizes(), sampling=SamplingParams(8))
    made.set_model(tiny_lm(scale=4), tokenizer())
    return made


def test_predictions_are_written_in_order(tmp_path: Path) -> None:
    predicted = trainer(tmp_path, PredictionWriter()).predict(writer(), TinyTask(rows=6))
    rollouts = [rollout for batch in predicted or [] for rollout in batch]
    lines = (tmp_path / "samples" / "predictions.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {
            "prompt": rollout.prompt,
            "text": rollout.text,
            "finished": rollout.finished,
            "logprob": pytest.approx(float(rollout.logprobs.sum())),
        }
        for rollout in rollouts
    ]
    assert len(lines) == 6


def test_a_dry_run_leaves_nothing(tmp_path: Path) -> None:
    trainer(tmp_path, PredictionWriter(), fast_dev_run=True).predict(writer(), TinyTask())
    assert not list(tmp_path.iterdir())
