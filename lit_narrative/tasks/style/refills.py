"""Refills: sentences of a chunk written anew by a language model, so that graded pairs are made of its neutral style.

A model is asked for each sentence but the last, with what stands around it. A row of the file holds the replacements of
one chunk; pairs take those of its longest sentences, as many as a grade needs (arXiv 2512.05747).
"""

from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from lit_narrative.errors import UserError
from lit_narrative.files import decode_json, read_utf8
from lit_narrative.tasks.style.corpus import Chunk
from lit_narrative.text import sentences_of

QUESTION = (
    "Here is a passage with one sentence missing, marked [...]:\n\n{before} [...] {after}\n\n"
    "Write one sentence of about {words} words that fits there. It must not share words with this sentence: "
    "{sentence}\nAnswer with the sentence alone."
)
_CONTEXT = 600
"""Characters before and after a gap that the model reads."""


def split_chunk(text: str) -> list[list[str]]:
    """The sentences of a text, paragraph by paragraph."""
    return [sentences_of(paragraph) for paragraph in text.split("\n\n")]


def questions(text: str) -> list[str]:
    """What a language model is asked: a question for each sentence but the last."""
    flat = [sentence for sentences in split_chunk(text) for sentence in sentences]
    return [
        QUESTION.format(
            before=" ".join(flat[:number])[-_CONTEXT:],
            after=" ".join(flat[number + 1 :])[:_CONTEXT],
            words=len(sentence.split()),
            sentence=sentence,
        )
        for number, sentence in enumerate(flat[:-1])
    ]


def replacement(answer: object, sentence: str) -> str | None:
    """The sentence in a model's answer; None where it is none, the very sentence that was to go, or much too long."""
    if not isinstance(answer, str):
        return None
    lines = [line.strip().strip('"“”') for line in answer[:20_000].split("\n") if line.strip()]
    found = " ".join(lines[0].split()) if lines else ""
    words = len(found.split())
    fits = 0 < words <= 3 * len(sentence.split()) + 30 and found != sentence
    return found if fits else None


def refill_row(chunk: Chunk, answers: Sequence[object]) -> dict[str, Any] | None:
    """The row of a chunk; None where an answer is of no use.

    Args:
        chunk: that was asked about.
        answers: to its `questions`, in order.
    """
    flat = [sentence for sentences in split_chunk(chunk.text) for sentence in sentences]
    found = [replacement(answer, sentence) for answer, sentence in zip(answers, flat[:-1], strict=True)]
    if not found or None in found:
        return None
    return {"chunk": chunk.name, "digest": digest(chunk.text), "replacements": found}


def refilled(text: str, replacements: Sequence[str], count: int) -> str:
    """A text with its ``count`` longest sentences, the last left out, replaced."""
    paragraphs = split_chunk(text)
    places = [(p, s) for p, sentences in enumerate(paragraphs) for s in range(len(sentences))][:-1]
    order = sorted(range(len(places)), key=lambda n: -len(paragraphs[places[n][0]][places[n][1]]))
    for number in order[:count]:
        p, s = places[number]
        paragraphs[p][s] = replacements[number]
    return "\n\n".join(" ".join(sentences) for sentences in paragraphs)


def read_refills(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a file of refills.

    Raises:
        UserError: there is no such file, or a line is no row.
    """
    if not Path(path).is_file():
        raise UserError(f"data.refills: there is no file {path}; make it by `lit-narrative data refill`")
    rows = []
    for number, line in enumerate(read_utf8(Path(path)).split("\n"), 1):
        if line.strip():
            row = decode_json(line, f"{path}, line {number}")
            match row:
                case {"chunk": str(), "digest": str(), "replacements": [*found]} if all(
                    isinstance(text, str) for text in found
                ):
                    rows.append(row)
                case _:
                    raise UserError(f"{path}, line {number}: it is no row of refills; take it out")
    return rows


def refills_of(rows: Sequence[Mapping[str, Any]], chunks: Sequence[Chunk]) -> dict[str, Sequence[str]]:
    """Name of a chunk -> its replacements.

    Raises:
        UserError: no row is of these chunks.
    """
    known = {chunk.name: (digest(chunk.text), sum(map(len, split_chunk(chunk.text))) - 1) for chunk in chunks}
    found = {
        row["chunk"]: row["replacements"]
        for row in rows
        if known.get(row["chunk"]) == (row["digest"], len(row["replacements"]))
    }
    if not found:
        raise UserError(
            f"data.refills: none of its {len(rows)} rows is of these chunks; make them of the same data.books, "
            "data.chunk_words and data.seed"
        )
    return found


def digest(text: str) -> str:
    """What tells whether a chunk is the one that was refilled."""
    return sha256(text.encode("utf-8", errors="backslashreplace")).hexdigest()[:24]
