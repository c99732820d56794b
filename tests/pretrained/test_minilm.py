"""all-MiniLM-L6-v2 as the encoder of a reward model, and of a judge of style."""

from pathlib import Path

import pytest
import torch
from sentence_transformers import SentenceTransformer

from lit_narrative.cli.main import main
from lit_narrative.datamodules.style import StyleData
from lit_narrative.lm.sentence_encoder import encode, load_encoder
from lit_narrative.modules.similarity import SimilarityModule
from lit_narrative.rl.rewards.model import RewardModel
from lit_narrative.rl.rewards.similarity import SimilarityModel
from tests.helpers import fit
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


def test_a_judge_of_style_on_it_reads_long_texts_to_their_end(minilm: Path, tmp_path: Path) -> None:
    module = SimilarityModule(str(minilm), lr=2e-5, train_windows=1)
    data = StyleData(pair_size=16, val_size=8, batch_size=8)
    fit(module, data, tmp_path, max_steps=2)
    judge = SimilarityModel.load(str(module.save(tmp_path / "judge")))
    assert judge.window == 153  # words that 256 tokens have room for
    body = data.corpus.of("val")[0].text
    long = " ".join([body] * 6)
    assert len(long.split()) > 2 * judge.window
    texts = [long, f"{long} Upon that moor no captain whatsoever had slept; whilst he, whilst she."]
    ends = judge.vectors(texts)
    assert 0.9 < float(ends[0] @ ends[1]) < 0.9999
    torch.testing.assert_close(ends, module.model.vectors(texts))
    before = load_encoder(str(minilm))
    plain = torch.nn.functional.normalize(encode(before, [body]))[0]
    assert 0.5 < float(judge.vectors([body])[0] @ plain) < 0.99999  # it learned
    loaded = SentenceTransformer(str(tmp_path / "judge"), device="cpu").encode(body, normalize_embeddings=True)
    torch.testing.assert_close(torch.from_numpy(loaded), judge.vectors([body])[0], atol=1e-5, rtol=1e-4)
