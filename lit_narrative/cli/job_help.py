"""``lit-narrative fit --help``: this package's own classes and settings first, then the Trainer's, a line each.

It is read from the sources, since the parser that Lightning makes of them takes many seconds.
"""

import ast
import re
from collections.abc import Mapping, Sequence
from functools import cache

from docstring_parser import parse as parse_docstring

import lit_narrative
from lit_narrative.cli.names import TRAINER, root_settings, trainer_settings
from lit_narrative.cli.sources import PACKAGE, Source, base_names, descends, find_class, nameable
from lit_narrative.report.format import clip

ROOT_HELPS = {
    "config": "a YAML file, or the name of a shipped one (`lit-narrative configs list`); later ones win over earlier",
    "print_config": "print the settings that all of this comes to, and end",
    "seed_everything": "seed of all random numbers; default 0",
    "model": "the class of the model, and model.NAME=VALUE its settings",
    "data": "the class of the task, and data.NAME=VALUE its settings",
    "ckpt_path": "a checkpoint to go on from, or to test; `last`: the run's own",
    "weights_only": "what may stand in that checkpoint besides weights",
    "verbose": "print the figures at the end",
    "return_predictions": "keep what was predicted in memory",
    "session": "file of the session; one that is there is resumed",
    "prompt": "how a new text begins; default: the task's first prompt",
    "candidates": "how many are shown at each step",
    "length": "tokens of a step, at most",
}
_WIDTH = 118
_MARKUP = re.compile(r"(?::\w+:)?`+([^`]*)`+")
"""Of reStructuredText: a role, two backticks."""


def job_help(command: str, summary: str) -> str:
    """The help text of a job.

    Args:
        command: ``fit``, ``validate``, ``test``, ``predict`` or ``write``.
        summary: what it does.
    """
    own = own_classes()
    groups = [
        ("LightningModule", f"models: --model=NAME; `lit-narrative {command} --model.help NAME` lists its settings"),
        ("LightningDataModule", f"tasks: --data=NAME; `lit-narrative {command} --data.help NAME` lists its settings"),
        ("Callback", "callbacks: --trainer.callbacks+=NAME, beside those of Lightning"),
    ]
    lines = [f"usage: lit-narrative {command} --config NAME [--SETTING=VALUE ...]", "", f"{summary}.", ""]
    for root, title in groups:
        rows = [(source.name, source.summary) for source in own if descends(source) == root]
        lines += [title, *_rows(rows), ""]
    roots = [name for name in root_settings(command) if name != "trainer"]
    lines += ["settings of the job", *_rows([(f"--{name}", ROOT_HELPS.get(name, "")) for name in roots]), ""]
    lines += ["settings of the Trainer (Lightning)", *_rows(_trainer_rows()), ""]
    lines += ["examples", f"  lit-narrative {command} --config storyworld/sft --trainer.max_epochs=2 --model.lr=1e-3"]
    return "\n".join([*lines, f"  lit-narrative {command} --model.help SFTModule"])


@cache
def own_classes() -> Sequence[Source]:
    """The classes of this package that stand in configurations: no bases of others, unless a notebook imports them."""
    found = [find_class(module, name) for name, module in nameable(PACKAGE).items() if not name.startswith("_")]
    classes = [source for source in found if source and descends(source)]
    bases = {base for source in classes for base in base_names(source)}
    exported = set(lit_narrative.__all__)
    return [source for source in classes if source.name not in bases or source.name in exported]


def _trainer_rows() -> list[tuple[str, str]]:
    source = find_class(*TRAINER)
    assert source is not None
    function = next(one for one in source.node.body if isinstance(one, ast.FunctionDef) and one.name == "__init__")
    described = parse_docstring(ast.get_docstring(function) or "")
    helps = {entry.arg_name: entry.description or "" for entry in described.params}
    return [(f"--trainer.{name}", _described(helps.get(name, ""), default)) for name, default in _defaults().items()]


def _defaults() -> Mapping[str, str]:
    ours = {"default_root_dir": "runs/default"}
    return {name: ours.get(name, ast.unparse(node) if node else "") for name, node in trainer_settings().items()}


def _described(text: str, default: str) -> str:
    sentence = " ".join(text.split()).partition(". ")[0].rstrip(".")
    return f"{sentence}; default {default}" if default not in {"", "None"} else sentence


def _rows(rows: Sequence[tuple[str, str]]) -> list[str]:
    width = max(len(name) for name, _ in rows) + 2
    plain = [(name, _MARKUP.sub(r"`\1`", text)) for name, text in rows]
    return [f"  {name:<{width}}{clip(text, _WIDTH - width)}".rstrip() for name, text in plain]
