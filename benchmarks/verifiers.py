"""Worlds scored per second on one core: ``python -m benchmarks.verifiers``.

Target: at least 2,000 small worlds a second in strict mode, over valid and faulty worlds alike. Prints the best of
five rounds in CPU time, so that a busy machine does not change the figure.
"""

import json
import random
import time
from collections.abc import Callable
from statistics import mean
from typing import Any

from lit_narrative.tasks.storyworld.generator import Skew, corpus
from lit_narrative.tasks.storyworld.verifiers.score import score

COUNT = 500
RICH = Skew(encounters=(0, 0, 0.4, 0.3, 0.3), second_ending=0.9, gates=0.6, variables=(0, 0, 1), options=(0, 0.6, 0.4))


def faulty(text: str, rng: random.Random) -> str:
    """The world with one part removed or replaced: malformed, or with a reference that leads nowhere."""
    value = json.loads(text)
    holder: Any = value
    while True:
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        key = rng.choice(keys)
        if not isinstance(holder[key], dict | list) or not holder[key]:
            break
        holder = holder[key]
    if rng.random() < 0.5:
        holder[key] = rng.choice([None, "nowhere", -1, []])
    else:
        del holder[key]
    return json.dumps(value, separators=(",", ":"))


def rate(texts: list[str], judge: Callable[[str], object]) -> float:
    """Best texts per CPU second of five rounds."""
    seconds = []
    for _ in range(5):
        start = time.process_time()
        for text in texts:
            judge(text)
        seconds.append(time.process_time() - start)
    return len(texts) / min(seconds)


def main() -> None:
    """Print a line for each kind of world."""
    rng = random.Random(0)
    valid = [row.completion for row in corpus(COUNT, 0)]
    rich = [row.completion for row in corpus(COUNT, 0, RICH)]
    kinds = {
        "corpus": valid,
        "corpus, one fault each": [faulty(text, rng) for text in valid],
        "corpus, truncated": [text[: rng.randrange(len(text))] for text in valid],
        "rich (many gates)": rich,
        "rich, one fault each": [faulty(text, rng) for text in rich],
    }
    print(f"{'worlds':<24}{'characters':>11}{'strict/s':>11}{'original/s':>11}{'issues/s':>11}")
    for name, texts in kinds.items():
        strict = rate(texts, score)
        original = rate(texts, lambda text: score(text, mode="original"))
        issues = rate(texts[:100], lambda text: score(text).issues)
        print(f"{name:<24}{mean(map(len, texts)):>11.0f}{strict:>11.0f}{original:>11.0f}{issues:>11.0f}")


if __name__ == "__main__":
    main()
