"""``lit-narrative report OUT``: a run's page and its figures."""

import sys
from pathlib import Path
from typing import Any

from lit_narrative.errors import UserError


def report(out: str) -> None:
    """Write ``summary.json`` and ``report.html`` into a recipe's out folder.

    Of a run of the card game it also compares each arm's circuits with those of its start: ``comparison.html`` beside
    them.

    Args:
        out: the folder, such as ``runs/storyworld`` or ``runs/cards_recipe``, with the jobs' folders in it.

    Raises:
        UserError: the folder or a held-out test in it is missing, or a file is not what it should be.
    """
    from lit_narrative.files import write_json, write_text
    from lit_narrative.tasks.cards.report.reader import is_cards

    folder = Path(out)
    page, summary = _cards(folder) if is_cards(folder) else _storyworld(folder)
    write_json(folder / "summary.json", summary)
    print(f"report: {write_text(folder / 'report.html', page)}")


def _storyworld(folder: Path) -> tuple[str, dict[str, Any]]:
    from lit_narrative.tasks.cards.report.reader import FIGURES, seed_folders
    from lit_narrative.tasks.storyworld.report.page import build_page
    from lit_narrative.tasks.storyworld.report.reader import AFTER, BEFORE, read_run
    from lit_narrative.tasks.storyworld.report.summary import summarise

    if (folder / "master_results.csv").is_file():
        raise UserError(
            f"'{folder}' holds a sweep, whose pages are by_model/*/report.html: `lit-narrative sweep SWEEP --collect` "
            "makes them anew"
        )
    first = seed_folders(folder)[0]
    if first != folder:
        raise UserError(f"'{folder}' holds seeds of a storyworld run: give the folder of one, such as '{first}'")
    if folder.is_dir() and not any((folder / name).is_dir() for name in (BEFORE, AFTER)):
        raise UserError(
            f"'{folder}' holds no run that can be reported: neither {BEFORE} and {AFTER}, the tests of a storyworld "
            f"run, nor a job with {FIGURES}, a test of the card game"
        )
    run = read_run(folder)
    return build_page(run), summarise(run)


def _cards(folder: Path) -> tuple[str, dict[str, Any]]:
    from lit_narrative.tasks.cards.report.page import build_cards_page
    from lit_narrative.tasks.cards.report.reader import read_cards, seed_folders
    from lit_narrative.tasks.cards.report.summary import summarise_cards

    for seed in seed_folders(folder):
        _compare_circuits(seed)
    run = read_cards(folder)
    return build_cards_page(run), summarise_cards(run)


def _compare_circuits(seed: Path) -> None:
    """Write a page of what each arm's circuit analysis shows that the base's does not, beside the arm's."""
    from lit_narrative.tasks.cards.report.run import BASE

    base = seed / f"circuits_{BASE}"
    others = [path.parent for path in seed.glob("circuits_*/circuits") if path.parent != base]
    if others and (base / "circuits").is_dir():
        from lit_narrative.circuits.report.comparison import write_comparison

        for job in sorted(others):
            names, page = (BASE, job.name.removeprefix("circuits_")), job / "comparison.html"
            try:
                write_comparison(base / "circuits", job / "circuits", page, names)
            except UserError as error:  # the rest of the report stands without it
                for old in (page, page.with_suffix(".json")):
                    old.unlink(missing_ok=True)
                print(f"warning: {job} cannot be compared: {error}", file=sys.stderr)


def compare(old: str, new: str, out: str = "comparison.html", old_name: str = "old", new_name: str = "new") -> None:
    """Compare two folders that CircuitAnalysis wrote; no model is loaded.

    Args:
        old: the folder of the first model, such as runs/sft/circuits.
        new: the folder of the second.
        out: the page; its figures are written beside it under the same name as .json. Both replace what is there.
        old_name: what the first model is called.
        new_name: what the second is called.

    Raises:
        UserError: a folder cannot be read, the two cannot be compared, or ``out`` ends in .json.
    """
    from lit_narrative.circuits.report.comparison import write_comparison

    page = write_comparison(old, new, Path(out), (old_name, new_name))
    print(f"comparison: {page}\nchanges: {page.with_suffix('.json')}")
