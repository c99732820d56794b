"""The report of a run that teaches a model an author's style: its page and its figures."""

from lit_narrative.tasks.style.report.page import make_report

__all__ = ["make_report"]
