"""The measures of the page: what each is called, what it means, and where it belongs."""

from collections.abc import Mapping

from lit_narrative.report.measures import Measure

FROZEN = "_frozen"
"""What stands behind the name of a figure under the frozen critic."""


def _both(name: str, title: str, note: str = "", share: bool = False) -> dict[str, Measure]:
    """A measure that is taken under the frozen critic too."""
    return {name: Measure(title, note, share), f"{name}{FROZEN}": Measure(f"{title}, frozen critic", note, share)}


FVE: Mapping[str, Measure] = {
    **_both("fve", "Explanations", "mean over positions"),
    "fve_median": Measure("Explanations, median", "the middle position; rows that went wholly wrong move it less"),
    **_both("teacher", "Teacher's text", "what imitation can reach"),
    "nearest_copy": Measure("Nearest activation", "that of the nearest training position itself, with no text between"),
    **_both("nearest_neighbour", "Nearest neighbour's text", "the teacher's, of that training position"),
    **_both("fve_paraphrase", "Paraphrased explanations", "the same claims in other words"),
    "floor_constant": Measure("Constant answer", "the best answer that knows nothing of the activation"),
}
"""Fractions of variance explained: of explanations, and what they stand beside."""
CONTROLS: Mapping[str, Measure] = {
    **_both("shuffled", "Another activation", "of another document"),
    **_both("mean_activation", "Mean activation"),
    **_both("no_injection", "Nothing injected"),
    **_both("text_only", "Text instead of activation", "an actor of its own, which reads the text"),
    **_both("no_activation", "No activation in training", "an actor of its own, which is given nothing"),
    **_both("privileged_gain", "Privileged gain", "explanations less the best of these controls"),
}
"""Fractions of variance explained by actors that are not given the activation."""
WORDS: Mapping[str, Measure] = {
    "claims_precision": Measure("Claims that are so", "precision, by rule", share=True),
    "claims_recall": Measure("What is so and is claimed", "recall", share=True),
    "claims_per_text": Measure("Claims an explanation"),
    **_both("position_match", "Own position found", "among five of its document; chance is 20%", share=True),
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
