"""The command line of jobs, run in this process with a module and data of a few numbers."""

import csv
import json
import logging
import os
import sys
import time
import warnings
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lit_narrative.cli.lightning import quieten
from lit_narrative.cli.main import main
from lit_narrative.cli.names import resolve_configs
from lit_narrative.datamodules.base import TaskDataModule
from lit_narrative.errors import UserError
from lit_narrative.lookup import shipped_folder
from tests.helpers import tiny_lm, tokenizer


class TinyModule(LightningModule):
    def __init__(self, lr: float = 0.1, width: int = 1) -> None:
        super().__init__()
        if width < 1:
            raise UserError(f"model.width must be at least 1, not {width}")
        self.save_hyperparameters()
        self.lr = lr
        self.layer = nn.Linear(width, 1)

    def training_step(self, batch: tuple[Tensor], index: int) -> Tensor:
        loss: Tensor = self.layer(batch[0]).square().mean()
        self.log("loss", loss)
        return loss

    def test_step(self, batch: tuple[Tensor], index: int) -> None:
        self.log("test/lr", self.lr)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


class TinyData(TaskDataModule):
    def __init__(self, rows: int = 4) -> None:
        super().__init__()
        self.rows = rows

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(TensorDataset(torch.arange(self.rows).float().unsqueeze(1)))

    test_dataloader = train_dataloader


class StopAt(Callback):
    """End the process, as a kill does, after the step."""

    def __init__(self, step: int = 5) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        if trainer.global_step == self.step:
            raise InterruptedError


class Slowly(Callback):
    """Half a second for each step."""

    def on_train_batch_start(self, *_: object) -> None:
        time.sleep(0.5)


class Elsewhere(Callback):
    """A callback for a package that is not here."""

    def __init__(self) -> None:
        raise ModuleNotFoundError("Requirement 'nowhere>=1' not met\nTry to install it")


class ElsewhereLogger(CSVLogger):
    """Likewise."""

    __init__ = Elsewhere.__init__  # type: ignore[assignment]


class Holder(Callback):
    """A callback that is given a module."""

    def __init__(self, inner: LightningModule, places: int = 1) -> None:
        if places > 1:
            raise UserError("a holder has one place")
        self.inner = inner

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert self.inner.lr == 0.75
        assert {"lr": 0.5, "width": 1}.items() <= dict(pl_module.hparams).items()


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A complete configuration whose run folder is ``tmp_path/run``."""
    settings = {
        "trainer": {
            "max_epochs": 2,
            "accelerator": "cpu",
            "default_root_dir": str(tmp_path / "run"),
            "log_every_n_steps": 1,
            "enable_progress_bar": False,
            "enable_model_summary": False,
        },
        "model": {"class_path": f"{__name__}.TinyModule", "init_args": {"lr": 0.5}},
        "data": {"class_path": f"{__name__}.TinyData"},
    }
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def fails(args: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command line that must end with code 2; return its only message."""
    with pytest.raises(SystemExit) as end:
        main(args)
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert len(error.strip().splitlines()) == 1, error
    return error


def test_fit_fills_the_run_folder_and_its_config_runs_again(config: Path, tmp_path: Path) -> None:
    main(["fit", "--config", str(config), "--model.init_args.lr", "0.25"])
    run = tmp_path / "run"
    assert [int(row["step"]) for row in rows(run / "metrics.csv") if row["loss"]] == list(range(8))
    assert list((run / "checkpoints").glob("*.ckpt"))
    text = (run / "config.yaml").read_text()
    assert text.startswith("# lit-narrative==")
    assert yaml.safe_load(text)["model"]["init_args"]["lr"] == 0.25
    first = rows(run / "metrics.csv")
    main(["fit", "--config", str(run / "config.yaml")])
    assert rows(run / "metrics.csv") == first


@pytest.mark.parametrize("setting", ["--ckpt_path", "--data", "--data.path"])
def test_a_pipe_as_a_setting_is_refused_and_not_waited_for(
    setting: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / "pipe")
    for arguments in ([f"{setting}={tmp_path}/pipe"], [setting, f"{tmp_path}/pipe"]):
        with pytest.raises(SystemExit):
            main(["fit", *arguments])
        assert "it is a pipe or a device" in capsys.readouterr().err


def test_a_test_leaves_the_files_of_the_fit_alone(config: Path, tmp_path: Path) -> None:
    main(["fit", "--config", str(config)])
    run = tmp_path / "run"
    before = {name: (run / name).read_bytes() for name in ("config.yaml", "metrics.csv")}
    main(["test", "--config", str(config)])
    assert before == {name: (run / name).read_bytes() for name in before}
    assert rows(run / "metrics_test.csv")[0]["test/lr"]
    assert yaml.safe_load((run / "config_test.yaml").read_text())["data"]


def test_predict_writes_its_samples_where_no_callback_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_lm().save_pretrained(tmp_path / "model")
    tokenizer().save_pretrained(tmp_path / "model")
    model = ["--model=SFTModule", f"--model.model={tmp_path / 'model'}", "--model.sampling.max_new_tokens=2"]
    run = [f"--trainer.default_root_dir={tmp_path / 'run'}", "--trainer.accelerator=cpu"]
    main(["predict", *model, "--data=PoetryData", "--data.test_size=8", *run])
    written = (tmp_path / "run" / "samples" / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(written) == 8 and {"prompt", "text", "finished"} <= json.loads(written[0]).keys()
    assert f"8 texts in '{tmp_path / 'run' / 'samples' / 'predictions.jsonl'}'" in capsys.readouterr().out
    writer = ["--trainer.callbacks+=PredictionWriter", "--trainer.callbacks.shard_rows=3"]
    main(["predict", *model, "--data=PoetryData", "--data.test_size=8", *run, *writer])
    assert len(list((tmp_path / "run" / "samples" / "predictions").glob("*.jsonl"))) == 3
    assert "texts of 8" in capsys.readouterr().out


def test_command_line_wins_over_the_checkpoint(config: Path, tmp_path: Path) -> None:
    main(["fit", "--config", str(config)])
    checkpoint = next((tmp_path / "run" / "checkpoints").glob("*.ckpt"))
    assert torch.load(checkpoint, weights_only=True)["hyper_parameters"]["lr"] == 0.5
    main(["test", "--config", str(config), "--ckpt_path", str(checkpoint), "--model.init_args.lr", "0.125"])
    assert float(rows(tmp_path / "run" / "metrics_test.csv")[0]["test/lr"]) == 0.125


def test_a_module_inside_a_callback_leaves_the_model_its_hyperparameters(config: Path, tmp_path: Path) -> None:
    inner = {"class_path": f"{__name__}.TinyModule", "init_args": {"lr": 0.75}}
    holder = {"class_path": f"{__name__}.Holder", "init_args": {"inner": inner}}
    main(["fit", "--config", str(config), "--trainer.callbacks+", json.dumps(holder)])
    checkpoint = next((tmp_path / "run" / "checkpoints").glob("*.ckpt"))
    stored = torch.load(checkpoint, weights_only=True)["hyper_parameters"]
    assert stored["_class_path"].endswith("TinyModule")
    assert stored["lr"] == 0.5


def test_resumed_run_continues_its_table(config: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    main(["fit", "--config", str(config), "--trainer.default_root_dir", str(whole)])
    with pytest.raises(SystemExit):
        main(["fit", "--config", str(config), "--trainer.callbacks+", f"{__name__}.StopAt"])
    checkpoint = next((tmp_path / "run" / "checkpoints").glob("*.ckpt"))
    main(["fit", "--config", str(config), "--ckpt_path", str(checkpoint)])
    assert rows(tmp_path / "run" / "metrics.csv") == rows(whole / "metrics.csv")


def test_a_used_folder_never_leaves_the_old_last_checkpoint_beside_the_new(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save = json.dumps({"class_path": "ModelCheckpoint", "init_args": {"save_last": True, "save_top_k": -1}})
    fit = ["fit", "--config", str(config), "--trainer.callbacks+", save]
    main(fit)
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    other = next(path for path in last.parent.iterdir() if path != last)
    before = last.read_bytes()
    for again in (fit, [*fit, "--ckpt_path", str(other)]):
        assert f"resume from it by --ckpt_path={last}" in fails(again, capsys)
    assert last.read_bytes() == before
    main([*fit, "--trainer.fast_dev_run", "true"])
    main([*fit, "--ckpt_path", str(last), "--trainer.max_epochs=4"])
    assert torch.load(last, weights_only=True)["epoch"] == 3
    assert not list(last.parent.glob("last-*"))


def test_other_loggers_come_beside_the_table_and_into_the_run_folder(config: Path, tmp_path: Path) -> None:
    extra = ["--trainer.logger", "WandbLogger", "--trainer.logger.offline", "true", "--trainer.logger.mode", "disabled"]
    main(["fit", "--config", str(config), *extra])
    assert rows(tmp_path / "run" / "metrics.csv")
    assert str(tmp_path / "run") in (tmp_path / "run" / "config.yaml").read_text().split("save_dir:")[1]
    main(["fit", "--config", str(config), "--trainer.logger=CSVLogger", "--trainer.logger.name=beside"])
    (beside,) = (tmp_path / "run" / "beside").rglob("metrics.csv")
    assert len(rows(beside)) == len(rows(tmp_path / "run" / "metrics.csv"))


@pytest.mark.skipif(find_spec("tensorboard") is not None, reason="tensorboard is installed")
def test_a_logger_whose_library_is_missing_is_one_line(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["fit", "--config", str(config), "--trainer.logger=TensorBoardLogger"])
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert "TensorBoardLogger" in error and "pip install" in error


class WriteHere(Callback):
    """Write to the run folder, and say where that is."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        sys.stdout.write(f"{trainer.default_root_dir}\n")
        Path(trainer.default_root_dir, "file").touch()


def test_dry_run_leaves_nothing(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save = json.dumps({"class_path": "ModelCheckpoint", "init_args": {"save_last": True}})
    callbacks = ["--trainer.callbacks+", save, "--trainer.callbacks+", f"{__name__}.WriteHere"]
    before = sorted(tmp_path.iterdir())
    main(["fit", "--config", str(config), "--trainer.fast_dev_run", "true", *callbacks])
    folder = Path(next(line for line in capsys.readouterr().out.splitlines() if "lit-narrative-" in line))
    assert not folder.exists()
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (["--trainer.max_epoch", "3"], ["'trainer.max_epoch'", "did you mean 'trainer.max_epochs'"]),
        (["--traner.max_epochs", "3"], ["did you mean 'trainer.max_epochs'"]),
        (["--model.init_args.lrr", "3"], ["model", "TinyModule has no argument 'lrr'", "did you mean 'lr'"]),
        (["--model.widht=3"], ["TinyModule has no argument 'widht'", "did you mean 'width'"]),
        (["--model.lr", "fast"], ["lr", "expected float", "'fast'"]),
        (["--trainer.max_epochs", "many"], ["trainer.max_epochs", "expected int", "'many'"]),
        (["--trainer.callbacks+", "StpAt"], ["trainer.callbacks", "no class 'StpAt'"]),
        (["--model", "TinyModul"], ["model", "no class 'TinyModul'"]),
        (["--ckpt_path", "runs/nowhere.ckpt"], ["no checkpoint 'runs/nowhere.ckpt'"]),
        (["--ckpt_path", "best"], ["known only within the run that made it"]),
        (["--trainer.accelerator", "abacus"], ["trainer", "abacus"]),
        (["--model.width", "0"], ["model.width must be at least 1, not 0"]),
        (
            [
                "--trainer.callbacks+",
                "Holder",
                "--trainer.callbacks.inner",
                "TinyModule",
                "--trainer.callbacks.places=2",
            ],
            ["a holder has one place"],
        ),
        (["--trainer.callbacks+", "Elsewhere"], [f"{__name__}.Elsewhere: Requirement 'nowhere>=1' not met"]),
        (["--trainer.logger", "ElsewhereLogger"], [f"{__name__}.ElsewhereLogger: Requirement 'nowhere>=1' not met"]),
        (["--config", "storyworld/nothing"], ["no configuration 'storyworld/nothing'", str(shipped_folder())]),
    ],
)
def test_wrong_command_line_is_one_clear_error(
    config: Path, args: list[str], parts: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    error = fails(["fit", "--config", str(config), *args], capsys)
    assert [part for part in parts if part not in error] == [], error
    assert not (tmp_path / "run" / "config.yaml").exists()


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        ("max_epochs", "max_epoch", ["'trainer.max_epoch'", "did you mean 'trainer.max_epochs'"]),
        ("trainer:", "traier:", ["did you mean 'trainer"]),
        ("lr: 0.5", "lrr: 0.5", ["TinyModule has no argument 'lrr'", "did you mean 'lr'"]),
        ("lr: 0.5", "lr: [", ["tiny.yaml", "line"]),
        ("TinyData", "TinyDat", ["data", "TinyDat"]),
    ],
)
def test_wrong_yaml_is_one_clear_error(
    config: Path, old: str, new: str, parts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert old in config.read_text()
    config.write_text(config.read_text().replace(old, new))
    error = fails(["fit", "--config", str(config)], capsys)
    assert [part for part in parts if part not in error] == [], error


def test_run_folder_that_cannot_be_made(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    error = fails(
        ["fit", "--config", str(config), "--trainer.default_root_dir", str(tmp_path / "file" / "run")], capsys
    )
    assert "cannot be written" in error


def test_missing_model_and_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert "not given: data, model" in fails(["fit"], capsys)


def test_configs_are_found_by_every_spelling(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(config.parent)
    spellings = [["--config", "tiny.yaml"], ["-c", "tiny.yaml"], ["--config=tiny.yaml"]]
    assert [resolve_configs(args) for args in spellings] == spellings


def test_classes_of_the_folder_it_runs_in_can_be_named(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (config.parent / "my_callbacks.py").write_text(
        "from lightning.pytorch import Callback\n"
        "class Mine(Callback):\n"
        "    def on_fit_end(self, trainer, module):\n"
        "        open('seen', 'w').close()\n"
    )
    monkeypatch.chdir(config.parent)
    monkeypatch.setattr("sys.path", list(sys.path))
    main(["fit", "--config", "tiny.yaml", "--trainer.callbacks+", "my_callbacks.Mine"])
    assert (config.parent / "seen").exists()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--model=outside.parts.Stop", "model: outside.parts.Stop is not a subclass of LightningModule"),
        ("--model=CSVLogger", "model: CSVLogger is not a subclass of LightningModule"),
        ("--model=outside.parts.Mood", "model: there is no 'Mood' in outside.parts; did you mean 'Model'?"),
        ("--model=outside.prts.Model", "model: there is no 'prts' in outside; did you mean 'parts'?"),
        (
            "--model=outsid.parts.Model",
            "there is no module 'outsid' for outsid.parts.Model: is its folder on PYTHONPATH?",
        ),
        ("--model=outside.broken.Model", "outside.broken.Model cannot be imported: No module named 'nothing_there'"),
        ("--model.widht=2", "model: Model has no argument 'widht'; did you mean 'width'?"),
        ("--data.rows=few", "data.rows: expected int, got 'few'"),
        (
            "--trainer.callbacks.stp=1",
            "trainer.callbacks.stp: none of the callbacks has 'stp' (Stop); did you mean 'step'?",
        ),
    ],
)
def test_what_is_wrong_with_a_class_of_another_package_is_said_as_of_ours(
    option: str,
    message: str,
    config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    package = tmp_path / "outside"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "broken.py").write_text("import nothing_there")
    (package / "parts.py").write_text(
        f"import {__name__} as ours\n"
        "class Model(ours.TinyModule): pass\n"
        "class Data(ours.TinyData): pass\n"
        "class Stop(ours.StopAt): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "outside"]:
        monkeypatch.delitem(sys.modules, name)
    settings = yaml.safe_load(config.read_text())
    settings["model"]["class_path"], settings["data"]["class_path"] = "outside.parts.Model", "outside.parts.Data"
    settings["trainer"]["callbacks"] = [{"class_path": "outside.parts.Stop"}]
    config.write_text(yaml.safe_dump(settings))
    assert message in fails(["fit", "--config", str(config), option], capsys)


@pytest.mark.parametrize("joined", [True, False])
def test_a_list_on_the_command_line_replaces_that_of_the_configuration(
    joined: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Entries of lists of one length do not merge: one with a bag and one with a head are not one with both."""
    given = ["--model.attributes", "[{head: x.ckpt, label: topic}]"]
    with pytest.raises(SystemExit):
        configs = ["--config", "poetry/steer", "--model.attributes=[{bag: ocean, column: null}]"]
        main(["test", *configs, *(["=".join(given)] if joined else given), "--print_config"])
    (attribute,) = yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]["attributes"]
    assert (attribute["bag"], attribute["column"], attribute["head"]) == (None, None, "x.ckpt")


def test_only_what_nobody_can_act_on_is_silenced() -> None:
    def record(message: str) -> logging.LogRecord:
        return logging.LogRecord("lightning", logging.INFO, "", 0, message, (), None)

    source = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        quieten()
        for text in ("The loader does not have many workers", "The loader is slow"):
            warnings.warn_explicit(text, UserWarning, "x.py", 1)
    assert len(heard) == 1
    told = ["GPU available: True (cuda), used: True", "GPU available but not used.", "`Trainer.fit` stopped"]
    hidden = ["GPU available: False, used: False", "TPU available: False, using: 0 TPU cores", "💡 Tip: try it"]
    assert [text for text in (*told, *hidden) if source.filter(record(text))] == told
