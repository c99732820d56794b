"""What a recipe says is checked whole before any work."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from lit_narrative.cli.commands.run import run
from lit_narrative.cli.recipes.process import arguments, job_digest
from lit_narrative.cli.recipes.recipe import read_recipe
from lit_narrative.cli.recipes.results import run_digest
from lit_narrative.cli.recipes.runner import leaves
from lit_narrative.cli.recipes.sweep import Sweep, read_sweep, write_sweep
from lit_narrative.errors import UserError


def write(folder: Path, **changes: Any) -> Path:
    """Write a recipe of a fit, a test of its checkpoint, and a report; ``changes`` replace its keys."""
    (folder / "job.yaml").write_text("trainer: {}\n")
    config = str(folder / "job.yaml")
    jobs: list[dict[str, Any]] = [
        {"name": "sft", "command": "fit", "config": config, "overrides": {"model.init_args.lr": 0.5}},
        {"name": "exam", "command": "test", "config": [config], "overrides": {"ckpt_path": "${jobs.sft.ckpt}"}},
        {"name": "page", "command": "report"},
    ]
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({"out": "runs/tiny", "jobs": jobs, **changes}))
    return path


def test_jobs_become_command_lines(tmp_path: Path) -> None:
    plan = read_recipe(str(write(tmp_path)), out="elsewhere", seeds=[3], changes=["sft.trainer.max_epochs=1"])
    config = f"--config={tmp_path / 'job.yaml'}"
    root = "--trainer.default_root_dir=elsewhere"
    assert [arguments(plan, job) for job in plan.jobs] == [
        ["fit", config, f"{root}/sft", "--seed_everything=3", "--model.init_args.lr=0.5", "--trainer.max_epochs=1"],
        ["test", config, f"{root}/exam", "--seed_everything=3", "--ckpt_path=elsewhere/sft/checkpoints/last.ckpt"],
        ["report", "elsewhere"],
    ]
    assert [job.needs for job in plan.jobs] == [(), ("sft",), ("sft", "exam")]


def test_an_extraction_writes_into_a_folder_of_its_job(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("layer: 1\n")
    config = str(tmp_path / "job.yaml")
    jobs = [
        {"name": "read", "command": "extract", "config": config, "overrides": {"model": "m", "words": 2}},
        {"name": "sft", "command": "fit", "config": config, "overrides": {"data.x": "${jobs.read.dir}/activations"}},
    ]
    plan = read_recipe(str(write(tmp_path, jobs=jobs)), out="o", seeds=[3])
    [read, fit] = [arguments(plan, job)[2:] for job in plan.jobs]
    assert read == ["--to=o/read/activations", "--seed=3", "--model=m", "--words=2"]
    assert fit[-1] == "--data.x=o/read/activations" and plan.jobs[1].needs == ("read",)
    assert leaves(plan, plan.jobs[0]) == [Path("o/read/activations")]


def test_without_a_seed_the_configurations_keep_theirs(tmp_path: Path) -> None:
    plan = read_recipe(str(write(tmp_path)))
    assert not [argument for job in plan.jobs for argument in arguments(plan, job) if argument.startswith("--seed")]
    assert str(plan.out) == "runs/tiny"


def test_every_job_runs_once_a_seed_and_a_report_once_on_all(tmp_path: Path) -> None:
    path = write(tmp_path, seeds=[5, 0])
    plan = read_recipe(str(path), out="o", changes=["exam.tag=s${seed} of ${out}"])
    assert [(job.name, job.needs) for job in plan.jobs] == [
        ("seed_5/sft", ()),
        ("seed_5/exam", ("seed_5/sft",)),
        ("seed_0/sft", ()),
        ("seed_0/exam", ("seed_0/sft",)),
        ("page", ("seed_5/sft", "seed_5/exam", "seed_0/sft", "seed_0/exam")),
    ]
    first = [f"--trainer.default_root_dir=o/seed_{seed}/exam --seed_everything={seed}" for seed in (5, 0)]
    last = [f"--ckpt_path=o/seed_{seed}/sft/checkpoints/last.ckpt --tag=s{seed} of o" for seed in (5, 0)]
    result = [" ".join(arguments(plan, job)[2:]) for job in (plan.jobs[1], plan.jobs[3])]
    assert result == [f"{start} {end}" for start, end in zip(first, last, strict=True)]
    assert arguments(plan, plan.jobs[-1]) == ["report", "o"]


def test_the_command_line_replaces_the_list_of_seeds(tmp_path: Path) -> None:
    several = write(tmp_path, seeds=[0, 1, 2])
    assert [job.name for job in read_recipe(str(several), seeds=[7]).jobs] == ["seed_7/sft", "seed_7/exam", "page"]
    assert len(read_recipe(str(several), seeds=[7, 8, 7]).jobs) == 5
    one = write(tmp_path, seed=0)
    assert [job.name for job in read_recipe(str(one), seeds=[7]).jobs] == ["sft", "exam", "page"]
    with pytest.raises(UserError, match="runs with one seed, and --seed gives 2"):
        read_recipe(str(one), seeds=[7, 8])


def test_references_within_lists_and_keys_are_followed(tmp_path: Path) -> None:
    path = write(tmp_path, seeds=[2])
    content = yaml.safe_load(path.read_text())
    nested = {"rewards": {"learned(at='${jobs.sft.ckpt}')": 1.0}, "names": ["${out}/${seed}", 3]}
    content["jobs"][1]["overrides"] = nested
    path.write_text(yaml.safe_dump(content))
    plan = read_recipe(str(path), out="o")
    assert plan.jobs[1].needs == ("seed_2/sft",)
    assert arguments(plan, plan.jobs[1])[-2:] == [
        '--names=["o/2", 3]',
        "--rewards={\"learned(at='o/seed_2/sft/checkpoints/last.ckpt')\": 1.0}",
    ]
    assert [str(path) for path in leaves(plan, plan.jobs[0])] == ["o/seed_2/sft/checkpoints/last.ckpt"]
    content["jobs"][1]["overrides"] = {"rewards": {"learned('${jobs.stf.ckpt}')": 1.0}}
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match=r"earlier jobs: there is no .*sft"):
        read_recipe(str(path))


def test_a_setting_of_every_job(tmp_path: Path) -> None:
    plan = read_recipe(str(write(tmp_path)), changes=["all.data.init_args.corpus=books", "exam.data.init_args.seed=1"])
    assert [job.overrides.get("data.init_args.corpus") for job in plan.jobs] == ["books", "books", None]
    assert [job.overrides.get("data.init_args.seed") for job in plan.jobs] == [None, "1", None]


def with_sweep(folder: Path, **changes: Any) -> Path:
    """A recipe that ends in a sweep of the model that it trains."""
    source = write(folder, seeds=[3, 5])
    content = yaml.safe_load(source.read_text())
    arms = {
        "out": "elsewhere",
        "config": str(folder / "job.yaml"),
        "overrides": {"model.init_args.model": "${out}/seed_${seed}/sft/checkpoints/last.ckpt"},
        "axes": {"arm": {"base": {}, "cold": {"model.init_args.t": 0.1}}},
        "seeds": [0, 1],
        **changes,
    }
    (folder / "arms.yaml").write_text(yaml.safe_dump(arms))
    job = {"name": "arms", "command": "sweep", "config": str(folder / "arms.yaml"), "overrides": {"data.of": "${out}"}}
    source.write_text(yaml.safe_dump({**content, "jobs": [content["jobs"][0], job]}))
    return source


def test_a_sweep_gets_the_seeds_the_folder_and_the_overrides_of_its_recipe(tmp_path: Path) -> None:
    plan = read_recipe(str(with_sweep(tmp_path)), out=str(tmp_path / "o"), changes=["all.data.n=7"])
    job = plan.jobs[-1]
    assert job.needs == ("seed_3/sft", "seed_5/sft")
    path = write_sweep(plan, job)
    assert arguments(plan, job) == ["sweep", str(path), "--workers=1"]
    made = read_sweep(str(path))
    assert made.out == tmp_path / "o"
    assert [run.key for run in made.runs] == ["base__s3", "base__s5", "cold__s3", "cold__s5"]
    assert made.plan().resolve(dict(made.runs[1].job.overrides)) == {
        "model.init_args.model": f"{tmp_path}/o/seed_5/sft/checkpoints/last.ckpt",
        "data.n": "7",
        "data.of": str(tmp_path / "o"),
    }


def test_a_sweep_with_a_key_is_refused_rather_than_written_down(tmp_path: Path) -> None:
    plan = read_recipe(str(with_sweep(tmp_path)), out=str(tmp_path / "o"), changes=["all.data.api_key=SECRET"])
    with pytest.raises(UserError, match=r"holds a key.*by the environment"):
        write_sweep(plan, plan.jobs[-1])
    assert not (tmp_path / "o").exists()


def test_the_folder_notes_what_was_asked_for_without_its_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lit_narrative.cli.commands.run.run_recipe", lambda plan, forced: {})
    changes = ["all.data.api_key=SECRET", "all.data.n=7"]
    run(str(write(tmp_path)), out=str(tmp_path / "out"), set=changes)
    assert json.loads((tmp_path / "out" / "recipe.json").read_text())["set"] == [
        "all.data.api_key=<redacted>",
        "all.data.n=7",
    ]


def test_a_sweep_alone_has_the_runs_of_the_recipe_that_ends_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = with_sweep(tmp_path, seeds=[3, 5])
    content = yaml.safe_load(source.read_text())
    del content["jobs"][1]["overrides"]
    source.write_text(yaml.safe_dump(content))
    plan = read_recipe(str(source), out=str(tmp_path / "o"))
    model = tmp_path / "o" / "seed_3" / "sft" / "checkpoints" / "last.ckpt"
    model.parent.mkdir(parents=True)
    model.write_text("weights")
    ended = read_sweep(str(write_sweep(plan, plan.jobs[-1])))
    alone = read_sweep(str(tmp_path / "arms.yaml"), out=str(tmp_path / "o"))

    def digests(sweep: Sweep) -> list[str]:
        return [run_digest(sweep.plan(), one) for one in sweep.runs]

    before = digests(alone)
    assert before == digests(ended)
    monkeypatch.chdir(tmp_path)
    assert before == digests(read_sweep("arms.yaml", out="o"))
    model.write_text("other weights")
    changed = digests(alone)
    assert changed == digests(ended)
    assert [old == new for old, new in zip(before, changed, strict=True)] == [False, True, False, True]


def test_a_sweep_in_a_recipe_is_checked_before_any_job(tmp_path: Path) -> None:
    path = with_sweep(tmp_path, baseline={"arm": "warm"})
    with pytest.raises(UserError, match=r"baseline\.arm: there is no 'warm'"):
        run(str(path), out=str(tmp_path / "o"))
    assert not (tmp_path / "o" / "seed_3").exists()


def test_a_digest_of_a_seed_does_not_depend_on_the_other_seeds(tmp_path: Path) -> None:
    path = str(write(tmp_path, seeds=[0, 1]))
    both, one = read_recipe(path), read_recipe(path, seeds=[1])
    digests = [job_digest(both, job) for job in both.jobs]
    assert len(set(digests)) == 5
    assert [job_digest(one, job) for job in one.jobs[:2]] == digests[2:4]


def test_a_reference_on_the_command_line_is_checked_and_needed(tmp_path: Path) -> None:
    path = str(write(tmp_path))
    plan = read_recipe(path, changes=["exam.ckpt_path=x", "exam.other=${jobs.sft.dir}/y"])
    assert plan.jobs[1].needs == ("sft",)
    with pytest.raises(UserError, match=r"job 'sft': .* earlier jobs: there is no"):
        read_recipe(path, changes=["sft.model=${jobs.exam.dir}"])


def test_values_that_are_no_text_are_written_as_yaml(tmp_path: Path) -> None:
    path = write(tmp_path)
    content = yaml.safe_load(path.read_text())
    content["jobs"][0]["overrides"] = {"a": True, "b": None, "c": [1, "x"], "d": "x ${seed}", "e": {"f": 1e-5}}
    plan = read_recipe(str(write(tmp_path, jobs=content["jobs"][:1])), seeds=[7])
    words = ["--a=true", "--b=null", '--c=[1, "x"]', "--d=x 7", '--e={"f": 1e-05}']
    assert arguments(plan, plan.jobs[0])[-5:] == words


def job(**keys: Any) -> dict[str, Any]:
    return {"name": "a", "command": "fit", "config": "CONFIG", **keys}


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"oot": "x"}, ["no key 'oot'", "did you mean 'out'"]),
        ({"jobs": []}, ["jobs"]),
        ({"jobs": [job(comand="fit")]}, ["jobs[0]", "no key 'comand'", "did you mean 'command'"]),
        ({"jobs": [{"name": "a", "comand": "fit", "config": "CONFIG"}]}, ["no key 'comand'", "did you mean 'command'"]),
        ({"jobs": [job(command="fitt")]}, ["jobs[0].command", "'fitt'", "did you mean 'fit'"]),
        ({"jobs": [job(name="a b")]}, ["jobs[0].name", "'a b'"]),
        ({"jobs": [{"name": "a", "command": "fit"}]}, ["jobs[0]", "'config' is a required property"]),
        ({"jobs": [job(command="report")]}, ["jobs[0]", "a report takes no 'config'"]),
        ({"jobs": [job(report="cards")]}, ["jobs[0].report", "only a report"]),
        ({"jobs": [job(sections=["a:b"])]}, ["jobs[0].sections", "only a report"]),
        ({"jobs": [{"name": "a", "command": "report", "report": "Cards/x"}]}, ["jobs[0].report", "Cards/x"]),
        ({"jobs": [{"name": "a", "command": "report", "sections": ["b"]}]}, ["jobs[0].sections[0]", "'b'"]),
        ({"jobs": [job(), job()]}, ["two jobs have the name 'a'"]),
        ({"jobs": [job(config="nothing/here")]}, ["no configuration 'nothing/here'"]),
        ({"jobs": [job(overrides={"x": "${jobs.b.ckpt}"})]}, ["job 'a'", "earlier jobs: there is no"]),
        ({"jobs": [job(overrides={"x": "${jobs.a.ckpt}"})]}, ["job 'a'", "earlier jobs: there is no"]),
        ({"jobs": [job(), job(name="c", overrides={"x": "${jobs.a.best}"})]}, ["job 'c'", "is none of"]),
        ({"jobs": [job(command="test"), job(name="c", overrides={"x": "${jobs.a.ckpt}"})]}, ["only a fit"]),
        ({"jobs": [{"name": "a", "command": "report", "overrides": {}}]}, ["jobs[0]", "no 'overrides'"]),
        ({"threads": 0}, ["threads"]),
        ({"seed": 0, "seeds": [0]}, ["give it 'seed' or 'seeds', not both"]),
        ({"seeds": []}, ["seeds"]),
        ({"seeds": [1, 1]}, ["seeds", "non-unique"]),
        ({"seeds": [-1]}, ["seeds[0]", "-1"]),
    ],
)
def test_wrong_recipe_is_one_clear_error(tmp_path: Path, changes: dict[str, Any], parts: list[str]) -> None:
    config = str(tmp_path / "job.yaml")
    for entry in changes.get("jobs", []):
        if entry.get("config") == "CONFIG":
            entry["config"] = config
    with pytest.raises(UserError) as error:
        read_recipe(str(write(tmp_path, **changes)))
    assert [part for part in parts if part not in str(error.value)] == [], error.value


def test_a_report_may_name_the_task_whose_page_it_is(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("{}")
    jobs = [job(config=str(tmp_path / "job.yaml")), {"name": "page", "command": "report", "report": "cards"}]
    assert [one.report for one in read_recipe(str(write(tmp_path, jobs=jobs))).jobs] == [None, "cards"]


def test_a_report_may_be_custom_and_have_custom_sections(tmp_path: Path) -> None:
    page = {"name": "page", "command": "report", "report": "my.pkg:verse", "sections": ["my.pkg:rhymes"]}
    plan = read_recipe(str(write(tmp_path, jobs=[page])))
    plain = read_recipe(str(write(tmp_path, jobs=[{"name": "page", "command": "report"}])))
    assert (plan.jobs[0].report, plan.jobs[0].sections) == ("my.pkg:verse", ("my.pkg:rhymes",))
    assert job_digest(plan, plan.jobs[0]) != job_digest(plain, plain.jobs[0])
    assert arguments(plan, plan.jobs[0])[2:] == ["--report=my.pkg:verse", "--section=my.pkg:rhymes"]
    assert arguments(plain, plain.jobs[0])[2:] == []


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"report": "card"}, "there is no report 'card'; did you mean 'cards'"),
        ({"report": "nowhere.at:all"}, "report 'nowhere.at:all': there is no module 'nowhere'"),
        ({"sections": ["json:lods"]}, "section 'json:lods': json has no function 'lods'; did you mean 'loads'"),
    ],
)
def test_a_report_that_there_is_not_is_named_before_any_job(tmp_path: Path, keys: dict[str, Any], message: str) -> None:
    path = write(tmp_path, jobs=[{"name": "page", "command": "report", **keys}])
    with pytest.raises(UserError, match=message):
        run(str(path), out=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_the_folder_notes_the_report_that_its_recipe_asks_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lit_narrative.cli.commands.run.run_recipe", lambda plan, forced: {})
    page = {"name": "page", "command": "report", "report": "cards", "sections": ["json:loads"]}
    run(str(write(tmp_path, jobs=[page])), out=str(tmp_path / "out"))
    noted = json.loads((tmp_path / "out" / "recipe.json").read_text())
    assert (noted["report"], noted["sections"]) == ("cards", ["json:loads"])


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ("sft.trainer.max_epochs", "JOB.SETTING=VALUE"),
        ("sft=1", "JOB.SETTING=VALUE"),
        ("stf.x=1", "did you mean 'sft'"),
        ("page.x=1", "jobs with settings: there is no 'page'"),
    ],
)
def test_wrong_change_is_one_clear_error(tmp_path: Path, change: str, part: str) -> None:
    with pytest.raises(UserError, match=part):
        read_recipe(str(write(tmp_path)), changes=[change])


def test_recipe_that_is_not_yaml(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("jobs: [")
    with pytest.raises(UserError, match=r"recipe\.yaml cannot be read as YAML.*line"):
        read_recipe(str(path))
