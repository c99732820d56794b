"""States, plays and feature quality as the original system computes them, faults included; for comparison only.

Its vectors vary in length with the world, hold a salted hash of the encounter's name (passed in here) and are
standardised within themselves; its plays ignore gates; its seventh component crashes on every usual world, which the
original counted as 0. What we use instead is in ``states.py`` and ``feature_quality.py``. Source: the
``StoryWorldStateExtractor`` and ``FeatureAwareVerifiers`` classes of the public GPTStoryworld repository.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Code = Callable[[str], int]
"""What stands for an encounter: the original takes ``hash(id) % 1000``, which differs between processes."""
Encode = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def original_state_vector(state: Mapping[str, Any], normalize: bool, encounter_code: Code) -> np.ndarray:
    """The original's vector of a state.

    Args:
        state: may hold ``characters`` (name to properties), ``variables``, ``current_encounter`` and ``spool``.
        normalize: z-score within the one vector, with 1e-8 added to the deviation.
        encounter_code: number that stands for the encounter.

    Returns:
        float32, of a length that depends on what the state holds.

    Raises:
        AttributeError: A character is a number, as in the original's own plays.
    """
    values: list[float] = []
    characters = state.get("characters", {})
    for name in sorted(characters):
        values += _numbers(characters[name])
    values += _numbers(state.get("variables", {}))
    if "current_encounter" in state:
        values.append(encounter_code(state["current_encounter"]))
    if "spool" in state:
        values.append(len(state["spool"]))
    with np.errstate(over="ignore", invalid="ignore"):
        vector = np.array(values, dtype=np.float64).astype(np.float32)
        if normalize and len(vector):
            vector = (vector - vector.mean()) / (vector.std() + np.float32(1e-8))
    return vector


def _numbers(properties: Mapping[str, Any]) -> list[float]:
    return [properties[key] for key in sorted(properties.keys()) if isinstance(properties[key], int | float)]


def original_affordances(state: Mapping[str, Any]) -> list[str]:
    """The option ids that the state lists."""
    return list(state.get("available_options", []))


def original_rollout(world: Mapping[str, Any], rng: np.random.RandomState, max_steps: int = 10) -> list[dict[str, Any]]:
    """The original's random play: gates ignored, nothing clamped, every variable written twice.

    Args:
        world: a parsed world; without ``encounters`` or ``initial_state`` there is no play.
        rng: of the kind of numpy's global generator, which the original draws from.
        max_steps: bound on the steps.
    """
    if "encounters" not in world or "initial_state" not in world:
        return []
    state, encounters = dict(world["initial_state"]), world["encounters"]
    here = encounters[0].get("id", "enc_0") if encounters else None
    states: list[dict[str, Any]] = []
    while here and len(states) < max_steps:
        encounter = next((candidate for candidate in encounters if candidate.get("id") == here), None)
        if encounter is None:
            break
        options = encounter.get("options", [])
        names = [option.get("id", f"opt_{number}") for number, option in enumerate(options)]
        facts = {"characters": dict(state), "variables": dict(state), "current_encounter": here, "spool": []}
        states.append({**facts, "available_options": names})
        here = _react(options[rng.choice(len(options))], state) if options else None
    return states


def _react(option: Mapping[str, Any], state: dict[str, Any]) -> str | None:
    """Apply reactions up to the first that names what follows; return that."""
    for reaction in option.get("reactions", []):
        for effect in reaction.get("after_effects", []):
            if effect.get("variable") in state:
                state[effect["variable"]] += effect.get("change", 0)
        if "next_encounter" in reaction:
            following: str | None = reaction["next_encounter"]
            return following
    return None


def original_feature_quality(
    world: Mapping[str, Any], encode: Encode, rng: np.random.RandomState, encounter_code: Code
) -> float:
    """The original's seventh component: 0.4 sparsity + 0.4 reconstruction + 0.2 variance, 0 where it crashes.

    Args:
        world: a parsed world.
        encode: (n, dim) states to latents and reconstructions.
        rng: of the one play.
        encounter_code: see `original_state_vector`.
    """
    try:
        vectors = [original_state_vector(state, True, encounter_code) for state in original_rollout(world, rng)]
    except AttributeError:  # characters are numbers in every play of a world that has variables
        return 0.0
    if not vectors:
        return 0.0
    z, back = encode(np.stack(vectors))
    sparsity = max(0.0, 1 - float((z > 1e-3).sum(1).mean()) / 100)
    reconstruction = float(np.exp(-np.square(back - np.stack(vectors)).mean()))
    variance = min(10 * float(z.var(0).mean()), 1.0)
    return 0.4 * sparsity + 0.4 * reconstruction + 0.2 * variance
