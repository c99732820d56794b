"""Training, validation and test, and halves of what is split: fixed functions of the keys."""

from collections.abc import Iterable
from hashlib import blake2b


def split_keys(keys: Iterable[str], seed: int) -> dict[str, str]:
    """Say of each key in which split it is.

    A tenth, but one at least, is in ``test``, as many in ``val``, the rest in ``train``. Neither order nor repetition
    of the keys matters. Of fewer than three keys some splits have none.
    """
    ordered = _in_order(keys, str(seed))
    part = max(len(ordered) // 10, 1)
    names = ["test"] * part + ["val"] * part
    return {key: names[place] if place < len(names) else "train" for place, key in enumerate(ordered)}


def half_of_keys(keys: Iterable[str], half: int) -> set[str]:
    """Half 0 or half 1 of the keys; they have none in common, and no seed changes them."""
    return set(_in_order(keys, "half")[half::2])


def _in_order(keys: Iterable[str], salt: str) -> list[str]:
    return sorted(set(keys), key=lambda key: blake2b(f"{salt}/{key}".encode(), digest_size=8).digest())
