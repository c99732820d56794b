"""Settings of a module as dataclasses to work with, and as plain values to keep in its checkpoint."""

from dataclasses import fields, is_dataclass
from typing import Any


def as_settings(value: Any, kind: type) -> Any:
    """Settings as their dataclass; a checkpoint hands them over as a plain dict."""
    return kind(**value) if isinstance(value, dict) else value


def plain(value: Any) -> Any:
    """Settings as plain values, safe for a checkpoint that is read with ``weights_only``."""
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value
