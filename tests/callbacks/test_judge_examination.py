"""A judge examined at test: its folder says what it is worth, and rewards read that."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from sentence_transformers import SentenceTransformer

from lit_narrative.callbacks.judge_examination import JudgeExamination
from lit_narrative.datamodules import style_rewards
from lit_narrative.datamodules.style import StyleData
from lit_narrative.errors import UserError
from lit_narrative.lm.sentence_encoder import StaticEncoder
from lit_narrative.modules.similarity import SimilarityModule
from lit_narrative.rl.rewards.similarity import SimilarityModel
from lit_narrative.tasks.style.rewards import StyleRewardSettings
from lit_narrative.views import Prompt, Rollout
from tests.helpers import trainer
from tests.modules.pairs import Habits, train


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder, after the test of a judge that learned nothing but what its encoder begins with."""
    folder = tmp_path_factory.mktemp("judge")
    module = SimilarityModule(StaticEncoder(32, 1024, sample=500))
    run = trainer(folder, JudgeExamination(), limit_test_batches=1.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(style_rewards, "EXAMINED", 150)
        patch.setattr(style_rewards, "GRADED", 60)
        (result,) = run.test(module, StyleData(pair_size=200, test_size=50), verbose=False)
    (folder / "metrics.json").write_text(json.dumps(result))
    return folder


def test_the_examination_is_written_and_logged(folder: Path) -> None:
    record = json.loads((folder / "eval" / "judge.json").read_text())
    metrics = json.loads((folder / "metrics.json").read_text())
    figures = record["sets"]["books"]
    assert set(figures) >= {"judge", "delta", "function_words", "length", "documents", "authors"}
    for measure in ("judge", "delta", "function_words", "length"):
        for name in ("auroc", "auroc_masked", "spearman", "spearman_masked", "eer"):
            low, high = figures[measure][f"{name}_ci"]
            assert low <= high
        assert metrics[f"test/books/{measure}/auroc"] == pytest.approx(figures[measure]["auroc"], abs=1e-4)
    assert record["sets"]["authors"]["authors"] == 3
    assert metrics["test/fit"] == record["fit"]


def test_the_folder_is_a_judge_that_knows_what_it_is_worth(folder: Path) -> None:
    judge = SimilarityModel.load(str(folder / "judge"))
    record = json.loads((folder / "eval" / "judge.json").read_text())
    assert judge.examination is not None
    assert judge.examination["fit"] == record["fit"]
    assert judge.examination["sets"] == record["sets"]
    assert SentenceTransformer(str(folder / "judge"), device="cpu").get_embedding_dimension() == 32


def rollout(text: str, row: Prompt) -> Rollout:
    ids = torch.tensor([1, 2])
    return Rollout(ids, ids, torch.zeros(2), True, text, str(row.text), row.columns)


def examined(folder: Path, tmp_path: Path, examination: Any) -> str:
    judge = SimilarityModel.load(str(folder / "judge"))
    judge.examination = examination
    return str(judge.save(tmp_path / "given"))


def test_a_judge_that_is_not_fit_is_refused(folder: Path, tmp_path: Path) -> None:
    why = ["books: on masked text delta (0.9) is above it (0.8)"]
    for examination, message in ((None, "never examined"), ({"fit": False, "why": why}, r"delta \(0.9\) is above")):
        path = examined(folder, tmp_path, examination)
        with pytest.raises(UserError, match=message):
            StyleData(judge=path).reward_functions(["style"])
        accepted = StyleRewardSettings(accept_unfit=True)
        assert StyleData(judge=path, style=accepted).reward_functions(["style"])
    with pytest.raises(UserError, match=r"data\.judge"):
        StyleData().reward_functions(["diversity"])


def test_all_rewards_of_the_task_take_any_text(folder: Path, tmp_path: Path) -> None:
    data = StyleData(judge=examined(folder, tmp_path, {"fit": True}))
    rewards = data.reward_functions(list(StyleData.rewards))
    own = data.corpus.of("train", data.authors[0])[0].text
    rollouts = [rollout(text, data.prompts("val")[0]) for text in (own, "", "\ud83d", "word " * 3000)]
    found = {name: list(reward(rollouts)) for name, reward in rewards.items()}  # type: ignore[operator]
    assert all(isinstance(value, float) and abs(value) < 1e5 for column in found.values() for value in column)
    assert found["style"][0] > found["style"][3]
    assert found["copied"][0] < min(found["copied"][1:])
    assert [found[name][1] for name in ("style", "content", "completeness", "diversity")] == [0, 0, 0, 0]


def test_what_is_refused(tmp_path: Path) -> None:
    run = trainer(tmp_path, JudgeExamination(), limit_test_batches=1.0)
    with pytest.raises(UserError, match="examines no judges"):
        run.test(train(tmp_path / "judge", Habits(16), epochs=1)[0], Habits(16), verbose=False)

    class Other(LightningModule):
        pass

    with pytest.raises(UserError, match="SimilarityModule"):
        JudgeExamination().setup(run, Other(), "test")
