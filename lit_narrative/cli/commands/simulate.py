"""The command ``lit-narrative simulate``: many plays of a world, a table of what they show, and a page."""

import json
from collections.abc import Callable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lit_narrative.cli.arguments import check_places, plain_console, printable
from lit_narrative.cli.commands.play import open_world, print_simulation, world_text
from lit_narrative.cli.commands.worlds import count_issues
from lit_narrative.errors import UserError, check_least
from lit_narrative.files import whole_file, write_text
from lit_narrative.tasks.storyworld.report.simulation import Simulated, simulation_page
from lit_narrative.tasks.storyworld.scripts import Nudge
from lit_narrative.tasks.storyworld.simulator.counterfactuals import GateEffect, gate_effects
from lit_narrative.tasks.storyworld.simulator.engine import Engine, ReactionTie
from lit_narrative.tasks.storyworld.simulator.engine_plays import Policy
from lit_narrative.tasks.storyworld.simulator.exact import Exact, exact
from lit_narrative.tasks.storyworld.simulator.measures import measures
from lit_narrative.tasks.storyworld.simulator.policies import by_likelihood, greedy, scripted, uniform
from lit_narrative.tasks.storyworld.simulator.profile import profile
from lit_narrative.tasks.storyworld.simulator.records import Play, trace
from lit_narrative.tasks.storyworld.simulator.statistics import summarise, tally
from lit_narrative.tasks.storyworld.simulator.tally import Tally

PolicyName = Literal["uniform", "greedy", "scripted", "model"]
MOST_MOMENTS = 20_000
"""Moments that the search for exact chances looks at: a second or two."""


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
        runs: number of plays; fewer of a world with very many parts.
        seed: of the plays, 0 or more; the same seed makes the same plays.
        policy: uniform, each open option is equally likely; greedy, the option whose reaction is most desirable;
            scripted, the --choices and then uniform; model, as a language model would go on.
        choices: of scripted plays: ids of options, or their positions from 1.
        model: of the policy of that name: a checkpoint of this package, a folder, or a hub name.
        temperature: of the model's choices; 0 takes the likeliest.
        max_steps: bound on the steps of a play.
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
    _check(runs, seed, max_steps, gate_plays, policy, choices, model)
    check_places(file, out=out, traces=traces)
    text = world_text(file, sample)
    world, issues = open_world(file, text)
    engine = Engine(world, nudge, reaction_tie)
    choose = make_policy(policy, choices, model, temperature)
    found = _played(engine, runs, seed, choose, max_steps, Path(file).stem, traces)
    result = summarise(found)
    told = {
        "file": Path(file).name if sample is None else f"{Path(file).name}:{sample}",
        "digest": blake2b(text.encode("utf-8", "backslashreplace"), digest_size=8).hexdigest(),
        "plays": found.runs, "seed": seed, "policy": policy, "choices": " ".join(choices) or "none",
        "model": model or "none", "max_steps": max_steps, "nudge": nudge, "reaction_tie": reaction_tie,
    }  # fmt: skip
    if format == "json":
        tables = {"measures": measures(result), "profile": profile(world)}
        plain: dict[str, Any] = {name: [one.to_json() for one in rows] for name, rows in tables.items()}
        endings = {rate.encounter: [rate.share, rate.low, rate.high] for rate in result.endings}
        print(json.dumps({"settings": told, "endings": endings, **plain}, indent=2))
    else:
        console = plain_console()
        print_simulation(console, result, f"{policy} plays")
        if found.runs < runs:
            console.print(f"plays       {found.runs:,} of {runs:,}: the world has very many parts")
        if issues:
            console.print(f"file        {count_issues(issues)}; `lit-narrative check` lists them")
    if out is not None:
        truth, effects = _for_the_page(engine, policy, gate_plays, seed, choose, max_steps)
        page = simulation_page(Simulated(world.title or Path(file).stem, found, result, told, effects, truth, issues))
        write_text(out, page)
        if format == "table":
            print(f"page        {printable(out)}")


def make_policy(
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


def _check(
    runs: int, seed: int, max_steps: int, gate_plays: int, policy: PolicyName, choices: Sequence[str], model: str | None
) -> None:
    for flag, value, least in (("runs", runs, 1), ("seed", seed, 0), ("max_steps", max_steps, 1)):
        check_least(f"--{flag}", value, least)
    check_least("--gate_plays", gate_plays, 0)
    if bool(choices) != (policy == "scripted"):
        raise UserError("--choices and --policy scripted belong together; give both, or neither")
    if (model is None) == (policy == "model"):
        raise UserError("--model and --policy model belong together; give both, or neither")


def _played(
    engine: Engine,
    runs: int,
    seed: int,
    choose: Callable[[np.random.Generator], Policy],
    max_steps: int,
    name: str,
    traces: str | None,
) -> Tally:
    if traces is None:
        return tally(engine, runs, seed, choose, max_steps)
    # Written as they are made: a million steps need not be in memory.
    with whole_file(traces) as temporary, open(temporary, "w", encoding="utf-8", errors="backslashreplace") as lines:
        number = 0

        def keep(play: Play) -> None:
            nonlocal number
            lines.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in trace(name, number, play))
            number += 1

        return tally(engine, runs, seed, choose, max_steps, keep=keep)


def _for_the_page(
    engine: Engine,
    policy: PolicyName,
    gate_plays: int,
    seed: int,
    choose: Callable[[np.random.Generator], Policy],
    max_steps: int,
) -> tuple[Exact | None, Sequence[GateEffect]]:
    """The exact chances, which are of uniform choices; and what gates are worth, which a model is too slow for."""
    truth = exact(engine, max_steps, MOST_MOMENTS) if policy == "uniform" else None
    if not gate_plays or policy in ("model", "scripted"):
        return truth, ()
    return truth, gate_effects(engine, gate_plays, seed, choose, max_steps)
