"""Scores of a set of judged answers: accuracy, lift over a constant answer, and the kinds of error."""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

from lit_narrative.report.intervals import share_interval
from lit_narrative.tasks.cards.answers import Judgement
from lit_narrative.tasks.cards.families import find_rule
from lit_narrative.tasks.cards.game import OOD_KINDS
from lit_narrative.tasks.cards.rules import Card

Columns = Mapping[str, Any]
Row = tuple[Judgement, Columns]


def set_scores(
    judgements: Sequence[Judgement], columns: Sequence[Columns], rules: Sequence[str] = ()
) -> dict[str, Any]:
    """Everything measured on one set, as plain values for JSON.

    Args:
        judgements: one an answer.
        columns: of the prompts, in the same order.
        rules: names of the rules whose answers may have been given in place of the right ones.

    Returns:
        ``n``; ``accuracy`` (invalid answers are wrong) with its 95 % Wilson interval ``accuracy_ci``;
        ``format_validity``; ``majority``, the share of the commonest right answer, and ``lift`` over it (1 at best, 0
        for that constant answer; None where all right answers are the same); ``macro_accuracy`` over the right
        answers' values; ``accuracy_zero`` and ``accuracy_nonzero`` by the right answer; ``answered_zero``, share of
        answers 0; ``trace_exact`` (None without scratchpads) and ``process``; ``per_rule`` and ``per_length``;
        ``rule_substitution``. Every share of nothing is None.
    """
    rows = list(zip(judgements, columns, strict=True))
    n, correct = len(rows), sum(judgement.correct for judgement in judgements)
    # The best constant answer: what a policy gets that ignores the cards.
    majority = max(Counter(judgement.expected for judgement in judgements).values(), default=0)
    traces = [judgement.trace_exact for judgement in judgements if judgement.trace_exact is not None]
    by_answer = grouped(rows, lambda row: row[0].expected)
    return {
        "n": n,
        "accuracy": _share(correct, n),
        "accuracy_ci": list(share_interval(correct / n, n)) if n else None,
        "format_validity": _share(sum(judgement.valid for judgement in judgements), n),
        "majority": _share(majority, n),
        # Rescaled: 0 is the best constant answer, 1 is all right. Without room above that constant there is no lift.
        "lift": (correct - majority) / (n - majority) if n > majority else None,
        "macro_accuracy": fmean(group["accuracy"] for group in by_answer.values()) if n else None,
        "accuracy_zero": by_answer.get("0", {}).get("accuracy"),
        "accuracy_nonzero": _accuracy([row for row in rows if row[0].expected != "0"]),
        "answered_zero": _share(sum(judgement.answer == "0" for judgement in judgements), n),
        "trace_exact": _share(sum(traces), len(traces)),
        "process": fmean(judgement.process for judgement in judgements) if n else None,
        "per_rule": grouped(rows, lambda row: str(row[1]["rule_name"])),
        "per_length": grouped(rows, lambda row: str(len(row[1]["cards"]))),
        "rule_substitution": {rule: rule_substitution(rows, rule) for rule in rules},
    }


def rule_substitution(rows: Sequence[Row], rule: str) -> dict[str, float | None]:
    """How often the answer is what another rule would have given on the same cards.

    Args:
        rows: judged answers with the columns of their prompts; those of that rule are left out.
        rule: name of the other rule.

    Returns:
        ``all``: the share among all answers; ``errors``: among those that are wrong.
    """
    other = find_rule(rule)
    hits = [
        (judgement.correct, judgement.answer == other.answer(hand(columns)))
        for judgement, columns in rows
        if columns["rule_name"] != rule
    ]
    # Among errors too: where both rules give the same answer, the hit is right and says nothing of substitution.
    wrong = [hit for correct, hit in hits if not correct]
    return {"all": _share(sum(hit for _, hit in hits), len(hits)), "errors": _share(sum(wrong), len(wrong))}


def gaps(accuracies: Mapping[str, float], base: str = "id_test") -> dict[str, float]:
    """How far the accuracy of each set is below ``base``; negative where it is above. Empty without it."""
    if base not in accuracies:
        return {}
    return {name: accuracies[base] - value for name, value in accuracies.items() if name != base}


def mean_gap(by_set: Mapping[str, float], kinds: Sequence[str] = OOD_KINDS) -> float | None:
    """The mean gap over the kinds of shift that were measured; None if none was."""
    values = [by_set[kind] for kind in kinds if kind in by_set]
    return fmean(values) if values else None


def hand(columns: Columns) -> list[Card]:
    """The cards of a prompt's columns."""
    return [Card(card["color"], card["value"]) for card in columns["cards"]]


def grouped(rows: Sequence[Row], key: Callable[[Row], str]) -> dict[str, dict[str, Any]]:
    """Count and accuracy of each group of rows, in order of its key."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[key(row)].append(row)
    # Keys are text, as JSON asks: "10" comes before "2".
    return {name: {"n": len(groups[name]), "accuracy": _accuracy(groups[name])} for name in sorted(groups)}


def _accuracy(rows: Sequence[Row]) -> float | None:
    return _share(sum(judgement.correct for judgement, _ in rows), len(rows))


def _share(part: float, whole: int) -> float | None:
    return part / whole if whole else None
