"""What each circuit analysis asks, and how its figures are to be read."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from lit_narrative.report.format import percent


class About(NamedTuple):
    """An analysis in words: its heading, what it asks of the model, and how to read the figures."""

    title: str
    asked: str
    reading: str


ANALYSES = {
    "probes": About(
        "Linear probes",
        "What can be read off the model's activations by a linear rule, and does the same rule hold on other splits? "
        "Every probe is fitted on {fitted} of the home split and judged on the rest of it and on all others.",
        "A score is accuracy for a class and R², cut to 0..1, for a number. It counts only beside the share of the "
        "commonest class (first column){control}. What can be read off need not be used by the model. Columns are "
        "sites before (pre) and after (post) each layer, at a named place.",
    ),
    "patching": About(
        "Activation patching",
        "Which activations carry what tells two prompts apart? Each run on one prompt of a pair gets one activation of "
        "the run on the other prompt. “denoise” puts clean activations into the corrupt run and asks what is enough; "
        "“noise” puts corrupt ones into the clean run and asks what is needed.",
        "Recovery 0 changes nothing; 1 takes the answer's lead all the way to the other run's; below 0 it moves the "
        "wrong way. “changed” is the word in which the two prompts differ, “answer” the place that the answer "
        "follows; where they differ in no other word, the stream before layer 0 at “changed” is 1 by construction. "
        "{places}",
    ),
    "ablation": About(
        "Ablation",
        "What does the model lose when one of its parts {instead}? a0.h1 is head 1 of "
        "layer 0, a0 all heads of the layer, m0 its MLP.",
        "Bars are losses: the figure of the whole model less that of the model without the part. Where the model is "
        "less than 0.1 better than the commonest answer, there is no skill to lose: the split is marked weak, its "
        "parts are ranked by the logit difference, and the ranking is not to be trusted. Jaccard is the share of parts "
        "that are in both top quarters among those in either.",
    ),
    "attribution": About(
        "Circuits by attribution",
        "Along which edges between parts does the answer come about? Edges are scored by {method} on one "
        "half of the pairs; on the other half, circuits of the strongest edges must do what the model does.",
        "A score is the edge's estimated effect on the answer's lead, in logits: red helps the right answer, blue "
        "hinders it. Faithfulness is 1 for the whole model and 0 for no edge; completeness says how much is lost "
        "without the circuit. The dashed grey line takes as many edges at random. CPR is the area under faithfulness "
        "(1 is best), CMD that of the distance from 1 (0 is best). The x axis is stretched near 0.",
    ),
    "acdc": About(
        "Circuits by pruning (ACDC)",
        "Which edges can be dropped, one after the other, without a change of the answer's lead?",
        "Edges that stay are those whose loss changes faithfulness by the threshold or more. Minimality near 0 says "
        "that some edge is idle; incompleteness far from 0 says that the circuit reacts to damage otherwise than the "
        "whole model.",
    ),
    "lens": About(
        "Logit lens and direct contributions",
        "What would the model answer if it stopped before a layer, and how much does each part add to the answer's "
        "lead over the distractor directly?",
        "The stream before each layer is read through the last norm and the output. Direct contributions add up to "
        "the model's lead; what a part does by way of later parts is not in them.",
    ),
    "attention": About(
        "Attention",
        "Where does each head look?",
        "Rows are the places that look, columns those that are looked at; a cell is the mean weight over the rows that "
        "have both. Weights to places without a name are not shown, so that a row may add up to less than 1. Looking "
        "at a place is not yet using it.",
    ),
    "sae": About(
        "Features of a sparse autoencoder",
        "Which directions of the stream belong to the home split alone, and which are shared with other splits? The "
        "autoencoder is trained on activations of the home split.",
        "One dot is one feature: how often it fires at home and on the other split. Lines are equal rates and four "
        "times as often. ID-specific features lie below the band, OOD-specific ones above it, stable ones near the "
        "middle line. Where the task names patterns, a heat map correlates each feature's activation "
        "with them. A firing feature is not yet one that the answer rests on.",
    ),
}

INSTEAD = {
    "zero": "says nothing",
    "mean": "says what it says on average, and no more",
    "positional_mean": "says what it says on average at that place, and no more",
    "resample": "says what it says on another row",
}
"""What takes an ablated part's place, by the mode."""
PLACES = {
    "named": "Only places that all pairs have are patched.",
    "columns": "Every column is patched; columns are counted from the end, where the two prompts are aligned.",
}
CONTROLS = " and the control: the same probe fitted to shuffled answers (last panel, score less control)"


def _of_probes(own: Mapping[str, Any]) -> dict[str, str]:
    fitted = percent(1 - own["test_size"]) if "test_size" in own else "a part"
    controlled = own.get("controls", 1)
    return {
        "fitted": fitted,
        "control": CONTROLS if controlled else "; there is no control, and the last panel is empty",
    }


def _of_patching(own: Mapping[str, Any]) -> dict[str, str]:
    places = own.get("places", "named")
    named = places if isinstance(places, str) else ", ".join(places)
    return {"places": PLACES.get(named, f"Only these places are patched: {named}.")}


def _of_ablation(own: Mapping[str, Any]) -> dict[str, str]:
    return {"instead": INSTEAD.get(str(own.get("mode")), "is taken out")}


def _of_attribution(own: Mapping[str, Any]) -> dict[str, str]:
    return {"method": "patching each" if own.get("method") == "exact" else "attribution patching"}


WORDS: dict[str, Callable[[Mapping[str, Any]], dict[str, str]]] = {
    "probes": _of_probes,
    "patching": _of_patching,
    "ablation": _of_ablation,
    "attribution": _of_attribution,
}
"""What the settings of an analysis put into its words."""


def about(analysis: str, settings: Mapping[str, Any]) -> About:
    """An analysis in the words that its settings make true.

    Args:
        analysis: its name.
        settings: of all analyses, by name, as the manifest holds them.
    """
    told = ANALYSES[analysis]
    words = WORDS[analysis](settings.get(analysis, {})) if analysis in WORDS else {}
    return About(*(text.format(**words) for text in told))
