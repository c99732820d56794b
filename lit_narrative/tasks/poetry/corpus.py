"""A corpus of verse: poems of plain text files and folders, told apart, cut into pieces and split."""

import re
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from pathlib import Path

from lit_narrative.books.read import book_files, read_book
from lit_narrative.errors import UserError
from lit_narrative.tasks.poetry.poems import Poem, find_poems


def read_corpus(path: str | Path) -> list[Poem]:
    """The poems of a text file, or of all ``.txt`` files under a folder, in order of their paths; none comes twice.

    Raises:
        UserError: there is no such file or folder, no text file in it, a file is no text, or there is no verse.
    """
    paths = book_files(path, "data.corpus")
    poems = unique(poem for file in paths for poem in find_poems(read_book(file).text, file.stem))
    if not poems:
        raise UserError(
            f"no verse in {path} (text files read: {len(paths)}); put poems into plain text, a line of verse a line, "
            "stanzas parted by one blank line and poems by two or by a title in capitals"
        )
    return poems


def unique(poems: Iterable[Poem]) -> list[Poem]:
    """The first of all poems that differ in nothing but case, spacing, punctuation and title."""
    kept: dict[str, Poem] = {}
    for poem in poems:
        # The first stays, so that the order of the files decides which title a poem has.
        kept.setdefault(normal_form(poem.text), poem)
    return list(kept.values())


def normal_form(text: str) -> str:
    """The words alone, in small letters."""
    return " ".join(re.findall(r"\w+", text.casefold()))


def pieces(poem: Poem, most: int) -> list[Poem]:
    """A poem in pieces of at most ``most`` lines, cut between stanzas where it can be; single lines are left out."""
    groups: list[list[tuple[str, ...]]] = [[]]
    for stanza in (part for whole in poem.stanzas for part in _cut(whole, most)):
        # Whole stanzas as long as they fit; a longer one was cut before.
        if sum(map(len, groups[-1])) + len(stanza) > most:
            groups.append([])
        groups[-1].append(stanza)
    cut = (Poem(poem.title, tuple(group), poem.source) for group in groups)
    return [piece for piece in cut if len(piece.lines) > 1]


def _cut(stanza: tuple[str, ...], most: int) -> Iterator[tuple[str, ...]]:
    for start in range(0, len(stanza), most):
        yield stanza[start : start + most]


def split_keys(keys: Iterable[str], seed: int) -> dict[str, str]:
    """The split of each key.

    A tenth, but one at least, is in ``test``, as many in ``val``, the rest in ``train``. Neither order nor repetition
    of the keys matters. Of fewer than three keys some splits have none.
    """
    ordered = _in_order(keys, str(seed))
    part = max(len(ordered) // 10, 1)
    names = ["test"] * part + ["val"] * part
    return {key: names[index] if index < len(names) else "train" for index, key in enumerate(ordered)}


def half_of_keys(keys: Iterable[str], half: int) -> set[str]:
    """Half 0 or half 1 of the keys; they have none in common, and no seed changes them."""
    return set(_in_order(keys, "half")[half::2])


def _in_order(keys: Iterable[str], salt: str) -> list[str]:
    # By digest and not by shuffling: the order then depends on the set of keys alone, not on how they came.
    return sorted(set(keys), key=lambda key: blake2b(f"{salt}/{key}".encode(), digest_size=8).digest())
