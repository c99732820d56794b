"""Private functions of other libraries that the package leans on: a release that moves one fails here, by its name.

Each is called in one function of ours, named in the row.
"""

from importlib import import_module

import pytest

PRIVATE = [
    # (our function that calls it, module, attribute)
    ("lm.load.blocks", "transformers.modeling_layers", "GradientCheckpointingLayer"),
    ("lm.kv_cache.plain_attention", "transformers", "PreTrainedModel._is_stateful"),
]


@pytest.mark.parametrize(("user", "module", "attribute"), PRIVATE, ids=[row[2] for row in PRIVATE])
def test_it_is_still_there(user: str, module: str, attribute: str) -> None:
    value = import_module(module)
    for name in attribute.split("."):
        assert hasattr(value, name), f"lit_narrative.{user} needs {module}.{attribute}, which this release lacks"
        value = getattr(value, name)
