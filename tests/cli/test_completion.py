"""Completion of command lines, as a shell asks for it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("argcomplete")


def completed(line: str, folder: Path) -> set[str]:
    """What may stand at the end of a command line."""
    found = folder / "found.txt"
    asked = {"COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_TYPE": "9", "_ARGCOMPLETE": "1"}
    subprocess.run(
        [sys.executable, "-m", "lit_narrative"],
        env={**os.environ, **asked, "_ARGCOMPLETE_STDOUT_FILENAME": str(found)},
        check=True,
        cwd=folder,
        timeout=120,
    )
    return {word.strip() for word in found.read_text(encoding="utf-8").split("\v")}


@pytest.mark.parametrize(
    ("line", "there", "absent"),
    [
        ("lit-narrative s", {"sweep", "score", "simulate"}, {"run"}),
        ("lit-narrative fit --config story", {"storyworld/sft", "storyworld_mine.yaml"}, {"recipes/storyworld"}),
        ("lit-narrative fit --config storyworld/sft --model.l", {"--model.lr", "--model.lora.r"}, {"--model.loss"}),
        ("lit-narrative fit --config storyworld/sft --model=GRPOModule --model.lo", {"--model.loss.beta"}, set()),
        ("lit-narrative test --data ", {"CardsData", "StyleData"}, {"SFTModule"}),
        ("lit-narrative run sty", {"style"}, {"recipes/style"}),
        ("lit-narrative generate --format ", {"simple", "twee"}, set()),
        ("lit-narrative configs show trainer/", {"trainer/ddp"}, set()),
    ],
)
def test_what_may_stand_next(line: str, there: set[str], absent: set[str], tmp_path: Path) -> None:
    (tmp_path / "storyworld_mine.yaml").write_text("{}", encoding="utf-8")
    found = completed(line, tmp_path)
    assert there <= found and not absent & found
