"""The model card: what it takes from a run's folder, and that nothing in the folder becomes markup."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from lit_narrative.errors import UserError
from lit_narrative.files import write_json, write_table, write_text
from lit_narrative.report.model_card import block, code, model_card

HEADER = "# lit-narrative==0.1.0\n# torch==2.13.0\n"


def job(folder: Path, module: str, model: Any, **more: Any) -> Path:
    """A job's folder with the settings of a run; the path of its checkpoint, which is not there."""
    config = {
        "seed_everything": 7,
        "model": {"class_path": f"lit_narrative.{module}", "init_args": {"model": model, "lr": 0.01, **more}},
        "data": {"class_path": "lit_narrative.StoryworldData", "init_args": {"train_size": 12, "api_key": "hunter2"}},
    }
    write_text(folder / "config.yaml", HEADER + yaml.safe_dump(config))
    return folder / "checkpoints" / "last.ckpt"


def leave_test(folder: Path, checkpoint: str, figures: dict[str, Any]) -> None:
    config = {"model": {"class_path": "lit_narrative.SFTModule", "init_args": {"model": checkpoint}}}
    write_text(folder / "config_test.yaml", yaml.safe_dump(config))
    write_json(folder / "verifiers" / "test.json", figures)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A recipe's folder that was moved: two trainings, a test of each, and the test of another checkpoint."""
    out = tmp_path / "moved" / "story"
    sft = job(out / "sft", "SFTModule", "someone/small-model")
    job(out / "cycle", "GRPOModule", "runs/story/sft/checkpoints/last.ckpt", rewards={"sound": 0.6, "rarity": 0.5})
    columns = ["step", "reward", "val/loss", "cycle/auc_sae", "cycle/auc_permuted"]
    write_table(out / "cycle" / "metrics.csv", columns, [[0, 0.1, 1.0, 0.7, 0.5], [43, 0.3, 0.9, 0.72, 0.51]])
    write_json(out / "cycle" / "job.json", {"seconds": 61.4, "finished": 1.0})
    assert sft.name == "last.ckpt"
    leave_test(
        out / "test_final",
        "runs/story/cycle/checkpoints/last.ckpt",
        {"reward": 0.77, "reward_ci": [0.75, 0.79], "corpus": {"reward": 0.87}, "seed": 3},
    )
    leave_test(out / "test_sft", "runs/story/sft/checkpoints/last.ckpt", {"reward": 0.74})
    leave_test(out / "test_other", "runs/story/other/checkpoints/last.ckpt", {"reward": 0.123})
    write_json(out / "recipe.json", {"recipe": "storyworld", "seeds": [7], "set": [], "report": "storyworld"})
    return out


def test_card_states_data_rewards_seeds_versions_results_and_controls(run: Path) -> None:
    card = model_card(run / "cycle" / "checkpoints" / "last.ckpt", "model", ["learned: strict score 0.74 -> 0.77"])
    _, header, body = card.split("---\n", 2)
    assert yaml.safe_load(header) == {
        "library_name": "transformers",
        "tags": ["lit-narrative", "GRPOModule"],
        "pipeline_tag": "text-generation",
        "base_model": "someone/small-model",
    }
    stages = [line for line in body.splitlines() if line.startswith(("| `sft`", "| `cycle` "))]
    assert stages == [
        "| `sft` | `SFTModule` | `StoryworldData` | `someone/small-model` | – | `0.01` | `7` | – |",
        "| `cycle` | `GRPOModule` | `StoryworldData` | `sft/checkpoints/last.ckpt` | `44` | `0.01` | `7` | `61` |",
    ]
    assert "| `sound` | `0.6` |" in body and "train_size: 12" in body and "| `torch` | `2.13.0` |" in body
    assert "learned: strict score 0.74 -> 0.77" in body
    results, controls = body.partition("## Controls")[::2]
    assert "| `test_final/reward` | 0.77 | 0.75 to 0.79 | 0.74 |" in results
    assert "| `test_final/corpus/reward` | 0.87 |" in controls and "| `cycle/cycle/auc_permuted` | 0.51 |" in controls
    assert "auc_permuted" not in results and "0.123" not in body
    assert "lit-narrative run storyworld" in body and "--seed 7" in body
    assert "hunter2" not in card


def test_a_run_without_a_test_shows_its_last_validation(run: Path) -> None:
    for name in ("test_final", "test_sft", "test_other"):
        (run / name / "config_test.yaml").unlink()
    card = model_card(run / "cycle" / "checkpoints" / "last.ckpt", "adapter")
    assert "These are of its last validation." in card and "| `val/loss` | 0.9 |" in card
    assert "library_name: peft" in card


def test_a_checkpoint_outside_a_run_says_so(tmp_path: Path) -> None:
    card = model_card(tmp_path / "some.ckpt", "sae")
    assert "outside the folder of its run" in card and "SAE.load_from_disk" in card and "base_model" not in card


def test_a_folder_of_a_path_is_not_named_as_a_base_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert "base_model" not in model_card(job(tmp_path / "run", "SFTModule", "my/model"), "model")


def test_checkpoints_that_name_each_other_end(tmp_path: Path) -> None:
    first = job(tmp_path / "a", "SFTModule", "b/checkpoints/last.ckpt")
    job(tmp_path / "b", "SFTModule", "a/checkpoints/last.ckpt")
    assert model_card(first, "model").count("| `SFTModule` |") == 2


HOSTILE = "`` ` <script>alert(1)</script> | x\n\n# heading\n```\n[a](javascript:b) \u202e"


def test_nothing_from_a_run_becomes_markup(tmp_path: Path) -> None:
    folder = tmp_path / "`<b>x|y"
    checkpoint = job(folder, f"A.{HOSTILE}", HOSTILE, rewards={HOSTILE: HOSTILE})
    write_table(folder / "metrics.csv", ["step", f"val/{HOSTILE}"], [[1, 2]])
    card = model_card(checkpoint, "model", [HOSTILE])
    _, header, body = card.split("---\n", 2)
    assert yaml.safe_load(header)["tags"][0] == "lit-narrative"
    assert "\u202e" not in card
    # Without fenced blocks and code spans there is nothing left of it.
    bare = re.sub(r"(?ms)^(`{3,})[^\n`]*\n.*?^\1$", "", body)
    bare = re.sub(r"(?<!`)(`+)(?!`).*?(?<!`)\1(?!`)", "", bare)
    for part in ("<script", "<b>", "javascript", "# heading"):
        assert part not in bare
    rows = [line for line in bare.splitlines() if line.startswith("| ")]
    assert rows and all(re.fullmatch(r"\|( [^|]*\|)+", row) for row in rows)


def test_spans_and_blocks_cannot_be_closed_from_within() -> None:
    assert code("a``b|c") == "``` a``b\\|c ```"
    assert code("  ") == "–"
    assert block("a\n````\nb").startswith("`````\n")


def test_settings_that_are_none_are_one_clear_error(tmp_path: Path) -> None:
    write_text(tmp_path / "run" / "config.yaml", "- 1\n")
    with pytest.raises(UserError, match=r"config.yaml must be an object"):
        model_card(tmp_path / "run" / "checkpoints" / "last.ckpt", "model")
    deep: Any = 1.0
    for _ in range(200):
        deep = {"x": deep}
    job(tmp_path / "deep", "SFTModule", None)
    leave_test(tmp_path / "test", "runs/deep/checkpoints/last.ckpt", {"reward": 0.5, "x": deep})
    assert "| `test/reward` | 0.5 |" in model_card(tmp_path / "deep" / "checkpoints" / "last.ckpt", "model")
