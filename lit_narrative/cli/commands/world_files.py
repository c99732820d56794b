"""Commands on files of worlds in any format: ``lit-narrative check`` says what is wrong, ``convert`` writes another."""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.text import Text

from lit_narrative.cli.arguments import check_places, plain_console, printable
from lit_narrative.errors import UserError
from lit_narrative.files import write_text
from lit_narrative.tasks.storyworld.formats.read import FILE_LIMITS, Reading, read_any
from lit_narrative.tasks.storyworld.formats.sweepweave.rules import loader_issues
from lit_narrative.tasks.storyworld.formats.write import Format, write_world
from lit_narrative.tasks.storyworld.issues import Issue
from lit_narrative.tasks.storyworld.world import World
from lit_narrative.tasks.storyworld.world_files import read_world_file

MOST_SHOWN = 30
"""Issues of one file that are shown."""
DIALECTS = {
    "simple": "simple format",
    "editor": "SweepWeave",
    "generated": "SweepWeave as programs write it",
    "mixed": "SweepWeave, partly as programs write it",
    "stub": "SweepWeave, a stub without reactions",
}


@dataclass(frozen=True, slots=True)
class _Checked:
    """A file with what is wrong in it; of one that cannot be read, why."""

    file: str
    dialect: str
    world: World | None
    issues: tuple[Issue, ...]

    @property
    def sound(self) -> bool:
        return self.world is not None and all(issue.severity != "error" for issue in self.issues)


def check(files: list[str], editor: bool = False, format: Literal["text", "json"] = "text") -> None:
    """Say what is wrong with files of worlds, where, and the smallest change that mends it.

    Args:
        files: files in the simple format or of SweepWeave, or folders of them (their *.json).
        editor: whether to say as well what the SweepWeave editor would not load of a SweepWeave file.
        format: text to read, or one JSON list with an object a file: file, dialect, counts, issues.

    Raises:
        SystemExit: with code 1, behind the findings of all files, where one of them cannot be read or has an error.
    """
    rows = [_checked(file, editor) for named in files for file in _within(named)]
    if format == "json":
        print(json.dumps([_plain(row) for row in rows], indent=2))
    else:
        console = plain_console()
        for row in rows:
            _print(console, row)
    if not all(row.sound for row in rows):
        raise SystemExit(1)


def convert(file: str, to: Format = "simple", out: str | None = None) -> None:
    """Write a world in another format.

    Args:
        file: a world in the simple format or of SweepWeave.
        to: simple; sweepweave, as the editor of version 0.1.9 loads it; ink; or twee, for SugarCube.
        out: the file to write, one that exists is replaced; by default the world goes to standard output.

    Raises:
        UserError: The file cannot be read, is no world, or has what the other format cannot say.
    """
    check_places(file, out=out)
    reading = read_any(read_world_file(file, FILE_LIMITS.max_chars))
    if reading.world is None or not reading.world.encounters:
        first = reading.issues[0] if reading.issues else Issue("$.encounters", "there are no encounters")
        raise UserError(f"'{file}' is no world: {first.path}: {first.message}")
    text = write_world(reading.world, to)
    if out is None:
        print(text, end="")
    else:
        print(f"wrote {printable(str(write_text(out, text)))}")
    if reading.issues:  # beside the text, which may go to another program
        print(f"{_count(reading.issues)} in '{printable(file)}'; `lit-narrative check` lists them", file=sys.stderr)


def _within(named: str) -> Iterator[str]:
    """The file itself, or the files of a folder in the order of their names."""
    if not Path(named).is_dir():
        yield named
        return
    files = sorted(Path(named).glob("*.json"))
    if not files:
        raise UserError(f"the folder '{named}' has no *.json files; name one that has, or the files")
    yield from map(str, files)


def _checked(file: str, editor: bool) -> _Checked:
    try:
        reading = read_any(read_world_file(file, FILE_LIMITS.max_chars))
    except UserError as error:
        return _Checked(file, "unreadable", None, (Issue("$", str(error)),))
    return _Checked(file, reading.dialect, reading.world, (*reading.issues, *_editor_issues(reading, editor)))


def _editor_issues(reading: Reading, editor: bool) -> tuple[Issue, ...]:
    if not editor or reading.world is None or reading.dialect == "simple":
        return ()
    return loader_issues(reading.value)


def _plain(row: _Checked) -> dict[str, Any]:
    issues = [
        {"path": one.path, "message": one.message, "severity": one.severity, "repair": one.repair} for one in row.issues
    ]
    return {"file": row.file, "dialect": row.dialect, **_sizes(row.world), "issues": issues}


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


def _print(console: Console, row: _Checked) -> None:
    console.print(Text(f"{printable(row.file)}: {_count(row.issues)}", "bold"), overflow="fold")
    if row.world is not None:
        sizes = ", ".join(f"{count} {name}" for name, count in _sizes(row.world).items())
        console.print(f"  {DIALECTS[row.dialect]}: {sizes}")
    for issue in row.issues[:MOST_SHOWN]:
        style = "red" if issue.severity == "error" else "yellow"
        line = Text.assemble("  ", (f"{issue.severity:<8}", style), (printable(issue.path), "cyan"), "  ")
        line.append(printable(issue.message))
        if issue.repair:
            line.append(f"; mend: {printable(issue.repair)}", "green")
        console.print(line)
    if len(row.issues) > MOST_SHOWN:
        console.print(f"  … {len(row.issues) - MOST_SHOWN} more; --format json lists all")


def _count(issues: tuple[Issue, ...]) -> str:
    errors = sum(issue.severity == "error" for issue in issues)
    return f"{errors} errors, {len(issues) - errors} warnings" if issues else "no issues"
