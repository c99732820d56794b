"""Answers of a policy, measured on every set."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_narrative.callbacks.evaluation import Verifiers
from lit_narrative.callbacks.set_evaluation import SetEvaluation, log_probabilities
from lit_narrative.datamodules.base import Answered
from lit_narrative.datamodules.cards import CardsData
from lit_narrative.errors import UserError
from lit_narrative.lm.load import ScratchModel
from lit_narrative.lm.sampler import SamplingParams
from lit_narrative.lm.tokenizer import TrainedTokenizer, encode_completion
from lit_narrative.modules.grpo import GRPOModule
from lit_narrative.modules.sae import SAEModule
from lit_narrative.modules.sft import SFTModule
from lit_narrative.seeds import run_seed
from lit_narrative.tasks.cards.game import TEST_SETS, CardGame
from lit_narrative.views import Rollout
from tests.helpers import TinyTask, fit, sizes, tiny_lm, tokenizer, trainer


def data(**settings: Any) -> CardsData:
    game = CardGame({"classification": ["sum_above_9"]}, (2, 2), (3, 4), scratchpad="none")
    small = {"train_size": 32, "prompt_size": 32, "val_size": 6, "test_size": 8, "batch_size": 8}
    return CardsData(**{"game": game, **small, **settings})


def policy(**settings: Any) -> SFTModule:
    model = ScratchModel("gpt2", hidden_size=16, layers=1, heads=2, positions=64)
    return SFTModule(model, TrainedTokenizer(kind="words"), sampling=SamplingParams(4), lr=1e-2, **settings)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], SFTModule]:
    """A few steps, then a test of the outcome."""
    folder = tmp_path_factory.mktemp("cards")
    module = policy()
    fit(module, data(), folder, SetEvaluation(), max_steps=4, limit_val_batches=1)
    (metrics,) = trainer(folder, SetEvaluation()).test(module, data(), verbose=False)
    return folder, dict(metrics), module


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / "eval" / name).read_text())


def test_every_set_is_measured_and_logged(run: tuple[Path, dict[str, Any], SFTModule]) -> None:
    folder, metrics, _ = run
    found = read(folder, "test.json")
    assert list(found["splits"]) == list(TEST_SETS)
    for name, scores in found["splits"].items():
        assert scores["n"] == 8
        low, high = scores["accuracy_ci"]
        assert low <= scores["accuracy"] <= high
        for key in ("accuracy", "lift", "format_validity", "gold_logprob", "calibration_error"):
            assert metrics[f"test/{name}/{key}"] == pytest.approx(scores[key])
        assert scores["gold_logprob"] < 0
        assert 0 <= scores["calibration_error"] <= 1
        assert set(scores["rule_substitution"]) == {"red_minus_blue", "sum_greater_than_4", "odd_minus_even"}
    assert set(found["gaps"]) == set(TEST_SETS) - {"id_test"}
    assert metrics["test/mean_gap"] == pytest.approx(found["mean_gap"])
    assert metrics["test/paraphrase/gap"] == pytest.approx(found["gaps"]["paraphrase"])
    assert {"config", "versions", "seed", "tag", "step"} <= set(found)
    assert found["config"]["game"]["lengths"] == [2, 2]
    rows = [json.loads(line) for line in (folder / "eval" / "test.jsonl").read_text().splitlines()]
    assert len(rows) == 8 * len(TEST_SETS)
    for name in TEST_SETS:
        right = [row["correct"] for row in rows if row["set"] == name]
        assert sum(right) / 8 == found["splits"][name]["accuracy"]


def test_validation_measures_the_validation_set(run: tuple[Path, dict[str, Any], SFTModule]) -> None:
    folder, _, _ = run
    found = read(folder, "val.json")
    assert list(found["splits"]) == ["val"]
    assert found["splits"]["val"]["n"] == 6
    assert (found["gaps"], found["mean_gap"], found["step"]) == ({}, None, 4)


def test_names_of_what_is_logged_at_validation(tmp_path: Path) -> None:
    runner = fit(
        policy(), data(), tmp_path, SetEvaluation(("val", "id_test", "new_colors")), max_steps=4, limit_val_batches=1
    )
    names = {"val/accuracy", "val/id_test/accuracy", "val/new_colors/accuracy", "val/new_colors/gap", "val/mean_gap"}
    assert names <= set(runner.callback_metrics)


def test_chosen_sets_samples_and_tag(run: tuple[Path, dict[str, Any], SFTModule], tmp_path: Path) -> None:
    _, _, module = run
    trainer(tmp_path, SetEvaluation(test=["paraphrase"], samples=3, tag="mine")).test(module, data(), verbose=False)
    found = read(tmp_path, "mine.json")
    assert {name: scores["n"] for name, scores in found["splits"].items()} == {"paraphrase": 3}
    assert (tmp_path / "eval" / "mine.jsonl").exists()


def test_answers_are_the_likeliest_and_always_the_same(
    run: tuple[Path, dict[str, Any], SFTModule], tmp_path: Path
) -> None:
    folder, _, module = run
    for name in ("one", "two"):
        trainer(tmp_path / name, SetEvaluation(test=["id_test"])).test(module, data(), verbose=False)
    assert read(tmp_path / "one", "test.json") == read(tmp_path / "two", "test.json")
    rows = [json.loads(line) for line in (folder / "eval" / "test.jsonl").read_text().splitlines()]
    ids = torch.tensor([module.tokenizer(rows[0]["prompt"])["input_ids"]])
    with torch.no_grad():
        likeliest = int(module.lm.eval()(input_ids=ids).logits[0, -1].argmax())
    assert encode_completion(module.tokenizer, rows[0]["text"])[0] == likeliest


def test_answers_may_be_sampled_as_the_module_samples(
    run: tuple[Path, dict[str, Any], SFTModule], tmp_path: Path
) -> None:
    _, _, module = run
    trainer(tmp_path, SetEvaluation(test=["id_test"], greedy=False)).test(module, data(), verbose=False)
    rows = [json.loads(line) for line in (tmp_path / "eval" / "test.jsonl").read_text().splitlines()]
    prompts = data().named_prompts("id_test")
    assert [row["text"] for row in rows] == [r.text for r in module.generate(prompts, seed=run_seed())]
    greedy = SamplingParams(4, top_k=1)
    assert [row["text"] for row in rows] != [r.text for r in module.generate(prompts, params=greedy)]


def test_log_probabilities_are_those_of_the_model(run: tuple[Path, dict[str, Any], SFTModule]) -> None:
    _, _, module = run
    lm = module.lm.eval()
    prompts, completions = [[5, 6, 7], [8, 9]], [torch.tensor([4, 1]), torch.tensor([3, 2, 1])]
    empty = torch.zeros(0)
    rollouts = [Rollout(torch.tensor(prompt), empty, empty, True, "") for prompt in prompts]
    found = log_probabilities(module, rollouts, completions)
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        ids = torch.tensor([[*prompt, *completion.tolist()]])
        with torch.no_grad():
            logprobs = lm(input_ids=ids).logits.log_softmax(-1)[0]
        expected = sum(float(logprobs[len(prompt) - 1 + n, token]) for n, token in enumerate(completion))
        assert float(found[row]) == pytest.approx(expected, abs=1e-4)


def test_calibration_by_hand() -> None:
    """Four answers given with 0.95, two of them right: the forecast is off by 0.45."""
    task = data()
    prompts = [task.named_prompts("id_test")[n] for n in range(4)]
    empty = torch.zeros(0)
    answers = []
    for place, prompt in enumerate(prompts):
        text = str(prompt.columns["reference"]) if place % 2 else " none"
        rollout = Rollout(empty, empty, empty, True, text, prompt.text, prompt.columns)
        answers.append(Answered(rollout, 0.95, -float(place)))
    scores = task.measure("id_test", answers)
    assert scores["accuracy"] == 0.5
    assert scores["calibration_error"] == pytest.approx(0.45)
    assert scores["gold_logprob"] == -1.5


def test_a_policy_in_rl_is_measured_and_rewarded(tmp_path: Path) -> None:
    weights = {"correct": 1.0, "format": 0.1, "process": 0.5, "length": 0.1}
    task = data(mix={"id": 1.0, "paraphrase": 1.0}, game=CardGame(lengths=(2, 2), long_lengths=(3, 4)))
    module = GRPOModule(
        weights,
        num_generations=2,
        model=ScratchModel("gpt2", hidden_size=16, layers=1, heads=2, positions=64),
        tokenizer=TrainedTokenizer(kind="words"),
        sampling=SamplingParams(6),
    )
    settings: dict[str, Any] = {"max_epochs": 1, "limit_train_batches": 2, "limit_val_batches": 1}
    runner = fit(module, task, tmp_path, SetEvaluation(), Verifiers(6), **settings)
    logged = set(runner.callback_metrics)
    assert {f"rewards/{name}/mean" for name in weights} <= logged
    assert {"val/accuracy", "val/verifiers", "val/components/trace_exact"} <= logged
    corpus = json.loads((tmp_path / "verifiers" / "val.json").read_text())["corpus"]
    assert corpus["reward"] == 1


def test_a_dry_run_leaves_nothing(run: tuple[Path, dict[str, Any], SFTModule], tmp_path: Path) -> None:
    _, _, module = run
    (metrics,) = trainer(tmp_path, SetEvaluation(), fast_dev_run=True).test(module, data(), verbose=False)
    assert "test/id_test/accuracy" in metrics
    assert not list(tmp_path.iterdir())


def test_any_task_is_measured_by_its_verifiers(tmp_path: Path) -> None:
    module = SFTModule(sizes(), sampling=SamplingParams(4))
    module.set_model(tiny_lm(), tokenizer())
    (metrics,) = trainer(tmp_path, SetEvaluation()).test(module, TinyTask(), verbose=False)
    (scores,) = read(tmp_path, "test.json")["splits"].values()
    assert {"test/test/lower", "test/test/unique", "test/test/gold_logprob"} <= set(metrics)
    assert {name: metrics[f"test/test/{name}"] for name in scores} == pytest.approx(scores)
    rows = [json.loads(line) for line in (tmp_path / "eval" / "test.jsonl").read_text().splitlines()]
    assert [set(row) for row in rows] == [{"set", "prompt", "text", "confidence", "gold_logprob"}] * 8


def test_modules_that_write_no_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="needs a module that writes text; SAEModule does not"):
        fit(SAEModule(), data(), tmp_path, SetEvaluation(), max_steps=1)  # type: ignore[arg-type]


@pytest.mark.parametrize("setting", ["validate", "test"])
def test_settings_that_cannot_be(setting: str, tmp_path: Path) -> None:
    message = f"SetEvaluation: {setting}: there is no 'new_colour'; did you mean 'new_colors'"
    with pytest.raises(UserError, match=message):
        fit(policy(), data(), tmp_path, SetEvaluation(**{setting: ["new_colour"]}), max_steps=1)
    with pytest.raises(UserError, match="SetEvaluation: samples is 0"):
        SetEvaluation(samples=0)
