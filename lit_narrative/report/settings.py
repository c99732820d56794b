"""With what the run was made, and how to make it again."""

import platform
import shlex
from importlib.metadata import PackageNotFoundError, version

from lit_narrative.report.run import Run
from lit_narrative.report.section import Section, render
from lit_narrative.report.wording import clip

PACKAGES = ("lit-narrative", "torch", "lightning", "transformers", "peft", "sae-lens", "numpy")
"""Packages whose release can change the figures."""

CONFIG = 30_000
"""Characters of a configuration that a page shows."""
COMMAND = 2_000
"""Characters of the command that made a run."""


def settings(run: Run) -> Section:
    """Print each job's configuration and the versions in use."""
    configs = [(job.name, clip(job.config, CONFIG)) for job in run.jobs.values() if job.config is not None]
    without = [job.name for job in run.jobs.values() if job.config is None]
    body = render("settings.html", configs=configs, without=without, versions=versions(), jobs=list(run.jobs))
    return Section("settings", "Settings and versions", body)


def reproduce(run: Run) -> Section:
    """Give the commands that make the run and this page again."""
    seeds = {test.outcome.seed for test in (run.before, run.after)} - {None}
    body = render(
        "reproduce.html",
        out=clip(shlex.quote(str(run.out)), 200),
        command=clip(run.command, COMMAND),
        jobs=list(run.jobs),
        seeds=sorted(map(str, seeds)),
        seconds=run.seconds,
        total=sum(run.seconds.values()),
    )
    return Section("reproduce", "How to repeat this", body)


def versions() -> list[tuple[str, str]]:
    """Return name and installed version of Python and of the packages that matter."""
    return [("python", platform.python_version()), *((name, _installed(name)) for name in PACKAGES)]


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
