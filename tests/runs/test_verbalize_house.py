"""The house's own policies put into words of their own vocabulary, and the latents of an SAE on one of them."""

import json
from pathlib import Path

import pytest

from lit_narrative.cli.main import main
from lit_narrative.lm.vectors.verbalizer import Verbalizer
from lit_narrative.sae.autoencoder import decoder_directions
from lit_narrative.tasks.verbalize.prompts import explanation_of
from lit_narrative.tasks.verbalize.sidecar import Sidecar
from tests.kills import rows

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.accelerator=cpu"]
BRIEF = [*QUIET, "--trainer.limit_val_batches=0"]
ACTOR, CRITIC = "runs/verbalize/actor_sft/checkpoints/last.ckpt", "runs/verbalize/critic_sft/checkpoints/last.ckpt"
LONG = "--model.sampling.max_new_tokens=48"  # tags of the storyworlds' tokenizer are several tokens each
TAGS = {"cards/sft": False, "storyworld/sft": True}
"""Whether a task's tokenizer can write the tags: that of the cards has whole words only."""


def policy(config: str) -> str:
    """A policy by a shipped configuration, after some steps."""
    main(["fit", "--config", config, *BRIEF, "--trainer.max_steps=40", "--data.batch_size=16"])
    return f"runs/{config}/checkpoints/last.ckpt"


def verbalizer(config: str) -> str:
    """Actor and critic of a policy's first layer; the folder of its activations."""
    given = ["--model", policy(config), "--layer=1", "--corpus", config, "--to=activations"]
    main(["extract", *given, "--documents=150", "--eval_documents=12", "--positions_per_document=4", "--words=2"])
    size = [
        "--trainer.max_steps=150",
        "--trainer.log_every_n_steps=1",
        f"--data.batch_size={8 if TAGS[config] else 32}",
    ]
    subject = [*size, f"--model.model=runs/{config}/checkpoints/last.ckpt", "--data.activations=activations"]
    for job, more in (("actor_sft", [LONG]), ("critic_sft", [])):
        main(["fit", "--config", f"verbalize/{job}", *BRIEF, *subject, *more])
    return "activations"


@pytest.mark.parametrize("config", TAGS)
def test_a_policy_is_put_into_words(config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = verbalizer(config)
    assert Sidecar.load(folder).tags == TAGS[config]
    for job in ("actor_sft", "critic_sft"):
        losses = [float(row["loss"]) for row in rows(Path("runs/verbalize", job)) if row.get("loss")]
        assert sum(losses[-20:]) < 0.8 * sum(losses[:20]), job
    judged = [f"--ckpt_path={ACTOR}", f"--data.activations={folder}", f"--data.critic={CRITIC}"]
    main(["test", "--config", "verbalize/actor_sft", *QUIET, *judged, LONG])
    scores = json.loads(Path("runs/verbalize/actor_sft/eval/test.json").read_text())
    found = scores["splits"]["test"]
    assert found["n"] == 48 and found["fve"] <= 1
    assert found["format"] > 0.9 or TAGS[config]  # tags of several tokens take more steps than these


def test_latents_of_an_sae_are_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = verbalizer("cards/sft")
    main(["fit", "--config", "cards/sae", *BRIEF, "--trainer.max_steps=50"])
    main(["export", "runs/cards/sae/checkpoints/last.ckpt", "sae", "--what", "sae"])
    capsys.readouterr()
    main(["explain", "--ckpt", ACTOR, "--critic", CRITIC, "--data", folder, "--sae=sae", "--latent", "0", "7"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["latent", "0", "7"]

    sidecar = Sidecar.load(folder)
    read = Verbalizer.load(
        ACTOR, CRITIC, sidecar.actor_template, lambda text: explanation_of(text, sidecar.tags), max_new_tokens=8
    )
    made = read.explain(decoder_directions("sae")[[0, 7]], norm=sidecar.mean_norm)
    assert all(one.text is None or one.score is not None for one in made)
