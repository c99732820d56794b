"""The components of a score: a table of named functions that a user extends by writing one more."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from lit_narrative.errors import UserError, did_you_mean
from lit_narrative.imports import import_named

if TYPE_CHECKING:
    from lit_narrative.tasks.storyworld.context import Context

Component = Callable[["Context"], float]
"""From a text in context (see ``context.Context``) to a number in 0..1; pure, and never raising on a text."""

SIX = ("valid_json", "schema", "structure", "effects", "secrets", "endings")
"""The components that every score has, in the order of tables."""

COMPONENTS: dict[str, Component] = {}
"""Every component by name."""


def component(name: str) -> Callable[[Component], Component]:
    """Register a function as the component ``name``, for use in ``VerifierConfig.weights``.

    >>> @component("brevity")
    ... def brevity(context: Context) -> float:
    ...     return 1.0 if len(context.text) < 2000 else 0.0

    A component is asked only about texts that are a world; of others it counts as 0.

    Raises:
        ValueError: The name is taken by another function.
    """

    def register(function: Component) -> Component:
        if COMPONENTS.setdefault(name, function) is not function:
            raise ValueError(f"a component named {name!r} exists already")
        return function

    return register


def find_component(name: str) -> Component:
    """The component called ``name``, or the function at a dotted path ``package.module:function``.

    Raises:
        UserError: There is no such component; the message names the nearest.
    """
    if ":" in name:
        return _imported(name)
    if name not in COMPONENTS:
        known = ", ".join(sorted(COMPONENTS))
        hint = did_you_mean(name, COMPONENTS)
        raise UserError(f"unknown component {name!r}{hint} (known: {known}; or a path 'package.module:function')")
    return COMPONENTS[name]


def _imported(name: str) -> Component:
    module_name, _, attribute = name.partition(":")
    function = getattr(import_named(module_name, f"component {name!r}"), attribute, None)
    if not callable(function):
        raise UserError(f"component {name!r}: {module_name} has no function {attribute!r}")
    return function  # type: ignore[no-any-return]
