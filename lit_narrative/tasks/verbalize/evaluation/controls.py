"""Controls: the same targets, explained by an actor that was given something else than the activation.

Whatever an explanation scores under a control it does not owe to the activation.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lit_narrative.report.intervals import Floats, Resamples, figure
from lit_narrative.views import Prompt

CONTROLS = ("shuffled", "mean_activation", "no_injection")
"""Sets with the targets of the test set: another document's activation is injected; the mean one; none at all."""
SEPARATE = ("text_only", "no_activation")
"""Controls with an actor of their own, which learned to explain the text that it reads, or nothing that it is given."""


def control_prompts(name: str, prompts: Sequence[Prompt], mean: Floats, seed: int) -> list[Prompt]:
    """The prompts of a control.

    Args:
        name: of the control.
        prompts: of the test set, each with an injection and a column ``document``.
        mean: (a,) mean activation of the training rows.
        seed: of the shuffle.
    """
    match name:
        case "shuffled":
            order = shuffled([str(prompt.columns["document"]) for prompt in prompts], seed)
            others = [prompts[row].injection for row in order]
        case "mean_activation":
            others = [np.asarray(mean, dtype=np.float32)] * len(prompts)
        case _:
            others = [None] * len(prompts)
    return [replace(prompt, injection=other) for prompt, other in zip(prompts, others, strict=True)]


def shuffled(documents: Sequence[str], seed: int) -> list[int]:
    """For each row a row of another document, each row once where no document holds more than half of them."""
    # Sorted by document, rows move by the size of the largest one: no row then lands in its own document.
    order = np.random.default_rng(seed).permutation(len(documents))
    names = {name: place for place, name in enumerate(dict.fromkeys(documents[row] for row in order))}
    order = np.array(sorted(order, key=lambda row: names[documents[row]]), dtype=int)
    largest = max(Counter(documents).values(), default=0)
    moved = np.empty(len(documents), dtype=int)
    moved[order] = np.roll(order, -largest)
    return [int(row) for row in moved]


def privileged_gain(
    documents: Sequence[str], ours: Floats, controls: Mapping[str, Floats], name: str = "privileged_gain"
) -> dict[str, Any]:
    """FVE of ours less that of the best control, with its interval and the name of that control.

    The best is chosen anew in each resample, so that the interval covers the choice.

    Args:
        documents: (n,) the document of each row.
        ours: (n,) FVE of each row.
        controls: the same under each control, of the same rows; at least one.
        name: of the figure.
    """
    resamples = Resamples(documents)
    rows = resamples.sums(np.ones(len(ours)))
    drawn = {control: resamples.sums(values) / rows for control, values in controls.items()}
    means = {control: float(values.mean()) for control, values in controls.items()}
    best = max(means, key=lambda control: means[control])
    gains = resamples.sums(ours) / rows - np.max(list(drawn.values()), axis=0)
    return {**figure(name, float(ours.mean()) - means[best], resamples.interval(gains)), f"{name}_over": best}
