"""Training, validation and test: a fixed function of (seed, what is split)."""

from collections.abc import Iterable
from hashlib import blake2b


def split_keys(keys: Iterable[str], seed: int) -> dict[str, str]:
    """Say of each key in which split it is.

    A tenth, but one at least, is in ``test``, as many in ``val``, the rest in ``train``. Neither order nor repetition
    of the keys matters. Of fewer than three keys some splits have none.
    """
    ordered = sorted(set(keys), key=lambda key: blake2b(f"{seed}/{key}".encode(), digest_size=8).digest())
    part = max(len(ordered) // 10, 1)
    names = ["test"] * part + ["val"] * part
    return {key: names[place] if place < len(names) else "train" for place, key in enumerate(ordered)}
