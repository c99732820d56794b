"""The page of a folder of analyses: it stands alone, escapes text, and its sentences hold what the tables hold."""

import json
import re
import shutil
from pathlib import Path

import pytest

from lit_narrative.circuits.analyses import ablation, attribution, patching, probes
from lit_narrative.circuits.report.page import build_circuits_page, write_circuits_page
from lit_narrative.circuits.suite import load_results
from lit_narrative.errors import UserError
from tests.circuits.make_results import HOOK, HOSTILE

SECTIONS = ["what", "probes", "patching", "ablation", "attribution", "acdc", "lens", "attention", "sae"]


@pytest.fixture
def folder(circuits: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(circuits, tmp_path / "circuits"))


def keep(folder: Path, *names: str) -> None:
    for path in folder.iterdir():
        if path.name not in names:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def sections(page: str) -> list[str]:
    return re.findall(r'<section id="(\w+)">', page)


def test_the_page_stands_alone_and_is_small(folder: Path) -> None:
    path = write_circuits_page(folder)
    page = path.read_text()
    assert sections(page) == SECTIONS
    assert not re.search(r"<script|https?://|<link", page)
    sources = re.findall(r'src="([^"]+)"', page)
    assert len(sources) == len(list((folder / "figures").glob("*.png"))) > 10
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert path.stat().st_size < 2_000_000


def test_foreign_text_is_escaped_and_errors_are_told(folder: Path) -> None:
    stored = json.loads((folder / "manifest.json").read_text())
    stored |= {"errors": {"probes": f"no place {HOSTILE}"}, "checkpoint": f"runs/{HOSTILE}/last.ckpt"}
    stored["splits"]["other"]["pairs_dropped"] = 7
    (folder / "manifest.json").write_text(json.dumps(stored))
    keep(folder, "sae", "manifest.json")
    page = build_circuits_page(folder)
    assert HOSTILE not in page
    assert page.count("&lt;script&gt;") > 5
    assert "no place &lt;script&gt;" in page
    assert "On other, 7 pairs were left out" in page


def test_missing_analyses_are_no_sections(folder: Path) -> None:
    keep(folder, "manifest.json", "id_test")
    for name in ("patching.csv", "circuit.json", "nodes.json", "faithfulness.csv", "attention.csv"):
        (folder / "id_test" / name).unlink()
    assert sections(build_circuits_page(folder)) == ["what", "acdc", "lens"]


def test_a_folder_without_a_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no manifest"):
        build_circuits_page(tmp_path)


def test_sentences_hold_what_the_tables_hold(circuits: Path) -> None:
    result = load_results(circuits)
    importances = result.one(ablation.TABLE)
    assert importances is not None
    first = next(iter(ablation.ANALYSIS.findings(result)))
    best, loss = next(iter(importances.ranking("id_test").items()))
    assert f"is lost without {best} (+{loss:.2f})" in first
    curve = result.each(attribution.CURVES)["id_test"]
    enough = next(point for point in curve.points if point.faithfulness >= 0.9)
    told = " ".join(attribution.ANALYSIS.findings(result))
    assert f"the top {enough.edges} of {curve.points[-1].edges} edges recover {enough.faithfulness:.2f}" in told
    assert "letter 1.00" in next(iter(probes.ANALYSIS.findings(result)))


def test_probes_at_chance_are_said_to_be(folder: Path) -> None:
    table = (folder / "probes.csv").read_text().splitlines()
    head, *rows = table
    place = head.split(",").index("score")
    flat = [",".join([*row.split(",")[:place], "0.1", *row.split(",")[place + 1 :]]) for row in rows]
    (folder / "probes.csv").write_text("\n".join([head, *flat, ""]))
    sentences = list(probes.ANALYSIS.findings(load_results(folder)))
    assert sentences[0] == "id_test_heldout: no probe beats its control and the commonest answer by more than 0.1."


@pytest.mark.slow
def test_weak_splits_are_warned_of(folder: Path) -> None:
    table = (folder / "ablation_base.csv").read_text().splitlines()
    (folder / "ablation_base.csv").write_text("\n".join([table[0], "id_test,24,0.3,-1.0,0.1,0.25", table[2], ""]))
    result = load_results(folder)
    assert any(
        sentence.startswith("On id_test the model is less than 0.1 better")
        for sentence in ablation.ANALYSIS.warnings(result)
    )
    assert "On id_test the model is less than 0.1 better" in build_circuits_page(folder)
    weak, strong = patching.ANALYSIS.findings(result)
    assert weak.endswith("The model hardly answers by the rule here: recovery is not to be trusted.")
    assert "resid_pre" not in weak and strong.startswith("other") and "trusted" not in strong


def test_features_that_carry_the_answer_are_listed_by_size(folder: Path) -> None:
    table = "split,feature,effect\nid_test,7,-2.5\nid_test,3,0.5\nother,3,1.25\n"
    (folder / "sae" / HOOK / "effects.csv").write_text(table)
    keep(folder, "sae", "manifest.json")
    page = build_circuits_page(folder)
    rows = re.findall(r'<th scope="row">(\d+)</th><td class="n">(.*?)</td><td class="n">(.*?)</td>', page)
    assert rows == [("7", "−2.50", "0.00"), ("3", "+0.50", "+1.25")]
