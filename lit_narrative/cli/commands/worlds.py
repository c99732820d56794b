"""The command ``lit-narrative score``, which judges files of storyworlds."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.table import Table
from rich.text import Text

from lit_narrative.cli.arguments import plain_console, printable
from lit_narrative.errors import UserError, check_least
from lit_narrative.tasks.storyworld.formats.read import FILE_LIMITS
from lit_narrative.tasks.storyworld.issues import Issue
from lit_narrative.tasks.storyworld.verifiers.base import SIX, VerifierConfig
from lit_narrative.tasks.storyworld.verifiers.score import FormerMode, Mode
from lit_narrative.tasks.storyworld.verifiers.score import score as judge
from lit_narrative.tasks.storyworld.world_files import read_world_texts

MOST_SHOWN = 30
"""Issues of one file that the table lists."""


def score(
    files: list[str],
    mode: Mode | FormerMode = "strict",
    format: Literal["table", "json"] = "table",
    max_steps: int = VerifierConfig.max_steps,
    sample: int | None = None,
) -> None:
    """Score files as storyworlds: six components, their weighted total, and what is wrong.

    Args:
        files: files that each hold one text, or .jsonl files with a world or a sample a line, such as a run's
            samples/val.jsonl.
        mode: strict is what policies are trained on; original repeats the formulas of the system that this project
            began from (seed is its former name).
        format: a table to read, or one JSON list with an object a file: file, components, total, issues, and
            parts: what makes a world sound, answered by seeded plays.
        max_steps: bound on the steps of those plays; worlds with long stories need more.
        sample: number of the one of a .jsonl file, from 1; default: all of them.

    Raises:
        SystemExit: with code 1, behind the scores of all files, where one of them could not be read.
    """
    check_least("--max_steps", max_steps, 1)
    config = VerifierConfig(limits=FILE_LIMITS, max_steps=max_steps)
    rows = [row for file in files for row in _judged(file, sample, mode, config)]
    if format == "json":
        print(json.dumps([_plain(row) for row in rows], indent=2))
    else:
        _print_table(rows)
    if not all(row.readable for row in rows):
        raise SystemExit(1)


@dataclass(frozen=True, slots=True)
class _Row:
    """A file with its scores; one that cannot be read has 0 in each, and why as its one issue."""

    file: str
    components: dict[str, float]
    total: float
    issues: tuple[Issue, ...]
    parts: dict[str, bool]
    readable: bool = True


def _judged(file: str, sample: int | None, mode: Mode | FormerMode, config: VerifierConfig) -> list[_Row]:
    try:
        texts = read_world_texts(file, sample, FILE_LIMITS.max_chars)
    except UserError as error:
        return [_Row(file, dict.fromkeys(SIX, 0.0), 0.0, (Issue("$", str(error)),), {}, readable=False)]
    results = [(name, judge(text, mode=mode, config=config)) for name, text in texts]
    return [
        _Row(name, {part: result.components[part] for part in SIX}, result.total, result.issues, result.parts)
        for name, result in results
    ]


def _plain(row: _Row) -> dict[str, Any]:
    issues = [{"path": i.path, "message": i.message, "severity": i.severity} for i in row.issues]
    return {"file": row.file, "components": row.components, "total": row.total, "issues": issues, "parts": row.parts}


def _print_table(rows: list[_Row]) -> None:
    console = plain_console()
    columns = (*SIX, "total")
    # What the numbers leave is for the name of the file, which is cut where it does not fit.
    name_width = console.width - sum(len(name) + 2 for name in columns)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("file", overflow="ellipsis", no_wrap=True, max_width=max(name_width, 12))
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True, min_width=len(name))
    for row in rows:
        numbers = [f"{number:.3f}" for number in (*row.components.values(), row.total)]
        table.add_row(Text(printable(Path(row.file).name)), *numbers)
    console.print(table)
    for row in rows:
        console.print(Text(f"\n{printable(row.file)}: {count_issues(row.issues)}", "bold"), overflow="fold")
        if row.parts:
            console.print(f"  {verdict(row.parts)}")
        for issue in row.issues[:MOST_SHOWN]:
            console.print(_line(issue))
        if len(row.issues) > MOST_SHOWN:
            console.print(Text(f"  … {len(row.issues) - MOST_SHOWN} more; --format json lists all"))


def count_issues(issues: tuple[Issue, ...]) -> str:
    """How many errors and warnings there are."""
    errors = sum(issue.severity == "error" for issue in issues)
    return f"{errors} errors, {len(issues) - errors} warnings" if issues else "no issues"


def verdict(parts: dict[str, bool]) -> str:
    """Whether a world is sound, and what it lacks."""
    if not parts["parses"]:
        return "no world"
    missing = [words for name, words in LACKS.items() if not parts[name]]
    if not missing:
        return "sound: seeded plays meet two endings, a gate open and closed, and no dead end"
    return f"{'playable' if parts['playable'] else 'not playable'}, not sound: {', '.join(missing)}"


def _line(issue: Issue) -> Text:
    style = "red" if issue.severity == "error" else "yellow"
    return Text.assemble(
        "  ", (f"{issue.severity:<8}", style), (printable(issue.path), "cyan"), "  ", printable(issue.message)
    )


LACKS = {
    "no_error": "it has errors",
    "two_endings": "seeded plays meet too few endings",
    "no_dead_end": "a play came to a dead end",
    "live_gate": "no gate was met both open and closed",
}
"""What a world that is not sound lacks, by the part of soundness."""
