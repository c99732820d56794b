"""The report of a run of the card game."""

from collections.abc import Callable, Sequence

from lit_narrative.report.cards_circuits import circuits
from lit_narrative.report.cards_outcome import accuracies, changes, headline
from lit_narrative.report.cards_reasons import answers, reasons
from lit_narrative.report.cards_rivals import rivals
from lit_narrative.report.cards_run import CardsRun
from lit_narrative.report.cards_settings import budgets, reproduce
from lit_narrative.report.page import fill_page, folder_name
from lit_narrative.report.section import Section, render

SECTIONS: Sequence[Callable[[CardsRun], Section]] = (
    headline,
    accuracies,
    changes,
    rivals,
    reasons,
    answers,
    budgets,
    circuits,
    reproduce,
)
"""The page from top to bottom."""


def build_cards_page(run: CardsRun) -> str:
    """Return the page's HTML."""
    return fill_page(folder_name(run.out), render("cards_lead.html"), [section(run) for section in SECTIONS])
