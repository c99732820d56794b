"""What prompts say of how they are to be steered."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from lit_narrative.errors import UserError, did_you_mean


def column_of(columns: Mapping[str, Any], name: str) -> Any:
    """What a prompt carries under ``name``.

    Raises:
        UserError: nothing.
    """
    if name not in columns:
        has = ", ".join(sorted(columns)) or "none"
        raise UserError(
            f"the prompts carry no column '{name}', which the steering settings ask for (columns: {has})"
            f"{did_you_mean(name, columns)}"
        )
    return columns[name]


def labels_of(
    columns: Sequence[Mapping[str, Any]], label: int | str, classes: Sequence[str], device: torch.device
) -> torch.Tensor:
    """(B,) the wanted class of each text.

    Args:
        columns: what the texts' prompts carry.
        label: the number of a class, its name, or the column that holds one of both.
        classes: names of the classes.
        device: of the result.

    Raises:
        UserError: there is no such class or column.
    """
    known = label in classes or not isinstance(label, str)
    found = [label if known else column_of(row, str(label)) for row in columns]
    return torch.tensor([_class(name, classes) for name in found], dtype=torch.long, device=device)


def _class(name: Any, classes: Sequence[str]) -> int:
    if name in classes:
        return list(classes).index(name)
    if isinstance(name, int) and 0 <= name < len(classes):
        return name
    raise UserError(
        f"there is no class '{name}'{did_you_mean(str(name), classes)}; classes: {', '.join(classes)}, or their "
        f"numbers 0 to {len(classes) - 1}"
    )
