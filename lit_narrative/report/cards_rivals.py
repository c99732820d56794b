"""The arms against each other: what reinforcement gave that as much more imitation did not."""

from lit_narrative.report.cards_change import Comparison, compare
from lit_narrative.report.cards_run import CardsRun, title
from lit_narrative.report.section import Section, render

LEARNER, IMITATOR = "GRPOModule", "SFTModule"


def compare_rivals(run: CardsRun) -> dict[tuple[str, str], list[Comparison]]:
    """Compare every arm of reinforcement with every arm of imitation, by (arm, rival)."""
    kinds = {arm: {policy.training.module for _, policy in run.of(arm) if policy.training} for arm in run.arms}
    learners, imitators = ([arm for arm in run.arms if kind in kinds[arm]] for kind in (LEARNER, IMITATOR))
    pairs = [(arm, rival) for rival in imitators for arm in learners]
    return {pair: found for pair in pairs if (found := compare(run, *pair))}


def rivals(run: CardsRun) -> Section:
    """Set the arms of reinforcement beside those of imitation, on the same prompts."""
    rows = [
        (arm, rival, [(title(one.split), one) for one in found]) for (arm, rival), found in compare_rivals(run).items()
    ]
    body = render("cards_rivals.html", rows=rows, several=len(run.seeds) > 1)
    return Section("rivals", "Reinforcement against as much more imitation", body)
