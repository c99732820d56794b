"""Predictions in shards: the same files however the work is shared out, broken off or resumed."""

import json
import os
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import CSVLogger

from lit_narrative.callbacks.writers import PredictionWriter
from lit_narrative.errors import UserError
from lit_narrative.files import read_table
from lit_narrative.lm.sampler import SamplingParams
from lit_narrative.modules.sft import SFTModule
from lit_narrative.modules.steering import SteeringModule
from tests.helpers import TinyTask, sizes, tiny_lm, tokenizer, trainer
from tests.kills import in_a_process

ROWS = 11
NARROW = SamplingParams(6, temperature=0.05)
"""So narrow that the four prompts of the task have few completions."""


def model(kind: Any = SFTModule, **settings: Any) -> Any:
    given = {} if kind is SteeringModule else {"model": sizes()}
    made = kind(**{**given, "sampling": SamplingParams(6), **settings})
    made.set_model(tiny_lm(scale=4), tokenizer())
    return made


def predict(folder: Path, *callbacks: Any, module: Any = None, batch: int = 4, rows: int = ROWS, **options: Any) -> Any:
    """Shards of three prompts each unless a writer is among the callbacks."""
    writers = (
        callbacks if any(isinstance(one, PredictionWriter) for one in callbacks) else [PredictionWriter(3), *callbacks]
    )
    run = trainer(folder, *writers, **options)
    run.predict(module or model(), TinyTask(rows=rows, eval_batch_size=batch), return_predictions=False)
    return run


def shards(folder: Path, suffix: str = "jsonl") -> dict[str, list[dict[str, Any]]]:
    """The rows of each file, but for the last digits of log-probabilities, which depend on the batch."""
    found = {}
    for path in sorted((folder / "samples" / "predictions").glob(f"*.{suffix}")):
        if suffix == "parquet":
            rows = pq.read_table(path).to_pylist()
        else:
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
        found[path.stem] = [{**row, "logprob": round(row["logprob"], 3)} for row in rows]
    return found


def manifest(folder: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((folder / "samples" / "predictions" / "manifest.json").read_text())
    return read


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of an unbroken prediction by one process."""
    folder = tmp_path_factory.mktemp("whole")
    predict(folder)
    return folder


def test_shards_hold_the_texts_of_the_one_file_in_its_order(whole: Path, tmp_path: Path) -> None:
    predict(tmp_path, PredictionWriter())
    lines = (tmp_path / "samples" / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    expected = [json.loads(line) for line in lines]
    found = shards(whole)
    assert [len(rows) for rows in found.values()] == [3, 3, 3, 2]
    assert [row["text"] for rows in found.values() for row in rows] == [row["text"] for row in expected]
    assert [row["index"] for rows in found.values() for row in rows] == [*range(ROWS)]
    assert manifest(whole)["totals"]["tokens"] == sum(row["tokens"] for row in expected)


@pytest.mark.parametrize("batch", [1, 5, 64])
def test_shards_do_not_depend_on_batches(batch: int, whole: Path, tmp_path: Path) -> None:
    predict(tmp_path, batch=batch)
    assert shards(tmp_path) == shards(whole)


@pytest.mark.ddp
def test_shards_do_not_depend_on_the_number_of_processes(whole: Path, tmp_path: Path) -> None:
    """Two share out four shards, then one shard, of which the second process has none."""
    predict(tmp_path, batch=2, devices=2, strategy="ddp_fork")
    assert shards(tmp_path) == shards(whole)
    assert manifest(tmp_path) == {
        **manifest(whole),
        "totals": {**manifest(whole)["totals"], "seconds": pytest.approx(0, abs=60)},
    }
    (tmp_path / "samples" / "predictions" / "records" / "00002.json").unlink()
    (tmp_path / "samples" / "predictions" / "00002.jsonl").unlink()
    predict(tmp_path, batch=2, devices=2, strategy="ddp_fork")
    assert shards(tmp_path) == shards(whole)


class Dies(Callback):
    """Ends its process, with no chance to clean up, before a batch is written."""

    def __init__(self, batch: int) -> None:
        self.batch = batch

    def on_predict_batch_start(self, trainer: Trainer, module: Any, batch: Any, batch_idx: int, *_: Any) -> None:
        if batch_idx == self.batch:
            os.kill(os.getpid(), 9)


def test_a_killed_run_goes_on(whole: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Two texts a batch: the second shard is begun when the process dies, and another one writes it."""
    assert in_a_process(partial(predict, tmp_path, Dies(2), batch=2)) == -9
    assert list(shards(tmp_path)) == ["00000"]
    first = (tmp_path / "samples" / "predictions" / "00000.jsonl").stat()
    with caplog.at_level("INFO", "lit_narrative"):
        predict(tmp_path, batch=3)
    assert "1 of 4 shards in" in caplog.text and "are there" in caplog.text
    assert shards(tmp_path) == shards(whole)
    assert (tmp_path / "samples" / "predictions" / "00000.jsonl").stat().st_ino == first.st_ino
    assert manifest(tmp_path)["totals"]["drawn"] == ROWS


def test_a_finished_run_stays_as_it_is(whole: Path) -> None:
    before = shards(whole)
    predict(whole)
    assert shards(whole) == before


def test_a_limit_leaves_the_rest_to_another_run(whole: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    predict(tmp_path, limit_predict_batches=1)
    assert "1 texts of a shard that is not complete are left out" in caplog.text
    assert "1 of 4 shards are written; the same command goes on" in caplog.text
    assert "totals" not in manifest(tmp_path)
    predict(tmp_path)
    assert shards(tmp_path) == shards(whole)


def test_a_run_with_other_settings_does_not_go_on(whole: Path) -> None:
    before = shards(whole)
    with pytest.raises(UserError, match=r"model\.sampling\.temperature was 1\.0 and is 0\.05"):
        predict(whole, module=model(sampling=NARROW))
    with pytest.raises(UserError, match="prompts was 11 and is 12"):
        predict(whole, rows=12)
    with pytest.raises(UserError, match="shard_rows was 3 and is 4"):
        predict(whole, PredictionWriter(4))
    assert shards(whole) == before


def test_of_equal_texts_the_first_stays(tmp_path: Path) -> None:
    predict(tmp_path / "all", PredictionWriter(3, deduplicate=False), module=model(sampling=NARROW))
    every = [row["text"] for rows in shards(tmp_path / "all").values() for row in rows]
    predict(tmp_path / "unique", module=model(sampling=NARROW))
    found = shards(tmp_path / "unique")
    firsts = {" ".join(text.split()): text for text in reversed(every)}
    assert len(firsts) < len(every) == ROWS
    assert [row["text"] for rows in found.values() for row in rows] == [
        t for t in dict.fromkeys(every) if t in firsts.values()
    ]
    totals = manifest(tmp_path / "unique")["totals"]
    assert (totals["texts"], totals["drawn"]) == (len(firsts), ROWS)


def test_parquet_holds_the_same_rows(whole: Path, tmp_path: Path) -> None:
    predict(tmp_path, PredictionWriter(3, "parquet"))
    assert shards(tmp_path, "parquet") == shards(whole)


def test_all_completions_of_a_prompt_are_in_its_shard(tmp_path: Path) -> None:
    predict(
        tmp_path, PredictionWriter(3, deduplicate=False), module=model(SteeringModule, method="none", samples=2), rows=4
    )
    assert [[row["index"] for row in rows] for rows in shards(tmp_path).values()] == [[0, 0, 1, 1, 2, 2], [3, 3]]


def test_speed_and_share_of_different_texts_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = CSVLogger(tmp_path, "", "")
    with caplog.at_level("INFO", "lit_narrative"):
        predict(tmp_path, module=model(sampling=NARROW), logger=log)
    rows = read_table(tmp_path / "metrics.csv")
    assert [float(row["predict/texts"]) for row in rows] == [3, 6, 9, 11, 11]
    assert all(float(row["predict/tokens_per_second"]) > float(row["predict/texts_per_second"]) > 0 for row in rows)
    totals = manifest(tmp_path)["totals"]
    assert float(rows[-1]["predict/unique"]) == pytest.approx(totals["texts"] / ROWS)
    assert f"{totals['texts']} different texts of 11" in caplog.text


def test_a_dry_run_writes_no_shards(tmp_path: Path) -> None:
    predict(tmp_path, fast_dev_run=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shard_rows": 0}, "shard_rows is 0; it must be 1 or more"),
        ({"shard_rows": 4, "format": "csv"}, "there is no 'csv'"),
        ({"format": "parquet"}, "give shard_rows as well"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        PredictionWriter(**settings)
