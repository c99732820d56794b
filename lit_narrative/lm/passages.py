"""Passages of a user's corpus, found by their meaning: sentence embeddings in an index on disk.

The index is faiss' exact one over inner products of unit vectors, so a score is a cosine. It lies in a folder named by
the content of corpus, encoder and settings: made once, and never read for another corpus.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from lit_narrative.errors import UserError, check_least
from lit_narrative.files import atomic_folder, read_utf8, write_json
from lit_narrative.lm.sentence_encoder import StaticEncoder, build_encoder, encode, load_encoder

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

SHORTEST = 5
"""Words of the shortest passage: headings are left out."""
CACHE = "~/.cache/lit-narrative/passages"


@dataclass(frozen=True)
class PassageSettings:
    """Where passages come from and how they are found.

    Args:
        corpus: a folder of ``*.txt``, or one such file; paragraphs are parted by blank lines.
        encoder: a sentence-transformers folder or hub name; default: one built from the corpus, without a download.
        words: of a passage at most, 5 or more; a longer paragraph is cut.
        least: lowest cosine, -1 to 1, of a passage that is used.
        cache: the folder of indexes.
        trust_remote_code: run the Python code that the encoder brings along.

    Raises:
        UserError: a number is out of range.
    """

    corpus: str
    encoder: str | None = None
    words: int = 60
    least: float = 0.2
    cache: str = CACHE
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        check_least("passages.words", self.words, SHORTEST)
        if not -1 <= self.least <= 1:
            raise UserError(f"passages.least is {self.least}; it is a cosine, -1 to 1")


class Passage(NamedTuple):
    """A passage that was found: its text, and its cosine with what was asked."""

    text: str
    score: float


class Passages:
    """Passages with their index.

    Args:
        texts: the passages.
        encoder: of questions and passages.
        index: faiss' index of the passages, in their order.
        least: lowest cosine of what is found.
    """

    def __init__(self, texts: Sequence[str], encoder: "SentenceTransformer", index: Any, least: float) -> None:
        self.texts, self.encoder, self.index, self.least = texts, encoder, index, least

    @classmethod
    def open(cls, settings: PassageSettings) -> Self:
        """Read the index of a corpus, or make it.

        Raises:
            UserError: faiss is not installed, the corpus or the encoder cannot be read, or there is no passage.
        """
        faiss = _faiss()
        texts = list(dict.fromkeys(passages_of(settings.corpus, settings.words)))
        if not texts:
            raise UserError(f"passages.corpus: '{settings.corpus}' has no paragraph of {SHORTEST} words or more")
        if settings.encoder is None:
            encoder = build_encoder(StaticEncoder(), texts)
        else:
            encoder = load_encoder(settings.encoder, settings.trust_remote_code)
        folder = Path(settings.cache).expanduser() / _key(texts, settings.encoder, encoder)
        if not folder.exists():
            index = faiss.IndexFlatIP(encoder.get_embedding_dimension())
            index.add(_unit(encoder, texts))
            with atomic_folder(folder) as fresh:
                faiss.write_index(index, str(fresh / "index.faiss"))
                write_json(fresh / "passages.json", {"count": len(texts), "encoder": settings.encoder})
        return cls(texts, encoder, faiss.read_index(str(folder / "index.faiss")), settings.least)

    def nearest(self, questions: Sequence[str], count: int = 1) -> list[list[Passage]]:
        """For each question its nearest passages, at most ``count``, best first; none for a blank one."""
        if not questions:
            return []
        scores, places = self.index.search(_unit(self.encoder, questions), min(count, len(self.texts)))
        return [
            [
                Passage(self.texts[place], float(score))
                for score, place in zip(row, found, strict=True)
                if score >= self.least and question.strip()
            ]
            for question, row, found in zip(questions, scores, places.tolist(), strict=True)
        ]


def passages_of(corpus: str, words: int) -> Iterator[str]:
    """The passages of a corpus in the order of its files.

    Raises:
        UserError: there is no such file or folder, it holds no ``*.txt``, or a file cannot be read.
    """
    path = Path(corpus)
    files = sorted(path.glob("*.txt")) if path.is_dir() else [path]
    if not files or not files[0].exists():
        raise UserError(f"passages.corpus: '{corpus}' is no text file and no folder with *.txt")
    for file in files:
        for paragraph in read_utf8(file).replace("\r\n", "\n").split("\n\n"):
            found = paragraph.split()
            for start in range(0, len(found), words):
                if len(found[start : start + words]) >= SHORTEST:
                    yield " ".join(found[start : start + words])


def _unit(encoder: "SentenceTransformer", texts: Sequence[str]) -> np.ndarray:
    """(n, d) float32 of length 1; zeros for a blank text."""
    vectors = encode(encoder, texts).cpu().numpy()
    return np.ascontiguousarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9))


def _key(texts: Sequence[str], name: str | None, encoder: "SentenceTransformer") -> str:
    # The encoder by what it says of a few passages: a folder's name may come to hold another one.
    said = np.round(_unit(encoder, texts[:2]), 3).tolist()
    content = json.dumps([name, said, texts], ensure_ascii=True)
    return hashlib.blake2b(content.encode(), digest_size=12).hexdigest()


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise UserError("passages need faiss: pip install 'lit-narrative[retrieval]'") from error
    return faiss
