"""What a sweep says is checked whole before any run, and no run is there twice."""

from pathlib import Path
from typing import Any

import pytest

from lit_narrative.cli.recipes.process import arguments
from lit_narrative.cli.recipes.sweep import read_sweep
from lit_narrative.errors import UserError
from tests.cli.recipes.make_sweep import write_sweep


def test_the_grid_is_the_product_of_axes_prompts_and_seeds(tmp_path: Path) -> None:
    prompts = {"setting": "data.init_args.test_size", "values": [3, 4]}
    sweep = read_sweep(str(write_sweep(tmp_path, prompts=prompts)), out="elsewhere", changes=["trainer.precision=32"])
    assert [run.key for run in sweep.runs] == [
        f"tiny__{arm}__n{count}__s{seed}" for arm in ("base", "cold") for count in (3, 4) for seed in (1, 2)
    ]
    last = sweep.runs[-1]
    assert (last.values, last.prompts, last.seed) == ({"model": ("tiny",), "arm": ("cold",)}, 4, 2)
    assert arguments(sweep.plan(), last.job) == [
        "test",
        f"--config={tmp_path / 'tiny.yaml'}",
        "--trainer.default_root_dir=elsewhere/raw/tiny__cold__n4__s2",
        "--seed_everything=2",
        "--trainer.callbacks.init_args.seed=2",
        "--model.init_args.sampling.temperature=0.1",
        "--data.init_args.test_size=4",
        "--trainer.precision=32",
    ]


def test_without_seeds_and_prompts_a_key_is_its_values(tmp_path: Path) -> None:
    axes = {"lr": {0.5: {"model.init_args.lr": 0.5}, 1: None}}
    sweep = read_sweep(str(write_sweep(tmp_path, seeds=None, baseline=None, axes=axes, overrides=None)))
    assert [run.key for run in sweep.runs] == ["0.5", "1"]
    assert not [word for run in sweep.runs for word in arguments(sweep.plan(), run.job) if word.startswith("--seed")]


def test_runs_with_the_same_settings_are_one(tmp_path: Path) -> None:
    axes = {
        "adapter": {"none": {"model.init_args.model": "a"}, "lora": {"model.init_args.model": "b"}},
        "arm": {"base": {"model.init_args.model": "x"}, "tuned": {}},
    }
    sweep = read_sweep(str(write_sweep(tmp_path, axes=axes)))
    assert sweep.duplicates == 2
    assert [(run.key, run.values["adapter"]) for run in sweep.runs if run.seed == 1] == [
        ("none__base__s1", ("none", "lora")),
        ("none__tuned__s1", ("none",)),
        ("lora__tuned__s1", ("lora",)),
    ]
    one = read_sweep(str(write_sweep(tmp_path, axes=axes)), changes=["model.init_args.model=y"])
    assert [run.values for run in one.runs] == [{"adapter": ("none", "lora"), "arm": ("base", "tuned")}] * 2


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"axs": {}}, ["no key 'axs'", "did you mean 'axes'"]),
        ({"axes": {}}, ["axes"]),
        ({"axes": {"arm": {}}}, ["axes.arm"]),
        ({"axes": {"arm": {"a__b": {}}}}, ["axes.arm", "a__b"]),
        ({"axes": {"arm": {"a/b": {}}}}, ["axes.arm", "a/b"]),
        ({"axes": {"seed": {"a": {}}}}, ["axes.seed", "call the axis otherwise"]),
        ({"config": "nothing/here"}, ["no configuration 'nothing/here'"]),
        ({"command": "tset"}, ["command", "did you mean 'test'"]),
        ({"seeds": [1, 1]}, ["seeds"]),
        ({"prompts": [30]}, ["prompts"]),
        ({"prompts": {"values": [30]}}, ["prompts", "'setting' is a required property"]),
        ({"baseline": {"amr": "base"}}, ["there is no 'amr'", "did you mean 'arm'"]),
        ({"baseline": {"arm": "bsae"}}, ["baseline.arm", "did you mean 'base'"]),
        ({"metrics": {"a": "reward", "b": "reward"}}, ["metrics", "'reward' is there under two names"]),
        ({"overrides": {"x": "${jobs.a.ckpt}"}}, ["x: '${jobs.a.ckpt}' is none of ${out}, ${seed}"]),
    ],
)
def test_wrong_sweep_is_one_clear_error(tmp_path: Path, changes: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(UserError) as error:
        read_sweep(str(write_sweep(tmp_path, **changes)))
    assert [part for part in ["tiny_sweep.yaml", *parts] if part not in str(error.value)] == [], error.value


def test_wrong_change_or_key_is_one_clear_error(tmp_path: Path) -> None:
    path = str(write_sweep(tmp_path))
    with pytest.raises(UserError, match="SETTING=VALUE"):
        read_sweep(path, changes=["trainer.precision"])
    with pytest.raises(UserError, match=r"no such run; did you mean 'tiny__base__s2'\?"):
        read_sweep(path).find("tiny_base_s2")
