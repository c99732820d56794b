"""``lit-narrative report OUT``: a run's page and its figures."""

from pathlib import Path


def report(out: str) -> None:
    """Write ``summary.json`` and ``report.html`` into a recipe's out folder.

    Args:
        out: the folder, such as ``runs/storyworld``, with the jobs' folders in it.

    Raises:
        UserError: the folder or a held-out test in it is missing, or a file is not what it should be.
    """
    from lit_narrative.files import write_json, write_text
    from lit_narrative.report.page import build_page
    from lit_narrative.report.reader import read_run
    from lit_narrative.report.summary import summarise

    run = read_run(out)
    page = build_page(run)
    write_json(Path(out) / "summary.json", summarise(run))
    print(f"report: {write_text(Path(out) / 'report.html', page)}")
