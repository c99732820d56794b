"""The settings of a recipe's jobs, parsed as the jobs will, before the first of them starts.

A process of its own, so that the recipe does not hold the heavy libraries for as long as its jobs run.
"""

import json
import sys
from typing import Any

from lightning.pytorch.cli import ArgsType, LightningArgumentParser

from lit_narrative.cli.arguments import parse
from lit_narrative.cli.commands.extract import extract
from lit_narrative.cli.faults import in_one_line
from lit_narrative.cli.lightning import NarrativeCLI, prepare_arguments, quieten
from lit_narrative.datamodules.base import TaskDataModule
from lit_narrative.errors import UserError
from lit_narrative.lookup import import_named
from lit_narrative.modules.base import check_precision


class _ParsedError(Exception):
    """The settings are read, and nothing is to be built of them."""


class _Settings(NarrativeCLI):
    """A job's command line that ends behind its parser."""

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        super().parse_arguments(parser, args)
        settings = self.config[self.config.subcommand]
        check_precision(settings.trainer.precision, self.config.subcommand == "fit")
        check_rewards(settings)
        raise _ParsedError


def check_rewards(settings: Any) -> None:
    """Check that the task, or a module, has the rewards that a model is to learn by.

    Args:
        settings: of a job, as parsed.

    Raises:
        UserError: there is no such reward.
    """
    rewards = settings.model.get("init_args", {}).get("rewards")
    module, _, name = settings.data.class_path.rpartition(".") if settings.get("data") else ("", "", "")
    task = getattr(import_named(module, "data"), name) if module and rewards else None
    if isinstance(task, type) and issubclass(task, TaskDataModule):
        task.check_rewards(rewards)


def check_job(args: list[str]) -> None:
    """Parse the command line of a job of a recipe, and build nothing.

    Args:
        args: the command line behind ``lit-narrative``.

    Raises:
        UserError: a setting, or a name, is wrong.
    """
    if args[0] == "extract":
        parse(extract, "lit-narrative extract", args[1:], configurable=True)
        return
    try:
        _Settings(prepare_arguments(args))
    except _ParsedError:
        return


def check_jobs(jobs: dict[str, Any]) -> None:
    """Check jobs one after another.

    Args:
        jobs: name -> command line behind ``lit-narrative``.

    Raises:
        UserError: one is wrong; the message names it.
    """
    quieten()
    for name, args in jobs.items():
        try:
            check_job(args)
        except UserError as error:
            raise UserError(f"job '{name}': {error}") from error


def main() -> None:
    """Check the jobs on standard input."""
    with in_one_line(debug=False):
        check_jobs(json.load(sys.stdin))
