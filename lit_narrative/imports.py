"""What a person names by its path, ``package.module:object``, to be imported."""

import importlib
from types import ModuleType

from lit_narrative.errors import UserError


def import_named(module_name: str, what: str) -> ModuleType:
    """Import a module that a person named; a fault within it, such as a missing package, is raised as it is.

    Args:
        module_name: of the module.
        what: whose path names it, for the message, such as ``reward 'mine.rewards:Style'``.

    Raises:
        UserError: there is no such module.
    """
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise UserError(f"{what}: there is no module '{error.name}'") from error
