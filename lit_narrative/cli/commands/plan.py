"""``lit-narrative plan``: the memory that a training will take at its peak, before it is started."""

import json
from typing import TYPE_CHECKING, Any, Literal

from lit_narrative.errors import UserError

if TYPE_CHECKING:
    from lit_narrative.cli.memory import Needs, Training

MIB = 2**20


def plan(
    settings: list[str],
    tokens: int | None = None,
    memory: float | None = None,
    format: Literal["text", "json"] = "text",
) -> None:
    """Predict the peak memory of each process of a ``fit``, part by part; no weight is read, and nothing is trained.

    Args:
        settings: those of ``fit``: ``--config`` and any setting.
        tokens: of the longest row, prompt and completion together; default: ``model.max_length``.
        memory: GiB that a process may take; more ends with code 1.
        format: ``text`` or ``json``.

    Raises:
        UserError: a setting is wrong, the module is of another kind, or the length of rows is not known.
        SystemExit: with code 1, where it takes more than ``memory``.
    """
    from lit_narrative.cli.job_memory import build_job, training_of
    from lit_narrative.cli.memory import Needs, resident

    built = build_job(settings)
    libraries = resident()
    training = training_of(built, tokens)
    needs = Needs.of(training, libraries)
    if format == "json":
        parts = {name: round(size / MIB) for name, size in needs.parts().items()}
        print(json.dumps({"total_mib": round(needs.total / MIB), "parts_mib": parts, "peak": needs.step}))
    else:
        _show(training, needs, libraries)
    if memory is not None and needs.total > memory * 1024 * MIB:
        raise SystemExit(1)


def _show(training: "Training", needs: "Needs", libraries: int) -> None:
    from lit_narrative.cli.memory import with_changes

    place = "of a GPU" if training.gpu else "of main memory"
    print(f"each of {training.processes} process(es) takes {_mib(needs.total)} {place} at its peak, in {needs.step}:")
    for name, size in sorted(needs.parts().items(), key=lambda part: -part[1]):
        print(f"  {name:<12}{_mib(size):>12}")
    rows = f"{training.rows} rows of {training.tokens} tokens in a micro-batch"
    print(f"for {rows}" + (f", {training.sampled} completions in a rollout batch" if training.sampled else ""))
    lower = [(type(needs).of(changed, libraries).total, name) for name, changed in with_changes(training)]
    if any(total < needs.total for total, _ in lower):
        print("what would lower it:")
    for total, name in sorted(lower):
        if total < needs.total:
            print(f"  {_mib(total):>12}  {name}")


def _mib(size: int) -> str:
    return f"{size / MIB:,.0f} MiB"


def run(args: list[str]) -> None:
    """Read the command line: own flags first, everything else is the job's.

    Raises:
        UserError: a flag has no value, or none that fits.
    """
    if {"-h", "--help"}.intersection(args):
        print(USAGE, end="")
        return
    own: dict[str, Any] = {}
    kinds: dict[str, Any] = {"--tokens": int, "--memory": float, "--format": str}
    rest: list[str] = []
    words = iter(args)
    for word in words:
        name, given, value = word.partition("=")
        if name not in kinds:
            rest.append(word)
            continue
        value = value if given else next(words, "")
        try:
            own[name[2:]] = kinds[name](value)
        except ValueError as error:
            raise UserError(f"plan: {name} must be a number, not {value!r}") from error
    if own.get("format", "text") not in ("text", "json"):
        raise UserError(f"plan: --format must be text or json, not {own['format']!r}")
    if own.get("tokens", 1) < 1:
        raise UserError(f"plan: --tokens={own['tokens']} must be at least 1")
    plan(rest, **own)


USAGE = """usage: lit-narrative plan --config CONFIG [settings of fit] [--tokens N] [--memory GIB] [--format text|json]

Predict the peak memory of each process of a fit, part by part, and what would lower it. No weight is read.

  --tokens N      tokens of the longest row, prompt and completion together; default: model.max_length
  --memory GIB    what a process may take; more ends with code 1
  --format        text or json

  lit-narrative plan --config storyworld/sft --tokens 256
  lit-narrative plan --config storyworld/cycle --config trainer/fsdp --trainer.devices=8 --tokens 400 --memory 24
"""
