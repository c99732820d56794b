"""Completions with scores and preferences, from files: the view ``scored`` of any task."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from lit_narrative.errors import UserError, did_you_mean
from lit_narrative.files import read_utf8
from lit_narrative.views import Conversation, Scored, check_prompt


@dataclass(frozen=True)
class JudgedCompletions:
    """Completions with their scores as the view ``scored``: the setting ``data.judged``.

    A line is a JSON object of one of three kinds; a prompt is a text, or a list of messages under ``messages``:

    - a judged sample, as the callbacks `Verifiers` (``samples/predict.jsonl``) and `RolloutWriter` write it; one that
      was cut off is left out;
    - a preference: ``prompt``, ``chosen``, ``rejected``;
    - a mark: ``prompt``, ``completion``, ``label`` (true or false), which becomes the score 1 or 0.

    Args:
        file: JSONL, or a folder of such files.
        by: the score of a sample: ``reward``, or the name of a component or a reward in the file.
        held_out: share of the prompts to validate on, and as many to test on, above 0 and below 0.5.
        seed: of which prompts those are; all completions of a prompt are in one split.

    Raises:
        UserError: a number is out of range.
    """

    file: str
    by: str = "reward"
    held_out: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.held_out < 0.5:
            raise UserError(f"data.judged.held_out={self.held_out} must be above 0 and below 0.5")


def judged_rows(settings: JudgedCompletions) -> dict[str, list[Scored]]:
    """The rows of each split, in the order of the file.

    Raises:
        UserError: there is no such file, a line is of none of the kinds, or the prompts are fewer than three.
    """
    path = Path(settings.file)
    paths = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    if not paths:
        raise UserError(f"data.judged.file: the folder '{path}' has no *.jsonl")
    found = [read_row(row, settings.by, where, "data.judged") for one in paths for where, row in lines(one, "judged")]
    rows = [row for row in found if row is not None]
    keys = [blake2b(f"{settings.seed} {row.prompt!r}".encode(), digest_size=8).digest() for row in rows]
    # By digest: neither the order of the file nor its other lines decide, up to the rounding, where a prompt goes.
    order = sorted(set(keys))
    part = max(round(settings.held_out * len(order)), 1)
    if len(order) < 3:
        raise UserError(
            f"data.judged.file: '{path}' has completions of {len(order)} prompts, and training, validation and test "
            "share none; give three prompts or more"
        )
    of = dict.fromkeys(order, "train") | dict.fromkeys(order[:part], "test")
    of |= dict.fromkeys(order[part : 2 * part], "val")
    splits: dict[str, list[Scored]] = {"train": [], "val": [], "test": []}
    for key, row in zip(keys, rows, strict=True):
        splits[of[key]].append(row)
    return splits


def lines(path: Path, setting: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The JSON objects of a file, each with the place where it stands.

    Raises:
        UserError: there is no such file, or a line is no object.
    """
    if not path.is_file():
        raise UserError(
            f"data.{setting}.file: no file '{path}'; `lit-narrative predict` with the callback Verifiers writes one"
        )
    # Not splitlines(): it also splits at U+2028 and its like, which texts may hold and JSON does not escape.
    for number, line in enumerate(read_utf8(path).removesuffix("\n").split("\n"), 1):
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where} is not a judged sample: not JSON ({error})") from error
        if not isinstance(row, dict):
            raise UserError(f"{where} is not a judged sample: not a JSON object")
        yield where, row


def read_row(row: Mapping[str, Any], by: str, where: str, setting: str) -> Scored | None:
    """A row of a file; None for a sample that was cut off.

    Raises:
        UserError: it is of none of the kinds, or has no such score.
    """
    if {"chosen", "rejected"} <= row.keys():
        return Scored(_text(row["chosen"], where), 1.0, _text(row["rejected"], where), _prompt(row, where))
    if {"completion", "label"} <= row.keys():
        if not isinstance(row["label"], bool):
            raise UserError(f"{where}: a label is true or false, and not {row['label']!r:.80}")
        return Scored(_text(row["completion"], where), float(row["label"]), prompt=_prompt(row, where))
    return read_sample(row, by, where, setting)


def read_sample(row: Mapping[str, Any], by: str, where: str, setting: str) -> Scored | None:
    """A judged sample; None for one that was cut off.

    Raises:
        UserError: it is not one, or has no such score.
    """
    try:
        text, finished, scores = row["text"], row["finished"], _scores(row)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{where} is not a judged sample: it needs prompt, text, finished, reward, components"
        ) from error
    if by not in scores:
        raise UserError(f"{setting}.by: {where} has no score '{by}'{did_you_mean(by, scores)} ({', '.join(scores)})")
    if not math.isfinite(scores[by]):
        raise UserError(f"{where}: the score '{by}' is {scores[by]}; it must be a number")
    return Scored(_text(text, where), scores[by], prompt=_prompt(row, where)) if finished else None


def _scores(row: Mapping[str, Any]) -> dict[str, float]:
    """The scores of a sample by name; a rollout has ``rewards/<name>`` in place of components, null for none."""
    named = {name.removeprefix("rewards/"): value for name, value in row.items() if name.startswith("rewards/")}
    named = named or dict(row["components"])
    return {name: float(value) for name, value in {"reward": row["reward"], **named}.items() if value is not None}


def _prompt(row: Mapping[str, Any], where: str) -> Conversation:
    prompt = row.get("messages") or row.get("prompt")
    try:
        check_prompt(prompt)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    assert prompt is not None
    return prompt


def _text(text: Any, where: str) -> str:
    if not isinstance(text, str):
        raise UserError(f"{where}: a completion is a text, and not {text!r:.200}")
    return text
