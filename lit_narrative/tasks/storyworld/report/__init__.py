"""The report of a storyworld run: its page and its figures."""

from lit_narrative.tasks.storyworld.report.closing import learned
from lit_narrative.tasks.storyworld.report.page import make_report

__all__ = ["learned", "make_report"]
