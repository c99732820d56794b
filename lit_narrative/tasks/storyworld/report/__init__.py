"""The report of a storyworld run: its page and its figures."""

from lit_narrative.tasks.storyworld.report.page import make_report
from lit_narrative.tasks.storyworld.report.summary import learned

__all__ = ["learned", "make_report"]
