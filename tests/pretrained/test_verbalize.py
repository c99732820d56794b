"""Activations of SmolLM2 on a book put into words: extraction, adapters of both, rewards, a test, a notebook."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from lit_narrative.cli.main import main
from lit_narrative.datamodules.verbalize import VerbalizeData
from lit_narrative.lm.sampler import SamplingParams
from lit_narrative.lm.vectors.verbalizer import Verbalizer
from lit_narrative.modules.grpo import GRPOModule
from lit_narrative.modules.sft import SFTModule
from lit_narrative.tasks.verbalize.prompts import explanation_of
from lit_narrative.tasks.verbalize.sidecar import Sidecar
from lit_narrative.tasks.verbalize.table import ActivationTable
from tests.kills import rows
from tests.paths import DATA

BOOK = DATA / "gutenberg" / "11.txt"
pytestmark = [
    pytest.mark.pretrained,
    pytest.mark.slow,
    pytest.mark.timeout(1800),  # 4 minutes of one free core
    pytest.mark.skipif(not BOOK.is_file(), reason="the book is not here"),
]

QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.accelerator=cpu"]
BRIEF = [*QUIET, "--trainer.limit_val_batches=0", "--trainer.log_every_n_steps=1", "--data.activations=activations"]
LORA = "--model.lora={r: 8, target_modules: [q_proj, v_proj]}"
CHAT = ["--model.chat=true", LORA, "--model.sampling.max_new_tokens=24"]
ACTOR, CRITIC, GRPO = (f"runs/verbalize/{job}/checkpoints/last.ckpt" for job in ("actor_sft", "critic_sft", "grpo"))


@pytest.fixture(scope="module")
def run(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with all stages, which is the working one while the tests run."""
    folder = tmp_path_factory.mktemp("verbalize")
    few = ["--documents=40", "--eval_documents=8", "--positions_per_document=3", "--max_tokens=96", "--words=6"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        main(["extract", f"--model={smollm2}", "--layer=12", f"--corpus={BOOK}", "--to=activations", *few])
        short = ["--trainer.max_steps=20", "--model.warmup_steps=2", f"--model.model={smollm2}"]
        main(["fit", "--config=verbalize/actor_sft", *BRIEF, *short, *CHAT, "--model.lr=2e-3", "--data.batch_size=4"])
        main(["fit", "--config=verbalize/critic_sft", *BRIEF, *short, LORA, "--model.lr=1e-3", "--data.batch_size=8"])
        size = ["--data.batch_size=2", "--model.num_generations=4", "--model.micro_batch_size=8"]
        steps = ["--trainer.max_steps=3", "--trainer.accumulate_grad_batches=1"]
        start = [f"--model.model={ACTOR}", f"--data.critic={CRITIC}"]
        main(["fit", "--config=verbalize/grpo", *BRIEF, *steps, *size, *start, *CHAT])
        yield folder


def losses(job: str) -> list[float]:
    return [float(row["loss"]) for row in rows(Path("runs/verbalize", job)) if row.get("loss")]


def test_actor_and_critic_learn(run: Path) -> None:
    for job in ("actor_sft", "critic_sft"):
        found = losses(job)
        assert sum(found[-4:]) < 0.8 * sum(found[:4]), job
    assert Path(ACTOR).stat().st_size < 30e6  # adapters alone
    table = ActivationTable("activations/train.parquet")
    assert table.vectors.shape == (120, 576)


def test_rollouts_are_scored_as_they_were_sampled(run: Path) -> None:
    steps = [row for row in rows(Path("runs/verbalize/grpo")) if row.get("reward")]
    assert len(steps) == 3
    assert max(float(row["sampling/sampling_logp_difference/max"]) for row in steps) < 1e-3
    assert all(-2 <= float(row["reward"]) <= 0 for row in steps)


def test_it_is_measured_beside_its_controls(run: Path) -> None:
    few = [
        "--data.test_size=6",
        "--data.eval_batch_size=6",
        f"--data.critic={CRITIC}",
        "--data.activations=activations",
    ]
    main(["test", "--config=verbalize/grpo", *QUIET, *few, *CHAT, f"--data.critic={CRITIC}", f"--ckpt_path={GRPO}"])
    found = json.loads(Path("runs/verbalize/grpo/eval/test.json").read_text())["splits"]
    assert {"test", "shuffled", "mean_activation", "no_injection"} <= found.keys()
    assert found["test"]["fve"] <= 1 and found["test"]["format"] >= 0.5


def test_checkpoints_explain_in_a_notebook(run: Path) -> None:
    prompts = list(VerbalizeData("activations").prompts("val"))[:2]
    module = SFTModule.load_from_checkpoint(ACTOR, sampling=SamplingParams(16, top_k=1))
    said = [rollout.text for rollout in module.generate(prompts)]
    sidecar, vectors = Sidecar.load("activations"), ActivationTable("activations/val.parquet").vectors[:2]
    read = Verbalizer.load(ACTOR, CRITIC, sidecar.actor_template, explanation_of, max_new_tokens=16)
    assert [one.answer for one in read.explain(vectors)] == said  # by the chat template, too
    rewarded = GRPOModule.load_from_checkpoint(GRPO, sampling=SamplingParams(16))
    assert len(rewarded.generate(prompts)) == 2


def test_exported_adapters_are_reinforced_and_stay_small(run: Path) -> None:
    main(["export", ACTOR, "adapter", "--what", "adapter"])
    assert Path("adapter/adapter_model.safetensors").stat().st_size < 5e6  # the marker added no row to the embedding
    start = ["--model.model=adapter", "--model.adapters=train", "--model.reference.kind=adapter_copy"]
    size = ["--data.batch_size=1", "--model.num_generations=4", "--trainer.accumulate_grad_batches=1"]
    inject = "--model.injection={mode: replace, layers: [0], scale: embed_norm}"
    brief = [f"--data.critic={CRITIC}", "--trainer.max_steps=1", "--trainer.default_root_dir=again", inject]
    chat = [option for option in CHAT if option != LORA]
    main(["fit", "--config=verbalize/grpo", *BRIEF, *start, *size, *brief, *chat])
    assert Path("again/checkpoints/last.ckpt").stat().st_size < 0.5 * Path(GRPO).stat().st_size
