"""SteeringModule: heads are checked; steered prompts are written and measured."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer

from lit_narrative.callbacks.evaluation import Verifiers
from lit_narrative.datamodules.storyworld import StoryworldData
from lit_narrative.errors import UserError
from lit_narrative.lm.sampler import LoopSampler, SamplingParams
from lit_narrative.lm.tokenizer import TrainedTokenizer
from lit_narrative.modules.sft import SFTModule
from lit_narrative.modules.steering import DISTINCT_AT, SteeringModule, distinct
from lit_narrative.steering.heads import load_head
from lit_narrative.steering.pplm.settings import PPLMSettings
from lit_narrative.steering.settings import (
    ActivationSettings,
    Attribute,
    BestOfSettings,
    ExpertSettings,
    SearchSettings,
)
from lit_narrative.views import Rollout
from tests.helpers import TinyTask, sizes, tokenizer, tokenizer_folder, trainer
from tests.modules.labelled import LabelledTask
from tests.paths import EARLIER
from tests.rewards import VOCABULARY

STEP = PPLMSettings(stepsize=0.2)
SHORT = SamplingParams(6)


def steering(folder: Path, bag: Any = ("a", "e", "o"), **settings: Any) -> SteeringModule:
    given = {
        "attributes": [Attribute(bag=list(bag), policy="first_token")] if bag else [],
        "pplm": STEP,
        "sampling": SHORT,
    }
    return SteeringModule(**{"model": str(folder / "lm0.ckpt"), **given, **settings})


def predict(module: SteeringModule, folder: Path, task: TinyTask | None = None) -> list[Rollout]:
    batches = trainer(folder).predict(module, datamodule=task or LabelledTask())
    assert batches is not None
    return [rollout for batch in batches for rollout in batch]


def ids(rollouts: list[Rollout]) -> list[list[int]]:
    return [rollout.completion_ids.tolist() for rollout in rollouts]


# --- heads ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "message"), [("lm1.ckpt", "other weights"), (sizes(hidden_size=32), "width 32"), (sizes("gpt2"), "gpt2")]
)
def test_a_head_of_another_model_is_refused(model: Any, message: str, head: Path, folder: Path) -> None:
    source = (
        {"model": str(folder / model)}
        if isinstance(model, str)
        else {"model": model, "tokenizer": tokenizer_folder(folder)}
    )
    module = steering(folder, None, attributes=[Attribute(head=str(head), label="tide")], **source)
    with pytest.raises(UserError, match=message):
        predict(module, folder)


def test_a_head_may_serve_a_model_that_was_trained_further(head: Path, folder: Path) -> None:
    attribute = Attribute(head=str(head), label="tide", tuned=True)
    assert predict(steering(folder, None, attributes=[attribute], model=str(folder / "lm1.ckpt")), folder)


def test_a_checkpoint_without_a_head_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="holds no attribute head"):
        predict(steering(folder, None, attributes=[Attribute(head=str(folder / "lm0.ckpt"))]), folder)


def test_adapters_are_refused(folder: Path) -> None:
    with pytest.raises(UserError, match=r"model\.lora"):
        steering(folder, lora={"r": 2})


def test_a_checkpoint_of_the_release_before_loads_and_its_head_serves() -> None:
    """It was written by ``fit`` with SteeringModule, which trained heads then."""
    module = SteeringModule.load_from_checkpoint(EARLIER / "steering.ckpt", map_location="cpu")
    assert isinstance(module.choice.pplm, PPLMSettings)
    head = load_head(EARLIER / "steering.ckpt", module.lm)
    assert head.weight.shape == (len(head.card.classes), 8)


# --- steering ---------------------------------------------------------------------------------------------------------


def test_predict_writes_what_the_plain_model_would_not(folder: Path) -> None:
    steered, plain = predict(steering(folder), folder), predict(steering(folder, method="none"), folder)
    assert ids(steered) != ids(plain)
    module = SFTModule(str(folder / "lm0.ckpt"), sampling=SHORT)
    assert ids(plain) == ids(
        [r for batch in trainer(folder).predict(module, datamodule=LabelledTask()) or [] for r in batch]
    )


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "bias", "bias": 3.0},
        {"method": "activation", "activation": ActivationSettings(label="topic", coefficient=4.0)},
        {"method": "experts"},
        {"method": "pplm", "heads": True},
        {"method": "pplm", "attributes": [Attribute(column="bag", policy="first_token")]},
        {"method": "pplm", "best_of": BestOfSettings(3)},
        {"method": "none", "best_of": BestOfSettings(3, rank="low", min_distinct=0.1)},
    ],
)
def test_test_measures_every_method(settings: dict[str, Any], folder: Path, head: Path) -> None:
    given = {**settings}
    if given.pop("heads", False):
        given["attributes"] = [
            Attribute(head=str(head), label="topic"),
            Attribute(bag=["a"], policy="first_token", weight=0.5),
        ]
    if given["method"] == "experts":
        given["experts"] = ExpertSettings(str(folder / "lm1.ckpt"), alpha=1.0)
    module, run = steering(folder, samples=2, judge=str(folder / "lm1.ckpt"), **given), trainer(folder)
    run.test(module, datamodule=LabelledTask(), verbose=False)
    found = {name: float(value) for name, value in run.callback_metrics.items()}
    assert found["test/judge_perplexity"] > 1
    assert {"test/unique", "test/lower", "test/steering/kl", "test/steering/mass_steered"} <= found.keys()
    assert {"test/distinct_1", "test/distinct_2", "test/distinct_3", "test/own_perplexity"} <= found.keys()
    losses = {name.removeprefix("test/steering/loss/") for name in found if "/loss/" in name}
    names = [a.column or str(a.label) if a.bag is None else ", ".join(a.bag) for a in module.given]
    assert losses == set(names)
    assert (found["test/steering/kl"] > 1e-4) == (given["method"] != "none")
    assert module.written is not None
    assert len(module.written) == 8 * 2


def test_the_distance_from_the_model_that_it_was_tuned_from(folder: Path) -> None:
    own, other = str(folder / "lm0.ckpt"), str(folder / "lm1.ckpt")
    found, perplexities = {}, {}
    for name, given in {
        "same": {"method": "none", "base": own},
        "steered": {"method": "bias", "bias": 6.0, "base": own},
        "tuned": {"method": "none", "base": other},
        "chosen": {"method": "none", "base": other, "best_of": BestOfSettings(3)},
    }.items():
        module, run = steering(folder, **given), trainer(folder)
        run.test(module, datamodule=LabelledTask(), verbose=False)
        assert module.written is not None
        perplexities[name] = float((-torch.cat([rollout.logprobs for rollout in module.written]).mean()).exp())
        found[name] = {key: float(value) for key, value in run.callback_metrics.items()}
    assert found["same"]["test/weights_moved"] == found["steered"]["test/weights_moved"] == 0
    assert found["same"]["test/base_kl"] == pytest.approx(0, abs=1e-4)
    assert found["same"]["test/own_perplexity"] == pytest.approx(perplexities["same"], rel=1e-4)  # as it was drawn
    assert found["steered"]["test/own_perplexity"] > 1.1 * perplexities["steered"]
    assert found["steered"]["test/base_kl"] > 0.1
    assert found["tuned"]["test/weights_moved"] == found["chosen"]["test/weights_moved"] > 0.01
    assert abs(found["tuned"]["test/base_kl"]) > 0.001
    assert "test/base_kl" not in found["chosen"]  # a choice shows in no log-probability
    passes = {name: values["test/steering/passes_per_token"] for name, values in found.items()}
    assert passes["chosen"] == 3 * passes["same"]


def test_a_tuned_model_that_is_its_base_is_warned_of(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    again = folder / "again.ckpt"
    shutil.copy(folder / "lm0.ckpt", again)
    for base in (folder / "lm0.ckpt", folder / "lm1.ckpt", again):
        module = steering(folder, method="none", model=str(again), base=str(base))
        trainer(folder).test(module, datamodule=LabelledTask(), verbose=False)
    assert [message for message in caplog.messages if "very weights" in message] == [
        f"'{again}' has the very weights of model.base='{folder / 'lm0.ckpt'}': is one of the paths wrong?"
    ]


def test_a_base_of_other_sizes_is_refused_before_anything_is_written(folder: Path) -> None:
    module = steering(
        folder, model=sizes(hidden_size=32), tokenizer=tokenizer_folder(folder), base=str(folder / "lm0.ckpt")
    )
    with pytest.raises(UserError, match=r"model\.base: these models differ"):
        trainer(folder).test(module, datamodule=LabelledTask(), verbose=False)
    assert module.steered is None


def test_distinct_n_compares_between_any_numbers_of_texts() -> None:
    texts = [f"{'abcdefg'[n % 7]} {'hijkl'[n % 5]} m" for n in range(DISTINCT_AT)]
    once, twice, few = distinct(texts), distinct([*texts, *texts, "left over"]), distinct(texts[:2])
    assert once == twice
    assert once["distinct_1"] == 13 / 60
    assert few == {"distinct_1": 5 / 6, "distinct_2": 1.0, "distinct_3": 1.0}
    assert distinct([]) == {"distinct_1": 0, "distinct_2": 0, "distinct_3": 0}


def test_models_beside_one_of_low_precision_are_rounded_alike(folder: Path, head: Path) -> None:
    own = str(folder / "lm0.ckpt")
    found = []
    for dtype in ("bfloat16", "float16"):
        attributes = [Attribute(head=str(head), label="tide")]
        module, run = (
            steering(folder, None, attributes=attributes, dtype=dtype, method="none", base=own),
            trainer(folder),
        )
        run.test(module, datamodule=LabelledTask(), verbose=False)
        found.append(float(run.callback_metrics["test/weights_moved"]))
    assert found == [0, 0]
    module = steering(folder, dtype="bfloat16", method="experts", experts=ExpertSettings(own))
    assert predict(module, folder)
    (expert,) = module.steered.steerer.others  # type: ignore[union-attr]
    assert expert.dtype == torch.bfloat16
    other = steering(folder, None, attributes=attributes, dtype="bfloat16", model=str(folder / "lm1.ckpt"))
    with pytest.raises(UserError, match="other weights"):
        predict(other, folder)


def test_verifiers_judge_what_the_test_has_written(folder: Path, tmp_path: Path) -> None:
    module = steering(folder)
    run = trainer(tmp_path, Verifiers(samples=2, rewards=["low"]))
    run.test(module, datamodule=LabelledTask(), verbose=False)
    rows = [json.loads(line) for line in (tmp_path / "samples" / "test.jsonl").read_text().splitlines()]
    assert module.written is not None
    assert [row["text"] for row in rows] == [rollout.text for rollout in module.written]
    assert len(rows) == 8
    assert run.callback_metrics["test/components/lower"] == pytest.approx(run.callback_metrics["test/lower"])
    low = [float((r.completion_ids < VOCABULARY // 2).float().mean()) for r in module.written]
    assert [row["components"]["low"] for row in rows] == pytest.approx(low)


def test_the_plain_arm_differs_from_none_of_the_sampler(folder: Path) -> None:
    module = steering(folder, None, method="none", model=sizes(), tokenizer=tokenizer_folder(folder))
    rollouts = predict(module, folder)
    module.sampler = LoopSampler()
    prompts = LabelledTask().prompts("test")
    assert ids(module.generate(prompts)) == ids(rollouts)


def test_best_of_keeps_texts_with_more_of_the_bag(folder: Path) -> None:
    bag = [" a", " e", " t"]
    attributes = [Attribute(bag=bag, policy="first_token")]
    some, most = (steering(folder, method="none", attributes=attributes, best_of=BestOfSettings(n)) for n in (1, 6))
    counts = []
    for module in (some, most):
        rollouts, tokens = predict(module, folder), [tokenizer()(word)["input_ids"][0] for word in bag]
        counts.append(sum(int(torch.isin(r.completion_ids, torch.tensor(tokens)).sum()) for r in rollouts))
    assert counts[1] > counts[0]


def test_auto_finds_a_step_before_anything_is_written(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    module = steering(folder, pplm=PPLMSettings(target_kl=0.002))
    run = trainer(folder)
    with caplog.at_level(logging.INFO):
        run.test(module, datamodule=LabelledTask(), verbose=False)
    assert run.callback_metrics["test/steering/stepsize"] == pytest.approx(module.in_use.pplm.step)
    assert 0.0005 < run.callback_metrics["test/steering/kl"] < 0.008
    assert caplog.text.count("model.pplm.stepsize=") == 1
    with caplog.at_level(logging.INFO):
        predict(module, folder)
    assert caplog.text.count("model.pplm.stepsize=") == 2  # found again, for these prompts
    assert module.choice.pplm.stepsize == "auto"


@pytest.mark.parametrize("setting", ["judge", "base"])
def test_a_model_that_judges_is_read_before_anything_is_written(setting: str, folder: Path) -> None:
    module = steering(folder, **{setting: str(folder / "none.ckpt")})
    with pytest.raises(UserError, match=r"none\.ckpt"):
        trainer(folder).test(module, datamodule=LabelledTask(), verbose=False)
    assert module.steered is None


def test_settings_come_back_from_a_checkpoint(head: Path) -> None:
    again = SteeringModule.load_from_checkpoint(head, map_location="cpu")
    assert isinstance(again.choice.pplm, PPLMSettings)
    module = SteeringModule.load_from_checkpoint(
        head, map_location="cpu", attributes=[{"bag": ["a"], "policy": "first_token"}], pplm={"stepsize": 0.1}
    )
    assert module.given == [Attribute(bag=["a"], policy="first_token")]
    assert module.choice.pplm.step == 0.1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"attributes": []}, "nothing to steer to"),
        ({"method": "bias", "attributes": []}, "nothing to steer to"),
        ({"method": "experts"}, r"model\.experts\.expert"),
        ({"attributes": [Attribute(column="bags")]}, "no column 'bags'"),
        ({"attributes": [Attribute(bag=["Zürich"])]}, "none of its 1 words"),
        ({"method": "none", "attributes": [], "best_of": BestOfSettings(2)}, "give attributes"),
        ({"method": "activation", "activation": ActivationSettings(layer=9)}, "not 9"),
    ],
)
def test_what_cannot_work_fails_before_the_first_token(settings: dict[str, Any], message: str, folder: Path) -> None:
    with pytest.raises(UserError, match=message):
        predict(steering(folder, **settings), folder)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "exactly one of bag, column and head; this one has none"),
        ({"bag": "ocean", "head": "x.ckpt"}, "this one has bag and head"),
        ({"bag": "ocean", "weight": 0.0}, "weight"),
    ],
)
def test_attributes_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Attribute(**settings)


def test_weights_spread_over_processes_are_refused(folder: Path) -> None:
    module = steering(folder)
    module._device_mesh = object()  # type: ignore[assignment]
    with pytest.raises(UserError, match="fsdp2"):
        module.prepare_steering([])


def test_experts_of_another_vocabulary_are_refused(folder: Path) -> None:
    module = SFTModule(sizes(), TrainedTokenizer(vocab_size=270))
    run = Trainer(
        accelerator="cpu", max_steps=1, default_root_dir=folder / "other", logger=False, enable_progress_bar=False
    )
    run.fit(module, datamodule=TinyTask())
    run.save_checkpoint(folder / "other.ckpt")
    with pytest.raises(UserError, match="other tokens"):
        predict(steering(folder, method="experts", experts=ExpertSettings(str(folder / "other.ckpt"))), folder)


def test_a_storyworld_can_be_steered_too(tmp_path: Path) -> None:
    task = StoryworldData(train_size=32, val_size=8, test_size=4, eval_batch_size=4)
    tokens = TrainedTokenizer(vocab_size=400, sample=32)
    sampling = SamplingParams(12)
    module = SteeringModule(
        model=sizes(positions=1024),
        tokenizer=tokens,
        attributes=[Attribute(bag=["sea", "salt"], policy="first_token")],
        pplm=PPLMSettings(target_kl=1e-6),  # the step size is found on the task's prompts
        search=SearchSettings(prompts=2, new_tokens=4),
        sampling=sampling,
    )
    run = trainer(tmp_path)
    run.test(module, datamodule=task, verbose=False)
    assert run.callback_metrics["test/steering/mass_steered"] > run.callback_metrics["test/steering/mass_plain"]
