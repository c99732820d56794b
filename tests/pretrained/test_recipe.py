"""The recipe of every task on SmolLM2, of storyworlds its smallest form: shown, learned and rewarded in lines."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from lit_narrative.cli.main import main
from lit_narrative.cli.recipes.process import arguments
from lit_narrative.cli.recipes.recipe import read_recipe
from tests.kills import rows

pytestmark = [pytest.mark.pretrained, pytest.mark.timeout(900)]

NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.accelerator=cpu"]
SMALLEST = [
    "storyworld_few_shot.model.init_args.sampling.max_new_tokens=8",
    "storyworld_sft.trainer.max_steps=3",
    "storyworld_grpo.model.init_args.sampling.max_new_tokens=24",
    "storyworld_grpo.model.init_args.num_generations=2",
    "storyworld_grpo.model.init_args.micro_batch_size=2",
]


@pytest.fixture(scope="module")
def run(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of the jobs of storyworlds, run in this process where the model's name is a folder."""
    folder = tmp_path_factory.mktemp("pretrained_smoke")
    (folder / NAME).parent.mkdir()
    (folder / NAME).symlink_to(smollm2)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        plan = read_recipe("pretrained_smoke", out="out", changes=SMALLEST)
        for job in plan.jobs:
            if job.name.startswith("storyworld"):
                main([*arguments(plan, job), *QUIET])
    yield folder / "out"


@pytest.mark.slow
def test_the_model_is_shown_an_example_as_turns_of_a_chat(run: Path) -> None:
    (file,) = (run / "storyworld_few_shot" / "samples" / "predictions").glob("*.jsonl")
    texts = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(texts) == 2
    for row in texts:
        assert [message["role"] for message in row["messages"]] == ["system", "user", "assistant", "user"]
        assert row["messages"][2]["content"].startswith("cast ") and row["messages"][2]["content"].endswith("\nend")


@pytest.mark.slow
def test_it_learns_the_form_and_is_rewarded(run: Path) -> None:
    losses = [float(row["loss"]) for row in rows(run / "storyworld_sft") if row.get("loss")]
    assert len(losses) == 3 and max(losses) < 4  # nats a token; in another form than the chat's they begin higher
    assert (run / "storyworld_sft/checkpoints/last.ckpt").stat().st_size < 30e6  # adapters alone
    written = [json.loads(line) for line in (run / "storyworld_grpo/rollouts/cycle_000.jsonl").read_text().splitlines()]
    assert len(written) == 2 and all(0 <= row["reward"] <= 1 for row in written)


def test_every_task_is_in_it() -> None:
    names = {job.name.partition("_")[0] for job in read_recipe("pretrained_smoke").jobs}
    assert names >= {"storyworld", "cards", "poetry", "verbalize", "style"}
