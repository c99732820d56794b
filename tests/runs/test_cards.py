"""What the card game shows: SFT learns its rules by their sentences; GRPO on a mixture goes beyond, more SFT does not.

The slow tests train the shipped configurations: ``python -m pytest -m slow tests/runs/test_cards.py``.
"""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from lit_narrative.cli.main import main
from lit_narrative.files import read_table

QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.accelerator=cpu"]


@pytest.mark.slow
def test_sixty_steps_learn_something(tmp_path: Path) -> None:
    few = ["--trainer.max_steps=60", "--trainer.val_check_interval=60", "--trainer.log_every_n_steps=1"]
    small = ["--data.train_size=4000", "--data.batch_size=64", "--model.warmup_steps=10"]
    main(["fit", "--config", "cards/sft", *QUIET, *few, *small, f"--trainer.default_root_dir={tmp_path}"])
    found = [float(row["loss"]) for row in read_table(tmp_path / "metrics.csv") if "loss" in row]
    assert len(found) == 60
    assert sum(found[-5:]) / 5 <= 0.65 * found[0]
    assert all(loss == loss for loss in found)
    assert (tmp_path / "checkpoints" / "last.ckpt").exists()
    assert json.loads((tmp_path / "eval" / "val.json").read_text())["splits"]["val"]["n"] == 300


def trained(folder: Path, seed: int, config: str, *settings: str) -> dict[str, Any]:
    """A shipped configuration, tested on every set: the content of ``eval/test.json``."""
    given = ["--config", config, *QUIET, *settings, f"--trainer.default_root_dir={folder}", f"--seed_everything={seed}"]
    main(["fit", *given])
    main(["test", *given, f"--ckpt_path={folder / 'checkpoints' / 'last.ckpt'}"])
    found: dict[str, Any] = json.loads((folder / "eval" / "test.json").read_text())
    return found


Start = tuple[str, dict[str, Any]]


def started(folder: Path, seed: int) -> Start:
    """The shipped SFT as it is: its checkpoint, and what its test found."""
    found = trained(folder, seed, "cards/sft")
    return str(folder / "checkpoints" / "last.ckpt"), found


WarmStart = Callable[[int], Start]
SEEDS = (0, 1, 2)


@pytest.fixture(scope="session")
def warm_start(tmp_path_factory: pytest.TempPathFactory) -> WarmStart:
    """Where the arms of a seed begin; made once a seed."""
    return cache(lambda seed: started(tmp_path_factory.mktemp("sft"), seed))


@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("seed", SEEDS)
def test_sft_learns_its_rules_by_their_sentences(warm_start: WarmStart, seed: int) -> None:
    _, found = warm_start(seed)
    splits, gaps = found["splits"], found["gaps"]
    assert splits["id_test"]["accuracy"] >= 0.97
    assert splits["id_test"]["trace_exact"] >= 0.9
    assert gaps["new_colors"] >= 0.5
    assert gaps["paraphrase"] >= 0.4
    assert splits["classification"]["format_validity"] <= 0.1
    assert splits["new_colors"]["rule_substitution"]["red_minus_blue"]["all"] >= 0.8


def gains(before: dict[str, Any], after: dict[str, Any]) -> dict[str, float]:
    """What GRPO on the mixture changed."""

    def gained(name: str, key: str = "accuracy") -> float:
        return float(after["splits"][name][key] - before["splits"][name][key])

    shifts = ("new_colors", "compositional", "paraphrase_mix")
    return {
        "wordings of the mixture": gained("paraphrase_mix"),
        "their running totals": gained("paraphrase_mix", "trace_exact"),
        "in distribution": gained("id_test"),
        "gap": fmean(after["gaps"][name] - before["gaps"][name] for name in shifts),
    }


@pytest.mark.slow
@pytest.mark.timeout(5400)
def test_grpo_on_the_mixture_takes_up_its_wordings_and_keeps_the_rules(warm_start: WarmStart, tmp_path: Path) -> None:
    """One seed gains 0.15 to 0.22 on the wordings and 0.13 to 0.15 on totals; elsewhere one may fall a little short."""
    found = []
    for seed in SEEDS:
        start, before = warm_start(seed)
        found.append(gains(before, trained(tmp_path / str(seed), seed, "cards/grpo", f"--model.model={start}")))
    mean = {name: fmean(one[name] for one in found) for name in found[0]}
    assert mean["wordings of the mixture"] >= 0.15
    assert mean["their running totals"] >= 0.10
    for one in found:
        assert one["wordings of the mixture"] >= 0.12
        assert one["their running totals"] >= 0.08
        assert one["in distribution"] >= -0.05
        assert one["gap"] < 0


@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("seed", SEEDS)
def test_as_much_more_sft_leaves_other_wordings_where_they_were(
    warm_start: WarmStart, seed: int, tmp_path: Path
) -> None:
    start, before = warm_start(seed)
    goes_on = [f"--model.model={start}", "--model.tokenizer=null", "--model.lr=1e-3", "--model.warmup_steps=10"]
    budget = ["--trainer.max_steps=900", "--trainer.val_check_interval=300", "--data.batch_size=256"]
    after = trained(tmp_path, seed, "cards/sft", *goes_on, *budget)
    for name in ("paraphrase", "paraphrase_mix"):
        assert abs(after["splits"][name]["accuracy"] - before["splits"][name]["accuracy"]) < 0.10


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_sft_learns_the_usual_game_of_three_to_six_cards(tmp_path: Path) -> None:
    usual = ["--data.game.lengths=[3,6]", "--data.game.long_lengths=[10,15]", "--data.game.rules={}"]
    found = trained(tmp_path, 0, "cards/sft", *usual, "--trainer.max_steps=1100")
    assert found["splits"]["id_test"]["accuracy"] >= 0.95
    assert found["gaps"]["new_colors"] >= 0.5
    assert found["gaps"]["paraphrase"] >= 0.4
