"""all-MiniLM-L6-v2 as the encoder of a reward model."""

from pathlib import Path

import pytest
import torch
from sentence_transformers import SentenceTransformer

from lit_narrative.cli.main import main
from lit_narrative.lm.sentence_encoder import encode, load_encoder
from lit_narrative.rl.rewards.model import RewardModel
from tests.kills import rows

pytestmark = [pytest.mark.pretrained, pytest.mark.timeout(600)]

TEXTS = ["The salt road runs along the sea.", "A lantern in the tower.", "He counts his money twice.", ""]


def test_vectors_are_those_of_sentence_transformers(minilm: Path) -> None:
    encoder = load_encoder(str(minilm))
    expected = torch.tensor(SentenceTransformer(str(minilm), device="cpu").encode(TEXTS[:3]))
    found = encode(encoder, TEXTS)
    torch.testing.assert_close(found[:3], expected, atol=1e-5, rtol=1e-4)
    assert not found[3].any()


def test_a_reward_model_on_it_learns_and_is_exported(
    minilm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    quiet = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.accelerator=cpu"]
    main(["fit", "--config", "poetry/reward", *quiet, f"--model.encoder={minilm}", "--trainer.max_epochs=5"])
    checkpoint = "runs/poetry/reward/checkpoints/last.ckpt"
    assert max(float(row.get("val/pair_accuracy", 0)) for row in rows(Path("runs/poetry/reward"))) > 0.8
    main(["export", checkpoint, "exported", "--what", "reward"])
    ours, theirs = RewardModel.load(checkpoint), SentenceTransformer("exported", device="cpu")
    torch.testing.assert_close(ours.vectors(TEXTS[:3]), torch.tensor(theirs.encode(TEXTS[:3])), atol=1e-5, rtol=1e-4)
