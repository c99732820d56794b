"""Rejection sampling: the best of a model's own texts, by a score, as examples to imitate.

A simple stand-in for reinforcement learning: train on the best of what the model wrote, and it writes more of the kind
(RAFT, Dong et al. 2023, algorithm 1). Here one round is one run, and the texts come from a file.
"""

import math
from dataclasses import dataclass
from pathlib import Path

from lit_narrative.datamodules.judged import lines, read_sample
from lit_narrative.errors import UserError
from lit_narrative.views import Example


@dataclass(frozen=True)
class RejectionSampling:
    """Texts to imitate in place of the task's training examples: the setting ``data.preferred``.

    Args:
        file: texts with their scores, ``samples/predict.jsonl`` of the callback `Verifiers`. Those that were cut off
            are left out.
        by: the score: ``reward``, the verifiers' total, or the name of a component or a reward in the file.
        share: of the texts that is kept, the best first; above 0, 1 at most.
        threshold: keep every text with at least this score instead; None: go by ``share``.

    Raises:
        UserError: a number is out of range.
    """

    file: str
    by: str = "reward"
    share: float = 0.2
    threshold: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise UserError(f"data.preferred.share={self.share} must be above 0, and 1 at most")
        if self.threshold is not None and not math.isfinite(self.threshold):
            raise UserError(f"data.preferred.threshold={self.threshold} must be a number")


def best_texts(settings: RejectionSampling) -> list[Example]:
    """The texts that are kept, the best first; ``meta`` holds their ``score``.

    Raises:
        UserError: there is no such file, it has no such score, or no text is kept.
    """
    path = Path(settings.file)
    read = [read_sample(row, settings.by, where, "data.preferred") for where, row in lines(path, "preferred")]
    rows = [None if row is None else Example(row.prompt or "", row.text, {"score": row.score}) for row in read]
    # The sort is stable: of equal scores the earlier text comes first, so that the same file keeps the same texts.
    finished = sorted((row for row in rows if row is not None), key=lambda row: row.meta["score"], reverse=True)
    if not finished:
        raise UserError(f"{path}: none of {len(rows)} texts came to its end; raise model.sampling.max_new_tokens")
    if settings.threshold is None:
        return finished[: max(round(settings.share * len(finished)), 1)]
    best = finished[0].meta["score"]
    if best < settings.threshold:
        raise UserError(
            f"data.preferred.threshold={settings.threshold}: the best text of {path} has {best:.3g}; lower "
            "it, or leave it out and go by share"
        )
    return [row for row in finished if row.meta["score"] >= settings.threshold]
