"""The prose: links that lead somewhere, whole tables, the version to cite, and commands and settings that parse."""

import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

import lit_narrative
from lit_narrative.cli.arguments import parse
from lit_narrative.cli.main import CONFIGURABLE, find_command
from lit_narrative.cli.names import check_names
from tests.paths import ROOT

PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "notebooks/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
PARSED = ["sae", "saelens", "sft", "faq", "reproducing"]
"""Pages of which every job and every configuration can be parsed without files of a run."""
JOBS = ("fit", "validate", "test", "predict")


def page(name: str) -> str:
    return (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")


def anchors(path: Path) -> set[str]:
    """Of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_within_the_project_lead_somewhere(path: Path) -> None:
    lost = []
    for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        if link.startswith("http"):
            continue
        if not target.exists() or (anchor and anchor not in anchors(target)):
            lost.append(link)
    assert lost == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_rows_of_a_table_have_as_many_cells_as_its_head(path: Path) -> None:
    wrong, cells = [], 0
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        found = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else 0
        if cells and found not in (0, cells):
            wrong.append(f"{number}: {line[:60]}")
        cells = (cells or found) if found else 0
    assert wrong == []


def test_the_version_to_cite_is_the_package_s() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["version"] == lit_narrative.__version__
    assert (cited["type"], cited["license"]) == ("software", "MIT")


def commands(path: Path) -> list[list[str]]:
    """The words of every command line of a page."""
    blocks = re.findall(r"^ *```(?:bash|sh)\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_command_is_one_that_there_is(path: Path) -> None:
    """Names of commands, configurations, classes and settings; what a job needs stands above its configuration."""
    for words in commands(path):
        while "=" in words[0]:  # of the environment
            words = words[1:]
        name = "lit-narrative" if words[0] == "srun" else "lit_narrative"
        if words[0] in ("srun", "torchrun") and name in words:
            words = words[words.index(name) :]
        # tests/test_page_commands.py holds that other lines say what they need.
        if words[0].startswith("lit"):
            check_command(words[1], words[2:])


def check_command(name: str, args: list[str]) -> None:
    """Read a command line as the command does, short of doing anything."""
    if name in (*JOBS, "write", "plan"):
        if name == "plan":  # its own flags, behind the settings of fit
            name, args = "fit", args[: next(i for i, word in enumerate(args) if word in ("--tokens", "--memory"))]
        # A file of the reader's, such as mine.yaml, is not there.
        own = [i for i, word in enumerate(args) if word == "--config" and args[i + 1].endswith(".yaml")]
        check_names(name, [word for i, word in enumerate(args) if i not in own and i - 1 not in own])
        return
    function = find_command(name)
    if isinstance(function, Mapping):
        function, args = function[args[0]], args[1:]
    parse(function, f"lit-narrative {name}", args, name in CONFIGURABLE)


@pytest.mark.slow
@pytest.mark.parametrize("name", PARSED)
def test_jobs_and_configurations_parse(name: str, tmp_path: Path) -> None:
    from lit_narrative.cli.check import check_job  # heavy, and for this test alone

    jobs = []
    for block in re.findall(r"```bash\n(.*?)```", page(name), re.DOTALL):
        for line in block.splitlines():
            program, _, rest = line.partition("lit-narrative ")
            # Of the rest a run's own files are named, which are not there.
            if rest.startswith(JOBS) and "--config runs/" not in rest:
                assert re.fullmatch(r"(srun |\w+=\S+ )*", program), line
                jobs.append(shlex.split(re.sub(r"--ckpt_path[= ]\S+", "", rest), comments=True))
    for number, block in enumerate(re.findall(r"```yaml\n(.*?)```", page(name), re.DOTALL)):
        config = tmp_path / f"{number}.yaml"
        config.write_text(block, encoding="utf-8")
        jobs.append(["fit", "--config", str(config)])
    for job in jobs:
        check_job(job)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_quick_start_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for words in commands(ROOT / "docs" / "quickstart.md"):
        if words[0] == "lit-narrative":
            subprocess.run([sys.executable, "-m", "lit_narrative", *words[1:]], check=True, capture_output=True)
    assert (tmp_path / "runs" / "quick" / "report.html").is_file()
    assert (tmp_path / "runs" / "quick" / "policy" / "config.json").is_file()
