"""Corpora to read activations of: stories of the grammar, text files, folders of them, and JSON lines.

A corpus gives documents in three splits that share none. Of files the digest of a document says to which split it
belongs, so that it stays there whatever else the corpus holds; a document that comes twice is read once.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from lit_narrative.books.read import passages, read_book, split_of, text_digest
from lit_narrative.errors import UserError
from lit_narrative.files import decode_json, read_utf8
from lit_narrative.tasks.verbalize.stories import stories

LEAST = 2
"""Documents that each split must have: controls exchange activations between documents."""


@dataclass(frozen=True)
class Corpus:
    """Documents in splits.

    Attributes:
        name: as it was given.
        read: split -> its documents, from the first one on at each call.
        endless: whether a split never ends.
    """

    name: str
    read: Callable[[str], Iterable[str]]
    endless: bool = False

    def documents(self, split: str, most: int | None = None) -> Iterator[str]:
        """The first ``most`` documents of a split, each once."""
        seen: set[bytes] = set()

        def new(text: str) -> bool:
            key = text_digest(text)
            return not (key in seen or seen.add(key))  # type: ignore[func-returns-value]

        return islice(filter(new, self.read(split)), most)

    def check(self) -> None:
        """Refuse a corpus of which a split would have too few documents.

        Raises:
            UserError: naming the split.
        """
        for split in ("train", "val", "test"):
            if (found := len(list(self.documents(split, LEAST)))) < LEAST:
                raise UserError(
                    f"--corpus {self.name} is too small to split: {found} of its documents fall to '{split}', which "
                    f"needs {LEAST}; give more documents (a tenth of them is val, a tenth test), or longer texts"
                )


def story_corpus(seed: int = 0) -> Corpus:
    """Stories without end."""
    return Corpus("stories", lambda split: (one.text for one in stories(seed, split, 2**31)), endless=True)


def file_corpus(name: str) -> Corpus:
    """Documents of a ``.txt`` file or of all under a folder, cut into passages, or of a ``.jsonl`` file with ``text``.

    Raises:
        UserError: there is no such file, or no text in it.
    """
    paths = _paths(Path(name))

    def read(split: str) -> Iterator[str]:
        texts = (text for path in paths for text in _texts(path))
        return (text for text in texts if split_of(text) == split)

    return Corpus(name, read)


def _paths(path: Path) -> list[Path]:
    if path.is_file() and path.suffix in (".txt", ".jsonl"):
        return [path]
    if not path.is_dir():
        raise UserError(
            f"--corpus {path}: there is no such folder, .txt or .jsonl file in {path.resolve().parent}; give one, or "
            "`stories`, or the name of a shipped configuration whose examples are to be read"
        )
    found = sorted(file for file in path.rglob("*.txt") if file.is_file())
    if not found:
        raise UserError(f"--corpus {path}: there is no .txt file under it; texts are read as plain text")
    return found


def _texts(path: Path) -> Iterator[str]:
    return _json_texts(path) if path.suffix == ".jsonl" else passages(read_book(path).text)


def _json_texts(path: Path) -> Iterator[str]:
    for number, line in enumerate(read_utf8(path).split("\n"), 1):
        if line.strip():
            row: Any = decode_json(line, f"{path}, line {number}")
            match row:
                case {"text": str(text)}:
                    yield text
                case _:
                    raise UserError(f"{path}, line {number}: a line needs a `text`, and not {line:.80}")
