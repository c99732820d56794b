"""Limericks in plain Python: a generator of them, and how well a text rhymes."""

import random

RHYMES = [
    ["lane", "crane", "plane", "cane", "mane"],
    ["night", "light", "knight", "fight", "sight"],
    ["shore", "store", "snore", "core", "score"],
    ["bell", "well", "shell", "dell", "spell"],
    ["book", "cook", "brook", "hook", "nook"],
]
"""Words that rhyme: those of a row end on the same two letters."""
WHO = ["baker", "sailor", "teacher", "tailor", "miller"]
PAIRS = [(0, 1), (0, 4), (2, 3)]
"""Lines of a limerick that must rhyme: a a b b a."""


def write(rng: random.Random) -> tuple[str, str]:
    """The first line of a limerick with its line break, and the other four lines."""
    first, second = rng.sample(RHYMES, 2)
    a, b = rng.sample(first, 3), rng.sample(second, 2)
    opening = f"There once was a {rng.choice(WHO)} with a {a[0]},\n"
    rest = [f"who dreamed of the {a[1]}.", f"It asked for a {b[0]},", f"it paid with a {b[1]},"]
    return opening, "\n".join([*rest, f"and danced on the {a[2]}."])


def rhymes(line: str, other: str) -> bool:
    """Whether two lines end on different words with the same last two letters."""
    word, second = (text.strip(" .,").split(" ")[-1] for text in (line, other))
    return word != second and min(len(word), len(second)) > 2 and word[-2:] == second[-2:]


def rhyme_share(text: str) -> float:
    """Share of `PAIRS` that rhyme; 0 for a text that has not five lines. Never raises."""
    lines = text.strip().split("\n")
    return sum(rhymes(lines[i], lines[j]) for i, j in PAIRS) / len(PAIRS) if len(lines) == 5 else 0.0
