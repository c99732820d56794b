"""The grammar of a prompt: a JSON Schema of the worlds that keep to its cast and to its properties.

A schema says what stands where. It holds a text to names that the prompt has fixed: the characters, their numbers, the
variables, and whichever of them a gate or an effect is about. What the text itself fixes, which scenes there are, no
schema can hold it to.
"""

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

from lit_narrative.lookup import shipped_grammars
from lit_narrative.tasks.storyworld import themes
from lit_narrative.tasks.storyworld.adherence import names

Json = dict[str, Any]


def prompt_grammar(columns: Mapping[str, Any]) -> str | None:
    """The JSON Schema of a prompt, as text.

    Args:
        columns: of the prompt. Those that count are ``cast`` and ``properties``, names or one text with commas between
            them; properties of the generator that every character has belong to each of the cast.

    Returns:
        The schema; None where the prompt lacks one of the two.
    """
    cast, properties = (tuple(filter(None, names(columns.get(name, ())))) for name in ("cast", "properties"))
    return _schema(cast, properties) if cast and properties else None


@cache
def _schema(cast: tuple[str, ...], properties: tuple[str, ...]) -> str:
    schema: Json = json.loads(shipped_grammars()["storyworld"].read_text(encoding="utf-8"))
    number, bounds = {"$ref": "#/$defs/number"}, schema["properties"]["properties"]["additionalProperties"]
    personal = [name for name in properties if name in themes.PERSONAL]
    shared = [name for name in properties if name not in personal]
    variables = [f"{who}_{name}" for who in cast for name in personal] + shared
    of_one = _exactly({f"initial_{name}": number for name in personal})
    schema["properties"] |= {
        "characters": _exactly(dict.fromkeys(cast, of_one)),
        "initial_state": _exactly(dict.fromkeys(variables, number)),
        "properties": _exactly(dict.fromkeys(properties, bounds)),
    }
    for kind in ("gate", "effect"):
        schema["$defs"][kind]["properties"]["variable"] = {"enum": variables}
    return json.dumps(schema)


def _exactly(properties: Json) -> Json:
    """An object with these keys, all of them, in this order."""
    return {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}
