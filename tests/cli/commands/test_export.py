"""Exports are read back by the libraries that they are for, and say the same."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lit_narrative.cli.main import main
from lit_narrative.files import write_json
from lit_narrative.modules.grpo import GRPOModule
from lit_narrative.modules.language import LanguageModule
from lit_narrative.modules.reward import RewardModule
from lit_narrative.modules.sft import SFTModule
from lit_narrative.rl.rewards.head import RewardHead
from lit_narrative.rl.rewards.similarity import SimilarityModel
from tests.modules.pairs import Habits, train
from tests.modules.ratings import learned

QUIET = [
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--trainer.max_steps=2",
    "--trainer.val_check_interval=2",
    "--trainer.limit_val_batches=0",
    "--data.train_size=32",
]
TINY = {"architecture": "llama", "hidden_size": 16, "layers": 1, "heads": 2, "positions": 2048}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny policy, adapters on its export, and a tiny autoencoder."""
    folder = tmp_path_factory.mktemp("runs")

    def fit(name: str, config: str, *settings: str) -> None:
        main(["fit", f"--config={config}", f"--trainer.default_root_dir={folder / name}", *QUIET, *settings])

    sizes = [f"--model.model.{key}={value}" for key, value in TINY.items()]
    fit("sft", "storyworld/sft", *sizes, "--model.tokenizer.sample=32", "--model.tokenizer.vocab_size=300")
    main(["export", last(folder / "sft"), str(folder / "hf")])
    adapters = ["--model.lora.r=2", '--model.lora.target_modules=["q_proj"]']
    fit("lora", "storyworld/sft", f"--model.model={folder / 'hf'}", "--model.tokenizer=null", *adapters)
    group = ["--model.num_generations=2", "--model.sampling.max_new_tokens=8", "--data.batch_size=2"]
    group += ["--model.micro_batch_size=2", "--trainer.accumulate_grad_batches=2"]
    group += ['--model.rewards={"tests.rewards:LowTokens": 1}']  # what an untrained model writes is no world
    fit("grpo", "storyworld/grpo", f"--model.model={folder / 'hf'}", "--model.tokenizer=null", *adapters, *group)
    fit("sae", "storyworld/sae", "--data.state_worlds=8")
    return folder


def last(run: Path) -> str:
    return str(run / "checkpoints" / "last.ckpt")


def readme(folder: Path) -> str:
    return (folder / "README.md").read_text(encoding="utf-8")


def logits(lm: Any, tokenizer: Any) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = lm.eval()(**tokenizer("A world of salt", return_tensors="pt")).logits
    return result


def of_checkpoint(path: str, kind: type[LanguageModule] = SFTModule) -> torch.Tensor:
    module = kind.load_from_checkpoint(path)
    return logits(module.lm, module.tokenizer)


def test_model_for_transformers(runs: Path) -> None:
    lm = AutoModelForCausalLM.from_pretrained(runs / "hf")
    exported = logits(lm, AutoTokenizer.from_pretrained(runs / "hf"))
    torch.testing.assert_close(exported, of_checkpoint(last(runs / "sft")))
    card = readme(runs / "hf")
    assert "library_name: transformers" in card and "| `sft` | `SFTModule` | `StoryworldData` |" in card
    assert "train_size: 32" in card and "| `torch` |" in card


def test_model_after_reinforcement_and_what_the_report_says(runs: Path, tmp_path: Path) -> None:
    checkpoint = Path(shutil.copytree(runs / "sft", tmp_path / "run" / "cycle")) / "checkpoints" / "last.ckpt"
    write_json(
        tmp_path / "run" / "recipe.json", {"recipe": "storyworld", "seeds": [0], "set": [], "report": "storyworld"}
    )
    figures = {"reward": 0.5, "n": 8, "sound": 0.25, "sound_ci": [0.1, 0.4]}
    write_json(tmp_path / "run" / "summary.json", {"sft": figures, "final": figures, "corpus": {}})
    main(["export", str(checkpoint), str(tmp_path / "told")])
    assert "learned: strict score 0.500 -> 0.500" in readme(tmp_path / "told")
    # A report of someone's own is code, which a folder does not get run by naming it.
    write_json(tmp_path / "run" / "recipe.json", {"recipe": "x", "seeds": [0], "set": [], "report": "some.code:make"})
    main(["export", str(checkpoint), str(tmp_path / "silent")])
    assert "report says" not in readme(tmp_path / "silent")
    main(["export", str(checkpoint), str(tmp_path / "bare"), "--without_card"])
    assert not (tmp_path / "bare" / "README.md").exists()


@pytest.mark.parametrize("run", ["lora", "grpo"])
def test_adapter_for_peft_and_merged_for_transformers(runs: Path, tmp_path: Path, run: str) -> None:
    from peft import PeftModel

    main(["export", last(runs / run), str(tmp_path / "adapter"), "--what", "adapter"])
    main(["export", last(runs / run), str(tmp_path / "merged")])
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "adapter")
    base = AutoModelForCausalLM.from_pretrained(runs / "hf")
    plain = logits(base, tokenizer)
    assert "[More Information Needed]" not in readme(tmp_path / "adapter")  # PEFT's own is a form to fill in
    adapted = logits(PeftModel.from_pretrained(base, tmp_path / "adapter"), tokenizer)
    assert not torch.equal(adapted, plain)
    kind = GRPOModule if run == "grpo" else SFTModule
    torch.testing.assert_close(adapted, of_checkpoint(last(runs / run), kind))
    assert ("## Rewards" in readme(tmp_path / "adapter")) == (run == "grpo")
    merged = logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged"), tokenizer)
    torch.testing.assert_close(merged, adapted, atol=1e-6, rtol=1e-5)


def test_autoencoder_for_saelens(runs: Path, tmp_path: Path) -> None:
    from sae_lens import SAE

    main(["export", last(runs / "sae"), str(tmp_path / "sae"), "--what", "sae"])
    sae = SAE.load_from_disk(tmp_path / "sae")
    weights = torch.load(last(runs / "sae"), weights_only=True)["state_dict"]
    assert "library_name: saelens" in readme(tmp_path / "sae")
    assert sae.W_dec.shape == weights["sae.W_dec"].shape
    assert sae(torch.randn(3, sae.W_dec.shape[1], generator=torch.Generator().manual_seed(0))).isfinite().all()


def test_reward_model_for_sentence_transformers(tmp_path: Path) -> None:
    from safetensors.torch import load_file
    from sentence_transformers import SentenceTransformer

    checkpoint = learned(tmp_path)
    main(["export", checkpoint, str(tmp_path / "reward"), "--what", "reward"])
    texts = ["wave tide", "oak moss"]
    vectors = SentenceTransformer(str(tmp_path / "reward"), device="cpu").encode(texts, convert_to_tensor=True)
    head = RewardHead(**json.loads((tmp_path / "reward" / "reward_head.json").read_text())).eval()
    head.load_state_dict(load_file(tmp_path / "reward" / "reward_head.safetensors"))
    with torch.no_grad():
        scores = head.scores(head(vectors)).tolist()
    assert scores == pytest.approx(RewardModule.load_from_checkpoint(checkpoint).score(texts), abs=1e-6)
    assert "library_name: sentence-transformers" in readme(tmp_path / "reward")


def test_judge_of_similarity_for_sentence_transformers(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    _, _, checkpoint = train(tmp_path, Habits())
    main(["export", str(checkpoint), str(tmp_path / "judge"), "--what", "judge"])
    texts = ["an old door in the rain", "a green boat"]
    encoder = SentenceTransformer(str(tmp_path / "judge"), device="cpu")
    (found,) = SimilarityModel.load(str(checkpoint)).similarity(texts[:1], texts[1:]).tolist()
    assert float(encoder.similarity(*encoder.encode(texts))) == pytest.approx(found, abs=1e-5)
    assert "sentence-similarity" in readme(tmp_path / "judge")


@pytest.mark.parametrize(
    ("run", "what", "part"),
    [
        ("nothing", "model", "no checkpoint at"),
        ("sae", "model", "holds no language model"),
        ("sft", "adapter", "holds no adapters"),
        ("sft", "sae", "holds no autoencoder"),
        ("sft", "reward", "holds no reward model"),
        ("sft", "judge", "holds no"),
        ("nothing", "judge", "there is no checkpoint"),
    ],
)
def test_wrong_checkpoint_is_one_clear_error(
    runs: Path, tmp_path: Path, run: str, what: str, part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["export", last(runs / run), str(tmp_path / "out"), "--what", what])
    assert end.value.code == 2
    assert part in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["checkpoints/last.ckpt", "checkpoints", ""])
def test_a_run_that_keeps_autoencoders_says_where(
    runs: Path, tmp_path: Path, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "cycle"
    (run / "checkpoints").mkdir(parents=True)
    shutil.copy(last(runs / "sft"), run / "checkpoints")
    for cycle in (2, 10):
        (run / "sae" / f"cycle_{cycle}").mkdir(parents=True)
        (run / "sae" / f"cycle_{cycle}" / "cfg.json").touch()
    with pytest.raises(SystemExit):
        main(["export", str(run / place), str(tmp_path / "out"), "--what", "sae"])
    assert f"of this run stand in '{run / 'sae'}' (2, such as '{run / 'sae' / 'cycle_10'}')" in capsys.readouterr().err


def test_folder_that_is_there_is_left_alone(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["export", last(runs / "sft"), str(runs / "hf")])
    assert "exists already" in capsys.readouterr().err
