"""What is amended on a command line, by what the parser then makes of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_narrative.cli.main import main
from lit_narrative.lm.sampler import SamplingParams
from tests.helpers import TinyTask, grpo, trainer


class Twice(ModelCheckpoint):
    """Another callback with the arguments of that one."""


CYCLE = ["fit", "--config", "storyworld/cycle", "--model.model=hub-name"]


def settings(args: Sequence[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """The settings that a command line stands for."""
    with pytest.raises(SystemExit) as end:
        main([*args, "--print_config"])
    printed = capsys.readouterr()
    assert end.value.code == 0, printed.err
    found: dict[str, Any] = yaml.safe_load(printed.out)
    return found


def arguments(found: dict[str, Any]) -> dict[str, Any]:
    """By name the arguments of the callbacks."""
    return {one["class_path"].rpartition(".")[2]: one.get("init_args", {}) for one in found["trainer"]["callbacks"]}


def test_a_setting_reaches_the_callback_that_has_it(capsys: pytest.CaptureFixture[str]) -> None:
    plain = arguments(settings(CYCLE, capsys))
    given = [
        "--trainer.callbacks.worlds",
        "16",
        "--trainer.callbacks.sae.k=4",
        "--trainer.callbacks.Verifiers.samples=8",
    ]
    changed = arguments(
        settings([*CYCLE, *given, "--trainer.callbacks+", "KLCeiling", "--trainer.callbacks.max_kl=2"], capsys)
    )
    assert changed.pop("KLCeiling")["max_kl"] == 2
    assert (changed["SAERefresh"]["worlds"], changed["SAERefresh"]["sae"]["k"], changed["Verifiers"]["samples"]) == (
        16,
        4,
        8,
    )
    for name, value in (("SAERefresh", "worlds"), ("Verifiers", "samples")):
        changed[name][value] = plain[name][value]
    changed["SAERefresh"]["sae"]["k"] = plain["SAERefresh"]["sae"]["k"]
    assert changed == plain


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        (["--trainer.callbacks.wrlds=3"], ["none of the callbacks has 'wrlds'", "SAERefresh", "did you mean 'worlds'"]),
        (
            ["--trainer.callbacks.every_n_epochs=3", "--config", "CLASHING"],
            [
                "several",
                "--trainer.callbacks.ModelCheckpoint.every_n_epochs or --trainer.callbacks.Twice.every_n_epochs",
            ],
        ),
        (["--model.lr"], ["--model.lr: no value is given; write it as --model.lr=VALUE"]),
        (["--data.batch_size", "--trainer.max_steps=2"], ["--data.batch_size: no value is given"]),
        (["--model.learning_rate=1"], ["GRPOModule has no argument 'learning_rate'; did you mean 'lr'?"]),
        (["--model.num_train_epochs=1"], ["did you mean 'trainer.max_epochs'?"]),
        (["--model.max_completion_length=1"], ["did you mean 'sampling.max_new_tokens'?"]),
    ],
)
def test_what_cannot_be_meant_is_named(
    given: list[str], parts: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    clashing = tmp_path / "clashing.yaml"
    twice = {"class_path": f"{__name__}.Twice"}
    clashing.write_text(yaml.safe_dump({"trainer": {"callbacks": [{"class_path": "ModelCheckpoint"}, twice]}}))
    args = [str(clashing) if part == "CLASHING" else part for part in given]
    with pytest.raises(SystemExit) as end:
        main([*CYCLE, *args])
    error = capsys.readouterr().err
    assert end.value.code == 2 and [part for part in parts if part not in error] == [], error


def test_a_model_that_is_named_brings_its_tokenizer(tmp_path: Path) -> None:
    runner = trainer(tmp_path, max_steps=1)
    runner.fit(grpo(tmp_path, num_generations=2, sampling=SamplingParams(4)), TinyTask())
    runner.save_checkpoint(tmp_path / "run.ckpt")
    start = f"--model.model={tmp_path / 'run.ckpt'}"
    short = [
        "--model.long_examples=truncate",
        "--data.train_size=2",
        "--data.val_size=2",
        "--trainer.fast_dev_run=true",
    ]
    main(["fit", "--config=storyworld/sft", start, *short, "--trainer.callbacks=[]"])
    with pytest.raises(SystemExit):
        main(["fit", "--config=storyworld/sft", start, *short, "--model.tokenizer.vocab_size=300"])
