"""The command ``lit-narrative``.

Lightning's subcommands go to ``cli/lightning.py``, the other commands to ``cli/commands/``. Each is imported when it is
asked for, so that help, version and the light commands answer at once.
"""

import errno
import gc
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from typing import Any

from lit_narrative import __version__
from lit_narrative.cli.faults import in_one_line
from lit_narrative.errors import check_choice

JOBS = {
    "fit": "train a module on a task",
    "validate": "run the validation of a module once",
    "test": "score a module on what it was not trained on",
    "predict": "write samples",
    "write": "write with a model in the terminal, step by step",
}

COMMANDS = {
    "run": "run a recipe: a list of jobs, with what is done already left out",
    "sweep": "run a command under every combination of settings, and make tables of it",
    "report": "make the report of a recipe's run folder",
    "compare": "compare two folders of circuit analyses",
    "generate": "write worlds of the built-in generator as files, to begin from",
    "score": "score files of worlds by the verifiers",
    "play": "play a world in the terminal, or many times at random",
    "simulate": "play a world many times, and make a page of what the plays show",
    "check": "say what is wrong with files of worlds, of any format, and how to mend it",
    "convert": "write a world in another format: simple, sweepweave, ink, twee",
    "enrich": "put passages of a corpus beside the encounters of a world that they are near to in meaning",
    "configs": "list, show or copy the configurations that come with the package",
    "export": "write a checkpoint in the form that other libraries read",
    "explain": "put the activations of a text, or latents of an SAE, into words",
    "data": "make data: books of an author from a mirror or a folder, cleaned",
    "extract": "read a model's activations on a corpus, to put them into words",
    "plan": "predict the peak memory of a fit, and say what would lower it",
    "doctor": "say what here stands in the way of a run: versions, devices, threads, disk, the hub",
}

CONFIGURABLE = {"extract"}
"""Commands whose arguments a configuration can hold."""

WORLDS = ("generate", "score", "play", "simulate", "check", "convert", "enrich")
FILES = {"compare": "report", **dict.fromkeys(WORLDS, "worlds")}
"""Commands that stand in a file of another name -> that name."""


def main(args: list[str] | None = None) -> None:
    """Run the command line.

    Args:
        args: the arguments; by default those of the process.

    Raises:
        SystemExit: after an error, printed as one line: with code 2 where the person can put it right, else with code
            1; with code 141 where the reader of the output went away; with 128 and the number of a signal that asked
            it to end.
    """
    if "_ARGCOMPLETE" in os.environ:  # a shell asks what may stand next
        import_module("lit_narrative.cli.completion").complete(
            JOBS, {name: partial(find_command, name) for name in COMMANDS}
        )
    let_threads_sleep()
    given = list(sys.argv[1:] if args is None else args)
    # `--debug` may stand anywhere, and no command has a value of that name.
    with in_one_line(debug="--debug" in given), quiet_closed_pipe():
        dispatch([argument for argument in given if argument != "--debug"])


def let_threads_sleep() -> None:
    """Let threads that have waited for the others for a moment sleep, unless the environment says how they wait.

    GNU's OpenMP, which PyTorch's wheels for Linux bring, has them wait in a loop for milliseconds. Beside other work a
    model of 135 million weights took minutes for 16 tokens on two threads so, and takes 25 seconds. It reads the
    environment once, as PyTorch is imported, which comes later.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")


@contextmanager
def quiet_closed_pipe() -> Iterator[None]:
    """End without a word where the reader of standard output is gone, as after ``| head -1``.

    Raises:
        SystemExit: with code 141, as a process that SIGPIPE ends.
    """
    try:
        try:
            yield
        finally:
            sys.stdout.flush()  # here, since a failure while the interpreter ends could no longer be caught
    except OSError as error:
        if _is_full(error):
            _drop_output()
        if not isinstance(error, BrokenPipeError) or not _reader_is_gone():  # another pipe broke, and that is a fault
            raise
        _drop_output()
        raise SystemExit(141) from None


def _drop_output() -> None:
    """Send what is left in the buffer of standard output nowhere: the interpreter flushes it once more as it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _is_full(error: OSError) -> bool:
    """Whether standard output goes to a file on a disk that is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) and error.filename is None


def _reader_is_gone() -> bool:
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def dispatch(args: list[str]) -> None:
    """Hand the arguments to Lightning's command line or to a command of the package.

    Raises:
        UserError: there is no such command.
    """
    name = args[0] if args else None
    if name == "--version":
        print(f"lit-narrative {__version__}")
    elif name in {None, "-h", "--help", "help"}:
        print(usage())
        if name is None:
            raise SystemExit(2)
    elif name in JOBS and {"-h", "--help"}.intersection(args):
        print(import_module("lit_narrative.cli.job_help").job_help(name, JOBS[name]))
    elif name in JOBS:
        import_module("lit_narrative.cli.names").check_names(name, args[1:])
        _run_job(name, args)
    elif name == "plan":  # which takes every setting of fit
        import_module("lit_narrative.cli.commands.plan").run(args[1:])
    elif name in COMMANDS:
        import_module("lit_narrative.cli.arguments").call(
            find_command(name), f"lit-narrative {name}", args[1:], name in CONFIGURABLE
        )
    else:
        assert name is not None
        check_choice("command", name, [*JOBS, *COMMANDS])


def find_command(name: str) -> Any:
    """The function of a command, or its functions by name."""
    return getattr(import_module(f"lit_narrative.cli.commands.{FILES.get(name, name)}"), name)


def _run_job(name: str, args: list[str]) -> None:
    with no_garbage_among_libraries():
        run_job = import_module("lit_narrative.cli.lightning").run_job
    if name == "write":
        # Lightning's command line takes the methods of one Trainer class as subcommands, and `write` needs its own.
        run_job(args, import_module("lit_narrative.cli.write.trainer").WriteTrainer)
    else:
        run_job(args)


@contextmanager
def no_garbage_among_libraries() -> Iterator[None]:
    """Look for no garbage while libraries are read, nor ever after in what they made: a second or two of a job."""
    first = "torch" not in sys.modules  # in a process that is in use already there may be garbage
    if first:
        gc.disable()
    try:
        yield
    finally:
        if first:
            gc.freeze()
            gc.enable()


def usage() -> str:
    """Return the help text."""
    return "\n".join(
        [
            "usage: lit-narrative COMMAND ...",
            "",
            "Train language models to tell stories, and study how they learn it.",
            "",
            "jobs (Lightning; `lit-narrative fit --help` lists their settings)",
            *(f"  {name:<10}{text}" for name, text in JOBS.items()),
            "",
            "other commands",
            *(f"  {name:<10}{text}" for name, text in COMMANDS.items()),
            "",
            "`--debug`, wherever it stands, shows the traceback of an error.",
            "",
            "examples",
            "  lit-narrative run storyworld",
            "  lit-narrative fit --config storyworld/sft --trainer.max_epochs 2",
            "  lit-narrative fit --model.help SFTModule",
            "  lit-narrative configs list",
        ]
    )
