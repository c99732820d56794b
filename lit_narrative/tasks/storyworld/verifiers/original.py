"""The verifiers of the original system, formula by formula, faults included.

Kept for comparison only: they pay for ``null``, count gates and effects that do nothing, and contradict each other.
The original crashes on many texts; here such a text scores 0 in every component. Source: the ``StoryWorldVerifiers``
class of the public GPTStoryworld repository, whose scores our golden tests hold.
"""

import json
from typing import Any

from lit_narrative.tasks.storyworld.formats.parse import DEEPEST, nesting
from lit_narrative.tasks.storyworld.issues import Issue
from lit_narrative.tasks.storyworld.verifiers.base import SIX, VerifierConfig

_CRASHES = (TypeError, AttributeError, KeyError, ValueError)
"""What the original raises on values of unexpected types."""


def original_components(text: Any, config: VerifierConfig) -> dict[str, float]:
    """The six components of the original; all 0 where it would have raised.

    Args:
        text: what was written.
        config: the minima.
    """
    try:
        return _components(text, config)
    except _CRASHES:
        return dict.fromkeys(SIX, 0.0)


def original_issues(text: Any, config: VerifierConfig) -> tuple[Issue, ...]:
    """The one issue the original can report: that the text is not JSON, or that it would have crashed."""
    try:
        values = _components(text, config)
    except _CRASHES as error:
        return (Issue("$", f"the original crashes on this text ({type(error).__name__}); scored 0"),)
    return () if values["valid_json"] else (Issue("$", "not JSON"),)


def _components(text: Any, config: VerifierConfig) -> dict[str, float]:
    if not isinstance(text, str):
        raise TypeError("the text must be a str")
    # The original crashes at a nesting near 1000, depending on the caller's stack; a fixed bound keeps the score pure.
    if nesting(text, DEEPEST) > DEEPEST:
        raise ValueError("nested too deep")
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return dict.fromkeys(SIX, 0.0)
    scored = value is not None  # the text `null` is valid JSON, and nothing else of it is scored
    return {
        "valid_json": 1.0,
        "schema": _schema(value) if scored else 0.0,
        "structure": _structure(value, config) if scored else 0.0,
        "effects": _effects(value, config) if scored else 0.0,
        "secrets": _secrets(value) if scored else 0.0,
        "endings": _endings(value, config) if scored else 0.0,
    }


def _schema(value: Any) -> float:
    kinds = {"characters": dict, "initial_state": dict, "encounters": list, "properties": dict}
    return sum(key in value and isinstance(value[key], kind) for key, kind in kinds.items()) / len(kinds)


def _structure(value: Any, config: VerifierConfig) -> float:
    terms = []
    if "characters" in value:
        terms.append(min(len(value["characters"]) / config.min_characters, 1.0))
    if "encounters" in value:
        encounters = value["encounters"]
        terms.append(min(len(encounters) / config.min_encounters, 1.0))
        if len(encounters) > 0:
            # Endings count against the share: a story with endings that have no options cannot reach 1.
            optioned = sum(1 for e in encounters if "options" in e and len(e["options"]) > 0)
            terms.append(optioned / len(encounters))
    return sum(terms) / len(terms) if terms else 0.0


def _options(value: Any) -> list[Any]:
    return [option for encounter in value["encounters"] for option in encounter.get("options", [])]


def _effects(value: Any, config: VerifierConfig) -> float:
    if "encounters" not in value:
        return 0.0
    kinds = {
        effect["variable"]
        for option in _options(value)
        for reaction in option.get("reactions", [])
        for effect in reaction.get("after_effects", [])
        if "variable" in effect
    }
    return min(len(kinds) / config.min_effect_types, 1.0)


def _secrets(value: Any) -> float:
    if "encounters" not in value:
        return 0.0
    options = _options(value)
    if not options:
        return 0.0
    share = sum(1 for option in options if option.get("gates")) / len(options)
    if share < 0.2:
        return share / 0.2
    return 1.0 if share <= 0.5 else max(0.0, 1.0 - 2 * (share - 0.5))


def _endings(value: Any, config: VerifierConfig) -> float:
    if "encounters" not in value:
        return 0.0
    return min(sum(_looks_final(e) for e in value["encounters"]) / config.min_endings, 1.0)


# A dead end passes for an ending, and so does an option whose reactions say nothing of what follows.
def _looks_final(encounter: Any) -> bool:
    options = encounter.get("options", [])
    return not any(r.get("next_encounter") for option in options for r in option.get("reactions", []))
