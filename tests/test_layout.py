"""What CONTRIBUTING.md promises of the files: their size, their words, and that the tests mirror the package."""

import re
from pathlib import Path

import pytest

from tests.paths import ROOT

PACKAGE = ROOT / "lit_narrative"
CODE = sorted(PACKAGE.rglob("*.py"))
PROSE = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PRIVATE = [
    "share_out",
    "lookedback",
    "rightly",
    "_everywhere",
    "adopt",
    "admitted",
    "windowplan",
    "window_plan",
    "sitting",
    "twins",
    "wording",
    "whole_folder",
    "judge_nll",
    "strain",
    "lots",
    "rivals",
    "knobs",
    "rehearsal",
    "doubts",
    "stamp",
    "seed_mode",
    "answers_weakly",
]
"""Words of the authors alone, for which the field has others."""
OF_ITS_OWN = ("test_golden", "test_hostile", "test_planted", "test_bad_input")
"""Tests of a whole package rather than of one file in it."""


@pytest.mark.parametrize("word", PRIVATE)
def test_no_private_word(word: str) -> None:
    pattern = re.compile(rf"\b{word}\b", re.IGNORECASE)
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in (*CODE, *PROSE)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if pattern.search(line)
    ]
    assert found == []


def test_files_can_be_read_in_one_go() -> None:
    lengths = {path.relative_to(ROOT).as_posix(): len(path.read_text().splitlines()) for path in CODE}
    assert {name: length for name, length in lengths.items() if length > 450} == {}
    assert len(PROSE[0].read_text().splitlines()) <= 140


def test_tests_mirror_the_package() -> None:
    """``tests/rl/test_losses*.py`` tests ``lit_narrative/rl/losses.py``; other folders are of the whole."""
    stray = []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        folder = path.relative_to(ROOT / "tests").parent
        if (
            folder == Path()
            or folder.parts[0] in ("runs", "extension", "pretrained")
            or path.stem.startswith(OF_ITS_OWN)
        ):
            continue
        files = [file.stem for file in (PACKAGE / folder).glob("*.py")]
        if not any(path.stem == f"test_{name}" or path.stem.startswith(f"test_{name}_") for name in files):
            stray.append(path.relative_to(ROOT).as_posix())
    assert stray == []
