"""Prompts in any number."""

import tracemalloc
from hashlib import blake2b
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_narrative.errors import UserError
from lit_narrative.tasks.storyworld.prompt_space import PromptSpace, combination, shuffled
from lit_narrative.tasks.storyworld.themes import SPLITS

SMALL = PromptSpace(
    ("a mill", "a pass", "a ship"), ("mercy", "pride", "exile"), ("Ada", "Bo", "Cy"), ("trust", "gold"), tracked=1
)


@given(st.integers(1, 300), st.text(max_size=5))
def test_the_order_is_a_permutation(count: int, key: str) -> None:
    assert sorted(shuffled(n, count, key) for n in range(count)) == list(range(count))


def test_the_order_depends_on_the_seed_and_looks_random() -> None:
    first, second = ([shuffled(n, 1000, key) for n in range(1000)] for key in ("0/train", "1/train"))
    assert first != second
    rising = sum(a < b for a, b in pairwise(first)) / 999
    assert 0.45 < rising < 0.55


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_combinations_by_their_rank(size: int) -> None:
    every = list(combinations("abcde", size))
    assert [combination("abcde", size, rank) for rank in range(len(every))] == every


def test_a_small_space_is_covered_once_and_its_splits_share_no_premise() -> None:
    texts, premises = {}, {}
    for split in SPLITS:
        rows = [SMALL.prompt(n, 3, split) for n in range(SMALL.count(split))]
        texts[split] = {row.text for row in rows}
        assert len(texts[split]) == len(rows)
        premises[split] = {(row.columns["setting"], row.columns["theme"]) for row in rows}
    assert sum(map(len, premises.values())) == len(set.union(*premises.values())) == 9
    assert sum(map(len, texts.values())) == 9 * (3 + 1) * 2 * 4


def test_a_prompt_names_what_its_columns_say() -> None:
    space = PromptSpace()
    for number in range(200):
        row = space.prompt(number, 0, "val")
        assert isinstance(row.text, str)
        wanted = [row.columns["setting"], row.columns["theme"], *row.columns["cast"], *row.columns["properties"]]
        assert all(one in row.text for one in wanted)
        assert row.columns["index"] == number
        assert (2 <= len(row.columns["cast"]) <= 3, len(row.columns["properties"])) == (True, 3)


def test_thousands_of_prompts_are_all_different() -> None:
    space = PromptSpace()
    assert space.count("train") > 10**9
    assert len({space.prompt(n, 0, "train").text for n in range(20_000)}) == 20_000


@pytest.mark.slow
def test_a_million_prompts_are_all_different_and_take_no_memory() -> None:
    space = PromptSpace()
    digests = np.empty(1_000_000, np.uint64)
    for first in (0, 1_000_000):  # what is made once, such as the premises, is made in the first round
        tracemalloc.start()
        for number in range(first, first + 20_000):
            space.prompt(number, 0, "train")
        grown = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
    assert grown < 100_000
    for number in range(len(digests)):
        digest = blake2b(space.prompt(number, 0, "train").text.encode(), digest_size=8).digest()
        digests[number] = int.from_bytes(digest, "big")
    assert len(np.unique(digests)) == len(digests)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"cast": (3, 2)}, "cast"),
        ({"tracked": 0}, "tracked is 0"),
        ({"themes": ("a", "b")}, "themes has 2 .* it needs 3 or more"),
        ({"names": ("Bo", "Bo", "Al", "Cy")}, "names has 3 different entries of 4"),
        ({"templates": ("About {themes}.",)}, r"it must name \{setting\}, \{themes\}"),
        ({"templates": ("About {themes",)}, "templates: 'About {themes'"),
    ],
)
def test_what_makes_no_prompts_is_refused(given: dict, says: str) -> None:
    with pytest.raises(UserError, match=f"data.prompt_space.*{says}"):
        PromptSpace(**given)
