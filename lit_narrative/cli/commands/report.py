"""``lit-narrative report OUT``: the page and the figures of a run, made by its task's report."""

from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

from lit_narrative.errors import UserError, did_you_mean
from lit_narrative.files import read_utf8
from lit_narrative.lookup import import_named

Returned = TypeVar("Returned")
LEFT_BY = {
    "cards": (["*/eval/test.json"], "CardsData"),
    "storyworld": (["test_sft/verifiers/test.json", "test_final/verifiers/test.json"], ""),
}
"""Task -> what its tests leave, and what settings name: the task of folders whose recipe does not name its report."""
ANY = "run"
"""The report of any run, which knows nothing of the task."""


def report(out: str, report: str | None = None, section: Sequence[str] = ()) -> None:
    """Write ``summary.json`` and ``report.html`` into a run's folder: a recipe's, or that of a single job.

    Of a run of the card game it also compares each arm's circuits with those of its start: ``comparison.html`` beside
    them. Of a storyworld run with several seeds it also writes the page of each seed.

    Args:
        out: the folder, such as ``runs/storyworld`` or ``runs/cards_recipe``, with the jobs' folders in it.
        report: whose report it is, such as ``cards``, or a custom one by its path, ``package.module:function``: a
            function from the folder to a ``lit_narrative.report.page.Report``. If left out, that of a task that the
            recipe or the files name, or else ``run``: the metrics and the samples of any run.
        section: a custom section to stand at the end, by its path: a function from the folder to a
            ``lit_narrative.report.page.Section``; may be given several times.

    Raises:
        UserError: the folder or a held-out test in it is missing, a file is not what it should be, or there is no such
            report or section.
    """
    from lit_narrative.report.page import Report, Section, write_report

    folder = Path(out)
    noted, noted_sections = noted_report(folder)
    check_noted(folder, "" if report else noted, () if section else noted_sections)
    name = report or noted or report_of_files(folder)
    # Everything named is found before the files are read: a typing error should not cost a minute.
    make, makers = find_report(name), [(path, find_function(path, "section")) for path in section]
    content = _returned(make(folder), Report, f"report '{name}'")
    more = [_returned(maker(folder), Section, f"section '{path}'") for path, maker in makers]
    print(f"report: {write_report(folder, content, more)}")


def find_report(name: str) -> Callable[[Path], Any]:
    """Find the function that makes a report.

    Args:
        name: of a task that has one, or ``package.module:function`` of a custom one; of a module alone, its function
            ``make_report``.

    Raises:
        UserError: there is none.
    """
    if "." in name or ":" in name:
        return find_function(name, "report", "make_report")
    tasks = [path.name for path in files("lit_narrative.tasks").iterdir() if path.joinpath("report").is_dir()]
    known = [*sorted(tasks), ANY]
    if name not in known:
        raise UserError(
            f"there is no report '{name}'{did_you_mean(name, known)} ({', '.join(known)}, or package.module:function "
            "of a custom one); sweeps, such as those of poetry, write pages of their own: sweep.html"
        )
    # By name, so that no task is named here and none but the wanted one is imported.
    return import_module(_module(name)).make_report  # type: ignore[no-any-return]


def _module(name: str) -> str:
    if "." in name or ":" in name:
        return name.partition(":")[0]
    return "lit_narrative.report.run_page" if name == ANY else f"lit_narrative.tasks.{name}.report"


def find_learned(name: str) -> Callable[[Path], list[str]] | None:
    """Find what says in a few lines what a run has taught: the function ``learned`` beside a report's, if there is one.

    Args:
        name: of a report, as `find_report` knows it.
    """
    return getattr(import_module(_module(name)), "learned", None)


def find_function(path: str, kind: str, default: str = "") -> Callable[[Path], Any]:
    """Import ``package.module:function``; ``default`` is the function's name where the path gives none.

    Raises:
        UserError: there is no such function; ``kind`` says in the message what it was to be.
    """
    module_name, _, name = path.partition(":")
    name = name or default
    if not name:
        raise UserError(f"{kind} '{path}': write package.module:function")
    module = import_named(module_name, f"{kind} '{path}'")
    function = getattr(module, name, None)
    if not callable(function):
        near = did_you_mean(name, [known for known in vars(module) if not known.startswith("_")])
        raise UserError(f"{kind} '{path}': {module_name} has no function '{name}'{near}")
    return function  # type: ignore[no-any-return]


def noted_report(folder: Path) -> tuple[str, list[str]]:
    """Return whose report a folder's ``recipe.json`` asks for and its custom sections; empty where it does not say."""
    from lit_narrative.report.records import read_record
    from lit_narrative.report.run_folder import recipe_note

    path = recipe_note(folder)
    if path is None:
        return "", []
    note = read_record(path)
    return note.text("report"), [str(section) for section in note.items("sections")]


def check_noted(folder: Path, report: str, sections: Sequence[str]) -> None:
    """Refuse to call what a run folder names by path: a function could run files that came with the folder.

    Raises:
        UserError: its ``recipe.json`` names a custom report or section; the message has the flags that do so.
    """
    custom = [f"--report {report}"] if "." in report or ":" in report else []
    custom += [f"--section {path}" for path in sections]
    if custom:
        raise UserError(
            f"the recipe.json of '{folder}' names code of yours or of others, which is not run because a file in a run "
            f"folder names it: if you know it, say so by {' '.join(custom)}"
        )


def report_of_files(folder: Path) -> str:
    """Tell whose report a folder needs by what its jobs left.

    Raises:
        UserError: there is no such folder, it is a sweep's, or its jobs left nothing that is known.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder '{folder}': give the out folder of a recipe, such as runs/storyworld")
    from lit_narrative.report.jobs import holds_jobs

    for task, (patterns, named) in LEFT_BY.items():
        left = [path for one in patterns for path in (*folder.glob(one), *folder.glob(f"seed_*/{one}"))]
        if left and (not named or _settings_name(folder, named)):
            return task
    if (folder / "master_results.csv").is_file():
        raise UserError(
            f"'{folder}' holds a sweep, whose page is sweep.html: `lit-narrative sweep SWEEP --collect` makes it again"
        )
    if holds_jobs(folder):
        return ANY
    raise UserError(
        f"'{folder}' holds no run that can be reported: no job in it has metrics.csv or samples/*.jsonl. A custom "
        "report is named by --report package.module:function"
    )


def _settings_name(folder: Path, name: str) -> bool:
    """Whether the settings of a job in a run's folder name a class."""
    configs = [*folder.glob("*/config*.yaml"), *folder.glob("seed_*/*/config*.yaml")]
    return any(name in read_utf8(path) for path in configs)


def _returned(value: object, kind: type[Returned], what: str) -> Returned:
    if not isinstance(value, kind):
        raise UserError(f"{what} returned {type(value).__name__}, not a lit_narrative.report.page.{kind.__name__}")
    return value


def compare(
    old: str,
    new: str,
    out: str = "comparison.html",
    old_name: str = "old",
    new_name: str = "new",
    extra: Sequence[str] = (),
) -> None:
    """Compare two folders that CircuitAnalysis wrote; no model is loaded.

    Args:
        old: the folder of the first model, such as runs/sft/circuits.
        new: the folder of the second.
        out: the page; its numbers are written beside it under the same name as .json. Both replace what is there.
        old_name: what the first model is called.
        new_name: what the second is called.
        extra: paths of modules with analyses of other packages, such as my.package.norms.

    Raises:
        UserError: a folder cannot be read, the two cannot be compared, or ``out`` ends in .json.
    """
    from lit_narrative.circuits.report.comparison import write_comparison
    from lit_narrative.circuits.suite import load_extra

    page = write_comparison(old, new, Path(out), (old_name, new_name), load_extra(extra).values())
    print(f"comparison: {page}\nchanges: {page.with_suffix('.json')}")
