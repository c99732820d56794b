"""The measures of the page: what each is called, what it means, and where it belongs."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Measure:
    """A figure of an evaluation.

    Attributes:
        title: its name on the page.
        note: what it means, for someone who has not met it.
        share: whether it is shown as a percentage.
        frozen: whether it is measured under the frozen critic too, as ``<name>_frozen``.
    """

    title: str
    note: str = ""
    share: bool = False
    frozen: bool = False


FVE: Mapping[str, Measure] = {
    "fve": Measure("Explanations", "mean over positions", frozen=True),
    "fve_median": Measure("Explanations, median", "the middle position; rows that went wholly wrong move it less"),
    "teacher": Measure("Teacher's text", "what imitation can reach", frozen=True),
    "nearest_copy": Measure("Nearest activation", "that of the nearest training position itself, with no text between"),
    "nearest_neighbour": Measure("Nearest neighbour's text", "the teacher's, of that training position", frozen=True),
    "fve_paraphrase": Measure("Paraphrased explanations", "the same claims in other words", frozen=True),
    "floor_constant": Measure("Constant answer", "the best answer that knows nothing of the activation"),
}
"""Fractions of variance explained: of explanations, and what they stand beside."""
CONTROLS: Mapping[str, Measure] = {
    "shuffled": Measure("Another activation", "of another document", frozen=True),
    "mean_activation": Measure("Mean activation", frozen=True),
    "no_injection": Measure("Nothing injected", frozen=True),
    "text_only": Measure("Text instead of activation", "an actor of its own, which reads the text", frozen=True),
    "no_activation": Measure("No activation in training", "an actor of its own, which is given nothing", frozen=True),
    "privileged_gain": Measure("Privileged gain", "explanations less the best of these controls", frozen=True),
}
"""Fractions of variance explained by actors that are not given the activation."""
WORDS: Mapping[str, Measure] = {
    "claims_precision": Measure("Claims that are so", "precision, by rule", share=True),
    "claims_recall": Measure("What is so and is claimed", "recall", share=True),
    "claims_per_text": Measure("Claims an explanation"),
    "position_match": Measure(
        "Own position found", "among five of its document; chance is 20%", share=True, frozen=True
    ),
    "copied_bits": Measure("Longest copied span", "bits under word frequencies"),
    "copied_words": Measure("Longest copied span", "words"),
    "words_in_source": Measure("Words that stand in the source", share=True),
}
"""What explanations say, judged without a critic but for the position."""
CAUSAL: Mapping[str, Measure] = {
    "causal_shift": Measure("Shift towards an edited word", "nats of log-odds, one word edited"),
    "causal_shift_span": Measure("The same, all claims edited", "nats of log-odds"),
    "causal_shift_random": Measure("The same, random step", "of the same length; nothing is to be expected"),
    "causal_kl": Measure("Change of the next token", "KL in nats, one word edited"),
    "causal_kl_span": Measure("The same, all claims edited", "KL in nats"),
    "causal_kl_random": Measure("The same, random step", "KL in nats"),
    "causal_kl_unedited": Measure("Change by reconstruction alone", "KL in nats from the subject's own prediction"),
}
"""What an edited explanation does to the subject."""
KNOWLEDGE: Mapping[str, Measure] = {
    "follows_first": Measure("Facts told as in the first world", "one in eight at random", share=True),
    "follows_second": Measure("Facts told as in the second world", "which contradicts the first", share=True),
}
"""Whose knowledge explanations tell, where subject and actor learned worlds that contradict each other."""
HEALTH: Mapping[str, Measure] = {
    "format": Measure("Answers with an explanation", share=True),
    "marker_talk": Measure("Answers that name the marker", "as actors do that never got the vector", share=True),
    "words": Measure("Words an explanation"),
    "length_drift": Measure("Length against the teacher's", "0: as long"),
    "unique": Measure("Distinct explanations", share=True),
    "targets_dead_elements": Measure("Elements of the activation that never vary", share=True),
    "targets_repeated": Measure("Activations that repeat an earlier one", share=True),
    "targets_norm_spread": Measure("Spread of the activations' norms", "standard deviation over mean"),
}
"""Signs that something is broken."""
GROUPS: Mapping[str, Mapping[str, Measure]] = {
    "Fraction of variance explained": FVE,
    "The same under controls": CONTROLS,
    "What explanations say": WORDS,
    "Causal test": CAUSAL,
    "Whose knowledge": KNOWLEDGE,
    "Health": HEALTH,
}
"""The measures in the order of the page."""
