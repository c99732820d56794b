"""Bad input ends with one line that names it and the remedy, before any training, and leaves nothing half-written."""

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lit_narrative.cli.main import main
from lit_narrative.datamodules.base import Split, TaskDataModule
from lit_narrative.errors import UserError
from lit_narrative.lm.load import ScratchModel, build_lm, scratch_config
from lit_narrative.lm.sampler import SamplingParams
from lit_narrative.lm.tokenizer import TrainedTokenizer, train_tokenizer
from lit_narrative.modules.grpo import GRPOModule
from lit_narrative.rl.loss_settings import LossSettings
from lit_narrative.rl.rewards.runner import ScoringSettings
from lit_narrative.views import Prompt
from tests import helpers
from tests.helpers import Recorder, TinyTask, sizes, tokenizer_folder
from tests.rewards import Moody

GOOD, SHORT = "--model.model=MODELS/good", "--model.sampling.max_new_tokens=2"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and tokenizer of 300 tokens and 96 positions, and others that do not go with them."""
    root = tmp_path_factory.mktemp("models")
    lm = build_lm(scratch_config(ScratchModel(hidden_size=16, heads=2, layers=1, positions=96), 300, 1))
    tokenizer = train_tokenizer(["Storyworld about a mill. " * 20], TrainedTokenizer(vocab_size=300))
    lm.save_pretrained(root / "good")
    tokenizer.save_pretrained(root / "good")
    build_lm(scratch_config(ScratchModel(hidden_size=16, heads=2, layers=1), 100, 1)).save_pretrained(root / "small")
    build_lm(scratch_config(ScratchModel(hidden_size=16, heads=2, layers=1), 260, 1)).save_pretrained(root / "foreign")
    train_tokenizer(["Storyworld. "], TrainedTokenizer(vocab_size=260)).save_pretrained(root / "foreign")
    (root / "empty").mkdir()
    for name in ("cut", "mixed"):
        shutil.copytree(root / "good", root / name)
    weights = root / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    config = json.loads((root / "mixed" / "config.json").read_text())
    (root / "mixed" / "config.json").write_text(json.dumps({**config, "intermediate_size": 8}))
    return root


def refusal(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """The one line that a command refuses with."""
    with pytest.raises(SystemExit) as ended:
        main(list(args))
    assert ended.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


def fit(capsys: pytest.CaptureFixture[str], folder: Path, config: str, *args: str) -> str:
    """What a fit in ``folder`` refuses with; nothing of a training may be there."""
    line = refusal(capsys, "fit", "--config", config, f"--trainer.default_root_dir={folder}", *args)
    left = {path.name for path in folder.rglob("*") if path.is_file()} if folder.exists() else set()
    assert not {name for name in left if name.endswith((".ckpt", ".tmp", ".csv"))}
    return line


WRONG: list[tuple[str, tuple[str, ...], list[str]]] = [
    ("storyworld/nope", (), ["no configuration 'storyworld/nope'", "configs list"]),
    ("storyworld/sft", ("--model.warmup_step=3",), ["'warmup_step'", "warmup_steps"]),
    ("storyworld/sft", ("--data.worlds=nowhere",), ["nowhere"]),
    ("storyworld/sft", ("--trainer.precision=transformer-engine",), ["puts layers of its own", "bf16-mixed"]),
    (
        "storyworld/sft",
        ("--model.model=MODELS/empty", "--model.tokenizer=null"),
        ["no tokenizer at", "MODELS/empty"],
    ),
    (
        "storyworld/sft",
        ("--model.model=MODELS/small", "--model.tokenizer=MODELS/good"),
        ["tokenizer has", "embeds 100"],
    ),
    ("storyworld/grpo", ("--seed_everything=-1",), ["seed_everything is -1", "in 0..4294967295"]),
    ("storyworld/grpo", ("--model.model=MODELS/cut",), ["'MODELS/cut/model.safetensors' is damaged", "again"]),
    (
        "storyworld/grpo",
        ("--model.model=MODELS/mixed",),
        ["'MODELS/mixed' do not belong together", "mlp", "has the shape [", "by config.json"],
    ),
    ("storyworld/grpo", ("--model.model=nowhere.ckpt",), ["no checkpoint at 'nowhere.ckpt'"]),
    (
        "storyworld/grpo",
        (GOOD, "--model.sampling.max_new_tokens=96"),
        ["max_new_tokens=96 leaves no room", "96 positions", "lower it to 95"],
    ),
    (
        "storyworld/grpo",
        (GOOD, SHORT, "--model.max_prompt_length=5"),
        ["prompt 0 ('Storyworld", "only 5 are allowed", "long_prompts=drop or truncate_left"],
    ),
    (
        "storyworld/grpo",
        (GOOD, SHORT, "--model.max_prompt_length=5", "--model.long_prompts=drop"),
        ["prompts are longer than 5 tokens", "leaves none", "long_prompts=truncate_left"],
    ),
]
OTHERS: list[tuple[str, tuple[str, ...], list[str]]] = [
    ("storyworld/grpo", ("--seed_everything=4294967296",), ["seed_everything is 4294967296"]),
    (
        "storyworld/grpo",
        ("--model.model=MODELS/good", "--model.rewards={valid_jsn: 1}"),
        ["did you mean 'valid_json'"],
    ),
    ("storyworld/grpo", (GOOD, "--model.num_generations=1"), ["num_generations=1", "at least 2"]),
    ("storyworld/grpo", ("--model.model=MODELS/good", "--model.sampling.top_k=5"), ["top_k"]),
    ("storyworld/grpo", (GOOD, "--model.sampling.max_new_tokens=95"), ["and only 1 of the model's 96 positions"]),
    (
        "storyworld/grpo",
        (GOOD, SHORT, "--model.max_prompt_length=95"),
        ["max_prompt_length=95 plus model.sampling.max_new_tokens=2 exceeds", "96 positions"],
    ),
    ("storyworld/grpo", (GOOD, SHORT, "--model.max_prompt_length=0"), ["model.max_prompt_length is 0"]),
    ("storyworld/grpo", (GOOD, SHORT, "--model.long_prompts=cut"), ["long_prompts", "truncate_left"]),
    ("storyworld/grpo", (GOOD, "--model.max_skipped_steps=0"), ["model.max_skipped_steps is 0"]),
    (
        "storyworld/grpo",
        (GOOD, SHORT, "--model.generation_batch_size=20", "--trainer.limit_val_batches=0"),
        ["generation_batch_size=20", "multiple of 8"],
    ),
    (
        "storyworld/grpo",
        (GOOD, "--model.loss.beta=0", "--trainer.callbacks=[{class_path: KLCeiling, init_args: {max_kl: 0.1}}]"),
        ["KLCeiling has nothing to watch", "model.loss.beta"],
    ),
    (
        "storyworld/grpo",
        (GOOD, SHORT, "--model.reference.model=MODELS/foreign"),
        ["model.reference.model 'MODELS/foreign' has another vocabulary"],
    ),
    (
        "storyworld/grpo",
        (GOOD, SHORT, "--trainer.accumulate_grad_batches=3", "--trainer.limit_val_batches=0"),
        ["does not divide"],
    ),
]
"""Refused by the same path as those above; the refusals themselves have tests of their modules."""


@pytest.mark.parametrize(
    ("config", "args", "expected"), [*WRONG, *(pytest.param(*case, marks=pytest.mark.slow) for case in OTHERS)]
)
def test_wrong_settings(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    models: Path,
    config: str,
    args: tuple[str, ...],
    expected: list[str],
) -> None:
    # All prompts are read at the start.
    few = () if "nope" in config else ("--data.train_size=64", "--data.val_size=16")
    line = fit(capsys, tmp_path / "run", config, *few, *(arg.replace("MODELS", str(models)) for arg in args))
    for part in expected:
        assert part.replace("MODELS", str(models)) in line


@pytest.mark.parametrize(
    ("text", "expected"), [('{"characters": 1', "not JSON"), ('{"a": "' + "x" * 2**24 + '"}', "split")]
)
def test_malformed_and_oversize_worlds(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str, expected: str
) -> None:
    (tmp_path / "worlds").mkdir()
    (tmp_path / "worlds" / "one.json").write_text(text)
    line = fit(capsys, tmp_path / "run", "storyworld/sft", f"--data.worlds={tmp_path / 'worlds'}")
    assert "one.json" in line and expected in line


def test_the_last_checkpoint_of_a_run_that_has_none(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = f"--trainer.default_root_dir={tmp_path}"
    line = refusal(capsys, "test", "--config", "storyworld/sft", folder, "--ckpt_path=last")
    assert f"there is no '{tmp_path}/checkpoints/last.ckpt'" in line


def test_an_unwritable_run_folder(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    line = refusal(
        capsys, "fit", "--config", "storyworld/sft", f"--trainer.default_root_dir={tmp_path / 'file' / 'run'}"
    )
    assert "cannot be written" in line and "--trainer.default_root_dir" in line


def test_a_damaged_checkpoint(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "whole.ckpt")
    damaged = tmp_path / "damaged.ckpt"
    damaged.write_bytes((tmp_path / "whole.ckpt").read_bytes()[:200])
    assert "damaged.ckpt" in fit(capsys, tmp_path / "run", "storyworld/grpo", f"--model.model={damaged}")
    foreign = fit(capsys, tmp_path / "run", "storyworld/grpo", f"--model.model={tmp_path / 'whole.ckpt'}")
    assert "holds no language model" in foreign


class Prompts(TaskDataModule):
    """Prompts from the command line."""

    def __init__(self, texts: list[str]) -> None:
        super().__init__(batch_size=4)
        self.texts = texts

    def prompts(self, split: Split) -> list[Prompt]:
        return [Prompt(text, {"index": n}) for n, text in enumerate(self.texts)]

    def reward_functions(self, names: Sequence[str]) -> dict[str, Any]:
        return {name: Moody() for name in names}


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["One.", "", "Three.", ""], "2 of the prompts have no text to continue (counted from 0: prompt 1, 3)"),
        ([], "no rows to read"),
    ],
)
def test_empty_prompts(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, models: Path, texts: list[str], expected: str
) -> None:
    config = tmp_path / "prompts.yaml"
    model = {"model": str(models / "good"), "rewards": {"moody": 1.0}, "sampling": {"max_new_tokens": 2}}
    given = {
        "trainer": {"max_epochs": 1},
        "model": {"class_path": "GRPOModule", "init_args": model},
        "data": {"class_path": "tests.cli.test_bad_input.Prompts", "init_args": {"texts": texts}},
    }
    config.write_text(yaml.safe_dump(given))
    assert expected in fit(capsys, tmp_path / "run", str(config))


def learn(folder: Path, *moods: Any, rows: int = 16, **settings: Any) -> tuple[Recorder, GRPOModule]:
    """Windows of 4 prompts, 2 optimizer steps each, with a reward of such moods; without a penalty."""
    given: dict[str, Any] = {
        "num_generations": 2,
        "micro_batch_size": 4,
        "sampling": SamplingParams(4),
        "loss": LossSettings(beta=0.0),
    }
    module = GRPOModule({"moody": 1.0}, model=sizes(), tokenizer=tokenizer_folder(folder), **{**given, **settings})
    data, seen = TinyTask(rows=rows, batch_size=4, rewards=[Moody(*moods)]), Recorder()
    helpers.fit(module, data, folder, seen, max_epochs=1)
    return seen, module


@pytest.mark.parametrize("mood", [math.nan, math.inf, -math.inf, None])
def test_a_score_that_is_none_costs_that_completion_only(mood: float | None, tmp_path: Path) -> None:
    seen, module = learn(tmp_path, mood)
    assert module.scored is not None
    assert module.scored.totals.isnan().tolist() == [True] + [False] * 7
    assert module.scored.advantages[0] == 0 and module.scored.advantages.isfinite().all()
    assert all(math.isfinite(row["loss"]) and row["skipped_steps"] == 0 for row in seen.metrics)


def test_a_reward_that_raises_now_and_then_costs_those_windows(tmp_path: Path) -> None:
    seen, _ = learn(tmp_path, RuntimeError("the judge is out"), 0.0)
    norms = [row["grad_norm"] for row in seen.metrics]
    assert [norm > 0 for norm in norms] == [False, False, True, True] * 2


def test_a_reward_that_always_raises_is_a_clear_stop(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"moody.*the judge is out"):
        learn(tmp_path, RuntimeError("the judge is out"))


@pytest.mark.parametrize("count", [0, 7, 9])
def test_another_number_of_scores_than_completions(count: int, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"'?moody'?.* {count} scores for 8"):
        learn(tmp_path, count)


def test_a_reward_that_hangs_costs_its_window(tmp_path: Path) -> None:
    seen, module = learn(tmp_path, "hang", rows=4, scoring=ScoringSettings(workers=1, timeout=0.3))
    assert module.scored is not None and module.scored.totals.isnan().all()
    assert [row["grad_norm"] for row in seen.metrics] == [0, 0]
