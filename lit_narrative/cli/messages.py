"""What is wrong with a setting, in one line, with the name that was probably meant.

jsonargparse reports a wrong setting as an indented tree: for each type that the setting may have, why the value is not
of that type, and so on inward. What helps is at the innermost place: its path, and the few lines there.
"""

import re
import sys
from argparse import Action
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from inspect import getmembers, isclass

from jsonargparse import ArgumentParser

from lit_narrative.errors import did_you_mean

_STEP = re.compile(
    r"""^( *)(?:- )?(?:Parser key "([^"]+)"|Problem with given class_path '([^']+)'):[ ]*$""", re.MULTILINE
)

_UNKNOWN = re.compile(
    r"Group '(?P<group>[^']+)' does not accept option '(?P<in_group>[^']+)'"
    r"|(?:Option '|does not accept option ')(?P<name>[^']+)'"
    r"|unrecognized arguments: (?:--)?(?P<flag>[^\s=]+)"
)

_EXPECTED = re.compile(r"Expected an? (.+?)(?:\. Got value: .*)?$", re.MULTILINE)
_GIVEN = re.compile(r"(?:Given|Got) value: (.*)")


ELSEWHERE = {
    "batch_size": "data.batch_size",
    "epochs": "trainer.max_epochs",
    "gradient_accumulation_steps": "trainer.accumulate_grad_batches",
    "learning_rate": "lr",
    "lr_scheduler_type": "schedule",
    "max_completion_length": "sampling.max_new_tokens",
    "max_epochs": "trainer.max_epochs",
    "max_grad_norm": "trainer.gradient_clip_val",
    "max_new_tokens": "sampling.max_new_tokens",
    "max_steps": "trainer.max_steps",
    "num_train_epochs": "trainer.max_epochs",
    "per_device_train_batch_size": "data.batch_size",
    "temperature": "sampling.temperature",
}
"""What other libraries call a setting of a model, or where people look for it -> its name here."""


@dataclass(frozen=True, slots=True)
class Complaint:
    """The innermost place of a message.

    Attributes:
        where: the setting (``model.rewards``), empty where the message is about none.
        owner: import path of the class whose argument it is about, or None.
        text: the lines there.
    """

    where: str
    owner: str | None
    text: str


def explain(message: str, options: Iterable[str]) -> str:
    """Rewrite an error message of jsonargparse.

    Args:
        message: the message.
        options: the full names of what the command accepts (``trainer.max_epochs``).

    Returns:
        one line: the setting, what is wrong with it, and the nearest name.
    """
    complaint = innermost(message)
    what = (
        _not_importable(complaint)
        or _other_class(complaint)
        or _unknown_name(complaint, options)
        or _missing(complaint)
        or unfit(complaint)
    )
    line = what or " ".join(complaint.text.split())
    return f"{complaint.where}: {line}" if complaint.where else line


def innermost(message: str) -> Complaint:
    """Follow the first branch of the tree to its end."""
    keys: list[str] = []
    owner = None
    # Each round goes one level in: from a key, or a class path, to the lines that are indented under it.
    while match := _STEP.search(message):
        indent, key, class_path = match.groups()
        keys += [key] if key else []
        owner = class_path or owner
        deeper = re.compile(rf"(?:\n(?: {{{len(indent) + 1},}}.*)?)*")
        block = deeper.match(message, match.end())
        inner = block[0] if block else ""
        message = inner if inner.strip() else message[match.end() :].strip().partition("\n")[0]
    return Complaint(".".join(keys), owner, message.strip("\n"))


def class_names() -> set[str]:
    """Return the names of the classes that a configuration can name without their module."""
    packages = ("lit_narrative.", "lightning.pytorch.callbacks.", "lightning.pytorch.loggers.")
    modules = [module for name, module in list(sys.modules.items()) if name.startswith(packages)]
    return {name for module in modules for name, _ in getmembers(module, isclass) if not name.startswith("_")}


def argument_names(class_path: str) -> list[str]:
    """Return the names of the arguments of a class, those of its dataclasses too (``sampling.temperature``)."""
    module, _, name = class_path.rpartition(".")
    parser = ArgumentParser(exit_on_error=False, add_help=False)
    parser.add_class_arguments(getattr(import_module(module), name), fail_untyped=False)
    return option_names(parser)


def option_names(parser: ArgumentParser) -> list[str]:
    """Return the full names of what a parser accepts."""
    return [action.dest for action in actions(parser) if not action.dest.endswith("help")]


def actions(parser: ArgumentParser) -> list[Action]:
    """Return what a parser accepts; argparse lists it nowhere in public."""
    return parser._actions


def _not_importable(complaint: Complaint) -> str | None:
    """Say which part of a class path leads nowhere, or which import within that module fails."""
    if match := re.search(r"No module named '([^']+)'", complaint.text):
        # The class path's own module is missing, or one that its module imports.
        if complaint.owner and f"{complaint.owner}.".startswith(f"{match[1]}."):
            return f"there is no module '{match[1]}' for {complaint.owner}: is its folder on PYTHONPATH?"
        return f"{complaint.owner or 'a module'} cannot be imported: {match[0]}"
    if match := re.search(r"module '([^']+)' has no attribute '([^']+)'", complaint.text):
        names = [name for name in vars(sys.modules.get(match[1], object)) if not name.startswith("_")]
        return f"there is no '{match[2]}' in {match[1]}{did_you_mean(match[2], names)}"
    return None


def _other_class(complaint: Complaint) -> str | None:
    """Say which class was given where one of another kind is needed."""
    given = _GIVEN.search(complaint.text)
    if match := re.search(r"Import path (\S+ )?does not correspond to a subclass of (\w+)", complaint.text):
        return f"{(match[1] or (given[1] if given else 'it')).strip()} is not a subclass of {match[2]}"
    # A name without a module is looked for among the subclasses that fit, so a class of another kind is not found.
    short = re.search(r"Expected a dot import path string: (\S+)", complaint.text)
    kind = re.search(r"Subtypes: \[.*?(\w+)'?[>\]]", complaint.text)
    if short and kind and short[1] in class_names():
        return f"{short[1]} is not a subclass of {kind[1]}"
    return None


def _unknown_name(complaint: Complaint, options: Iterable[str]) -> str | None:
    """Say which setting, argument or class does not exist."""
    if match := re.search(r"Expected a dot import path string: (\S+)", complaint.text):
        return f"there is no class '{match[1]}'{did_you_mean(match[1], class_names())}"
    if not (match := _UNKNOWN.search(complaint.text)):
        return None
    unknown = match["name"] or match["flag"] or f"{match['group']}.{match['in_group']}"
    if complaint.owner is None:
        return no_setting(unknown, options)
    return no_argument(_short(complaint.owner), unknown, argument_names(complaint.owner))


def no_setting(unknown: str, options: Iterable[str]) -> str:
    """Say that there is no such setting; ``options`` are those that there are (``trainer.max_epochs``)."""
    return f"there is no setting '{unknown}'{_nearest(unknown, list(options))}"


def no_argument(owner: str, unknown: str, names: list[str]) -> str:
    """Say that a class has no such argument; ``names`` are those that it has (``sampling.temperature``)."""
    known = ", ".join(name for name in names if "." not in name) or "none"
    near = _called(unknown, names) or _nearest(unknown, names) or f"; it takes {known}"
    return f"{owner} has no argument '{unknown}'{near}"


def _missing(complaint: Complaint) -> str | None:
    """Say what is not given and has to be."""
    if not (match := re.search(r"the following arguments are required: (.+)", complaint.text)):
        return None
    if complaint.owner:
        return f"{_short(complaint.owner)} needs {match[1]}"
    names = [name.partition(".")[2] or name for name in match[1].split(", ")]
    flags = " and ".join(f"--{name}" for name in names)
    return f"not given: {', '.join(names)}; name a configuration (`--config storyworld/sft`), or give {flags}"


def unfit(complaint: Complaint) -> str | None:
    """Say which types or values were expected and what was given; None of a message about something else."""
    expected = [*dict.fromkeys(name for text in _EXPECTED.findall(complaint.text) for name in _type_names(text))]
    given = _GIVEN.search(complaint.text)
    if not (expected and given and complaint.where):
        return None
    *others, last = expected
    wanted = f"{', '.join(others)} or {last}" if others else last
    near = did_you_mean(given[1], [name.strip("'") for name in expected])
    return f"expected {wanted}, got {given[1]!r}{near}"


def _called(unknown: str, names: list[str]) -> str:
    """Suggest what a name of other libraries is here; nothing for a class that has no such setting."""
    here = ELSEWHERE.get(unknown, "")
    if here.startswith(("trainer.", "data.")) and "lr" in names:  # of a model that learns
        return f"; did you mean '{here}'?"
    return f"; did you mean '{here}'?" if here in names else ""


def _nearest(unknown: str, names: list[str]) -> str:
    """Suggest a name; where none is near as a whole, one for its first part (``modl.lr``: ``model``)."""
    head = unknown.partition(".")[0]
    return did_you_mean(unknown, names) or did_you_mean(head, {name.partition(".")[0] for name in names} - {head})


def _short(class_path: str) -> str:
    return class_path.rpartition(".")[2]


def _type_names(text: str) -> list[str]:
    """``<class 'int'>`` -> ``int``, ``typing.Literal['a', 'b']`` -> ``'a'`` and ``'b'``, ``NoneType`` -> ``null``."""
    text = re.sub(r"<class '(?:[\w.]+\.)?(\w+)'>", r"\1", text.strip()).replace("NoneType", "null")
    choices = re.match(r"^typing\.Literal\[(.*)\]$", text)
    return choices[1].split(", ") if choices else [text]
