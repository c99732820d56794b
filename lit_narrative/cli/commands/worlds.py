"""Commands on files of worlds: ``generate``, ``score``, ``play``, ``simulate``, ``check``, ``convert`` and ``enrich``.

No other file of ``cli/`` knows a task; what these show is made in ``tasks/storyworld/``.
"""

import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from hashlib import blake2b
from pathlib import Path
from typing import Literal

import numpy as np
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress

from lit_narrative.cli.arguments import check_places, plain_console
from lit_narrative.errors import UserError, check_finite, check_least, check_most
from lit_narrative.files import atomic_folder, refuse_pipe, write_text
from lit_narrative.report.format import one_line
from lit_narrative.tasks.storyworld.enrichment import enrich_world
from lit_narrative.tasks.storyworld.formats.files import FILE_LIMITS, Format, Reading, read_any, write_world
from lit_narrative.tasks.storyworld.formats.simple import read_world
from lit_narrative.tasks.storyworld.generator import titled_world
from lit_narrative.tasks.storyworld.issues import Issue
from lit_narrative.tasks.storyworld.report.simulation import (
    Simulated,
    exact_and_effects,
    simulation_json,
    simulation_page,
)
from lit_narrative.tasks.storyworld.scripts import Nudge
from lit_narrative.tasks.storyworld.simulator.engine import Engine, ReactionTie
from lit_narrative.tasks.storyworld.simulator.engine_plays import Policy
from lit_narrative.tasks.storyworld.simulator.policies import by_likelihood, greedy, scripted, uniform
from lit_narrative.tasks.storyworld.simulator.records import Play, write_traces
from lit_narrative.tasks.storyworld.simulator.statistics import MOST_PARTS, summarise, tally
from lit_narrative.tasks.storyworld.simulator.statistics import simulate as simulated
from lit_narrative.tasks.storyworld.terminal.plays import print_simulation, read_play, tell_play
from lit_narrative.tasks.storyworld.terminal.verdicts import (
    check_file,
    count_issues,
    print_checked,
    print_scores,
    score_file,
    verdict,
)
from lit_narrative.tasks.storyworld.verifiers.base import VerifierConfig
from lit_narrative.tasks.storyworld.verifiers.score import FormerMode, Mode
from lit_narrative.tasks.storyworld.verifiers.score import score as judge
from lit_narrative.tasks.storyworld.world_files import read_playable, read_world_file, read_world_text

PolicyName = Literal["uniform", "greedy", "scripted", "model"]
MOST_GENERATED = 1_000
MOST_PLAYS, MOST_STEPS = 1_000_000, 100_000
"""Plays of a world, and steps of one of them, that a person may ask for."""
_OFTEN = 50
"""Plays between two changes of the bar: a change costs as much as a play."""
_GENERATED = re.compile(r"world_\d{4}\.(?:json|ink|twee)")


def generate(n: int = 5, to: str = "worlds", seed: int = 0, format: Format = "simple", force: bool = False) -> None:
    """Write worlds of the built-in generator as files: to begin from, to try a command on, to train on.

    Args:
        n: number of worlds, 1 to 1,000; the first ones are the same whatever it is.
        to: folder for them, a new or an empty one, which is there whole or not at all.
        seed: of the worlds, 0 or more; the same seed makes the same worlds.
        format: simple; sweepweave, as the editor of version 0.1.9 loads it; ink; or twee, for SugarCube.
        force: replace the worlds that this command wrote to the folder before.

    Raises:
        UserError: A number is out of range, or the folder holds files.
    """
    check_least("-n", n, 1)
    check_least("--seed", seed, 0)
    check_most("-n", n, MOST_GENERATED)
    folder = _folder_for_worlds(to, force)
    suffix = {"ink": "ink", "twee": "twee"}.get(format, "json")
    with atomic_folder(folder) as fresh:
        for number in range(1, n + 1):
            world, _ = read_world(titled_world(number - 1, seed))
            assert world is not None
            (fresh / f"world_{number:04}.{suffix}").write_text(write_world(world, format), encoding="utf-8")
    names = f"world_0001.{suffix}" + (f" to world_{n:04}.{suffix}" if n > 1 else "")
    print(f"wrote {names} to {one_line(to)}")


def _folder_for_worlds(to: str, force: bool) -> Path:
    """The folder itself, where ``to`` is a link to it, checked to hold nothing but worlds that may be replaced."""
    refuse_pipe(to, "write")
    folder = Path(to).resolve()
    if folder == Path.cwd():
        raise UserError(f"--to is '{to}', the working directory; name a folder in it")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--to is '{to}', a file; name a folder")
    there = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    for name in there:
        if not _GENERATED.fullmatch(name):
            raise UserError(f"'{to}' holds another file, '{one_line(name)}'; name a new folder")
    if there and not force:
        raise UserError(f"'{to}' holds {len(there):,} generated worlds; name a new folder, or replace them by --force")
    return folder


def score(
    files: list[str],
    mode: Mode | FormerMode = "strict",
    format: Literal["table", "json"] = "table",
    max_steps: int = VerifierConfig.max_steps,
    sample: int | None = None,
) -> None:
    """Score files as storyworlds: six components, their weighted total, and what is wrong.

    Args:
        files: files that each hold one text, or .jsonl files with a world or a sample a line, such as a run's
            samples/val.jsonl.
        mode: strict is what policies are trained on; original repeats the formulas of the system that this project
            began from (seed is its former name).
        format: a table to read, or one JSON list with an object a file: file, components, total, issues, and
            parts: what makes a world sound, answered by seeded plays.
        max_steps: bound on the steps of those plays; worlds with long stories need more.
        sample: number of the one of a .jsonl file, from 1; default: all of them.

    Raises:
        SystemExit: with code 1, behind the scores of all files, where one of them could not be read.
    """
    _check_plays(max_steps=max_steps)
    config = VerifierConfig(limits=FILE_LIMITS, max_steps=max_steps)
    rows = [row for file in files for row in score_file(file, sample, mode, config)]
    if format == "json":
        print(json.dumps([row.to_json() for row in rows], indent=2))
    else:
        print_scores(plain_console(), rows)
    if not all(row.readable for row in rows):
        raise SystemExit(1)


def play(
    file: str,
    seed: int = 0,
    policy: Literal["interactive", "random", "scripted"] = "interactive",
    runs: int = 200,
    max_steps: int = 200,
    choices: Sequence[str] = (),
    nudge: Nudge = "asymptotic",
    reaction_tie: ReactionTie = "first",
    trace: str | None = None,
    sample: int | None = None,
) -> None:
    """Play a storyworld.

    Args:
        file: a world in the simple format or of SweepWeave, or a .jsonl file of worlds or samples.
        seed: source of every random choice, 0 or more.
        policy: interactive asks for each choice (an empty answer takes a random open option); random plays many
            times and prints endings, dead ends and coverage; scripted takes the --choices, and then at random.
        runs: number of random plays, 1 to 1,000,000.
        max_steps: bound on the steps of a play, 1 to 100,000.
        choices: of a scripted play: ids of options, or their positions from 1.
        nudge: what the operator of that name means: asymptotic, x(1 - |w|) + w, or additive, x + w cut to -1 to 1.
        reaction_tie: which of equally desirable reactions follows.
        trace: file for the steps of the plays, one JSON object a line.
        sample: number of the one of a .jsonl file, from 1.

    Raises:
        UserError: A number is out of range, the file cannot be read or played, there is no terminal to ask in, or
            --choices names an option that is not open.
    """
    _check_plays(runs, seed, max_steps)
    if choices and policy != "scripted":
        raise UserError(f"--choices are for --policy scripted, not {policy}")
    check_places(file, trace=trace)
    text = read_world_text(file, sample)
    world, reading = read_playable(file, text)
    engine, console = Engine(world, nudge, reaction_tie), plain_console()
    # Without a terminal input() would read a pipe, and end at once with EOFError.
    if policy == "interactive" and not sys.stdin.isatty():
        raise UserError("there is no terminal to ask in; play at random with `--policy random`")
    rng = np.random.default_rng(seed)
    with write_traces(trace, Path(file).stem) as keep:
        if policy == "random":
            with _counted(keep, engine.affordable(runs, max_steps, MOST_PARTS)) as seen:
                found = simulated(engine, runs, seed, max_steps=max_steps, keep=seen)
            print_simulation(console, found)
            judged = judge(text, config=VerifierConfig(limits=FILE_LIMITS))
            console.print(f"as scored   {verdict(judged.parts)}")
            _print_issues(console, reading.issues)
        elif policy == "scripted":
            keep(tell_play(console, engine, rng, choices, max_steps))
        elif told := read_play(console, engine, rng, max_steps):
            keep(told)
    if trace:
        console.print(f"trace       {keep.count} plays in {one_line(trace)}")


def simulate(
    file: str,
    runs: int = 1000,
    seed: int = 0,
    policy: PolicyName = "uniform",
    choices: Sequence[str] = (),
    model: str | None = None,
    temperature: float = 1.0,
    max_steps: int = 200,
    nudge: Nudge = "asymptotic",
    reaction_tie: ReactionTie = "first",
    gate_plays: int = 200,
    out: str | None = None,
    traces: str | None = None,
    format: Literal["table", "json"] = "table",
    sample: int | None = None,
) -> None:
    """Play a world many times and say what the plays show: endings, dead ends, gates, variables.

    Args:
        file: a world in the simple format or of SweepWeave, or a .jsonl file of worlds or samples.
        runs: number of plays, 1 to 1,000,000; of a world of many parts fewer are made, what takes some minutes.
        seed: of the plays, 0 or more; the same seed makes the same plays.
        policy: uniform, each open option is equally likely; greedy, the option whose reaction is most desirable;
            scripted, the --choices and then uniform; model, as a language model would go on.
        choices: of scripted plays: ids of options, or their positions from 1.
        model: of the policy of that name: a checkpoint of this package, a folder, or a hub name.
        temperature: of the model's choices; 0 takes the likeliest.
        max_steps: bound on the steps of a play, 1 to 100,000.
        nudge: what the operator of that name means: asymptotic, x(1 - |w|) + w, or additive, x + w cut to -1 to 1.
        reaction_tie: which of equally desirable reactions follows.
        gate_plays: for the page, plays with each gate flipped, to see what it is worth; 0 leaves that out.
        out: the page to write.
        traces: file for the steps of all plays, one JSON object a line.
        format: on standard output, a table to read, or one JSON object with the measures and the profile.
        sample: number of the one of a .jsonl file, from 1.

    Raises:
        UserError: A number is out of range, the file cannot be read or played, options do not fit together, or
            --choices names an option that is not open.
    """
    _check_plays(runs, seed, max_steps, gate_plays)
    check_finite("--", temperature=temperature)
    _check_policy(policy, choices, model)
    check_places(file, out=out, traces=traces)
    text = read_world_text(file, sample)
    world, reading = read_playable(file, text)
    engine = Engine(world, nudge, reaction_tie)
    choose = _make_policy(policy, choices, model, temperature)
    with (
        write_traces(traces, Path(file).stem) as keep,
        _counted(keep, engine.affordable(runs, max_steps, MOST_PARTS)) as seen,
    ):
        found = tally(engine, runs, seed, choose, max_steps, keep=seen)
    result = summarise(found)
    settings = {
        "file": Path(file).name if sample is None else f"{Path(file).name}:{sample}",
        "digest": blake2b(text.encode("utf-8", "backslashreplace"), digest_size=8).hexdigest(),
        "plays": found.runs, "seed": seed, "policy": policy, "choices": " ".join(choices) or "none",
        "model": model or "none", "max_steps": max_steps, "nudge": nudge, "reaction_tie": reaction_tie,
    }  # fmt: skip
    if format == "json":
        print(json.dumps({"settings": settings, **simulation_json(world, result)}, indent=2))
    else:
        console = plain_console()
        print_simulation(console, result, f"{policy} plays")
        if found.runs < runs:
            console.print(f"plays       {found.runs:,} of {runs:,}: no more are made of a world of this size")
        _print_issues(console, reading.issues)
    if out is not None:
        truth, effects = exact_and_effects(engine, policy, gate_plays, seed, choose, max_steps)
        name = world.title or Path(file).stem
        write_text(out, simulation_page(Simulated(name, found, result, settings, effects, truth, reading.issues)))
        if format == "table":
            print(f"page        {one_line(out)}")


@contextmanager
def _counted(keep: Callable[[Play], None], plays: int) -> Iterator[Callable[[Play], None]]:
    """Take plays as ``keep`` does, with a bar in a terminal of how many are made."""
    shown = sys.stderr.isatty() and plays > _OFTEN
    bars = Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=Console(stderr=True), transient=True)
    made = 0

    def seen(play: Play) -> None:
        nonlocal made
        keep(play)
        made += 1
        if shown and made % _OFTEN == 0:
            bars.update(bar, completed=made)

    bar = bars.add_task("plays", total=plays)
    with bars if shown else nullcontext():
        yield seen


def _make_policy(
    name: PolicyName, choices: Sequence[str], model: str | None, temperature: float
) -> Callable[[np.random.Generator], Policy]:
    """From the source of chance to the policy of that name."""
    if name == "greedy":
        return lambda rng: greedy
    if name == "scripted":
        return lambda rng: scripted(choices, uniform(rng))
    if name == "model":
        # Here, since torch takes seconds to import and the other policies do without.
        from lit_narrative.rl.rewards.likelihood import LikelihoodGain

        assert model is not None
        scorer = LikelihoodGain(model, before=None)
        return lambda rng: by_likelihood(scorer.log_likelihoods, rng, temperature)
    return uniform


def _check_plays(runs: int = 1, seed: int = 0, max_steps: int = 1, gate_plays: int = 0) -> None:
    check_least("--seed", seed, 0)
    for flag, value, least, most in (
        ("--runs", runs, 1, MOST_PLAYS),
        ("--max_steps", max_steps, 1, MOST_STEPS),
        ("--gate_plays", gate_plays, 0, MOST_PLAYS),
    ):
        check_least(flag, value, least)
        check_most(flag, value, most)


def _check_policy(policy: PolicyName, choices: Sequence[str], model: str | None) -> None:
    if bool(choices) != (policy == "scripted"):
        raise UserError("--choices and --policy scripted belong together; give both, or neither")
    if (model is None) == (policy == "model"):
        raise UserError("--model and --policy model belong together; give both, or neither")


def _print_issues(console: Console, issues: tuple[Issue, ...]) -> None:
    if issues:
        console.print(f"file        {count_issues(issues)}; `lit-narrative check` lists them")


def check(files: list[str], editor: bool = False, format: Literal["text", "json"] = "text") -> None:
    """Say what is wrong with files of worlds, where, and the smallest change that mends it.

    Args:
        files: files in the simple format or of SweepWeave, or folders of them (their *.json); .jsonl files with a world
            or a sample a line, too.
        editor: whether to say as well what the SweepWeave editor would not load of a SweepWeave file.
        format: text to read, or one JSON list with an object a file: file, dialect, counts, issues.

    Raises:
        SystemExit: with code 1, behind the findings of all files, where one of them cannot be read or has an error.
    """
    rows = [row for named in files for file in _within(named) for row in check_file(file, editor)]
    if format == "json":
        print(json.dumps([row.to_json() for row in rows], indent=2))
    else:
        console = plain_console()
        for row in rows:
            print_checked(console, row)
    if not all(row.sound for row in rows):
        raise SystemExit(1)


def _within(named: str) -> Iterator[str]:
    """The files of a folder in the order of their names; anything else itself, a folder without files too."""
    # An empty name would be the folder that one is in.
    found = sorted(Path(named).glob("*.json")) if named and os.path.isdir(named) else []
    yield from map(str, found) if found else [named]


def convert(file: str, to: Format = "simple", out: str | None = None, sample: int | None = None) -> None:
    """Write a world in another format.

    Args:
        file: a world in the simple format or of SweepWeave, or a .jsonl file of worlds or samples.
        to: simple; sweepweave, as the editor of version 0.1.9 loads it; ink; or twee, for SugarCube.
        out: the file to write, one that exists is replaced; by default the world goes to standard output.
        sample: number of the one of a .jsonl file, from 1.

    Raises:
        UserError: The file cannot be read, holds no world, or has what the other format cannot say.
    """
    check_places(file, out=out)
    world, reading = read_playable(file, read_world_text(file, sample))
    text = write_world(world, to)
    _check_nothing_is_lost(file, text, reading, to)
    _put(text, out)
    if reading.issues:  # beside the text, which may go to another program
        print(
            f"{count_issues(reading.issues)} in '{one_line(file)}'; `lit-narrative check` lists them", file=sys.stderr
        )


def _check_nothing_is_lost(file: str, text: str, reading: Reading, to: Format) -> None:
    """Read what was written: a script grows where the other format needs more for the same, and may get too deep."""
    known = {issue.message for issue in reading.issues}
    lost = [] if to in ("ink", "twee") else [one for one in read_any(text).issues if one.message not in known]
    if errors := [one for one in lost if one.severity == "error"]:
        raise UserError(
            f"'{one_line(file)}' loses a part as {to}: {errors[0].path}: {errors[0].message}; give the world simpler "
            "scripts, or choose another format"
        )


def enrich(
    file: str,
    corpus: str,
    out: str | None = None,
    encoder: str | None = None,
    words: int = 60,
    least: float = 0.2,
    cache: str | None = None,
) -> None:
    """Add to each encounter of a world the passage of a corpus that is nearest to its text; the world plays as before.

    Args:
        file: a world in the simple format or of SweepWeave; it is written in the one that it has.
        corpus: a folder of *.txt, or one such file.
        out: the file to write, one that exists is replaced; by default the world goes to standard output.
        encoder: a sentence-transformers folder or hub name; by default one is built from the corpus.
        words: of a passage at most.
        least: lowest cosine of a passage that is used, -1 to 1.
        cache: folder of the indexes; by default ~/.cache/lit-narrative/passages.

    Raises:
        UserError: A file cannot be read, it holds no world, or there is no passage.
    """
    from lit_narrative.lm.passages import CACHE, Passages, PassageSettings  # torch takes seconds: `--help` does without

    check_places(file, out=out)
    world, reading = read_playable(file, read_world_file(file, FILE_LIMITS.max_chars))
    passages = Passages.open(PassageSettings(corpus, encoder, words, least, cache or CACHE))
    richer, count = enrich_world(
        world, lambda texts, most: [[one.text for one in row] for row in passages.nearest(texts, most)]
    )
    _put(write_world(richer, "simple" if reading.dialect == "simple" else "sweepweave"), out)
    # Beside the text, which may go to another program.
    print(f"{count} of {len(world.encounters)} encounters have a passage", file=sys.stderr)


def _put(text: str, out: str | None) -> None:
    """Write a world to a file, or to standard output."""
    if out is None:
        print(text, end="")
    else:
        print(f"wrote {one_line(str(write_text(out, text)))}")
