"""The measures of the page: what each is called, what it means, and where it belongs."""

from collections.abc import Mapping

from lit_narrative.report.measures import Measure

STYLE: Mapping[str, Measure] = {
    "judge_a": Measure("Judge A", "cosine with held-out chunks of the author named; training is by this judge"),
    "judge_b": Measure("Judge B", "the same; another encoder and other books, which training never sees"),
    "judge_a_scaled": Measure("Judge A, scaled", "0: as chunks of other authors; 1: as the author's own"),
    "judge_b_scaled": Measure("Judge B, scaled", "the same"),
    "topic_swap": Measure("Topic swap", "one plot, two authors: style follows the author; 50% at random", share=True),
    "topic_swap_judge_a": Measure("Topic swap under judge A", share=True),
    "judge_a_identified": Measure("Author named is the nearest, judge A", share=True),
    "judge_b_identified": Measure("Author named is the nearest, judge B", share=True),
    "judge_a_drift": Measure("Drift, judge A", "last window less the first; below 0: style is lost on the way"),
    "judge_b_drift": Measure("Drift, judge B", "the same"),
}
"""Likeness to the author named."""
TEXT: Mapping[str, Measure] = {
    "content": Measure("Content", "what the text makes of its plot, 0 to 1"),
    "completeness": Measure("Completeness", "length and ending, 0 to 1"),
    "finished": Measure("Texts that end by themselves", share=True),
    "words": Measure("Words a text"),
    "diversity": Measure("Diversity", "1 less the share of three-word phrases that another text has"),
    "repetition": Measure("Repetition", "share of three-word phrases that came before in the text", share=True),
    "slop": Measure("Slop", "over-used words and phrases beyond their share in human text", share=True),
}
"""The text itself."""
COPYING: Mapping[str, Measure] = {
    "copied_span": Measure("Longest copied span", "bits under the author's word frequencies"),
    "copied_span_human": Measure("The same, held-out human text", "what the authors repeat of themselves"),
    "copied_words": Measure("Longest copied span", "words"),
    "nearest_source": Measure("Nearest source", "five-word runs that stand in the nearest chunk", share=True),
    "names_source": Measure("Texts that name the source's characters or places", share=True),
}
"""What is taken from the author's own texts."""
GROUPS: Mapping[str, Mapping[str, Measure]] = {"Style": STYLE, "Text": TEXT, "Copying": COPYING}
"""The measures in the order of the page."""
MAIN = ("judge_a", "judge_b", "topic_swap", "copied_span", "content", "completeness", "diversity", "slop")
"""What stands seed by seed, and for every arm in ``summary.json`` at the least."""
EXAMINED: Mapping[str, Measure] = {
    "auroc": Measure("AUROC"),
    "auroc_masked": Measure("AUROC, topic masked"),
    "spearman": Measure("Spearman"),
    "spearman_masked": Measure("Spearman, topic masked"),
}
"""What an examination says of a judge and of each baseline."""
