"""A user's own worlds as examples: a prompt is made from each world, and the split from its content."""

import hashlib
import json
from typing import Any

from lit_narrative.errors import UserError
from lit_narrative.tasks.storyworld.load import load_worlds
from lit_narrative.views import Example

TENTHS = {"val": 1, "test": 1}
"""Tenths of the worlds that go to the held-out splits; the rest is for training."""


def own_examples(path: str) -> dict[str, list[Example]]:
    """Read the worlds at ``path`` and deal them to splits by a digest of their content.

    Raises:
        UserError: if a split stays empty, or a file is malformed.
    """
    splits: dict[str, list[Example]] = {"train": [], "val": [], "test": []}
    for name, world in load_worlds(path):
        text = json.dumps(world, ensure_ascii=False, separators=(",", ":"))
        splits[_split(text)].append(Example(own_prompt(world), text, {"theme": name}))
    for split, rows in splits.items():
        if not rows:
            raise UserError(f"data.worlds: the worlds at '{path}' leave the {split} split empty; add more worlds")
    return splits


def own_prompt(world: dict[str, Any]) -> str:
    """A prompt that names what the generator's prompts name, as far as the world says it."""
    about = f" about {world['title']}" if isinstance(world.get("title"), str) else ""
    cast, tracked = ", ".join(world["characters"]), ", ".join(world["properties"])
    return f"Storyworld{about}. Cast: {cast}. Track: {tracked}.\n"


def _split(text: str) -> str:
    tenth = hashlib.blake2b(text.encode("utf-8", "backslashreplace"), digest_size=8).digest()[-1] % 10
    return "val" if tenth < TENTHS["val"] else "test" if tenth < TENTHS["val"] + TENTHS["test"] else "train"
