"""An out folder of the recipe ``style``, its texts made up from a seed and measured as the task measures.

``python -m tests.tasks.style.report.make_style_run OUT`` writes one.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lit_narrative.files import write_json, write_jsonl, write_text
from lit_narrative.tasks.style.evaluation.copying import Sources
from lit_narrative.tasks.style.evaluation.evaluate import StyleAids, StyleTexts, evaluate
from lit_narrative.tasks.style.evaluation.judging import StyleReferences

AUTHORS = {"Ada": ("upon", "quite", "whilst"), "Edmund": ("on", "very", "while")}
"""Two authors, and the words that tell them apart."""
TOPIC = ("sea", "boat", "gull", "rope", "tide", "sail", "rock", "wind", "salt", "sand", "the", "a", "of", "and")
SKILL = {"base": 0.5, "few_shot": 0.6, "best_of_n": 0.8, "sft": 0.7, "grpo": 0.95}
"""Chance that a word that tells the authors apart is the right author's, by arm."""
PLOTS, WORDS = 12, 40


def judge(first: int) -> Any:
    """A judge that counts the authors' words from the first one on."""
    marks = [word for words in AUTHORS.values() for word in words[first:]]
    return lambda texts: np.array([[0.1 + text.split().count(mark) for mark in marks] for text in texts])


def told(author: str, skill: float, rng: np.random.Generator) -> str:
    """A text of an author, as well as the skill allows."""
    (other,) = (words for name, words in AUTHORS.items() if name != author)
    words = [
        str(rng.choice(TOPIC if rng.random() < 0.6 else AUTHORS[author] if rng.random() < skill else other))
        for _ in range(WORDS)
    ]
    return " ".join(words)


def make_style_run(
    out: Path, seeds: Sequence[int] = (), arms: Sequence[str] = ("base", "best_of_n", "sft", "grpo")
) -> Path:
    """Write the folder and return it; without ``seeds`` the jobs lie in it directly."""
    for place, folder in enumerate([out / f"seed_{seed}" for seed in seeds] or [out]):
        for name in ("judge", "judge_b"):
            make_judge(folder, name, place)
        for name in arms:
            make_arm(folder, name, place)
    write_json(out / "recipe.json", {"recipe": "style", "report": "style", "seeds": [*seeds], "set": []})
    return out


def make_judge(folder: Path, name: str, seed: int) -> None:
    """Write an examination."""
    figures = {key: value for key, at in (("auroc", 0.9), ("auroc_masked", 0.8), ("spearman", 0.5)) for key, value in (
        (key, at + seed / 100), (f"{key}_ci", [at - 0.1, at + 0.1]))}  # fmt: skip
    measures = {measure: figures for measure in ("judge", "delta", "function_words", "length")}
    record = {
        "fit": name == "judge",
        "why": [f"{name} <b>says</b> so"],
        "sets": {"books": measures, "authors": measures},
    }
    write_json(folder / f"test_{name}" / "eval" / "judge.json", record)


def make_arm(folder: Path, name: str, seed: int) -> None:
    """Write a training job and the test of what it made."""
    rng = np.random.default_rng([seed, [*SKILL].index(name)])
    fixed = np.random.default_rng(seed)
    chunks = {author: [told(author, 1.0, fixed) for _ in range(8)] for author in AUTHORS}
    judges = {f"judge_{key}": StyleReferences(judge(first), chunks) for key, first in (("a", 0), ("b", 1))}
    sources = {author: Sources(texts) for author, texts in chunks.items()}
    aids = StyleAids(judges, sources, [text for texts in chunks.values() for text in texts], window=20)
    splits: dict[str, Any] = {}
    rows: list[dict[str, Any]] = []
    for split in ("test", "few_shot") if name == "base" else ("test",):
        skill = SKILL[name if split == "test" else split]
        asked = [(author, f"plot {seed} {number}") for number in range(PLOTS) for author in AUTHORS]
        texts = [told(author, skill, rng) for author, _ in asked]
        columns = {"content": rng.random(len(texts)).tolist(), "completeness": [1.0] * len(texts)}
        made = StyleTexts(texts, [author for author, _ in asked], [plot for _, plot in asked], columns)
        splits[split] = evaluate(made, aids)
        rows += [
            {"set": split, "author": author, "plot": plot, "text": text}
            for (author, plot), text in zip(asked, texts, strict=True)
        ]
    job = folder / f"test_{name}"
    write_json(job / "eval" / "test.json", {"tag": "test", "seed": seed, "step": 0, "splits": splits})
    write_jsonl(job / "eval" / "test.jsonl", rows)
    write_text(folder / name / "config.yaml", f"trainer:\n  max_steps: 1\nmodel:\n  lr: 0.01 # of {name}\n")
    if name == "grpo":
        lines = [f"{step},{0.5 + step / 100},{0.6 - step / 100},{20 + step}" for step in (0, 5, 10)]
        header = "step,val/judge_a,val/judge_b,val/copied_span"
        write_text(folder / name / "metrics.csv", "\n".join([header, *lines]) + "\n")
    for place, one in enumerate((folder / name, job)):
        done = 1.7e9 + 2 * [*SKILL].index(name) + place
        write_json(one / "job.json", {"digest": "0", "finished": done, "seconds": 8.0})


if __name__ == "__main__":
    make_style_run(Path(sys.argv[1]), seeds=(0, 1, 2))
