"""Custom worlds as data: their splits, the examples made of them, and their plays' worlds."""

import hashlib
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from lit_narrative.errors import UserError
from lit_narrative.tasks.storyworld.cutting import Cut, pieces
from lit_narrative.tasks.storyworld.world_files import CustomWorld, read_worlds
from lit_narrative.views import Example

SPLITS = ("train", "val", "test")
TENTHS = {"val": 1, "test": 1}
"""Tenths of the worlds that go to the held-out splits; the rest is for training."""
Dealt = dict[str, list[CustomWorld]]


def custom_worlds(path: str, held_out: Mapping[str, str] = MappingProxyType({})) -> Dealt:
    """Read the worlds at ``path`` and assign each to a split by a digest of its content.

    About a tenth is for validation and a tenth for testing, and one world at least for each.

    Args:
        path: of the worlds.
        held_out: by split, ``val`` or ``test``, the path of its worlds, where they stand apart; none at ``path`` is
            then assigned to it.

    Raises:
        UserError: there are fewer worlds than splits to fill, one stands in two splits, or a file is malformed.
    """
    apart = {split: read_worlds(where) for split, where in held_out.items()}
    places: dict[str, str] = {}
    for split, rows in apart.items():
        for row in rows:
            if places.setdefault(row.text, split) != split:
                raise UserError(f"data.{split}_worlds: the world '{row.name}' is in data.val_worlds too")
    dealt: Dealt = {split: [] for split in SPLITS if split not in apart}
    rows = read_worlds(path)
    for row in rows:
        if row.text in places:
            raise UserError(
                f"data.worlds: the world '{row.name}' at '{path}' is in data.{places[row.text]}_worlds "
                "too; leave it out of one of them"
            )
        split = _split(row.text)
        dealt[split if split in dealt else "train"].append(row)
    different = len({row.text for row in rows})
    if different < len(dealt):
        raise UserError(
            f"data.worlds: there are {different} different worlds at '{path}', and {len(dealt)} splits to fill "
            f"({', '.join(dealt)}); add {len(dealt) - different} or more, or name worlds to validate and test on by "
            "data.val_worlds and data.test_worlds"
        )
    return {**_filled(dealt), **apart}


def custom_examples(worlds: Iterable[CustomWorld], cut: Cut) -> list[Example]:
    """Prompts with worlds: those of the simple format as they are, the pieces of all others (`cutting.pieces`)."""
    found = []
    for one in worlds:
        if one.simple:
            found.append(Example(custom_prompt(one.value), one.text, {"name": one.name, **_asked(one.value)}))
            continue
        for start, value, text in pieces(one.world, cut):
            found.append(Example(custom_prompt(value), text, {"name": f"{one.name}:{start}", **_asked(value)}))
    return found


def custom_prompt(world: dict[str, Any]) -> str:
    """A prompt that names what the generator's prompts name, as far as the world says it."""
    about = f" about {world['title']}" if isinstance(world.get("title"), str) else ""
    cast, tracked = ", ".join(world["characters"]), ", ".join(world["properties"])
    return f"Storyworld{about}. Cast: {cast}. Track: {tracked}.\n"


def _asked(world: dict[str, Any]) -> dict[str, Any]:
    """What the prompt asks for, as the columns of the generator's prompts have it."""
    theme = {"theme": world["title"]} if isinstance(world.get("title"), str) else {}
    return {**theme, "cast": tuple(world["characters"]), "properties": tuple(world["properties"])}


def _filled(dealt: Dealt) -> Dealt:
    """Splits of which none is empty: the largest gives a world to each that is, the one whose digest comes first."""
    for rows in dealt.values():
        if not rows:
            largest = max(dealt.values(), key=lambda split: len({row.text for row in split}))
            given = min((row.text for row in largest), key=_digest)
            rows += [row for row in largest if row.text == given]  # with its copies: splits share no world
            largest[:] = [row for row in largest if row.text != given]
    return dealt


def _split(text: str) -> str:
    # backslashreplace: a JSON escape may make a lone surrogate, which UTF-8 cannot hold. As 256 is no multiple of ten,
    # tenths 0 to 5 are 4 % larger; that no release moves a world to another split is worth more.
    tenth = _digest(text)[-1] % 10
    return "val" if tenth < TENTHS["val"] else "test" if tenth < TENTHS["val"] + TENTHS["test"] else "train"


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "backslashreplace"), digest_size=8).digest()
