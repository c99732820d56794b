"""SmolLM2 through the command line as a user of hub models calls it: learn by adapters, go on by rewards, export."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

from benchmarks.rl.shape import Shape, texts
from lit_narrative.cli.main import main
from lit_narrative.modules.grpo import GRPOModule
from lit_narrative.modules.sft import SFTModule
from tests.kills import rows

pytestmark = [pytest.mark.pretrained, pytest.mark.timeout(900)]

QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.accelerator=cpu"]
LORA = ["--model.lora={r: 8, target_modules: [q_proj, v_proj]}"]


@pytest.fixture(scope="module")
def warm_start(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the run of SFT on 64 questions of the card game, in 8 steps."""
    folder = tmp_path_factory.mktemp("smollm2")
    brief = ["--trainer.max_steps=8", "--trainer.limit_val_batches=0", "--trainer.log_every_n_steps=1"]
    data = ["--data.train_size=64", "--data.batch_size=4"]
    model = [f"--model.model={smollm2}", "--model.tokenizer=null", "--model.chat=true", "--model.lr=2e-3"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        main(["fit", "--config", "cards/sft", *QUIET, *brief, *data, *model, *LORA, "--model.warmup_steps=1"])
    return folder


def test_adapters_learn(warm_start: Path) -> None:
    losses = [float(row["loss"]) for row in rows(warm_start / "runs" / "cards" / "sft") if row.get("loss")]
    assert losses[-1] < 0.7 * losses[0]
    assert (warm_start / "runs/cards/sft/checkpoints/last.ckpt").stat().st_size < 30e6  # adapters alone


def test_rewards_train_them_on(warm_start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    few = ["--trainer.max_epochs=1", "--trainer.max_steps=1", "--trainer.limit_val_batches=0"]
    size = ["--model.num_generations=4", "--data.batch_size=2", "--model.micro_batch_size=8"]
    start = [f"--model.model={warm_start / 'runs/cards/sft/checkpoints/last.ckpt'}", "--model.chat=true"]
    main(["fit", "--config", "cards/grpo", *QUIET, *few, *size, *start, *LORA])
    before = SFTModule.load_from_checkpoint(warm_start / "runs/cards/sft/checkpoints/last.ckpt")
    after = GRPOModule.load_from_checkpoint("runs/cards/grpo/checkpoints/last.ckpt")
    assert any(
        not torch.equal(value, after.state_dict().get(name, value)) for name, value in before.state_dict().items()
    )


def test_export_is_the_model_and_answers_a_chat(warm_start: Path, smollm2: Path, tmp_path: Path) -> None:
    checkpoint = warm_start / "runs/cards/sft/checkpoints/last.ckpt"
    main(["export", str(checkpoint), str(tmp_path / "model")])
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    messages = [{"role": "user", "content": "Write one sentence about the sea."}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.no_grad():
        ours = SFTModule.load_from_checkpoint(checkpoint).eval().lm(**ids).logits
        theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)(**ids).logits
        base = AutoModelForCausalLM.from_pretrained(smollm2)(**ids).logits
    assert (ours - theirs).abs().max() < 1e-3 < 0.1 < (ours - base).abs().max()
    answer = pipeline("text-generation", model=str(tmp_path / "model"))(messages, max_new_tokens=4)
    assert answer[0]["generated_text"][-1]["role"] == "assistant"


def test_the_texts_of_the_benchmark_have_the_tokens_that_they_say(smollm2: Path) -> None:
    words = AutoTokenizer.from_pretrained(smollm2)
    for text in texts(Shape(model=str(smollm2)), count=20, tokens=100, stream=0):
        assert len(words(text)["input_ids"]) == 100
