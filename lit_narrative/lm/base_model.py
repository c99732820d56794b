"""The base of adapters: a checkpoint holds the adapters alone, so it says where their base is and which one it was."""

import hashlib
import os
import re
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import try_to_load_from_cache

from lit_narrative.errors import UserError
from lit_narrative.lm.adapter_folder import adapter_base, is_adapter_folder


class BaseModel(NamedTuple):
    """A pretrained model as adapters remember it.

    Attributes:
        name: its hub name, or the absolute path of its folder.
        size: of its weights, in bytes; None in checkpoints of older releases.
        sha256: of its weights and of what its config says; None as above.
    """

    name: str
    size: int | None = None
    sha256: str | None = None

    def same(self, other: "BaseModel | None") -> bool:
        """Whether both are one model, wherever it is."""
        if other is None or None in (self.sha256, other.sha256):
            return other is not None and self.name == other.name
        return self.sha256 == other.sha256


def identify(name: str) -> BaseModel:
    """The model of a folder, or of a hub name as it is in the local cache; all of its weights are read."""
    where, folder = os.path.abspath(name) if Path(name).is_dir() else name, _folder(name)
    if folder is None:
        return BaseModel(where)
    weights = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))  # as transformers chooses
    digest = hashlib.sha256()
    for path in (folder / "config.json", folder / "adapter_config.json"):
        # A folder that another release saves again is still the same model.
        digest.update(re.sub(rb'"transformers_version": "[^"]*"', b"", path.read_bytes() if path.is_file() else b""))
    if is_adapter_folder(str(folder)):
        digest.update((identify(adapter_base(str(folder))).sha256 or "").encode())
    for path in weights:
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return BaseModel(where, sum(path.stat().st_size for path in weights), digest.hexdigest())


def find_base(stored: BaseModel, other: str | None = None) -> BaseModel:
    """The base of adapters where it was, or else at ``other``.

    Raises:
        UserError: it is at neither, or what is there is another model.
    """
    first = found = identify(stored.name)
    if other and not _is_base(found, stored):
        found = identify(other)
    if _is_base(found, stored):
        return found
    if first.sha256 is None and not os.path.isabs(stored.name):
        return first  # a hub name that is still to be fetched
    problem = f"is no longer at '{stored.name}'"
    if first.sha256:
        problem = (
            f"has changed at '{stored.name}' since the training ({stored.size} bytes and sha256 "
            f"{stored.sha256:.12} then, {first.size} and {first.sha256:.12} now)"
        )
    if found.sha256 and found.name != first.name:
        problem += f", and '{other}' is another model"
    raise UserError(
        f"its base model {problem}: put it back, or say where it is: --base of `export`, "
        "model.model of a run that resumes, load_from_checkpoint(..., model=...)"
    )


def _is_base(found: BaseModel, stored: BaseModel) -> bool:
    return found.sha256 is not None and stored.sha256 in (None, found.sha256)


def _folder(name: str) -> Path | None:
    if Path(name).is_dir():
        return Path(name)
    if Path(name).is_absolute():
        return None
    config = try_to_load_from_cache(name, "config.json") if name.count("/") <= 1 else None
    return Path(config).parent if isinstance(config, str) else None
