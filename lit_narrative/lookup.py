"""Things found by name: shipped configurations, modules that a person named, and class paths of earlier releases."""

import importlib
import logging
import sys
from functools import cache
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from lit_narrative.errors import UserError, did_you_mean

RENAMED: dict[str, str] = {
    "lit_narrative.callbacks.card_eval.CardEval": "lit_narrative.callbacks.set_evaluation.SetEvaluation",
    "lit_narrative.callbacks.kl_ceiling.KLCeiling": "lit_narrative.callbacks.monitors.KLCeiling",
    "lit_narrative.callbacks.prediction_writer.PredictionWriter": "lit_narrative.callbacks.writers.PredictionWriter",
    "lit_narrative.callbacks.reward_monitor.RewardMonitor": "lit_narrative.callbacks.monitors.RewardMonitor",
    "lit_narrative.callbacks.rollouts.CollapseMonitor": "lit_narrative.callbacks.monitors.CollapseMonitor",
    "lit_narrative.callbacks.rollouts.RolloutCallback": "lit_narrative.callbacks.base.RolloutCallback",
    "lit_narrative.callbacks.rollouts.RolloutWriter": "lit_narrative.callbacks.writers.RolloutWriter",
    "lit_narrative.callbacks.rollouts.SampleTable": "lit_narrative.callbacks.writers.SampleTable",
    "lit_narrative.callbacks.verifiers.Verifiers": "lit_narrative.callbacks.evaluation.Verifiers",
    "lit_narrative.datamodules.preferred.Preferred": "lit_narrative.datamodules.rejection_sampling.RejectionSampling",
    "lit_narrative.modules.attribute.AttributeModule": "lit_narrative.modules.classifier.ClassifierModule",
    "lit_narrative.modules.fsdp.FSDP2Strategy": "lit_narrative.strategies.FSDP2Strategy",
    "lit_narrative.modules.learned_reward.LearnedReward": "lit_narrative.rl.rewards.learned.LearnedReward",
    "lit_narrative.rl.penalties.Repetition": "lit_narrative.rl.rewards.penalties.Repetition",
    "lit_narrative.rl.penalties.SoftOverlong": "lit_narrative.rl.rewards.penalties.SoftOverlong",
    "lit_narrative.rl.rollout.Rollout": "lit_narrative.views.Rollout",
    "lit_narrative.rl.scoring.RewardRunner": "lit_narrative.rl.rewards.runner.RewardRunner",
    "lit_narrative.rl.scoring.ScoringSettings": "lit_narrative.rl.rewards.runner.ScoringSettings",
    "lit_narrative.tasks.cards.rewards.CardReward": "lit_narrative.tasks.cards.answers.CardReward",
}
"""Paths of the release before -> today's, of what a configuration, a reward's path or a checkpoint can name."""


@cache
def current_path(path: str) -> str:
    """Today's path of a class that moved or was renamed, with a notice the first time; any other path as it is.

    Args:
        path: ``package.module.Name``, or the name alone.
    """
    renamed = {_name(old): new for old, new in RENAMED.items() if _name(old) != _name(new)}
    new = RENAMED.get(path) or renamed.get(path)
    if new is None:
        return path
    logging.getLogger("lit_narrative").warning("'%s' is now '%s'; the old name works for one more release", path, new)
    return new


def _name(path: str) -> str:
    return path.rpartition(".")[2]


def build_stored(kind: type[Any], arguments: dict[str, Any]) -> Any:
    """Build the module or the data of a checkpoint by its arguments, of the class that it names: one imported already.

    Lightning's own function reads the arguments as a configuration, and imports every class path in them.
    """
    if not arguments.get("trust_remote_code"):  # what a file says of it was overruled, and not all modules take it
        arguments.pop("trust_remote_code", None)
    # That it is imported, and a subclass, Lightning has checked.
    module, _, name = arguments.pop("_class_path", f"{kind.__module__}.{kind.__name__}").rpartition(".")
    return getattr(sys.modules[module], name)(**arguments)


BUILDER = f"{__name__}.{build_stored.__name__}"
"""By which every checkpoint is built, whatever it asks for itself."""


class _FormerModule(ModuleType):
    """A module that was dissolved: each name of `RENAMED` in it gives what it names today."""

    def __getattr__(self, name: str) -> Any:
        path = f"{self.__name__}.{name}"
        if path not in RENAMED:
            raise AttributeError(f"module '{self.__name__}' has no attribute '{name}'")
        module, _, today = current_path(path).rpartition(".")
        return getattr(importlib.import_module(module), today)


def _stand_in_for_former_modules() -> None:
    """Make the dissolved modules of `RENAMED` importable."""
    package = Path(__file__).parent
    for module in {path.rpartition(".")[0] for path in RENAMED}:
        relative = Path(*module.split(".")[1:])
        if not (package / relative).is_dir() and not (package / relative).with_suffix(".py").is_file():
            # Among the imported modules rather than behind a finder: Lightning takes a checkpoint's class path only
            # where its module is imported already.
            sys.modules[module] = _FormerModule(module)


_stand_in_for_former_modules()


def shipped_folder() -> Path:
    """Return the folder of the shipped configurations: ``configs/`` of a checkout, or its copy in the wheel."""
    return Path(str(files("lit_narrative.configs")))


def shipped_configs() -> dict[str, Path]:
    """Return name (``storyworld/cycle``) -> file of every shipped configuration, in order of name."""
    folder = shipped_folder()
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in sorted(folder.rglob("*.yaml"))}


def shipped_grammars() -> dict[str, Path]:
    """Return name (``storyworld``) -> file of every JSON Schema that texts can be held to."""
    return {path.stem: path for path in sorted((shipped_folder() / "grammars").glob("*.json"))}


def find_config(name: str, *, within: str = "") -> Path:
    """Find a configuration: a file of the user's, or a shipped one by its name, with or without ``.yaml``.

    Args:
        name: a path, or a shipped name such as ``storyworld/cycle``.
        within: folder of the shipped configurations in which short names are looked up first (``recipes``).

    Raises:
        UserError: there is neither; it names the folders looked in and the nearest name.
    """
    if Path(name).is_file():
        return Path(name)
    shipped = shipped_configs()
    short = name.removesuffix(".yaml")
    if path := shipped.get(f"{within}/{short}") or shipped.get(short):
        return path
    names = [key.removeprefix(f"{within}/") for key in shipped if key.startswith(within)]
    raise UserError(
        f"no configuration '{name}': there is no such file in {Path.cwd()}, nor in the shipped ones in "
        f"{shipped_folder()}{did_you_mean(short, names)} (`lit-narrative configs list` names them)"
    )


def see_working_directory() -> None:
    """Let modules be found in the folder that the command is used in, behind all others."""
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))


def module_file(name: str) -> tuple[str, Path] | None:
    """Find the innermost module of a dotted name, and its file, without importing any.

    Args:
        name: such as ``package.module.Class``.

    Returns:
        the module and its file; None where there is none, or it has no file.
    """
    top, *rest = name.split(".")
    try:
        spec = find_spec(top)
    except (ImportError, ValueError):  # of a module that was made by hand, such as `__main__`
        return None
    if spec is None:
        return None
    module, file = top, spec.origin
    folders = list(spec.submodule_search_locations or ())
    # By path and not by `find_spec` of the whole name, which imports the packages around it.
    for part in rest:
        inner = [Path(folder, part) for folder in folders]
        paths = [path for one in inner for path in (one / "__init__.py", one.with_suffix(".py")) if path.is_file()]
        spaces = [str(one) for one in inner if one.is_dir()]
        if not paths and not spaces:
            break
        module, file = f"{module}.{part}", str(paths[0]) if paths else None
        folders = spaces if not paths or paths[0].name == "__init__.py" else []
    return (module, Path(file)) if file and Path(file).is_file() else None


def import_named(module_name: str, what: str) -> ModuleType:
    """Import a module that a person named, from the working directory too.

    A fault within it, such as a missing package, is raised as it is.

    Args:
        module_name: of the module.
        what: whose path names it, for the message, such as ``reward 'mine.rewards:Style'``.

    Raises:
        UserError: there is no such module.
    """
    see_working_directory()
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise UserError(f"{what}: there is no module '{error.name}'") from error
