"""The report of a run that puts activations into words: its page and its figures."""

from lit_narrative.tasks.verbalize.report.page import make_report

__all__ = ["make_report"]
