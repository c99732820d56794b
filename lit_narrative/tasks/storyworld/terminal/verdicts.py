"""Verdicts on files of worlds, as a table or as JSON: their scores, and what is wrong with them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lit_narrative.errors import UserError
from lit_narrative.report.format import one_line
from lit_narrative.tasks.storyworld.formats.files import FILE_LIMITS, Reading, read_any
from lit_narrative.tasks.storyworld.formats.sweepweave.rules import loader_issues
from lit_narrative.tasks.storyworld.issues import Issue
from lit_narrative.tasks.storyworld.verifiers.base import SIX, VerifierConfig
from lit_narrative.tasks.storyworld.verifiers.score import FormerMode, Mode, score
from lit_narrative.tasks.storyworld.verifiers.soundness import LACKS
from lit_narrative.tasks.storyworld.world import World
from lit_narrative.tasks.storyworld.world_files import read_world_texts

MOST_SHOWN = 30
"""Issues of one file that are listed."""
DIALECTS = {
    "simple": "simple format",
    "editor": "SweepWeave",
    "generated": "SweepWeave as programs write it",
    "mixed": "SweepWeave, partly as programs write it",
    "stub": "SweepWeave, a stub without reactions",
}


# --- what is wrong ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Checked:
    """A file with what is wrong in it; of one that cannot be read, why."""

    file: str
    dialect: str
    world: World | None
    issues: tuple[Issue, ...]

    @property
    def sound(self) -> bool:
        """Whether it is a world without an error."""
        return self.world is not None and all(issue.severity != "error" for issue in self.issues)

    def to_json(self) -> dict[str, Any]:
        """File, dialect, counts, and issues with their repairs."""
        issues = [{**_plain(issue), "repair": issue.repair} for issue in self.issues]
        return {"file": self.file, "dialect": self.dialect, **_sizes(self.world), "issues": issues}


def check_file(file: str, editor: bool) -> Iterator[Checked]:
    """Check the worlds of a file; with ``editor`` also what the SweepWeave editor would not load of its own."""
    try:
        texts = read_world_texts(file, None, FILE_LIMITS.max_chars)
    except UserError as error:
        yield Checked(file, "unreadable", None, (Issue("$", str(error)),))
        return
    for name, text in texts:
        reading = read_any(text)
        yield Checked(name, reading.dialect, reading.world, (*reading.issues, *_editor_issues(reading, editor)))


def _editor_issues(reading: Reading, editor: bool) -> tuple[Issue, ...]:
    if not editor or reading.world is None or reading.dialect == "simple":
        return ()
    return loader_issues(reading.value)


def _sizes(world: World | None) -> dict[str, int]:
    encounters = world.encounters if world else ()
    options = [option for encounter in encounters for option in encounter.options]
    reactions = [reaction for option in options for reaction in option.reactions]
    return {
        "characters": len(world.characters) if world else 0,
        "variables": len(world.variables) if world else 0,
        "encounters": len(encounters),
        "options": len(options),
        "reactions": len(reactions),
        "effects": sum(len(reaction.effects) for reaction in reactions),
    }


def print_checked(console: Console, row: Checked) -> None:
    """Show a file's counts and its issues, each with its repair."""
    console.print(Text(f"{one_line(row.file)}: {count_issues(row.issues)}", "bold"), overflow="fold")
    if row.world is not None:
        sizes = ", ".join(f"{count} {name}" for name, count in _sizes(row.world).items())
        console.print(f"  {DIALECTS[row.dialect]}: {sizes}")
    _print_issues(console, row.issues, repairs=True)


# --- scores -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Scored:
    """A text with its scores; one that cannot be read has 0 in each, and why as its one issue."""

    file: str
    components: dict[str, float]
    total: float
    issues: tuple[Issue, ...]
    parts: dict[str, bool]
    readable: bool = True

    def to_json(self) -> dict[str, Any]:
        """File, components, total, issues, and the parts of soundness."""
        issues = [_plain(issue) for issue in self.issues]
        numbers = {"components": self.components, "total": self.total}
        return {"file": self.file, **numbers, "issues": issues, "parts": self.parts}


def score_file(file: str, sample: int | None, mode: Mode | FormerMode, config: VerifierConfig) -> Iterator[Scored]:
    """Score the texts of a file, or the one ``sample`` of them that is wanted."""
    try:
        texts = read_world_texts(file, sample, FILE_LIMITS.max_chars)
    except UserError as error:
        yield Scored(file, dict.fromkeys(SIX, 0.0), 0.0, (Issue("$", str(error)),), {}, readable=False)
        return
    for name, text in texts:
        result = score(text, mode=mode, config=config)
        components = {part: result.components[part] for part in SIX}
        yield Scored(name, components, result.total, result.issues, result.parts)


def print_scores(console: Console, rows: Sequence[Scored]) -> None:
    """Show the scores of texts in one table, and below it what each lacks."""
    columns = (*SIX, "total")
    # What the numbers leave is for the name of the file, which is cut where it does not fit.
    name_width = console.width - sum(len(name) + 2 for name in columns)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("file", overflow="ellipsis", no_wrap=True, max_width=max(name_width, 12))
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True, min_width=len(name))
    for row in rows:
        numbers = [f"{number:.3f}" for number in (*row.components.values(), row.total)]
        table.add_row(Text(one_line(Path(row.file).name)), *numbers)
    console.print(table)
    for row in rows:
        console.print(Text(f"\n{one_line(row.file)}: {count_issues(row.issues)}", "bold"), overflow="fold")
        if row.parts:
            console.print(f"  {verdict(row.parts)}")
        _print_issues(console, row.issues)


def verdict(parts: dict[str, bool]) -> str:
    """Whether a world is sound, and what it lacks."""
    if not parts["parses"]:
        return "no world"
    missing = [words for name, words in LACKS.items() if not parts[name]]
    if not missing:
        return "sound: seeded plays meet two endings, a gate open and closed, and no dead end"
    return f"{'playable' if parts['playable'] else 'not playable'}, not sound: {', '.join(missing)}"


# --- issues -----------------------------------------------------------------------------------------------------------


def count_issues(issues: tuple[Issue, ...]) -> str:
    """How many errors and warnings there are."""
    errors = sum(issue.severity == "error" for issue in issues)
    warnings = len(issues) - errors
    said = f"{errors} error{'s' * (errors != 1)}, {warnings} warning{'s' * (warnings != 1)}"
    return said if issues else "no issues"


def _plain(issue: Issue) -> dict[str, str]:
    return {"path": issue.path, "message": issue.message, "severity": issue.severity}


def _print_issues(console: Console, issues: tuple[Issue, ...], repairs: bool = False) -> None:
    for issue in issues[:MOST_SHOWN]:
        style = "red" if issue.severity == "error" else "yellow"
        line = Text.assemble("  ", (f"{issue.severity:<8}", style), (one_line(issue.path), "cyan"), "  ")
        line.append(one_line(issue.message))
        if repairs and issue.repair:
            line.append(f"; mend: {one_line(issue.repair)}", "green")
        console.print(line)
    if len(issues) > MOST_SHOWN:
        console.print(f"  … {len(issues) - MOST_SHOWN} more; --format json lists all")
