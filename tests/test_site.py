"""The site: every page is in its navigation, and it builds without a warning from what the code says."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.paths import ROOT

SITE = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))


def named(entry: object) -> list[str]:
    """The pages of a part of the navigation."""
    if isinstance(entry, str):
        return [entry]
    parts = entry.values() if isinstance(entry, dict) else entry
    return [page for part in parts for page in named(part)]  # type: ignore[attr-defined]


def test_every_page_of_the_docs_is_in_the_navigation() -> None:
    pages = {path.name for path in (ROOT / "docs").glob("*.md")}
    assert sorted(pages - set(named(SITE["nav"]))) == []


def test_links_lead_to_the_pages_of_the_site() -> None:
    from docs.build import linked

    here = (
        "[a](../README.md#use) [b](../configs/x.yaml) [c](rl.md) [d](../notebooks/README.md) [e](https://x.org/docs/y)"
    )
    assert linked(here) == "[a](index.md#use) b [c](rl.md) [d](notebooks/index.md) [e](https://x.org/docs/y)"
    assert (
        linked("[a](docs/rl.md) [b](notebooks/poem.ipynb) [c](#use)") == "[a](rl.md) [b](notebooks/poem.md) [c](#use)"
    )
    assert linked("[a](poem.ipynb) [b](../docs/rl.md)", "../") == "[a](poem.md) [b](../rl.md)"


@pytest.mark.docs
@pytest.mark.timeout(1500)
def test_the_site_builds_and_no_setting_is_without_a_word(tmp_path: Path) -> None:
    from docs.build import PAGES

    built = subprocess.run([sys.executable, "-m", "docs.build"], cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    for name in ("settings", "commands"):
        page = (PAGES / "reference" / f"{name}.md").read_text(encoding="utf-8")
        assert re.findall(r"^.*\|  ?\|$", page, re.MULTILINE) == []
    api = (ROOT / "build" / "site" / "html" / "reference" / "api" / "lit_narrative.rl.html").read_text(encoding="utf-8")
    assert 'id="lit_narrative.rl.losses.policy_loss"' in api
