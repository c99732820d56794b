"""The sweep at the end of a recipe, as a file of its own."""

from pathlib import Path

import yaml

from lit_narrative.files import write_text
from lit_narrative.tools.grid import read_sweep
from lit_narrative.tools.process import sweep_path
from lit_narrative.tools.recipe import Job, Recipe
from lit_narrative.tools.schema import read_checked


def write_sweep(plan: Recipe, job: Job) -> Path:
    """Write the sweep of a recipe with the recipe's seeds, its folder and the job's overrides, and check it whole.

    Args:
        plan: the recipe.
        job: a ``sweep`` of it.

    Raises:
        UserError: something is wrong with the sweep; it names the file and the place in it.
    """
    content = read_checked(job.configs[0], "sweep")
    content["out"] = str(plan.out)
    content["overrides"] = content.get("overrides", {}) | plan.resolve(job.overrides)
    if plan.seeds:
        content["seeds"] = list(plan.seeds)
    path = write_text(sweep_path(plan, job), yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    read_sweep(str(path))
    return path
