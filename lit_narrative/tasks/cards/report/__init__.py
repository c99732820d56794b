"""The report of a run of the card game: its page and its figures."""

from lit_narrative.tasks.cards.report.page import make_report

__all__ = ["make_report"]
