"""An out folder of the recipe ``verbalize``, its explanations made up from a seed and measured as the task measures.

``python -m tests.tasks.verbalize.report.make_verbalize_run OUT`` writes one.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lit_narrative.files import write_json, write_jsonl, write_text
from lit_narrative.tasks.verbalize.evaluation.evaluate import FROZEN, Aids, AnswerSet, evaluate
from lit_narrative.tasks.verbalize.evaluation.readings import Pool
from lit_narrative.tasks.verbalize.prompts import answer
from lit_narrative.tasks.verbalize.stories import claims, paraphrase, stories, vocabulary
from lit_narrative.text import WordBits

WIDTH, CUTS = 24, 5
VECTORS = dict(zip(vocabulary(), np.random.default_rng(0).normal(size=(len(vocabulary()), WIDTH)), strict=True))
SKILL = {"sft": 0.6, "grpo": 0.9, "text_only": 0.5, "no_activation": 0.0, "shuffled": 0.05, "mean_activation": 0.0}
"""Share of an actor's words that are right, by actor and control."""


def reconstruct(texts: Sequence[str]) -> np.ndarray:
    nothing = np.zeros(WIDTH)
    return np.array([sum((VECTORS.get(word, nothing) for word in text.split()), nothing + 0.01) for text in texts])


def frozen(texts: Sequence[str]) -> np.ndarray:
    return reconstruct([" ".join(text.split()[:2]) for text in texts])


def make_verbalize_run(
    out: Path, seeds: Sequence[int] = (), actors: Sequence[str] = ("sft", "grpo", "text_only", "no_activation")
) -> Path:
    """Write the folder and return it; without ``seeds`` the jobs lie in it directly."""
    for place, folder in enumerate([out / f"seed_{seed}" for seed in seeds] or [out]):
        for name in actors:
            make_actor(folder, name, np.random.default_rng([place, SKILL_ORDER.index(name)]), place)
    write_json(out / "recipe.json", {"recipe": "verbalize", "report": "verbalize", "seeds": [*seeds], "set": []})
    return out


SKILL_ORDER = [*SKILL]


def make_actor(folder: Path, name: str, rng: np.random.Generator, seed: int) -> None:
    """Write a training job and the test of what it made."""
    sources, truth, documents = rows(seed)
    pool = [" ".join(sorted(claimed)) for claimed in truth[::-1]]
    aids = Aids("~", WordBits(sources), Pool(reconstruct(pool), pool), claims, paraphrase)
    splits: dict[str, Any] = {}
    jsonl: list[dict[str, Any]] = []
    for split in ("test", "shuffled", "mean_activation") if name in ("sft", "grpo") else ("test",):
        skill = SKILL[name if split == "test" else split]
        texts = [told(words, skill, rng) for words in truth]
        targets = reconstruct([" ".join(words) for words in truth])
        answers = [answer(text) if text else "<b>broken</b>" for text in texts]
        teacher = [" ".join(words[:3]) for words in truth]
        made = AnswerSet(answers, texts, targets, documents, sources, teacher)
        splits[split] = evaluate(made, {"": reconstruct, FROZEN: frozen}, aids, split == "test")
        for row, text in enumerate(texts):
            said, known = claims(text or ""), claims(sources[row])
            jsonl.append(
                {
                    "set": split, "source": sources[row], "document": documents[row], "text": answers[row],
                    "explanation": text, "reference": teacher[row],
                    "right": [f"{slot}: {value}" for slot, value in sorted(said & known)],
                    "wrong": [f"{slot}: {value}" for slot, value in sorted(said - known)],
                }
            )  # fmt: skip
    if name == "grpo":
        splits["test"] |= {"causal_shift": 0.4, "causal_shift_ci": [0.2, 0.6], "causal_n": 10}
    job = folder / f"test_{name}"
    write_json(job / "eval" / "test.json", {"tag": "test", "seed": seed, "step": 0, "splits": splits})
    write_jsonl(job / "eval" / "test.jsonl", jsonl)
    write_text(folder / name / "config.yaml", f"trainer:\n  max_steps: 1\nmodel:\n  lr: 0.01 # of {name}\n")
    for one in (job, folder / name):
        write_json(one / "job.json", {"digest": "0", "finished": 1.7e9 + SKILL_ORDER.index(name), "seconds": 8.0})


def rows(seed: int) -> tuple[list[str], list[list[str]], list[str]]:
    """Sources, the words that are so, and documents: five cuts of each of a few stories."""
    sources, truth, documents = [], [], []
    for number, story in enumerate(stories(seed, "test", 12)):
        words = story.text.split()
        for cut in np.linspace(8, len(words), CUTS).astype(int):
            source = " ".join(words[:cut])
            sources.append(source)
            truth.append([value for _, value in sorted(claims(source))])
            documents.append(f"story {seed} {number}")
    return sources, truth, documents


def told(words: Sequence[str], skill: float, rng: np.random.Generator) -> str | None:
    """An explanation of some words, each of them right with a probability; one in twenty has no format."""
    others = [word for word in vocabulary() if claims(word)]
    said = [word if rng.random() < skill else others[rng.integers(len(others))] for word in words]
    return None if rng.random() < 0.05 else " ".join(said)


if __name__ == "__main__":
    make_verbalize_run(Path(sys.argv[1]), seeds=(0, 1, 2))
