"""Curves of the training jobs: reward and components by step, and the signs of health."""

from collections.abc import Mapping, Sequence
from itertools import groupby, pairwise

from lit_narrative.report.charts import Frame, Level, Line, line_chart
from lit_narrative.report.page import Figure, Key, Section, render
from lit_narrative.report.run_folder import Curve
from lit_narrative.tasks.storyworld.report.run import Job, Run

HEALTH = {
    "kl": ("KL to the reference", "How far the policy has moved from the SFT model, in nats a token."),
    "entropy": ("Entropy", "How undecided the policy is, in nats a token. A fall to 0 means it repeats itself."),
    "completions/mean_length": ("Completion length", "Tokens in a text, on average."),
    "completions/clipped_ratio": ("Cut off", "Share of texts that ran into the length limit."),
    "frac_reward_zero_std": ("Groups without signal", "Share of groups whose texts all scored the same: no gradient."),
    "clip_ratio/region_mean": ("Clipped updates", "Share of tokens whose update was clipped."),
    "grad_norm": ("Gradient norm", "Before clipping."),
    "loss": ("Loss", "Of the RL objective; it has no level to aim at."),
}
"""Curves worth a look, with heading and explanation; the first three are always in sight."""
_IN_SIGHT = 3
_MOST_MARKS = 24

_WARM_START = {
    "loss": ("Loss", "Mean negative log-likelihood of the corpus, in nats a token."),
    "train/loss": ("Loss", "Mean negative log-likelihood of the corpus, in nats a token."),
    "val/loss": ("Loss on held-out worlds", "Nats a token."),
    "val/perplexity": ("Perplexity on held-out worlds", "Of how many tokens the model is in doubt; 1 is none."),
}


def training(run: Run) -> Section:
    """Draw reward and components of every job that logs a reward, with the SFT level to compare with."""
    jobs = [
        {
            "name": job.name,
            "reward": _reward(job, run),
            "components": _components(job, run),
            "cycles": _cycle_rows(job.curves),
            "health": figures(job.curves, HEALTH, _cycle_marks(job)),
            # The completions of a prompt stand together in the table.
            "rollouts": [(prompt, list(group)) for prompt, group in groupby(job.rollouts, lambda one: one.prompt)],
            "reward_names": list(dict.fromkeys(name for sample in job.rollouts for name in sample.rewards)),
        }
        for job in run.jobs.values()
        if "reward" in job.curves
    ]
    body = render(__name__, "training.html", jobs=jobs, in_sight=_IN_SIGHT)
    return Section("training", "How RL went", body)


def warm_start(run: Run) -> Section:
    """Draw loss and perplexity of the jobs without a reward."""
    jobs = [(job.name, figures(job.curves, _WARM_START, ())) for job in run.jobs.values() if "reward" not in job.curves]
    return Section(
        "warm-start", "The warm start", render(__name__, "warm_start.html", jobs=[job for job in jobs if job[1]])
    )


def figures(curves: Mapping[str, Curve], wanted: Mapping[str, tuple[str, str]], marks: Sequence[float]) -> list[Figure]:
    """Draw a small chart of each wanted curve that there is."""
    drawn = [(name, *words) for name, words in wanted.items() if name in curves]
    frame = Frame(300, 140, marks=marks, x_label="step")
    return [
        Figure(title, line_chart(title, [_line(curves, name, title)], (), frame), note) for name, title, note in drawn
    ]


def _reward(job: Job, run: Run) -> Figure:
    curves, marks = job.curves, _cycle_marks(job)
    band = _band(curves)
    lines = [Line("rollouts", curves["reward"], "final", band)]
    keys = [Key("rollouts while training", "final")]
    if band:
        keys.append(Key("± one standard deviation", "final", "band"))
    if measured := curves.get("val/verifiers") or curves.get("val/reward"):  # the name in earlier run folders
        lines.append(Line("validation", measured, "validation", marked=True))
        keys.append(Key("validation prompts", "validation", "dot"))
    levels = _levels(run.before.outcome.level.reward, run.corpus.reward if run.corpus else None)
    keys += [Key(level.name, level.tone, "level") for level in levels]
    note = "Rollouts are measured by all that training rewards, the SAE included; the rest by the strict score."
    note += " Thin uprights: a new cycle begins." if marks else ""
    chart = line_chart("Reward", lines, levels, Frame(width=540, height=230, marks=marks, x_label="step"))
    return Figure("Reward", chart, note, keys)


def _components(job: Job, run: Run) -> list[Figure]:
    before = run.before.outcome.level.components
    corpus = run.corpus.components if run.corpus else {}
    logged = [name.removeprefix("rewards/").removesuffix("/mean") for name in job.curves if name.startswith("rewards/")]
    drawn = []
    # The test's components first, in their order; then rewards that only training has, such as the SAE's.
    for name in dict.fromkeys([*before, *logged]):
        lines = _component_lines(job.curves, name)
        if lines:
            levels = _levels(before.get(name), corpus.get(name))
            chart = line_chart(name, lines, levels, Frame(300, 140, low=0, high=1.04, marks=_cycle_marks(job)))
            drawn.append(Figure(name, chart))
    return drawn


def _component_lines(curves: Mapping[str, Curve], name: str) -> list[Line]:
    rollouts, validation = f"rewards/{name}/mean", f"val/components/{name}"
    lines = [Line("rollouts", curves[rollouts], "final")] if rollouts in curves else []
    if validation in curves:
        lines.append(Line("validation", curves[validation], "validation", marked=True))
    return lines


def _levels(before: float | None, corpus: float | None) -> list[Level]:
    levels = [Level("SFT, held-out test", before, "sft")] if before is not None else []
    return levels + ([Level("corpus", corpus, "corpus")] if corpus is not None else [])


def _band(curves: Mapping[str, Curve]) -> list[float]:
    """Return the standard deviation at each point of the reward, or nothing if some point has none."""
    # By step and not by position: a step whose spread is NaN has no point on its curve.
    spread = dict(curves.get("reward_std", ()))
    steps = [step for step, _ in curves["reward"]]
    return [spread[step] for step in steps] if all(step in spread for step in steps) else []


def _line(curves: Mapping[str, Curve], name: str, title: str) -> Line:
    return Line(title, curves[name], "final", marked=len(curves[name]) <= 12)


def _cycle_marks(job: Job) -> tuple[float, ...]:
    """Return the steps at which a new cycle (an epoch of rollouts) begins; none where there are too many to see."""
    epochs = job.curves.get("epoch", ())
    # `epoch` is logged with every row, so that where it grows a cycle begins.
    marks = tuple(step for (_, before), (step, now) in pairwise(epochs) if now != before)
    return marks if len(marks) <= _MOST_MARKS else ()


def _cycle_rows(curves: Mapping[str, Curve]) -> list[dict[str, float]]:
    """Return what was logged of each cycle under ``cycle/``, in order."""
    rows: dict[float, dict[str, float]] = {}
    for name, curve in curves.items():
        if name.startswith("cycle/"):
            for step, value in curve:
                rows.setdefault(step, {})[name.removeprefix("cycle/")] = value
    # What a cycle logs comes at one step; without the number it cannot be told which cycle it was.
    return [rows[step] for step in sorted(rows) if "number" in rows[step]]
