"""A key in the settings of a run, which no file of its folder and no message holds."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lit_narrative.cli.main import main
from lit_narrative.cli.run_folder import RunLogger
from lit_narrative.datamodules.task import Task
from lit_narrative.files import read_table
from lit_narrative.redaction import REDACTED
from lit_narrative.views import Rollout
from tests.helpers import TinyTask, tokenizer_folder

KEY = "hunter2"
URL = f"https://me:{KEY}@judge.org/score?token={KEY}"
REWARD = f"{__name__}:Keyed(url='{URL}', api_key='{KEY}')"
STORED = f"{__name__}:Keyed(url='https://{REDACTED}@judge.org/score?{REDACTED}', api_key='{REDACTED}')"


@dataclass
class Keyed:
    """A reward with a key, which answers once and then fails with its key in the message."""

    url: str
    api_key: str
    name: str = "judge"
    calls: int = 0

    def __call__(self, rollouts: Sequence[Rollout]) -> list[float]:
        assert KEY in self.url
        assert self.api_key == KEY, "the run itself has the real key"
        self.calls += 1
        if self.calls > 1:
            raise ConnectionError(f"401 for {self.url} with api_key={self.api_key!r} {'x' * 100_000}")
        return [float(len(rollout.text)) for rollout in rollouts]


class KeyedTask(TinyTask):
    """A task that takes custom rewards by their path."""

    def __init__(self, batch_size: int = 4) -> None:
        super().__init__(batch_size=batch_size)

    def reward_functions(self, names: Sequence[str]) -> dict[str, Any]:
        return Task.reward_functions(self, names)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A run of two steps, with every writer and a logger that stores hyper-parameters."""
    settings = {
        "trainer": {
            "max_steps": 2,
            "accelerator": "cpu",
            "default_root_dir": str(tmp_path / "run"),
            "log_every_n_steps": 1,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "limit_val_batches": 0,
            "logger": [
                {"class_path": f"{RunLogger.__module__}.RunLogger", "init_args": {"save_dir": str(tmp_path / "run")}},
                {"class_path": "CSVLogger", "init_args": {"save_dir": str(tmp_path / "run/other"), "name": ""}},
            ],
            "callbacks": [
                {"class_path": "SampleTable", "init_args": {"every_n_rollout_batches": 1}},
                {"class_path": "RolloutWriter"},
                {"class_path": "ModelCheckpoint", "init_args": {"save_last": True, "every_n_train_steps": 1}},
            ],
        },
        "model": {
            "class_path": "GRPOModule",
            "init_args": {
                "model": {"architecture": "llama", "hidden_size": 16, "layers": 1, "heads": 2, "positions": 64},
                "tokenizer": tokenizer_folder(tmp_path),
                "rewards": {REWARD: 1.0},
                "scoring": {"independent": [REWARD], "cache_size": 0},
                "num_generations": 2,
                "sampling": {"max_new_tokens": 4},
            },
        },
        "data": {"class_path": f"{__name__}.KeyedTask", "init_args": {"batch_size": 4}},
    }
    path = tmp_path / "keyed.yaml"
    path.write_text(yaml.safe_dump(settings, width=1000))
    return path


def holders(folder: Path) -> list[str]:
    """Files in which the key stands; checkpoints are not compressed."""
    return [str(path) for path in folder.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]


def test_no_file_and_no_message_of_a_run_holds_its_key(
    config: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    main(["fit", "--config", str(config)])
    run = tmp_path / "run"
    (last,) = run.rglob("last.ckpt")
    assert holders(run) == []
    assert STORED in yaml.safe_load((run / "config.yaml").read_text())["model"]["init_args"]["rewards"]
    stored = torch.load(last, weights_only=True)["hyper_parameters"]
    assert stored["rewards"] == {STORED: 1.0}
    assert STORED in (run / "other" / "version_0" / "hparams.yaml").read_text().replace("\n    ", " ")
    assert {"rewards/judge/mean", "rewards/judge/failures"} <= set(next(iter(read_table(run / "metrics.csv"))))
    assert "rewards/judge" in (run / "samples" / "train.csv").read_text().splitlines()[0]
    # The second rollout batch was lost, and the line that says so is short.
    (line,) = [record.getMessage() for record in caplog.records if "no score" in record.getMessage()]
    assert "'judge': 8 of 8" in line
    assert "ConnectionError: 401 for https://" in line
    assert len(line) < 400
    out = capfd.readouterr()
    assert KEY not in out.out + out.err + caplog.text

    # Resumed with the user's own configuration: the key is the real one, whatever the checkpoint says.
    main(["fit", "--config", str(config), "--ckpt_path", str(last), "--trainer.max_steps", "3"])
    assert holders(run) == []
    # And what was stored is no configuration to run: it says what is missing.
    with pytest.raises(SystemExit):
        main(["fit", "--config", str(run / "config.yaml"), "--trainer.default_root_dir", str(tmp_path / "again")])
    assert "model.init_args.rewards: a key was hidden here" in capfd.readouterr().err


def test_errors_do_not_show_keys_and_trackers_do_not_store_the_command_line(
    config: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_X_DISABLE_META", "")  # undone at the end, whatever is set in between
    monkeypatch.delenv("WANDB_X_DISABLE_META")
    wrong = f"{__name__}:Keyd(url='{URL}', api_key='{KEY}')"
    for args in (
        ["--model.init_args.rewards", yaml.safe_dump({wrong: 1.0}, default_flow_style=True, width=10**6)],
        ["--model.init_args.rewards", f"[{REWARD}]"],
        ["--model.api_key", KEY],
        ["--ckpt_path", URL],
    ):
        with pytest.raises(SystemExit):
            main(["fit", "--config", str(config), *args])
        error = capfd.readouterr().err
        assert error.startswith("error: ")
        assert KEY not in error
    assert os.environ["WANDB_X_DISABLE_META"] == "true"
