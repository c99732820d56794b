"""What is in SmolLM2: an autoencoder of its residual stream over a book, and circuits within the default bounds."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lit_narrative.cli.main import main
from lit_narrative.datamodules.activations import ActivationSettings, BookData
from tests.kills import rows

pytestmark = [pytest.mark.pretrained, pytest.mark.timeout(900)]

QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.accelerator=cpu"]
SEA = "The {} was far from shore, and nobody had seen land for {} days. The captain {} the log and was silent."
WORDS = [("ship", "nine", "read"), ("boat", "forty", "closed"), ("raft", "three", "burnt"), ("whale", "six", "lost")]


@pytest.fixture
def book(tmp_path: Path) -> Path:
    """Passages of about thirty tokens."""
    path = tmp_path / "sea.txt"
    path.write_text("\n\n".join(f"{SEA.format(*WORDS[n % 4])} It was page {n}." for n in range(80)))
    return path


def test_an_autoencoder_of_the_stream_is_what_sae_lens_loads(
    book: Path, smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sae_lens import SAE

    monkeypatch.chdir(tmp_path)
    given = [f"--data.books={book}", f"--data.activations.model={smollm2}", "--data.passage_words=20"]
    brief = ["--trainer.max_steps=60", "--trainer.val_check_interval=60", "--trainer.log_every_n_steps=10"]
    small = ["--model.d_sae=256", "--model.k=16", "--model.lr=3e-3", "--data.activations.rows=1500"]
    main(["fit", "--config", "books/sae", *QUIET, *given, *brief, *small, "--data.batch_size=128"])
    main(["export", "runs/books/sae/checkpoints/last.ckpt", "own", "--what", "sae"])
    explained = [float(row["val/explained_variance"]) for row in rows(Path("runs/books/sae")) if row.get("val/mse")]
    assert explained[-1] > 0.5
    sae = SAE.load_from_disk("own")
    hook, cache = "blocks.15.hook_resid_pre", "runs/books/activations"
    settings = ActivationSettings(str(smollm2), hook, skip=1, rows=1500, cache=cache)
    task = BookData(str(book), 20, settings)
    kept = task.activations("val")  # from the disk
    first, lm = task.examples("val")[0], AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    ids = tokenizer(first.prompt)["input_ids"] + tokenizer(first.completion)["input_ids"]
    with torch.no_grad():
        states = lm(torch.tensor([ids]), output_hidden_states=True).hidden_states[15][0, 1:-1]
    found = np.stack([row.vector for row in kept if row.text == 0])
    assert np.abs(found - states.numpy()).max() < 1e-3 * states.abs().max()
    rebuilt = sae(states)
    assert (rebuilt - states).var() < 0.5 * states.var()
    assert ((sae.encode(states) > 0).sum(1) <= 16).all()


@pytest.mark.slow
def test_circuits_of_a_large_model_are_bounded_by_default(
    smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    few = ["--trainer.callbacks.analyses=[ablation]", "--trainer.callbacks.settings.ablation.units=[mlp]"]
    model = [f"--model.model={smollm2}", "--trainer.callbacks.splits=[id_test]", "--trainer.callbacks.pages=false"]
    data = ["--data.test_size=16", "--trainer.limit_test_batches=1"]
    main(["test", "--config", "cards/circuits", *QUIET, *few, *model, *data])
    stored = json.loads(Path("runs/cards/circuits/circuits/manifest.json").read_text())
    assert stored["settings"]["ablation"]["layers"] == [0, 14, 29]
    assert stored["splits"]["id_test"]["examples"] == 16
    assert stored["errors"] == {}
