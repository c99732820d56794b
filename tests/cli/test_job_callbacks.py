"""What a job shows in a terminal."""

import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
from lightning.pytorch.callbacks import RichModelSummary, TQDMProgressBar

from lit_narrative.cli.job_callbacks import EpochBar, ModelLine, console_callbacks
from lit_narrative.cli.main import main
from lit_narrative.lm.sampler import SamplingParams
from tests.helpers import TinyTask, grpo, trainer

CALLBACKS = "--trainer.callbacks=[]"


@pytest.mark.parametrize(("options", "expected"), [({"max_steps": 4}, "Epoch 3"), ({"max_epochs": 5}, "Epoch 3 of 5")])
def test_epochs_count_from_one_up_to_their_number_where_there_is_one(
    options: dict[str, int], expected: str, tmp_path: Path
) -> None:
    bar = EpochBar()
    runner = trainer(tmp_path, bar, enable_progress_bar=True, **options)
    bar.setup(runner, grpo(tmp_path), "fit")
    assert bar._get_train_description(2).strip() == expected


def test_a_run_says_in_one_line_what_it_trains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = grpo(tmp_path, num_generations=2, sampling=SamplingParams(4))
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        trainer(tmp_path, ModelLine(), max_steps=1).fit(module, TinyTask())
    (line,) = capsys.readouterr().out.splitlines()
    size = line.partition("LlamaForCausalLM, ")[2].partition(" parameters")[0]
    part = f"LlamaForCausalLM, {size} parameters"
    assert line == f"GRPOModule: lm {part}; reference {part}, not trained"
    assert not [warning for warning in heard if "eval mode" in str(warning.message)]


def test_a_bar_and_a_summary_that_were_asked_for_stay_alone() -> None:
    def shown(*callbacks: object, **settings: object) -> list[type]:
        given = {"barebones": False, "enable_progress_bar": None, "enable_model_summary": None, **settings}
        return [type(one) for one in console_callbacks(SimpleNamespace(callbacks=callbacks, **given))]

    assert shown() == [EpochBar, ModelLine]
    assert shown(TQDMProgressBar()) == [ModelLine]
    assert shown(RichModelSummary()) == [EpochBar]
    assert shown(enable_progress_bar=False, enable_model_summary=False) == shown(barebones=True) == []


def test_a_job_shows_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = "{architecture: llama, hidden_size: 16, layers: 1, heads: 2, positions: 1500}"
    small = ["--data.train_size=2", "--data.val_size=2", "--data.batch_size=2", f"--model.model={sizes}"]
    limits = ["--trainer.max_steps=1", "--trainer.max_epochs=-1", "--trainer.limit_val_batches=0", CALLBACKS]
    folder = [f"--trainer.default_root_dir={tmp_path}", "--model.tokenizer.vocab_size=300"]
    main(["fit", "--config=storyworld/sft", *small, *limits, *folder])
    out = capsys.readouterr().out
    assert "SFTModule: lm LlamaForCausalLM, " in out and "FLOPs" not in out
    assert "Epoch 1" in out and "/-2" not in out
