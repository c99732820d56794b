"""Rejection sampling: the best of a model's own texts, by a score, as examples to imitate.

A simple stand-in for reinforcement learning: train on the best of what the model wrote, and it writes more of the kind
(RAFT, Dong et al. 2023, algorithm 1). Here one round is one run, and the texts come from a file.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lit_narrative.errors import UserError, did_you_mean
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
    if not path.is_file():
        raise UserError(
            f"data.preferred.file: no file '{path}'; `lit-narrative predict` with the callback Verifiers writes it"
        )
    # Not splitlines(): it also splits at U+2028 and its like, which texts may hold and JSON does not escape.
    lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    rows = [_read(line, settings.by, f"{path}, line {number}") for number, line in enumerate(lines, 1)]
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


def _read(line: str, by: str, where: str) -> Example | None:
    """A text and its score; None for one that was cut off."""
    try:
        row = json.loads(line)
        prompt, text, finished, scores = row["prompt"], row["text"], row["finished"], _scores(row)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{where} is not a judged sample: it needs prompt, text, finished, reward, components"
        ) from error
    if by not in scores:
        known = ", ".join(scores)
        raise UserError(f"data.preferred.by: {where} has no score '{by}'{did_you_mean(by, scores)} ({known})")
    return Example(row.get("messages") or prompt, text, {"score": scores[by]}) if finished else None


def _scores(row: Mapping[str, Any]) -> dict[str, float]:
    return {"reward": float(row["reward"])} | {name: float(value) for name, value in row["components"].items()}
