"""The suite: the analyses of the folder, and one of another package, which is that of docs/circuits.md."""

import json
import re
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest

from lit_narrative.callbacks.circuit_analysis import CircuitAnalysis
from lit_narrative.circuits.analyses import attribution
from lit_narrative.circuits.analyses.ablation import AblationSettings
from lit_narrative.circuits.analysis import AnalysisJob
from lit_narrative.circuits.bridge import build_bridge
from lit_narrative.circuits.data import AnalysisData
from lit_narrative.circuits.report.comparison import write_comparison
from lit_narrative.circuits.report.page import write_circuits_page
from lit_narrative.circuits.suite import ANALYSES, CircuitSettings, join_settings, load_extra
from lit_narrative.cli.main import main
from lit_narrative.errors import UserError
from tests.circuits.planted import planted_inputs, planted_lm

DOCS = Path(__file__).parents[2] / "docs" / "circuits.md"


@pytest.fixture
def norms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The module of the documentation on the path; its name there."""
    (code,) = re.findall(r'```python\n(""".*?)```', DOCS.read_text(), flags=re.DOTALL)
    name = f"norms_of_{tmp_path.name}"  # a name of its own: Python keeps modules that were imported once
    (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    return name


def analysed(path: str, source: Path, target: Path, noise: float) -> Path:
    """A copy of a folder of analyses with the norms of a planted model beside them, as the callback leaves it."""
    folder = Path(shutil.copytree(source, target))
    splits = {"id_test": planted_inputs(9, 1), "other": planted_inputs(9, 2)}
    data = AnalysisData({}, splits, {}, {}, None)  # type: ignore[arg-type]
    extra = load_extra([path])
    settings = join_settings(CircuitSettings(), extra, {path: {"batch_size": 4}}).groups()
    metrics = extra[path].run(AnalysisJob(build_bridge(planted_lm(noise)), data, settings), folder, None)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["settings"]["norms"] = asdict(settings["norms"])  # type: ignore[call-overload]
    manifest |= {"extra": {"norms": path}, "figures": {f"norms/{name}": value for name, value in metrics.items()}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_the_folder_is_the_list_in_the_order_of_a_page() -> None:
    assert list(ANALYSES) == ["probes", "patching", "ablation", "attribution", "acdc", "lens", "attention", "sae"]
    paired = [name for name, analysis in ANALYSES.items() if analysis.paired]
    assert paired == ["patching", "attribution", "acdc", "lens"]
    groups = CircuitSettings(ablation=AblationSettings(layers=(1,))).within((0,)).groups()
    layers = {name: settings.layers for name, settings in groups.items() if name not in ("faithfulness", "sae")}
    assert layers.pop("ablation") == (1,)
    assert set(layers.values()) == {(0,)}
    assert set(groups) == {"faithfulness", *ANALYSES}


@pytest.mark.slow
def test_an_analysis_of_another_package_has_a_section_and_a_part_of_the_comparison(
    norms: str, circuits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = (analysed(norms, circuits, tmp_path / name, noise) for name, noise in (("old", 0.02), ("new", 0.05)))
    extra = load_extra([norms]).values()
    page = write_circuits_page(new, extra).read_text()
    assert re.search(r'<section id="norms">.*How long is the residual stream.*on id_test', page, flags=re.DOTALL)
    assert "id_test: the mean norm before the last layer is" in page
    assert {path.stem for path in (new / "figures").glob("norms*")} == {"norms_id_test", "norms_other"}
    main(["compare", str(old), str(new), "--out", str(tmp_path / "both.html"), "--extra", norms])
    assert "other: the mean norm before the last layer went from" in (tmp_path / "both.html").read_text()
    both = json.loads((tmp_path / "both.json").read_text())["norms"]["id_test"]
    metrics = json.loads((new / "manifest.json").read_text())["figures"]
    assert both["old"] != both["new"] == metrics["norms/id_test/last"]
    capsys.readouterr()
    page = write_comparison(old, new, tmp_path / "without.html").read_text()
    assert f"norms: an analysis of another package, compared only where its module is named (`--extra {norms}`)" in page


def test_what_is_wrong_with_an_extra_analysis_is_said(norms: str, tmp_path: Path) -> None:
    assert [analysis.name for analysis in CircuitAnalysis(("lens",), extra={norms: {}}).analyses] == ["lens", "norms"]
    with pytest.raises(UserError, match=rf"extra\.{norms}: no setting 'bach_size'; did you mean 'batch_size'"):
        CircuitAnalysis(extra={norms: {"bach_size": 3}})
    with pytest.raises(UserError, match="there is no module 'nowhere'"):
        CircuitAnalysis(extra={"nowhere.norms": {}})
    with pytest.raises(UserError, match="the module defines no ANALYSIS"):
        CircuitAnalysis(extra={"json": {}})
    with pytest.raises(UserError, match="it must be an identifier that no other analysis has"):
        CircuitAnalysis(extra={attribution.__name__: {}})
    with pytest.raises(UserError, match="it must be an identifier that no other analysis has"):
        load_extra([norms, norms])
