"""Every shipped configuration runs, and every shipped recipe and overlay fits what it is for."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from lit_narrative.cli.check import check_job
from lit_narrative.cli.commands.configs import headline
from lit_narrative.cli.main import main
from lit_narrative.cli.recipes.recipe import FOLDER_COMMANDS, read_recipe
from lit_narrative.cli.recipes.sweep import read_sweep
from lit_narrative.files import write_jsonl
from lit_narrative.lm.sentence_encoder import StaticEncoder, build_encoder
from lit_narrative.lookup import shipped_configs
from lit_narrative.rl.rewards.similarity import SimilarityModel
from tests.helpers import others_slow

RECIPES, SWEEPS = "recipes/", "sweeps/"
OVERLAYS = [
    name for name in shipped_configs() if name.startswith(("logger/", "trainer/")) or name.endswith("/pretrained")
]
JOBS = [name for name in shipped_configs() if name not in OVERLAYS and not name.startswith((RECIPES, SWEEPS))]
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.accelerator=cpu"]


@pytest.fixture(scope="module")
def warm_start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the checkpoints that other configurations begin from, after two steps on few rows."""
    folder = tmp_path_factory.mktemp("run")
    small = ["--trainer.max_steps=2", "--trainer.val_check_interval=2", "--trainer.limit_val_batches=0"]
    data = ["--data.train_size=64", "--model.tokenizer.sample=64"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        main(["fit", "--config", "storyworld/sft", *QUIET, *small, *data, "--model.model.positions=2048"])
        main(["fit", "--config", "cards/sft", *QUIET, *small, "--data.train_size=256"])
        main(["fit", "--config", "poetry/sft", *QUIET, *small, "--data.train_size=64"])
        main(["fit", "--config", "poetry/reward", *QUIET, "--trainer.max_epochs=1", "--trainer.limit_val_batches=0"])
        main(["fit", "--config", "verbalize/subject", *QUIET, *small, "--data.train_size=64"])
        main(["extract", "--config", "verbalize/extract", "--documents=20", "--eval_documents=10"])
        main(["fit", "--config", "verbalize/actor_sft", *QUIET, *small])
        main(["fit", "--config", "verbalize/critic_sft", *QUIET, *small])
        main(["fit", "--config", "style/sft", *QUIET, *small, "--data.train_size=64"])
    for name in ("repair_sft", "cycle"):
        shutil.copytree(folder / "runs" / "storyworld" / "sft", folder / "runs" / "storyworld" / name)
    # As `lit-narrative test --config style/judge` writes it, which tests/callbacks/test_judge_examination.py runs.
    judge = SimilarityModel(build_encoder(StaticEncoder(8, 300), ["the salt road", "and the sea"]))
    judge.examination = {"fit": True}
    judge.save(folder / "runs" / "style" / "judge" / "judge")
    (folder / "runs" / "books").mkdir()
    (folder / "runs" / "books" / "sea.txt").write_text("\n\n".join(f"the {n} of the sea" for n in range(200)))
    row = {"prompt": "the night\n", "text": "the sea", "finished": True, "reward": 0, "components": {"learned": 0}}
    write_jsonl(folder / "runs" / "poetry" / "samples" / "samples" / "predict.jsonl", [row] * 100)
    worlds = [{**row, "prompt": f"Write {n // 2}:", "text": f"{{{n}}}", "reward": n} for n in range(20)]
    write_jsonl(folder / "runs" / "storyworld" / "samples" / "samples" / "predict.jsonl", worlds)
    return folder


def subcommand(name: str) -> str:
    if name in COMMANDS:
        return name.rpartition("/")[2]
    if name.endswith(("/samples", "/predict")):
        return "predict"
    return "test" if name.endswith(("/test", "/circuits", "/steer", "/best_of_n")) else "fit"


# Variants of a configuration that runs by default, and what tests/callbacks/test_circuit_analysis.py runs.
COMMANDS = {"verbalize/extract"}
"""Configurations of another command than Lightning's; the warm start runs them."""
SHORT = ["--data.chunk_words.most=80", "--data.chunk_words.least=40"]
OTHERWISE = {
    "poetry/steer": ["--data.eval_batch_size=10"],
    "style/grpo_v1": ["--model.lora=null"],
    "style/judge_pretrained": ["--model.encoder={width: 8, vocab_size: 300}", "--data.books=null", *SHORT],
    "books/sae": [
        "--data.activations={model: runs/cards/sft/checkpoints/last.ckpt, hook: blocks.1.hook_resid_pre, cache: null}",
        "--data.books=runs/books",
        "--data.passage_words=20",
    ],
    "style/full": ["--trainer.devices=1", "--trainer.strategy=auto", "--trainer.precision=32-true", *SHORT],
}
"""Few rows; and what a configuration of a large model has to leave out for a tiny one of another architecture."""
QUICK = {"poetry/steer", "storyworld/cycle", "storyworld/sae", "storyworld/test", "style/judge", "verbalize/grpo"}
"""One of each kind beside those that the warm start runs; the others are parsed here, and run with -m slow."""
RUNS = others_slow([name for name in JOBS if name not in COMMANDS], QUICK)


@pytest.mark.parametrize("name", RUNS)
def test_configuration_runs(name: str, warm_start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Links to the files: a run puts new files in the place of old ones, and changes none.
    shutil.copytree(warm_start / "runs", tmp_path / "runs", copy_function=os.link)
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    # An untrained policy ends no text by itself. One batch is read: most rows would be made and tokenised for nothing.
    writes = "/grpo" in name or name.endswith(("/cycle", "/full", "/best_of_n", "/repair", "storyworld/test"))
    short = ["--model.sampling.max_new_tokens=32"] if writes else []
    given = [*QUIET, *short, *OTHERWISE.get(name, [])]
    main([subcommand(name), "--config", name, "--trainer.fast_dev_run=true", "--data.train_size=256", *given])
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", [name for name in JOBS if name not in QUICK | COMMANDS])
def test_configuration_is_read(name: str) -> None:
    """As before a recipe's first job: names, values, precision and rewards."""
    check_job([subcommand(name), "--config", name])


@pytest.mark.parametrize("name", JOBS)
def test_header_says_what_it_is_and_how_to_launch_it(name: str) -> None:
    header = [line for line in shipped_configs()[name].read_text().splitlines() if line.startswith("#")]
    assert header
    assert f"lit-narrative {subcommand(name)} --config {name}" in "\n".join(header)
    assert any(line.startswith("# Hardware:") for line in header)


@pytest.mark.parametrize("name", shipped_configs())
def test_first_line_is_a_whole_sentence(name: str) -> None:
    """``lit-narrative configs list`` shows it alone."""
    said = headline(shipped_configs()[name])
    assert said[:1].isupper()
    assert said.endswith(".")


OVER = {
    "storyworld/pretrained": tuple(f"storyworld/{job}" for job in ("sft", "grpo", "dpo", "distill")),
    "verbalize/pretrained": ("verbalize/actor_sft", "verbalize/critic_sft", "verbalize/grpo"),
}
"""Jobs that an overlay lies over, where they are not SFT, and GRPO, of its task."""


def jobs_under(name: str) -> tuple[str, ...]:
    task = name.partition("/")[0]
    return OVER.get(name, (f"{task}/sft", f"{task}/grpo") if name.endswith("/pretrained") else ("storyworld/sft",))


@pytest.mark.parametrize(("job", "name"), [(job, name) for name in OVERLAYS for job in jobs_under(name)])
def test_overlay_fits_over_a_job(job: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["fit", "--config", job, "--config", name, "--print_config"])
    assert end.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert_holds(printed, yaml.safe_load(shipped_configs()[name].read_text()))
    text = shipped_configs()[name].read_text()
    assert name.startswith(("logger/", "trainer/")) or (
        f"--config {job} --config {name}" in text and "On a GPU" in text
    )


def assert_holds(printed: Any, given: Any) -> None:
    """Whether a whole configuration has the settings of an overlay."""
    if isinstance(given, dict):
        for key, value in given.items():
            assert_holds(printed[key], value)
    else:
        assert printed == given or str(printed).endswith(f".{given}")  # a class by its name


@pytest.mark.parametrize("name", [name for name in shipped_configs() if name.startswith(RECIPES)])
def test_recipe_is_sound(name: str) -> None:
    plan = read_recipe(name.removeprefix(RECIPES))
    assert plan.jobs[-1].command in FOLDER_COMMANDS
    if plan.jobs[-1].command == "sweep":
        assert read_sweep(str(plan.jobs[-1].configs[0])).runs


@pytest.mark.parametrize("name", [name for name in shipped_configs() if name.startswith(SWEEPS)])
def test_sweep_is_sound(name: str) -> None:
    plan = read_sweep(name.removeprefix(SWEEPS))
    assert plan.duplicates == 0
    assert f"lit-narrative sweep {name.removeprefix(SWEEPS)}" in shipped_configs()[name].read_text()
