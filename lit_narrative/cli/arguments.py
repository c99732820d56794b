"""Make a command of a typed function."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from keyword import iskeyword
from pathlib import Path
from typing import Any, NoReturn, get_args, get_origin, get_type_hints

from docstring_parser import parse as parse_docstring
from jsonargparse import ArgumentParser
from rich.console import Console

from lit_narrative.cli.faults import note_run_folder
from lit_narrative.cli.messages import actions, innermost, unfit
from lit_narrative.errors import UserError, check_choice, did_you_mean
from lit_narrative.files import refuse_pipe

Function = Callable[..., None]


def call(command: Function | Mapping[str, Function], prog: str, args: list[str], configurable: bool = False) -> None:
    """Call a function, or the one of several that the first argument names, with what the command line gives.

    A parameter without default is a positional argument; one with a default is ``--name``. A sequence takes one or more
    values, a switch (``bool``) none. One whose name would be a word of Python, such as ``from_``, is the text
    ``--from``. Help texts are the function's docstring.

    Args:
        command: the function, or several.
        prog: how the command is called.
        args: behind its name.
        configurable: ``--config`` takes a YAML file, or the name of a shipped one, with values for the arguments; those
            given behind it win.

    Raises:
        UserError: the arguments do not fit.
    """
    if isinstance(command, Mapping):
        command, prog, args = _choose(command, prog, args)
    values = parse(command, prog, args, configurable)
    if values.get("out"):
        note_run_folder(values["out"])
    command(**values)


def parse(function: Function, prog: str, args: list[str], configurable: bool = False) -> dict[str, Any]:
    """Read a command line as the arguments of a function: see `call`.

    Raises:
        UserError: the arguments do not fit.
    """
    parser = make_parser(function, prog)
    if configurable:
        parser.add_argument("--config", action="config", help="settings from a YAML file, or a shipped one by its name")
        if any(argument.partition("=")[0] == "--config" for argument in args):
            from lit_narrative.cli.names import resolve_configs  # which reads what other commands do without

            args = resolve_configs(args)
    values = parser.parse_args(_with_positionals_first(function, args)).as_dict()
    values.pop("config", None)
    return {f"{name}_" if iskeyword(name) else name: value for name, value in values.items()}


def make_parser(function: Function, prog: str) -> ArgumentParser:
    """Make the parser of a function's arguments; one of a single letter, which needs a default, is ``-n`` too."""
    documentation = parse_docstring(function.__doc__ or "")
    helps = {entry.arg_name: entry.description for entry in documentation.params}
    types = get_type_hints(function)
    parser = _CommandParser(prog=prog, description=documentation.short_description, allow_abbrev=False)
    added: set[str | int] = set()
    for name, parameter in inspect.signature(function).parameters.items():
        if options := _argparse_options(types[name], parameter.default):
            flag = name if parameter.default is inspect.Parameter.empty else f"--{name}"
            parser.add_argument(flag, help=helps.get(name), **options)
            added.add(name)
        elif iskeyword(word := name.removesuffix("_")):
            needed = parameter.default is inspect.Parameter.empty
            default = {} if needed else {"default": parameter.default}
            parser.add_argument(f"--{word}", type=types[name], required=needed, help=helps.get(name), **default)
            added.add(name)
        elif len(name) == 1:
            flags = (f"-{name}", f"--{name}")
            parser.add_argument(*flags, type=types[name], default=parameter.default, help=helps.get(name))
            added.add(name)
    # Without groups: the help of a command then lists its arguments flat, as argparse does.
    parser.add_function_arguments(function, as_positional=True, as_group=False, skip=added)
    return parser


def _with_positionals_first(function: Function, args: list[str]) -> list[str]:
    """Put an argument in front that an option of several values would take: ``--set a=1 recipe.yaml``."""
    parameters = inspect.signature(function).parameters.values()
    needed = sum(one.default is inspect.Parameter.empty for one in parameters)
    many = {
        f"--{one.name}" for one in parameters if isinstance(one.default, Sequence) and not isinstance(one.default, str)
    }
    runs = [list(run) for _, run in groupby(args, key=_OptionNumber())]
    free = len(runs[0]) if runs and not runs[0][0].startswith("--") else 0
    # The last value of an option of several, where it does not look like the one before: a setting, or a seed.
    taken = [run for run in runs if run[0] in many and len(run) > 2 and _kind(run[-1]) != _kind(run[-2])]
    if free or needed != 1 or len(taken) != 1:
        return args
    first = taken[0].pop()
    return [first, *(argument for run in runs for argument in run)]


class _OptionNumber:
    """Numbers the options of a command line; each argument gets the number of the option that it stands behind."""

    def __init__(self) -> None:
        self.number = 0

    def __call__(self, argument: str) -> int:
        self.number += argument.startswith("--")
        return self.number


def _kind(value: str) -> str:
    return "setting" if "=" in value else "number" if value.lstrip("-").isdecimal() else "name"


def _argparse_options(kind: Any, default: Any) -> dict[str, Any]:
    """Return argparse's options for a sequence or a switch, which jsonargparse reads as one value."""
    if is_many(kind):
        # `extend` lets `--set a=1 --set b=2` and `--set a=1 b=2` mean the same.
        many = {"nargs": "+", "type": get_args(kind)[0]}
        return many if default is inspect.Parameter.empty else {**many, "action": "extend", "default": list(default)}
    return {"action": "store_true"} if kind is bool and default is False else {}


def is_many(kind: Any) -> bool:
    """Whether a parameter of a type takes one or more values."""
    return get_origin(kind) in {list, Sequence}


def _choose(commands: Mapping[str, Function], prog: str, args: list[str]) -> tuple[Function, str, list[str]]:
    if not args or args[0] in {"-h", "--help"}:
        rows = [f"  {name:<8}{parse_docstring(f.__doc__ or '').short_description}" for name, f in commands.items()]
        print(f"usage: {prog} {{{','.join(commands)}}} ...\n", *rows, sep="\n")
        raise SystemExit(0 if args else 2)
    check_choice(prog, args[0], commands)
    return commands[args[0]], f"{prog} {args[0]}", args[1:]


class _CommandParser(ArgumentParser):
    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        # jsonargparse parses with a parser that does not exit to try a value out, and expects its own error then.
        if not self.exit_on_error:
            super().error(message, ex)
        options = [option for action in actions(self) for option in action.option_strings]
        complaint = innermost(message)
        if what := unfit(complaint):  # of jsonargparse's tree what a person needs: the choices, and what was given
            flag = f"--{complaint.where}"
            raise UserError(f"{flag if flag in options else complaint.where}: {what}") from ex
        wrong = message.removeprefix("unrecognized arguments: ").split()[0] if "unrecognized" in message else ""
        text = " ".join(message.split())
        raise UserError(f"{text}{did_you_mean(wrong, options)} (see `{self.prog} --help`)") from ex


class _Console(Console):
    def on_broken_pipe(self) -> None:
        # Rich would end with code 1; `cli.main.quiet_closed_pipe` ends every command alike.
        raise BrokenPipeError


def plain_console() -> Console:
    """A console that takes texts as they are: no markup, no emoji codes, no highlighting of numbers."""
    return _Console(markup=False, emoji=False, highlight=False, soft_wrap=False)


def check_places(source: str, **places: str | None) -> None:
    """Check, before the work, that what a command writes takes the place of neither its source nor of each other.

    Args:
        source: the file that is read.
        places: name of an option -> the file that it names; ``None`` where it is not given.

    Raises:
        UserError: a place is empty, a folder, a pipe or a device, the source, or that of another option.
    """
    taken = {Path(source).resolve(): "the file that is read"}
    for name, place in places.items():
        if place is None:
            continue
        refuse_pipe(place, "write")
        if Path(place).is_dir():
            raise UserError(f"--{name} is {place!r}; name a file" + (", not a folder" if place else ""))
        if other := taken.get(Path(place).resolve()):
            raise UserError(f"--{name} is '{place}', {other}; give another name")
        taken[Path(place).resolve()] = f"as --{name} is"
