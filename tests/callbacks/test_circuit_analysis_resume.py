"""Circuit analyses that are done are kept: a kill loses only the one in progress, and a next run does what is left."""

import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_narrative.callbacks import circuit_analysis
from lit_narrative.circuits import bridge
from lit_narrative.circuits.analyses.ablation import AblationSettings
from lit_narrative.circuits.analyses.acdc import PruningSettings
from lit_narrative.circuits.analysis import AnalysisJob
from lit_narrative.circuits.bridge import build_bridge
from lit_narrative.circuits.data import AnalysisData, collect
from lit_narrative.circuits.inputs import encode_inputs
from lit_narrative.circuits.store import Done, Store, key_of, model_digest
from lit_narrative.circuits.suite import ANALYSES, duration
from lit_narrative.datamodules.cards import CardsData
from lit_narrative.lm.load import ScratchModel
from lit_narrative.lm.tokenizer import TrainedTokenizer
from lit_narrative.modules.sft import SFTModule
from lit_narrative.views import Example
from tests.callbacks.test_circuit_analysis import FIRST, QUICK, data, manifest, outcome, policy
from tests.helpers import tokenizer, trainer

CODE = """
from lit_narrative.circuits.analysis import About, Analysis

def run(job, folder, progress):
    {work}
    (folder / "seen.json").write_text("{{}}")
    return {{"nothing": float("nan")}}

ANALYSIS = Analysis("{name}", About("A", "What?", "So."), run)
"""


@pytest.fixture
def outlet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An analysis during which the power fails until the file ``power`` is there."""
    name = f"outlet_{tmp_path.name}"
    work = f"if not __import__('pathlib').Path({str(tmp_path / 'power')!r}).exists(): raise RuntimeError('power cut')"
    (tmp_path / f"{name}.py").write_text(CODE.format(name=name, work=work))
    monkeypatch.syspath_prepend(tmp_path)
    return name


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """The lines of progress are among the captured messages."""
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    logger.addHandler(caplog.handler)
    yield
    logger.removeHandler(caplog.handler)


def took_over(messages: list[str]) -> set[str]:
    """The analyses that the last run did not do again."""
    before = "CircuitAnalysis: done before, of the same model, rows and settings: "
    found = [message.removeprefix(before) for message in messages if message.startswith(before)]
    return set(found[-1].split(", ")) if found else set()


def files(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*.*") if path.name != "manifest.json")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def test_a_kill_loses_only_the_analysis_in_progress(
    outlet: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, lines: None
) -> None:
    module, given = policy(), {"extra": {outlet: {}}, "reference": None}
    with pytest.raises(RuntimeError, match="power cut"):
        outcome(tmp_path / "cut", module, **given)
    assert not (tmp_path / "cut" / "circuits").exists()
    kept = tmp_path / "cut" / "circuits.unfinished" / "model"
    assert {path.name for path in kept.iterdir() if not path.name.startswith(".")} == set(FIRST)
    (tmp_path / "power").touch()
    whole = outcome(tmp_path / "whole", module, **given)
    metrics = outcome(tmp_path / "cut", module, **given)
    assert took_over(caplog.messages) == set(FIRST)
    assert files(tmp_path / "cut" / "circuits") == files(tmp_path / "whole" / "circuits")
    assert {name: value for name, value in metrics.items() if value == value} == {
        name: value for name, value in whole.items() if value == value
    }
    assert not kept.parent.exists()
    assert set(manifest(tmp_path / "cut")["done"]) == {*FIRST, outlet}


def test_only_what_changed_is_done_again(tmp_path: Path, caplog: pytest.LogCaptureFixture, lines: None) -> None:
    module, folder = policy(), tmp_path / "circuits"

    def again(**settings: Any) -> set[str]:
        """The analyses that a next run does."""
        caplog.clear()
        outcome(tmp_path, **{"module": module, **settings})
        return set(FIRST) - took_over(caplog.messages)

    outcome(tmp_path, module)
    assert again() == set()
    fewer = replace(QUICK, ablation=AblationSettings(("mlp",)))
    assert again(settings=fewer) == {"ablation"}
    (folder / "ablation.csv").write_text("")  # a damaged file
    assert again(settings=fewer) == {"ablation"}
    assert (folder / "ablation.csv").read_text()
    (folder / "manifest.json").write_text("[")  # a damaged folder is replaced
    assert again(settings=fewer) == set(FIRST)


def test_a_damaged_record_or_file_is_done_again(tmp_path: Path) -> None:
    store = Store(tmp_path / "new", tmp_path / "none")

    def work(folder: Path) -> dict[str, float]:
        (folder / "table.csv").write_text("a,b")
        return {"seen": 1.0, "nothing": float("nan")}

    def damaged(name: str, content: str | None) -> Done | None:
        path = tmp_path / "new" / "ablation" / name
        store.add("ablation", "key", work)
        path.unlink() if content is None else path.write_text(content)
        return store.find("ablation", "key")

    done = store.add("ablation", "key", work)
    assert str(store.find("ablation", "key")) == str(done)
    assert store.find("ablation", "another key") is None
    for content in (None, "", "a,", "a,c"):
        assert damaged("table.csv", content) is None
    stored = {"key": "key", "metrics": {}, "files": {}}
    others: list[Any] = [{}, {**stored, "metrics": None}, {**stored, "metrics": {"a": "b"}}, {**stored, "files": ["a"]}]
    for content in (None, "", "{", "[]", *map(json.dumps, others)):
        assert damaged("done.json", content) is None
    (tmp_path / "old").mkdir()
    kept: list[Any] = [[], "text", {"ablation": []}, {"ablation": {"key": "key"}}]
    for records in kept:
        (tmp_path / "old" / "manifest.json").write_text(json.dumps({"done": records}))
        assert Store(tmp_path / "another", tmp_path / "old").find("ablation", "key") is None


def test_the_key_tells_model_rows_settings_and_source(tmp_path: Path) -> None:
    module, task = built(tmp_path)
    bridge, rows = build_bridge(module.lm), collect(task, module.tokenizer, ("id_test",), 4, 4)
    groups, patching, attention = QUICK.within("all").groups(), ANALYSES["patching"], ANALYSES["attention"]
    job, model = AnalysisJob(bridge, rows, groups), model_digest(bridge)
    key = key_of(patching, job, model)
    assert key == key_of(patching, AnalysisJob(bridge, rows, QUICK.within("all").groups()), model)
    (tmp_path / "own.py").write_text("ANALYSIS = 1")
    fewer_pairs = replace(rows, pairs={"id_test": rows.pairs["id_test"][:3]})
    fewer_rows = replace(rows, rows={"id_test": rows.rows["id_test"][:3]})
    others = [
        key_of(patching, AnalysisJob(bridge, rows, QUICK.within((1,)).groups()), model),
        key_of(patching, AnalysisJob(bridge, fewer_pairs, groups), model),
        key_of(patching, AnalysisJob(bridge, fewer_rows, groups), model),
        key_of(patching, job, model, tmp_path / "own.py"),
    ]
    (tmp_path / "own.py").write_text("ANALYSIS = 2")
    others.append(key_of(patching, job, model, tmp_path / "own.py"))
    with torch.no_grad():
        module.lm.lm_head.weight[0, 0] += 1
    others.append(key_of(patching, job, model_digest(build_bridge(module.lm))))
    assert len({key, *others}) == 7
    # Pairs count only where they are used.
    without = key_of(attention, job, model)
    assert without == key_of(attention, AnalysisJob(bridge, fewer_pairs, groups), model)


def test_the_key_tells_all_that_a_row_holds() -> None:
    long = torch.zeros(5000)
    metas: list[Any] = [
        {"v": long},
        {"v": long.numpy()},
        {("a", 1): 1, "b": 2},
        {("a", 1): 2, "b": 2},
        {"s": {"a", "b"}},
    ]
    metas.append({"v": long.index_fill(0, torch.tensor([2500]), 1)})

    def digest(meta: Any) -> str:
        rows = {"test": [Example("Write.", "salt", meta)]}
        return AnalysisData(rows, {"test": encode_inputs(rows["test"], tokenizer())}, {}, {}, tokenizer()).digest(False)

    assert len({digest(meta) for meta in metas}) == len(metas) - 1  # a tensor and an array of the same numbers


def built(folder: Path) -> tuple[SFTModule, CardsData]:
    """A module with its model, and its task, outside a run."""
    module, task = policy(), data()
    runner = trainer(folder, limit_test_batches=0)
    runner.test(module, task, verbose=False)
    return module, task


def test_an_estimate_stands_before_the_work_and_lines_tell_how_far_it_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, lines: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(circuit_analysis, "EVERY", 0.0)
    outcome(tmp_path, analyses=("ablation",))
    told = [message for message in caplog.messages if message.startswith("CircuitAnalysis: ")]
    assert "ablation: the model reads about 112 rows, in " in told[0]  # 4 unchanged, 2 heads, 2 by half; 2 splits of 8
    assert "CircuitAnalysis: ablation: 8 of 8" in told
    assert told[-1].startswith("CircuitAnalysis: ablation: done in ")
    assert [duration(seconds) for seconds in (8.2, 600, 7200)] == ["8 s", "10 min", "2.0 h"]


def test_a_large_model_is_bounded_where_no_setting_asks_for_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, lines: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bridge, "BOUNDS", ((float("inf"), bridge.Bounds(2, 6, 4, 3)),))
    given = {"analyses": ("ablation", "acdc"), "splits": ("id_test",), "layers": None, "examples": None}
    pruning = PruningSettings(draws=1)
    model = ScratchModel("gpt2", hidden_size=16, layers=3, heads=2, positions=64)
    deep = SFTModule(model, TrainedTokenizer(kind="words"))
    outcome(tmp_path, deep, settings=replace(QUICK, acdc=pruning), **given)
    (told,) = {message for message in caplog.messages if "by default" in message}
    assert "by layers 0, 2 of 3; 6 rows and 4 pairs a split; 3 edges by ACDC; for more set layers, examples, " in told
    stored = manifest(tmp_path)
    assert stored["splits"]["id_test"].items() >= {"examples": 6, "pairs": 4}.items()
    assert stored["settings"]["ablation"]["layers"] == [0, 2]
    assert json.loads((tmp_path / "circuits/id_test/acdc.json").read_text())["tried"] == 3
    caplog.clear()
    asked = {**given, "layers": "all", "examples": 5}
    outcome(tmp_path / "more", deep, settings=replace(QUICK, acdc=replace(pruning, max_edges=4)), **asked)
    assert not [message for message in caplog.messages if "by default" in message]
    stored = manifest(tmp_path / "more")
    assert stored["splits"]["id_test"].items() >= {"examples": 5, "pairs": 5}.items()
    assert stored["settings"]["ablation"]["layers"] == "all"
    assert json.loads((tmp_path / "more/circuits/id_test/acdc.json").read_text())["tried"] == 4


@pytest.mark.slow
def test_the_estimate_is_near_the_rows_that_are_read(tmp_path: Path) -> None:
    module, task = built(tmp_path)
    bridge, seen = build_bridge(module.lm), []
    for block in bridge.blocks:
        block.original_component.register_forward_pre_hook(lambda block, args: seen.append(len(args[0]) / 2))
    job = AnalysisJob(bridge, collect(task, module.tokenizer, ("id_test",), 6, 6), QUICK.within("all").groups())
    for name, analysis in ANALYSES.items():
        seen.clear()
        analysis.run(job, tmp_path, None)
        assert analysis.work(job) / 4 <= sum(seen) <= 1.5 * analysis.work(job), name
