"""The site: its pages are docs/*.md, the notebooks, and what the sources say of settings, commands and the API.

    python -m docs.build                 pages in build/site/pages, and the site in build/site/html, warnings as errors
    python -m docs.build --with zensical the same by Zensical
    python -m docs.build --pages         the pages alone, for `mkdocs serve`

Needs the extra ``docs``; Zensical is installed by itself (0.0.50 builds them without a warning).
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from docs.reference import api_pages, commands_page, settings_page

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "build" / "site" / "pages"
BESIDE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "notebooks/README.md": "notebooks/index.md",
}
"""Prose outside docs/ -> its page."""
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./(?!README|CONTRIBUTING|CHANGELOG|notebooks|docs)[^)\s]+\)")
"""A link to a file that is no page, such as a configuration."""


def main() -> int:
    """Make the pages and build the site; return the builder's exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--with", dest="builder", choices=["mkdocs", "zensical"], default="mkdocs")
    parser.add_argument("--pages", action="store_true", help="make the pages alone")
    given = parser.parse_args()
    write_pages(PAGES)
    if given.pages:
        return 0
    return subprocess.run([sys.executable, "-m", given.builder, "build", "--strict"], cwd=ROOT).returncode


def write_pages(folder: Path) -> None:
    """Write every page of the site into a folder, which is emptied first."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, text in pages():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def pages() -> Iterator[tuple[str, str]]:
    """Name and Markdown of every page."""
    for path in sorted((ROOT / "docs").glob("*.md")):
        yield path.name, linked(path.read_text(encoding="utf-8"))
    for name, page in BESIDE.items():
        yield page, linked((ROOT / name).read_text(encoding="utf-8"), "../" if "/" in page else "")
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        yield f"notebooks/{path.stem}.md", notebook_page(path)
    yield "reference/settings.md", settings_page()
    yield "reference/commands.md", commands_page()
    for name, text in api_pages():
        yield f"reference/api/{name}", text


def linked(text: str, up: str = "") -> str:
    """A page with its links as they are on the site, where the pages of docs/ stand beside the README.

    Args:
        text: Markdown.
        up: from the page's folder to that of the others.
    """

    def place(match: re.Match[str]) -> str:
        target, mark, anchor = match[1].partition("#")
        if not target or target.startswith("http"):
            return match[0]
        inside = target.removeprefix("../").removeprefix("docs/")
        elsewhere = up if inside != target else ""
        return f"]({elsewhere}{BESIDE.get(inside, inside).replace('.ipynb', '.md')}{mark}{anchor})"

    return _LINK.sub(place, _OUTSIDE.sub(r"\1", text))


def notebook_page(path: Path) -> str:
    """A notebook as Markdown: its texts, and its cells as blocks of code."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    parts = [
        source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```"
        for cell in cells
        for source in ["".join(cell["source"])]
    ]
    parts.insert(1, f"*`notebooks/{path.name}` of the repository.*")
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    sys.exit(main())
