"""SmolLM2 learns a book's author by adapters: a judge of its own, imitation, rewards, and figures under two judges."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import AutoTokenizer

from lit_narrative.cli.main import main
from lit_narrative.datamodules.style import StyleData
from lit_narrative.lookup import shipped_configs
from lit_narrative.tasks.style.chunks import ChunkWords
from tests.kills import rows
from tests.paths import DATA

BOOKS = DATA / "gutenberg"
pytestmark = [
    pytest.mark.pretrained,
    pytest.mark.slow,
    pytest.mark.timeout(1800),  # 6 minutes of one free core
    pytest.mark.skipif(not BOOKS.is_dir(), reason="the books are not here"),
]

QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.accelerator=cpu"]
DATA_OF_BOOKS = [f"--data.books={BOOKS}", "--data.chunk_words.most=60"]
TWAIN = [*DATA_OF_BOOKS, "--data.authors=[Mark Twain]", "--data.prompt.template=full"]
CHAT = [
    "--model.chat=true",
    "--model.lora={r: 8, target_modules: [q_proj, v_proj]}",
    "--model.sampling.max_new_tokens=48",
]
JUDGE, SFT, GRPO = "runs/style/judge/judge", *(f"runs/style/{job}/checkpoints/last.ckpt" for job in ("sft", "grpo"))


@pytest.fixture(scope="module")
def run(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with all stages, which is the working one while the tests run."""
    folder = tmp_path_factory.mktemp("style")
    judged = [*DATA_OF_BOOKS, "--data.split_by=book", "--data.pair_size=300"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        main(["fit", "--config=style/judge", *QUIET, *judged, "--trainer.max_epochs=1"])
        last = "--ckpt_path=runs/style/judge/checkpoints/last.ckpt"
        main(["test", "--config=style/judge", *QUIET, *judged, last])
        start = [f"--model.model={smollm2}", "--model.tokenizer=null", "--model.lr=1e-3", "--model.warmup_steps=2"]
        short = ["--trainer.max_steps=12", "--trainer.limit_val_batches=0", "--data.batch_size=4"]
        main(["fit", "--config=style/sft", *QUIET, *TWAIN, *CHAT, *start, *short, "--trainer.log_every_n_steps=1"])
        size = ["--data.batch_size=2", "--model.num_generations=4", "--model.micro_batch_size=8"]
        steps = ["--trainer.limit_train_batches=2", "--trainer.limit_val_batches=0"]
        given = [f"--model.model={SFT}", f"--data.judge={JUDGE}", "--data.style.accept_unfit=true"]
        main(["fit", "--config=style/grpo", *QUIET, *TWAIN, *CHAT, *given, *size, *steps])
        yield folder


def test_a_text_has_room_to_end(smollm2: Path) -> None:
    """The overlay's chunks fit into the tokens that it lets a policy write."""
    overlay = yaml.safe_load(shipped_configs()["style/pretrained"].read_text())
    most = overlay["model"]["init_args"]["sampling"]["max_new_tokens"]
    words = ChunkWords(**overlay["data"]["init_args"]["chunk_words"])
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    for books, authors in ((str(BOOKS), ["Mark Twain"]), (None, None)):
        rows = StyleData(books, authors, chunk_words=words).examples("train")[:500]
        lengths = [len(tokenizer(row.completion)["input_ids"]) for row in rows]
        assert sum(length < most for length in lengths) > 0.9 * len(lengths)


def test_imitation_and_rewards_run(run: Path) -> None:
    losses = [float(row["loss"]) for row in rows(Path("runs/style/sft")) if row.get("loss")]
    assert sum(losses[-4:]) < 0.97 * sum(losses[:4])
    assert Path(SFT).stat().st_size < 30e6  # adapters alone
    steps = [row for row in rows(Path("runs/style/grpo")) if row.get("reward")]
    assert len(steps) == 2
    assert max(float(row["sampling/sampling_logp_difference/max"]) for row in steps) < 1e-3
    assert all(0 <= float(row["rewards/style/mean"]) <= 1 for row in steps)


def test_texts_are_measured_by_two_judges(run: Path, minilm: Path) -> None:
    few = ["--data.test_size=4", "--data.val_size=4", "--data.eval_batch_size=4", f"--data.judge_b={minilm}"]
    main(["test", "--config=style/grpo", *QUIET, *TWAIN, *CHAT, f"--ckpt_path={GRPO}", f"--data.judge={JUDGE}", *few])
    record: dict[str, Any] = json.loads(Path("runs/style/grpo/eval/test.json").read_text())["splits"]["test"]
    assert record["n"] == 4
    for name in ("judge_a", "judge_b", "judge_a_identified", "copied_span", "content", "slop"):
        assert record[f"{name}_ci"] is not None, name
    texts = [json.loads(line)["text"] for line in Path("runs/style/grpo/eval/test.jsonl").read_text().splitlines()]
    assert len({text for text in texts if text.strip()}) > 1
