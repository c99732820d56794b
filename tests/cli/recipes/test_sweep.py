"""What a sweep says is checked whole before any run, and no run is there twice."""

from pathlib import Path
from typing import Any

import pytest

from lit_narrative.cli.names import check_names
from lit_narrative.cli.recipes.process import arguments
from lit_narrative.cli.recipes.recipe import read_recipe
from lit_narrative.cli.recipes.sweep import read_sweep
from lit_narrative.errors import UserError
from tests.cli.recipes.make_sweep import write_chain, write_sweep


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


def test_a_sweep_over_a_recipe_shares_the_jobs_that_arms_have_in_common(tmp_path: Path) -> None:
    sweep = read_sweep(str(write_chain(tmp_path)), out="out")
    assert [run.key for run in sweep.runs] == [
        f"{arm}__s{seed}" for arm in ("base", "a.cold", "none") for seed in (1, 2)
    ]
    jobs = {run.key: [job.name for job in run.jobs] for run in sweep.runs}
    # Not all arms of a seed build on the start (`none` does not), so it lies with the first that does.
    assert jobs["base__s1"] == ["raw/base__s1/start", "raw/base__s1/learn", "raw/base__s1/exam"]
    assert jobs["a.cold__s1"] == ["raw/base__s1/start", "raw/a.cold__s1/learn", "raw/a.cold__s1/exam"]
    assert jobs["none__s1"] == ["raw/none__s1/exam"]
    assert len(sweep.plan().jobs) == len({job.name for job in sweep.plan().jobs}) == 12
    assert sweep.command == "test"
    line = arguments(sweep.plan(), sweep.find("a.cold__s2").job)
    assert "--model.init_args.model=out/raw/a.cold__s2/learn/checkpoints/last.ckpt" in line
    assert {"--seed_everything=2", "--trainer.callbacks.seed=2"} < set(line)
    learn = sweep.find("a.cold__s2").before[-1]
    assert "--model.init_args.model=out/raw/base__s2/start/checkpoints/last.ckpt" in arguments(sweep.plan(), learn)


def test_what_all_arms_of_a_seed_build_on_has_a_folder_of_its_own(tmp_path: Path) -> None:
    arms = {"base": {}, "cold": {"learn.model.init_args.lr": 0.5}, "hot": {"exam.model.init_args.lr": 0.5}}
    sweep = read_sweep(str(write_chain(tmp_path, axes={"arm": arms}, overrides={"start.trainer.max_steps": 3})))
    for run in sweep.runs:
        assert run.before[0].name == f"shared/start__s{run.seed}"
        assert run.before[0].overrides == {"trainer.max_steps": 3}
    assert sweep.find("hot__s1").before == sweep.find("base__s1").before
    same = read_sweep(str(write_chain(tmp_path, axes={"arm": {"one": {}, "other": {"all.trainer.max_steps": 3}}})))
    assert len(same.runs) == 4
    merged = read_sweep(str(write_chain(tmp_path, axes={"arm": {"one": {}, "other": None}})))
    assert (len(merged.runs), merged.duplicates) == (2, 2)


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"config": "poetry/steer"}, ["`config`", "`recipe`"]),
        ({"job": None}, ["with `recipe` give `job`"]),
        ({"command": "test"}, ["no `command`"]),
        ({"job": "exm"}, ["did you mean 'exam'", "start, other, learn, exam"]),
        ({"job": "report"}, ["that may be measured"]),
        ({"axes": {"arm": {"base": {"lern.model.init_args.lr": 1}}}}, ["did you mean 'learn'"]),
        ({"axes": {"arm": {"base": {"learn": 1}}}}, ["JOB.SETTING"]),
        ({"axes": {"arm": {"base": {"exam.model.init_args.model": "${jobs.lern.ckpt}"}}}}, ["did you mean 'learn'"]),
        ({"recipe": None, "config": "poetry/steer"}, ["`job` is of a sweep with `recipe`"]),
    ],
)
def test_a_wrong_sweep_over_a_recipe_is_one_clear_error(
    tmp_path: Path, changes: dict[str, Any], parts: list[str]
) -> None:
    with pytest.raises(UserError) as raised:
        read_sweep(str(write_chain(tmp_path, **changes)))
    assert len(str(raised.value).splitlines()) == 1
    assert all(part in str(raised.value) for part in parts), str(raised.value)


def test_the_shipped_ablation_shares_a_warm_start_a_seed_and_follows_the_recipe() -> None:
    sweep, recipe = read_sweep("storyworld_ablation"), read_recipe("storyworld")
    assert len(sweep.runs) == 33
    shared = {job.name for run in sweep.runs for job in run.before if job.name.startswith("shared/")}
    assert shared == {f"shared/sft__s{seed}" for seed in (0, 1, 2)}
    configs = {job.name: job.configs for job in recipe.jobs}
    for run in sweep.runs:
        assert [job.configs for job in run.jobs] == [configs[name] for name in ("sft", "cycle", "test_final")]
        for job in run.jobs:
            check_names(job.command, arguments(sweep.plan(), job)[1:])
