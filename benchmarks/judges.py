"""Judges over chunk sizes: ``python -m benchmarks.judges JUDGE … [--books FOLDER] [--words 80 300 1000] [--csv FILE]``.

How far judges tell authors apart by chunks of so many words, on the held-out chunks of ``StyleData``, beside Burrows'
Delta. A judge is a folder that ``lit-narrative test --config style/judge`` wrote, or any sentence encoder. Prints for
each judge and size the cosines of pairs of one author and of two (mean, lower and upper quartile), AUROC on plain and
on topic-masked text, and the time that a text takes.
"""

import argparse
import csv
import time
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from lit_narrative.datamodules.style import StyleData
from lit_narrative.rl.rewards.similarity import SimilarityModel
from lit_narrative.tasks.style.chunks import ChunkWords
from lit_narrative.tasks.style.examination import HeldOut, examine
from lit_narrative.tasks.style.pairs import ORIGINALS


def measure(path: str, books: str | None, words: int, pairs: int) -> dict[str, Any]:
    """The figures of one judge on chunks of one size."""
    judge = SimilarityModel.load(path)
    data = StyleData(books, chunk_words=ChunkWords(words), split_by="book" if books else "author", test_size=pairs)
    rows = [pair for pair in data.pairs("test") if pair.score in ORIGINALS]
    first, second = [pair.text for pair in rows], [pair.other for pair in rows]
    judge.similarity(first[:1], second[:1])  # what the first text of all takes is of the library
    judge.forget()
    start = time.perf_counter()
    cosines = judge.similarity(first, second).numpy()
    seconds = time.perf_counter() - start
    same = np.array([pair.score == 1 for pair in rows])
    training = [chunk.text for chunk in data.corpus.of("train")][:500]
    held = {"held out": HeldOut(rows, ())}
    found = examine(lambda texts, others: judge.similarity(texts, others).numpy(), held, training).sets["held out"]
    return {
        "judge": str(Path(path)),
        "words": words,
        "pairs": len(rows),
        "same": quartiles(cosines[same]),
        "cross": quartiles(cosines[~same]),
        "auroc": f"{found['judge']['auroc']:.3f}",
        "masked": f"{found['judge']['auroc_masked']:.3f}",
        "delta, masked": f"{found['delta']['auroc_masked']:.3f}",
        "ms a text": f"{1000 * seconds / len({*first, *second}):.2f}",
    }


def quartiles(values: np.ndarray) -> str:
    """Mean, and lower to upper quartile."""
    low, high = np.quantile(values, (0.25, 0.75))
    return f"{values.mean():.3f} ({low:.3f} to {high:.3f})"


def main() -> None:
    """Print the table, and write it where ``--csv`` says."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("judges", nargs="+")
    parser.add_argument("--books")
    parser.add_argument("--words", nargs="+", type=int, default=[40, 80, 160])
    parser.add_argument("--pairs", type=int, default=2000, help="graded pairs, of which those of originals are read")
    parser.add_argument("--csv")
    given = parser.parse_args()
    rows = []
    for path, words in product(given.judges, given.words):
        rows.append(measure(path, given.books, words, given.pairs))
        # As they come: on many pairs of long chunks each takes minutes.
        for row in [dict(zip(rows[0], rows[0], strict=True)), *rows] if len(rows) == 1 else rows[-1:]:
            cells = [f"{value!s:<28}" if name in ("same", "cross") else str(value) for name, value in row.items()]
            print(" | ".join(cells), flush=True)
    if given.csv:
        with Path(given.csv).open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
