"""``lit-narrative score``: judge files of storyworlds by the verifiers."""

import json
from pathlib import Path
from typing import Any, Literal

from rich.table import Table
from rich.text import Text

from lit_narrative.tasks.storyworld.load import read_world_file
from lit_narrative.tasks.storyworld.verifiers import SIX, Issue, Score
from lit_narrative.tasks.storyworld.verifiers import score as judge
from lit_narrative.tools.terminal import plain_console, printable

MOST_SHOWN = 30
"""Issues of one file that the table lists."""


def score(
    files: list[str], mode: Literal["strict", "seed"] = "strict", format: Literal["table", "json"] = "table"
) -> None:
    """Score files as storyworlds: six components, their weighted total, and what is wrong.

    Args:
        files: files that each hold one text.
        mode: strict is what we train on; seed repeats the formulas of the original system.
        format: a table to read, or one JSON list with an object a file: file, components, total, issues.

    Raises:
        UserError: A file cannot be read; nothing has been printed then.
    """
    texts = [read_world_file(file) for file in files]
    scores = [judge(text, mode=mode) for text in texts]
    if format == "json":
        rows = [_row(file, result) for file, result in zip(files, scores, strict=True)]
        print(json.dumps(rows, indent=2))
    else:
        _print_table(files, scores)


def _row(file: str, result: Score) -> dict[str, Any]:
    return {
        "file": file,
        "components": {name: result.components[name] for name in SIX},
        "total": result.total,
        "issues": [{"path": i.path, "message": i.message, "severity": i.severity} for i in result.issues],
    }


def _print_table(files: list[str], scores: list[Score]) -> None:
    console = plain_console()
    columns = (*SIX, "total")
    room = console.width - sum(len(name) + 2 for name in columns)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("file", overflow="ellipsis", no_wrap=True, max_width=max(room, 12))
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True, min_width=len(name))
    for file, result in zip(files, scores, strict=True):
        numbers = [f"{result.components[name]:.3f}" for name in SIX]
        table.add_row(Text(printable(Path(file).name)), *numbers, f"{result.total:.3f}")
    console.print(table)
    for file, result in zip(files, scores, strict=True):
        console.print(Text(f"\n{printable(file)}: {_count(result.issues)}", "bold"), overflow="fold")
        for issue in result.issues[:MOST_SHOWN]:
            console.print(_line(issue))
        if len(result.issues) > MOST_SHOWN:
            console.print(Text(f"  … {len(result.issues) - MOST_SHOWN} more; --format json lists all"))


def _count(issues: tuple[Issue, ...]) -> str:
    errors = sum(issue.severity == "error" for issue in issues)
    return f"{errors} errors, {len(issues) - errors} warnings" if issues else "no issues"


def _line(issue: Issue) -> Text:
    style = "red" if issue.severity == "error" else "yellow"
    return Text.assemble(
        "  ", (f"{issue.severity:<8}", style), (printable(issue.path), "cyan"), "  ", printable(issue.message)
    )
