"""The parser of jobs: unique prefixes are no names, and an error is one line."""

from typing import Any, NoReturn

from lightning.pytorch.cli import LightningArgumentParser

from lit_narrative.errors import UserError
from lit_narrative.jobs.explain import explain, option_names


class JobParser(LightningArgumentParser):
    """Lightning's parser with errors that name the nearest setting instead of printing the usage."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # An abbreviation would work on the command line only, and change its meaning when a setting is added.
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise what is wrong as a ``UserError``.

        Raises:
            UserError: always, but in the parsers that jsonargparse makes to try a value out.
        """
        if not self.exit_on_error:
            super().error(message, ex)
        parser = getattr(ex, "subcommand_parser", None) or self
        raise UserError(explain(message, option_names(parser))) from ex
