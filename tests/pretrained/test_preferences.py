"""SmolLM2 by preferences and by a teacher, through the shipped jobs of storyworlds with their overlay."""

from pathlib import Path

import pytest

from lit_narrative.cli.main import main
from lit_narrative.files import write_jsonl
from tests.kills import rows

pytestmark = [pytest.mark.pretrained, pytest.mark.timeout(900)]

QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.accelerator=cpu"]
OVERLAY = ["--config", "storyworld/pretrained", "--trainer.limit_val_batches=0"]


@pytest.fixture(scope="module")
def preferred(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of six steps of DPO on pairs of one answer that is about the sea and one that is not."""
    folder = tmp_path_factory.mktemp("preferred")
    pairs = [
        {"prompt": f"Where is hero {n}?", "chosen": "Far out at sea.", "rejected": "At home in bed."} for n in range(20)
    ]
    write_jsonl(folder / "pairs.jsonl", pairs)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        given = [f"--model.model={smollm2}", "--data.judged.file=pairs.jsonl", "--trainer.max_steps=6"]
        main(["fit", "--config", "storyworld/dpo", *OVERLAY, *QUIET, *given])
    return folder


def test_what_is_preferred_becomes_likelier(preferred: Path) -> None:
    steps = [row for row in rows(preferred / "runs/storyworld/dpo") if row.get("loss")]
    losses = [float(row["loss"]) for row in steps]
    assert losses[0] == pytest.approx(0.6931, abs=1e-3)  # the policy is its reference
    assert losses[-1] < 0.6
    assert float(steps[-1]["rewards/accuracies"]) == 1
    assert (preferred / "runs/storyworld/dpo/checkpoints/last.ckpt").stat().st_size < 30e6  # adapters alone


@pytest.mark.slow
def test_a_teacher_takes_it_back(preferred: Path, smollm2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model before is the teacher of the one behind."""
    monkeypatch.chdir(preferred)
    models = ["--model.model=runs/storyworld/dpo/checkpoints/last.ckpt", f"--model.distillation.model={smollm2}"]
    size = ["--data.batch_size=3", "--model.micro_batch_size=6", "--model.sampling.max_new_tokens=16"]
    main(["fit", "--config", "storyworld/distill", *OVERLAY, *QUIET, *models, *size, "--trainer.max_steps=4"])
    divergences = [float(row["distillation"]) for row in rows(preferred / "runs/storyworld/distill") if row.get("loss")]
    assert len(divergences) == 4
    assert 0 < divergences[-1] < 0.8 * divergences[0]
