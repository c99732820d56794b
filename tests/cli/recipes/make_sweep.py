"""A sweep of a tiny real model: what its file says, and folders as its runs leave them."""

from pathlib import Path
from typing import Any

import yaml

from lit_narrative.cli.recipes.process import status_path
from lit_narrative.cli.recipes.results import run_digest
from lit_narrative.cli.recipes.sweep import Run, Sweep
from lit_narrative.files import write_json, write_jsonl, write_text

PROMPTS = ["<b>one</b>", "two", "three", "four"]


def write_sweep(folder: Path, **changes: Any) -> Path:
    """Write a sweep of a model of one block that writes four samples; ``changes`` replace its keys, None drops one."""
    trainer = {
        "accelerator": "cpu",
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "callbacks": [{"class_path": "Verifiers", "init_args": {"samples": 4}}],
    }
    model: dict[str, Any] = {
        "class_path": "SFTModule",
        "init_args": {
            "model": {"architecture": "gpt2", "hidden_size": 16, "layers": 1, "heads": 2, "positions": 128},
            "tokenizer": {"kind": "words"},
            "sampling": {"max_new_tokens": 8},
        },
    }
    data = {"class_path": "PoetryData", "init_args": {"train_size": 40, "test_size": 4, "eval_batch_size": 4}}
    (folder / "tiny.yaml").write_text(yaml.safe_dump({"trainer": trainer, "model": model, "data": data}))
    content = {
        "out": str(folder / "out"),
        "config": str(folder / "tiny.yaml"),
        "overrides": {"trainer.callbacks.init_args.seed": "${seed}"},
        "axes": {
            "model": {"tiny": {}},
            "arm": {"base": {}, "cold": {"model.init_args.sampling.temperature": 0.1}},
        },
        "seeds": [1, 2],
        "baseline": {"arm": "base"},
        "metrics": {"avg_reward": "verifiers"},
        **changes,
    }
    path = folder / "tiny_sweep.yaml"
    kept = {key: value for key, value in content.items() if value is not None}
    path.write_text(yaml.safe_dump(kept, sort_keys=False))
    return path


def write_chain(folder: Path, **changes: Any) -> Path:
    """A sweep over a recipe of a warm start, two jobs that build on it, a test and a report."""
    plain = write_sweep(folder)  # leaves tiny.yaml
    job = {"command": "fit", "config": str(folder / "tiny.yaml")}
    recipe = {
        "out": "unused",
        "seed": 7,
        "jobs": [
            {"name": "start", **job},
            {"name": "other", **job, "overrides": {"model.init_args.model": "${jobs.start.ckpt}"}},
            {"name": "learn", **job, "overrides": {"model.init_args.model": "${jobs.start.ckpt}"}},
            {
                **{**job, "command": "test"},
                "name": "exam",
                "overrides": {"model.init_args.model": "${jobs.learn.ckpt}", "trainer.callbacks.seed": "${seed}"},
            },
            {"name": "report", "command": "report"},
        ],
    }
    (folder / "chain.yaml").write_text(yaml.safe_dump(recipe))
    content = yaml.safe_load(plain.read_text())
    del content["config"], content["overrides"]
    arms = {"base": {}, "a.cold": {"learn.model.init_args.lr": 0.5}, "none": {"exam.model.init_args.model": "x"}}
    content |= {"recipe": str(folder / "chain.yaml"), "job": "exam", "axes": {"arm": arms}, "baseline": None, **changes}
    path = folder / "chain_sweep.yaml"
    kept = {key: value for key, value in content.items() if value is not None}
    path.write_text(yaml.safe_dump(kept, sort_keys=False))
    return path


def leave_results(sweep: Sweep, run: Run, rewards: list[float], **metrics: float) -> None:
    """Write what a finished run leaves: its status, its metrics, and a sample a prompt."""
    plan = sweep.plan()
    result = {
        "test/verifiers": sum(rewards) / len(rewards),
        **{f"test/{name}": value for name, value in metrics.items()},
    }
    header, cells = ",".join(["step", *result]), ",".join(["0", *map(repr, result.values())])
    write_text(plan.folder(run.job) / "metrics_test.csv", f"{header}\n{cells}\n")
    rows = [
        {"prompt": prompt, "text": f"\u2028 {run.key} <i>{prompt}", "reward": reward, "components": {}}
        for prompt, reward in zip(PROMPTS, rewards, strict=False)
    ]
    write_jsonl(plan.folder(run.job) / "samples" / "test.jsonl", rows)
    status = {"digest": run_digest(plan, run), "finished": 1.0, "seconds": 2.0, "version": "0"}
    write_json(status_path(plan, run.job), status)


def leave_failure(sweep: Sweep, run: Run, error: str) -> None:
    """Write what a failed run leaves."""
    plan = sweep.plan()
    status = {"digest": run_digest(plan, run), "finished": None, "error": error, "version": "0"}
    write_json(status_path(plan, run.job), status)
