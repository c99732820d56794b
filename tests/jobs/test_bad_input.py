"""Bad input ends with one line that names it and the remedy, before any training, and leaves nothing half-written."""

from pathlib import Path

import pytest
import torch

from lit_narrative.cli import main
from lit_narrative.lm.load import ScratchModel, build_lm, scratch_config
from lit_narrative.lm.tokens import TrainedTokenizer, train_tokenizer


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model of 300 tokens and 96 positions, a tokenizer of 300, and one of 100 that fits the model."""
    root = tmp_path_factory.mktemp("models")
    lm = build_lm(scratch_config(ScratchModel(hidden_size=16, heads=2, layers=1, positions=96), 300, 1))
    tokenizer = train_tokenizer(["Storyworld about a mill. " * 20], TrainedTokenizer(vocab_size=300))
    lm.save_pretrained(root / "good")
    tokenizer.save_pretrained(root / "good")
    build_lm(scratch_config(ScratchModel(hidden_size=16, heads=2, layers=1), 100, 1)).save_pretrained(root / "small")
    (root / "empty").mkdir()
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


@pytest.mark.parametrize(
    ("config", "args", "expected"),
    [
        ("storyworld/nope", (), ["no configuration 'storyworld/nope'", "configs list"]),
        ("storyworld/sft", ("--model.warmup_step=3",), ["'warmup_step'", "warmup_steps"]),
        ("storyworld/sft", ("--data.worlds=nowhere",), ["nowhere"]),
        ("storyworld/sft", ("--model.model=MODELS/empty",), ["no causal language model", "MODELS/empty"]),
        (
            "storyworld/sft",
            ("--model.model=MODELS/small", "--model.tokenizer=MODELS/good"),
            ["tokenizer has", "embeds 100"],
        ),
        ("storyworld/grpo", ("--model.model=nowhere.ckpt",), ["no checkpoint at 'nowhere.ckpt'"]),
        (
            "storyworld/grpo",
            ("--model.model=MODELS/good", "--model.rewards={valid_jsn: 1}"),
            ["did you mean 'valid_json'"],
        ),
        ("storyworld/grpo", ("--model.model=MODELS/good", "--model.num_generations=1"), ["at least 2"]),
        ("storyworld/grpo", ("--model.model=MODELS/good", "--model.sampling.top_k=5"), ["top_k"]),
        ("storyworld/grpo", ("--model.model=MODELS/good", "--model.sampling.max_new_tokens=95"), ["96 positions"]),
        (
            "storyworld/grpo",
            ("--model.model=MODELS/good", "--model.sampling.max_new_tokens=2", "--trainer.accumulate_grad_batches=3"),
            ["does not divide"],
        ),
    ],
)
def test_wrong_settings(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    models: Path,
    config: str,
    args: tuple[str, ...],
    expected: list[str],
) -> None:
    line = fit(capsys, tmp_path / "run", config, *(arg.replace("MODELS", str(models)) for arg in args))
    for part in expected:
        assert part.replace("MODELS", str(models)) in line


@pytest.mark.parametrize(
    ("text", "expected"), [('{"characters": 1', "not JSON"), ('{"a": "' + "x" * 2**20 + '"}', "split")]
)
def test_malformed_and_oversize_worlds(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str, expected: str
) -> None:
    (tmp_path / "worlds").mkdir()
    (tmp_path / "worlds" / "one.json").write_text(text)
    line = fit(capsys, tmp_path / "run", "storyworld/sft", f"--data.worlds={tmp_path / 'worlds'}")
    assert "one.json" in line and expected in line


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
