"""Completion of command lines, as a shell asks for it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lit_narrative.cli.main import main
from tests.kills import in_a_process

pytest.importorskip("argcomplete")


def asked(line: str, folder: Path) -> dict[str, str]:
    """What a shell sets to ask for what may stand at the end of a command line."""
    place = {"COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_TYPE": "9", "_ARGCOMPLETE": "1"}
    return {**place, "_ARGCOMPLETE_STDOUT_FILENAME": str(folder / "found.txt")}


def answer(folder: Path) -> set[str]:
    return {word.strip() for word in (folder / "found.txt").read_text(encoding="utf-8").split("\v")}


def completed(line: str, folder: Path) -> set[str]:
    """What may stand at the end of a command line, by a copy of this process: another would import all anew."""

    def ask() -> None:
        os.environ.update(asked(line, folder))
        os.chdir(folder)
        main([])

    assert in_a_process(ask) == 0
    return answer(folder)


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


def test_a_shell_is_answered_by_the_command_itself(tmp_path: Path) -> None:
    given = {**os.environ, **asked("lit-narrative s", tmp_path)}
    subprocess.run([sys.executable, "-m", "lit_narrative"], env=given, check=True, cwd=tmp_path, timeout=120)
    assert {"sweep", "score", "simulate"} <= answer(tmp_path)
