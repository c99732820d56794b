"""The prose: links that lead somewhere, whole tables, the version to cite, and commands and settings that parse."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

import lit_narrative
from tests.paths import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PARSED = ["sae", "sft", "faq", "reproducing"]
"""Pages of which every job and every configuration can be parsed without files of a run."""
JOBS = ("fit", "validate", "test", "predict")


def page(name: str) -> str:
    return (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")


def anchors(path: Path) -> set[str]:
    """Of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
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


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
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
