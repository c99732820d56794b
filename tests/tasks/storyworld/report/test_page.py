import json
import re
from base64 import b64encode
from hashlib import sha256
from pathlib import Path

import pytest

from lit_narrative.files import write_jsonl
from lit_narrative.report.page import build_page
from lit_narrative.tasks.storyworld.report.page import SECTIONS, report_on
from lit_narrative.tasks.storyworld.report.player import script
from lit_narrative.tasks.storyworld.report.reader import read_run
from lit_narrative.tasks.storyworld.report.run import Run
from tests.report.check_page import ATTACK, check
from tests.tasks.storyworld.report.make_run import edit_json, write_table


def page_of(run: Run) -> str:
    return build_page(run.folder.out, report_on(run))


def test_the_page_is_whole_and_its_links_lead_somewhere(run: Run) -> None:
    checker = check(page_of(run))
    assert checker.tags["section"] == len(SECTIONS) and len(set(checker.ids)) == len(checker.ids)
    assert {anchor.removeprefix("#") for anchor in checker.anchors} == set(checker.ids)


def test_the_page_needs_no_network_and_runs_one_script_of_ours(run: Run) -> None:
    page = page_of(run)
    checker = check(page)
    assert page.count("<script>") == 1 and f"<script>{script()}</script>" in page and "</script" not in script()
    assert checker.tags["script"] == 1 + page.count('<script type="application/json">') == 3
    digest = b64encode(sha256(script().encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in page
    assert not checker.tags.keys() & {"link", "img", "iframe", "object", "base", "form", "image", "use"}
    assert not {name for name in checker.attributes if name.startswith("on") or name in {"src", "srcset"}}
    assert not re.search(r"https?://|url\(|@import", page)
    assert "default-src 'none'" in page and len(page.encode()) < 2_000_000


def test_no_value_is_nan_or_none(run: Run) -> None:
    page = re.sub(r"<(style|pre|script)[^>]*>.*?</\1>", " ", page_of(run), flags=re.DOTALL)
    assert not re.search(r"\b(nan|inf|None|null)\b", page)


def test_hostile_texts_are_escaped_and_bounded(out: Path) -> None:
    tags = check(page_of(read_run(out))).tags
    world = json.dumps({"encounters": [{"id": ATTACK * 50, "text": ATTACK * 50, "options": []}]})
    for job in ("test_sft", "test_final"):
        issues = [{"path": ATTACK, "message": ATTACK * 99, "severity": ATTACK}]
        row = {"prompt": ATTACK * 99, "text": ATTACK * 20_000, "reward": 0, "components": {ATTACK: 0}, "issues": issues}
        write_jsonl(out / job / "samples" / "test.jsonl", [row, {**row, "text": world}] * 8)
        edit_json(out / job / "verifiers" / "test.json", components={ATTACK: 0.5})
    (out / "cycle" / "config.yaml").write_text(ATTACK * 20_000, "utf-8")
    row = {"step": 1, "prompt": ATTACK * 99, "text": ATTACK * 20_000, "reward": 0, f"rewards/{ATTACK}": 0}
    write_table(out / "cycle" / "samples" / "train.csv", [{**row, "advantage": 0, "finished": True}] * 8)
    page = page_of(read_run(out))
    checker = check(page)
    assert not checker.tags.keys() - tags.keys() and "onerror" not in checker.attributes
    assert "{{ 7*7 }}" in page and "\x00" not in page and "\u202e" not in page and len(page) < 2_000_000


@pytest.mark.parametrize("missing", ["*/samples", "*/sae", "*/metrics.csv", "*/config.yaml"])
def test_a_missing_optional_piece_is_a_sentence(out: Path, missing: str) -> None:
    for found in out.glob(missing):
        for path in [*sorted(found.rglob("*"), reverse=True), found]:
            path.rmdir() if path.is_dir() else path.unlink()
    page = page_of(read_run(out))
    check(page)
    assert 'class="missing"' in page


def test_the_name_of_the_folder_is_escaped(out: Path) -> None:
    hostile = out.rename(out.with_name("<b>run&"))
    assert "<h1>&lt;b&gt;run&amp;</h1>" in page_of(read_run(hostile))
