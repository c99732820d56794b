"""``lit-narrative compare OLD NEW``: what is different between two folders of circuit analyses."""

from pathlib import Path


def compare(old: str, new: str, out: str = "comparison.html", old_name: str = "old", new_name: str = "new") -> None:
    """Compare two folders that CircuitAnalysis wrote; no model is loaded.

    Args:
        old: the folder of the first model, such as runs/sft/circuits.
        new: the folder of the second.
        out: the page; changes.json is written beside it.
        old_name: what the first model is called.
        new_name: what the second is called.

    Raises:
        UserError: a folder cannot be read, or the two cannot be compared.
    """
    from lit_narrative.report.comparison import write_comparison

    page = write_comparison(old, new, Path(out), (old_name, new_name))
    print(f"comparison: {page}\nchanges: {page.parent / 'changes.json'}")
