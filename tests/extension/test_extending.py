"""Every block of docs/extending.md: the files are those of this folder, and the commands are run from top to bottom."""

import json
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lit_narrative.cli.main import main
from lit_narrative.files import read_table
from tests.paths import ROOT

HERE = Path(__file__).parent
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", (ROOT / "docs" / "extending.md").read_text(encoding="utf-8"), re.DOTALL)
QUIET = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
SHORT = {
    "fast_dev_run": ["--model.sampling.max_new_tokens=32"],
    # The recipe's jobs have run at full length, one by one.
    "recipe.yaml": ["--set", "sft.trainer.max_steps=30", "grpo.trainer.limit_train_batches=2"],
}
"""What makes a line of the page cheaper, by what stands in it."""


def named_blocks() -> dict[str, str]:
    """The blocks that begin with the name of a file."""
    found = {}
    for language, text in BLOCKS:
        first, _, rest = text.partition("\n")
        if language in ("python", "yaml") and first.endswith((".py", ".yaml")):
            found[first.removeprefix("# ")] = rest
    return found


def test_the_page_shows_the_files() -> None:
    shown = named_blocks()
    files = {path.relative_to(HERE).as_posix(): path for path in (HERE / "limericks").glob("*.py")}
    files |= {path.name: path for path in (HERE / "configs").glob("*.yaml")}
    del files["limericks/__init__.py"]
    assert {name: path.read_text() for name, path in files.items()} == shown


def test_the_package_knows_nothing_of_it() -> None:
    files = [*(ROOT / "lit_narrative").rglob("*.py"), *(ROOT / "configs").rglob("*.yaml"), ROOT / "pyproject.toml"]
    listed = "known-third-party"  # for the order of the imports in tests/
    lines = [line for path in files for line in path.read_text().splitlines() if not line.startswith(listed)]
    assert [line for line in lines if "limerick" in line] == []


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory, policy: Path) -> Iterator[Path]:
    """The folder in which all commands of the page have run, with nothing but the package on the path."""
    folder = tmp_path_factory.mktemp("extension")
    shutil.copytree(HERE / "limericks", folder / "limericks")
    for path in (HERE / "configs").iterdir():
        shutil.copy(path, folder)
    shutil.copy(policy, folder / "storyworld.ckpt")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        for language, text in BLOCKS:
            if language == "bash":
                for line in text.strip().splitlines():
                    run(line)
            elif language == "python" and not text.startswith("# "):
                exec(compile(text, "docs/extending.md", "exec"), {})
        yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "limericks"]:
        del sys.modules[name]


def run(line: str) -> None:
    """Run a line of a shell block in this process."""
    program, command, *arguments = shlex.split(line)
    if program == "export":  # the package is on the path
        return
    assert program == "lit-narrative"
    shorter = next((more for word, more in SHORT.items() if word in line), [])
    main([command, *arguments, *(QUIET if command in ("fit", "test") else []), *shorter])


def rhyme(folder: Path) -> float:
    """Share of rhymes of a run's last validation."""
    share: float = json.loads((folder / "verifiers" / "val.json").read_text())["components"]["rhyme"]
    return share


@pytest.mark.slow
def test_a_task_of_ones_own_is_learned_by_our_algorithms(ran: Path) -> None:
    sft, grpo = rhyme(ran / "runs/limericks/sft"), rhyme(ran / "runs/limericks/grpo")
    assert sft > 0.15  # an untrained model has five lines by accident only
    assert grpo > sft + 0.1


@pytest.mark.slow
def test_an_algorithm_of_ones_own_learns_and_loads(ran: Path) -> None:
    rows = [row for row in read_table(ran / "runs/limericks/orpo/metrics.csv") if row.get("log_odds_ratio")]
    losses, ratios = ([float(row[name]) for row in rows] for name in ("loss", "log_odds_ratio"))
    assert sum(losses[-5:]) < sum(losses[:5])
    assert sum(ratios[-5:]) / 5 > sum(ratios[:5]) / 5 + 0.1


@pytest.mark.slow
def test_a_callback_of_ones_own_wrote(ran: Path) -> None:
    text = (ran / "runs/limericks/sft/scrapbook.txt").read_text()
    assert text.startswith("step 30\nThere once was a baker with a shell,\n") and "step 60\n" in text


@pytest.mark.slow
def test_a_rule_and_an_analysis_of_ones_own_are_used(ran: Path) -> None:
    folder = ran / "runs/limericks/circuits/circuits"
    assert json.loads((folder / "manifest.json").read_text())["extra"] == {"norms": "limericks.norms"}
    norms = [float(row["norm"]) for row in read_table(folder / "test" / "norms.csv")]
    assert len(norms) == 2 and min(norms) > 0
    page = (folder / "circuits.html").read_text()
    assert f"from {norms[0]:.1f} behind the first block to {norms[1]:.1f} behind the last." in page


@pytest.mark.slow
def test_a_report_of_ones_own_ends_a_recipe(ran: Path) -> None:
    out = ran / "runs/whole"
    summary = json.loads((out / "summary.json").read_text())
    assert len(summary["rhyme"]) == 2
    page = (out / "report.html").read_text()
    assert "Rhymes by optimizer step" in page and "There once was a baker with a shell," in page
