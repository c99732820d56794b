"""``docs/trl.md`` names options and metrics that exist, and leaves out none of TRL's."""

import ast
import importlib.util
import inspect
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from lit_narrative.lm.sampler import SamplingParams
from lit_narrative.modules.grpo import GRPOModule
from lit_narrative.modules.language import LanguageModule
from lit_narrative.rl.gae import ValueSettings
from lit_narrative.rl.loss_settings import LossSettings
from lit_narrative.rl.reference import DistillationSettings, ReferenceSettings
from lit_narrative.rl.rewards.runner import ScoringSettings
from lit_narrative.rl.served.settings import ServedSettings
from tests.helpers import Recorder, TinyTask, fit, sizes, tokenizer_folder
from tests.paths import ROOT

PAGE = (ROOT / "docs" / "trl.md").read_text(encoding="utf-8")
GROUPS: dict[str, type] = {
    "loss": LossSettings,
    "reference": ReferenceSettings,
    "distillation": DistillationSettings,
    "sampling": SamplingParams,
    "scoring": ScoringSettings,
    "served": ServedSettings,
    "value": ValueSettings,
}


def quoted(text: str = PAGE) -> set[str]:
    return set(re.findall(r"`([^`\n]+)`", text))


def rows(heading: str) -> list[list[str]]:
    """Cells of the tables under a heading."""
    part = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines() if line.startswith("|")]


def known() -> set[str]:
    arguments = {*inspect.signature(GRPOModule).parameters, *inspect.signature(LanguageModule).parameters}
    nested = {f"{name}.{field.name}" for name, kind in GROUPS.items() for field in fields(kind)}
    return {f"model.{name}" for name in arguments | nested}


def test_every_option_named_exists() -> None:
    named = {name for name in quoted() if re.fullmatch(r"model(\.\w+)+", name)}
    assert len(named) > 50
    assert named <= known()


def test_every_setting_of_loss_and_reference_is_named() -> None:
    listed = PAGE.replace("`model.loss.` and the same names", " ".join(f"`model.loss.{n}`" for n in adaptive()))
    for name in ("loss", "reference", "distillation", "value", "scoring", "served"):
        assert {f"model.{name}.{field.name}" for field in fields(GROUPS[name])} <= quoted(listed)


def adaptive() -> list[str]:
    (row,) = [row for row in rows("Options") if row[1] == "`model.loss.` and the same names"]
    names = sorted(quoted(row[0]))
    assert {f"model.loss.{name}" for name in names} <= known()
    return names


def test_every_option_of_trl_is_named() -> None:
    found = importlib.util.find_spec("trl")
    if found is None or found.origin is None:
        pytest.skip("TRL is not installed (pip install 'lit-narrative[bench]')")
    tree = ast.parse((Path(found.origin).parent / "trainer" / "grpo_config.py").read_text(encoding="utf-8"))
    (config,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "GRPOConfig"]
    options = {node.target.id for node in config.body if isinstance(node, ast.AnnAssign)}  # type: ignore[union-attr]
    assert options <= set().union(*(quoted(row[0]) for row in rows("Options")))


@pytest.mark.parametrize(
    ("settings", "logged"),
    [
        ({}, {"kl", "entropy", "policy_loss", "clip_ratio/region_mean", "clip_ratio/low_min", "clip_ratio/high_max"}),
        ({"loss": LossSettings("cispo")}, {"cispo_clip_ratio"}),
        ({"loss": LossSettings("vespo")}, {"vespo/phi_seq_mean"}),
        ({"loss": LossSettings(use_adaptive_entropy=True)}, {"entropy_coef", "entropy_bonus"}),
        ({"loss": LossSettings(off_policy_mask_threshold=1.0)}, {"off_policy_mask/dropped_mean"}),
        ({"advantage": "gae"}, {"value_loss", "value_clip_ratio"}),
        ({"dynamic_sampling": 1}, {"dynamic_sampling/replaced", "dynamic_sampling/left"}),
        (
            {"loss": LossSettings(importance_sampling_mode="token_mask")},
            {f"sampling/importance_sampling_ratio/{kind}" for kind in ("min", "mean", "max")},
        ),
    ],
)
def test_what_is_logged_is_named(settings: dict[str, Any], logged: set[str], tmp_path: Path) -> None:
    given: dict[str, Any] = {"model": sizes(), "tokenizer": tokenizer_folder(tmp_path), "sampling": SamplingParams(6)}
    module, seen = GRPOModule({"low": 1.0}, num_generations=2, **given, **settings), Recorder()
    fit(module, TinyTask(), tmp_path, seen, max_epochs=1)
    names = {name.replace("rewards/low", "rewards/<name>") for name in seen.metrics[-1]}
    assert logged <= names
    assert names <= quoted(PAGE.split("\n## Metrics\n")[1])
