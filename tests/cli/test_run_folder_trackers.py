"""Trackers beside metrics.csv: what W&B offline and TensorBoard have kept, and the table in pandas."""

import json
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lit_narrative.cli.main import main
from lit_narrative.cli.run_folder import MetricsTable
from tests.paths import ROOT

SMALL = [
    "--config=storyworld/sft",
    '--model.model={"architecture":"llama","hidden_size":16,"layers":1,"heads":2,"positions":2048}',
    "--model.tokenizer.sample=32",
    "--model.tokenizer.vocab_size=300",
    "--data.train_size=64",
    "--data.val_size=8",
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
    "--trainer.log_every_n_steps=1",
    "--trainer.limit_val_batches=0",
]


BLOCK, HEADER = 32768, 7


def records(run: Path) -> Iterator[Any]:
    """The records of an offline run of W&B: protocol buffers in blocks, as LevelDB writes its log."""
    from wandb.proto import wandb_internal_pb2

    (file,) = run.glob("*.wandb")
    content = file.read_bytes()
    assert content[:4] == b":W&B"
    place, whole = HEADER, b""  # the file's own header is as long as that of a part
    while place + HEADER <= len(content):
        if BLOCK - place % BLOCK < HEADER:  # too little for a part: the block is filled up
            place += BLOCK - place % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", content[place : place + HEADER])
        whole += content[place + HEADER : place + HEADER + length]
        place += HEADER + length
        if kind in (1, 4):  # a whole record, or the last part of one
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            yield record
            whole = b""


def history(run: Path) -> list[dict[str, Any]]:
    """The rows of metrics that an offline run has kept."""
    rows = [record.history.item for record in records(run) if record.WhichOneof("record_type") == "history"]
    return [{item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in row} for row in rows]


def table(run: Path) -> list[dict[str, float]]:
    import csv

    with (run / "metrics.csv").open() as file:
        return [{name: float(cell) for name, cell in row.items() if cell} for row in csv.DictReader(file)]


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_wandb")
def test_wandb_offline_has_the_metrics_and_a_resumed_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run = tmp_path / "run"
    job = ["fit", *SMALL, "--config=logger/wandb", f"--trainer.default_root_dir={run}", "--trainer.logger.id=story7"]
    for more in (
        ["--trainer.max_steps=2"],
        ["--trainer.max_steps=4", f"--ckpt_path={run / 'checkpoints' / 'last.ckpt'}"],
    ):
        try:
            main([*job, *more])
        finally:
            wandb.finish()
            wandb.teardown()
    first, second = sorted((run / "wandb").glob("offline-run-*-story7*"))
    logged = [
        {row["trainer/global_step"]: row["loss"] for row in history(part) if "loss" in row} for part in (first, second)
    ]
    assert [sorted(part) for part in logged] == [[0, 1], [2, 3]]
    expected = {row["step"]: row["loss"] for row in table(run) if "loss" in row}
    assert {**logged[0], **logged[1]} == pytest.approx(expected)
    (settings,) = {record.run.run_id for record in records(first) if record.WhichOneof("record_type") == "run"}
    assert settings == "story7"


@pytest.mark.slow
def test_tensorboard_has_the_metrics(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra 'tensorboard' is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = tmp_path / "run"
    job = ["fit", *SMALL, f"--trainer.default_root_dir={run}", "--trainer.logger=TensorBoardLogger"]
    main([*job, "--trainer.max_steps=3"])
    (folder,) = {path.parent for path in run.rglob("events.out.tfevents*")}
    events = EventAccumulator(str(folder))
    events.Reload()
    found = {event.step: event.value for event in events.Scalars("loss")}
    assert found == pytest.approx({row["step"]: row["loss"] for row in table(run) if "loss" in row})


def test_the_table_opens_in_pandas_as_the_docs_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pandas")
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    written = MetricsTable(str(tmp_path / "runs" / "mine"), "metrics.csv", keep=False)
    for step, (loss, lr) in enumerate([(3.0, 0.1), (2.0, 0.2)]):
        written.log_metrics({"loss": loss, "epoch": 0}, step)
        written.log_metrics({"lr-AdamW": lr}, step)
    written.log_metrics({"val/loss": 2.5, "epoch": 0}, 1)
    written.save()
    monkeypatch.chdir(tmp_path)
    docs = (ROOT / "docs" / "command_line.md").read_text(encoding="utf-8")
    (snippet,) = [block for block in re.findall(r"```python\n(.*?)```", docs, re.DOTALL) if "pandas" in block]
    session: dict[str, Any] = {}
    exec(compile(snippet, "docs/command_line.md", "exec"), session)
    assert session["by_step"].loc[1].to_dict() == {"epoch": 0, "loss": 2.0, "lr-AdamW": 0.2, "val/loss": 2.5}
    assert session["loss"].to_dict() == {0: 3.0, 1: 2.0}
    assert session["long"].columns.tolist() == ["step", "metric", "value"] and len(session["long"]) == 8
