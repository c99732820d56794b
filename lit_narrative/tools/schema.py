"""YAML files with a form: what is wrong in one, as a line that says where."""

import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

import yaml
from jsonschema import Draft202012Validator, ValidationError
from jsonschema.exceptions import best_match

from lit_narrative.errors import UserError, did_you_mean


def read_checked(path: Path, kind: str) -> dict[str, Any]:
    """Read a YAML file and check its form.

    Args:
        path: of the file.
        kind: ``recipe`` or ``sweep``; the form is ``<kind>.schema.json`` beside this file.

    Raises:
        UserError: it is no YAML, or has another form; it names the place and the nearest name.
    """
    content = read_yaml(path)
    schema = json.loads(files("lit_narrative.tools").joinpath(f"{kind}.schema.json").read_text(encoding="utf-8"))
    if wrong := best_match(Draft202012Validator(schema).iter_errors(content)):
        raise UserError(f"{path}: {_wording(wrong, kind)}")
    return dict(content)


def read_yaml(path: Path) -> Any:
    """Read a YAML file.

    Raises:
        UserError: it is none.
    """
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as YAML: {' '.join(str(error).split())}") from error


def _wording(error: ValidationError, kind: str) -> str:
    """Say where a file does not have its form, and the nearest name."""
    where = error.json_path.removeprefix("$").lstrip(".") or f"the {kind}"
    if error.validator == "additionalProperties":
        known = cast(Mapping[str, Any], error.schema)["properties"]
        unknown = next(key for key in cast(Mapping[str, Any], error.instance) if key not in known)
        return f"{where} has no key '{unknown}'{did_you_mean(unknown, known)} ({', '.join(known)})"
    if error.validator == "enum" and isinstance(error.validator_value, list):
        near = did_you_mean(str(error.instance), error.validator_value)
        return f"{where}: {error.instance!r} is none of {', '.join(error.validator_value)}{near}"
    if error.validator == "not":
        return f"{where}: {cast(Mapping[str, Any], error.schema)['description']}"
    return f"{where}: {error.message}"
