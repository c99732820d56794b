"""``lit-narrative compare OLD NEW``: what is different between two folders of circuit analyses."""

from pathlib import Path


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
    from lit_narrative.report.comparison import write_comparison

    page = write_comparison(old, new, Path(out), (old_name, new_name))
    print(f"comparison: {page}\nchanges: {page.with_suffix('.json')}")
