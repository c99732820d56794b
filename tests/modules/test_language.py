"""What every language module can do: write."""

import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from lit_narrative.datamodules.base import Split, TaskDataModule
from lit_narrative.errors import UserError
from lit_narrative.lm.sampler import SamplingParams
from lit_narrative.modules.grpo import GRPOModule
from lit_narrative.modules.sft import SFTModule
from lit_narrative.views import Prompt
from tests.helpers import PROMPTS, TinyTask, sizes, tiny_lm, tokenizer, tokenizer_folder, trainer


def module(**settings: Any) -> SFTModule:
    made = SFTModule(sizes(), **{"sampling": SamplingParams(8), **settings})
    made.set_model(tiny_lm(scale=4), tokenizer())
    return made


def indexed() -> list[Prompt]:
    return [Prompt(text, {"index": n}) for n, text in enumerate(PROMPTS)]


def test_samples_stand_in_order_and_carry_their_columns() -> None:
    rollouts = module().generate(indexed(), samples=2)
    assert [rollout.prompt for rollout in rollouts] == [text for text in PROMPTS for _ in range(2)]
    assert [rollout.columns["index"] for rollout in rollouts] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert all(
        not torch.equal(a.completion_ids, b.completion_ids) for a, b in zip(rollouts[::2], rollouts[1::2], strict=True)
    )


def test_a_completion_depends_on_seed_and_index_alone() -> None:
    whole = {r.columns["index"]: r.completion_ids.tolist() for r in module().generate(indexed(), seed=3)}
    parts = [r for part in (indexed()[3:], indexed()[:1], indexed()[2:0:-1]) for r in module().generate(part, seed=3)]
    assert {r.columns["index"]: r.completion_ids.tolist() for r in parts} == whole
    other = {r.columns["index"]: r.completion_ids.tolist() for r in module().generate(indexed(), seed=4)}
    assert all(other[index] != ids for index, ids in whole.items())


def test_without_index_the_place_counts() -> None:
    plain = module().generate([Prompt(text) for text in PROMPTS], seed=3)
    assert [r.completion_ids.tolist() for r in plain] == [
        r.completion_ids.tolist() for r in module().generate(indexed(), seed=3)
    ]


def test_texts_are_prompts() -> None:
    asked = [rollout.completion_ids.tolist() for rollout in module().generate(indexed(), seed=3)]
    assert [rollout.completion_ids.tolist() for rollout in module().generate(PROMPTS, seed=3)] == asked
    assert module().generate(PROMPTS[0], seed=3)[0].completion_ids.tolist() == asked[0]


def test_a_module_of_a_given_model_writes_without_a_trainer(tmp_path: Path) -> None:
    whole = module()
    folder = tmp_path / "model"
    whole.lm.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    read = GRPOModule({"low": 1.0}, model=str(folder), sampling=SamplingParams(8))
    for one, other in zip(read.generate(PROMPTS), whole.generate(PROMPTS), strict=True):
        assert one.text == other.text
    with pytest.raises(
        UserError, match=r"SFTModule has no model yet: fit it, load it by SFTModule\.load_from_checkpoint"
    ):
        SFTModule(sizes()).generate(["Write."])


def test_the_caller_may_choose_the_sampling() -> None:
    assert max(len(r.completion_ids) for r in module().generate(indexed(), params=SamplingParams(3))) == 3


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_left_as_it_was(training: bool) -> None:
    made = module().train(training)
    made.generate(indexed())
    assert made.training is training
    assert made.lm.training is training


def test_a_prompt_needs_tokens_and_room() -> None:
    with pytest.raises(UserError, match="1 of the prompts have no text to continue"):
        module().generate([Prompt("")])
    with pytest.raises(UserError, match=r"max_new_tokens=200 leaves no room for a prompt in the model's 128 positions"):
        module(sampling=SamplingParams(200)).generate([Prompt("Write.")])
    with pytest.raises(UserError, match=r"prompt 0 \('Write\.…'\) has .* and only 1 of the model's 128 positions"):
        module(sampling=SamplingParams(127)).generate([Prompt("Write.")])
    rollouts = module(sampling=SamplingParams(127), chat=False).generate([Prompt("A")])
    assert len(rollouts[0].prompt_ids) == 1


def test_room_is_what_the_caller_samples() -> None:
    made = module(sampling=SamplingParams(200))
    assert len(made.generate([Prompt("Write.")], params=SamplingParams(4))[0].completion_ids) <= 4
    with pytest.raises(UserError, match="max_new_tokens=128 leaves no room"):
        module().generate([Prompt("Write.")], params=SamplingParams(128))


def test_a_cut_prompt_is_sampled_from_its_end_and_keeps_its_text() -> None:
    (whole,) = module().generate([Prompt(PROMPTS[3])])
    (cut,) = module(max_prompt_length=5, long_prompts="truncate_left").generate([Prompt(PROMPTS[3])])
    assert cut.prompt_ids.tolist() == whole.prompt_ids.tolist()[-5:]
    assert cut.prompt == PROMPTS[3]
    with pytest.raises(UserError, match=r"allowed by model\.max_prompt_length=5"):
        module(max_prompt_length=5).generate([Prompt(PROMPTS[3])])


@pytest.mark.parametrize("length", [0, -3])
def test_prompts_have_at_least_one_token(length: int) -> None:
    with pytest.raises(UserError, match=rf"model\.max_prompt_length is {length}; it must be 1 or more"):
        module(max_prompt_length=length)


@pytest.mark.parametrize(("policy", "left"), [("error", 8), ("truncate", 8)])
def test_rows_of_other_views_are_all_rows(policy: str, left: int) -> None:
    rows = TinyTask(rows=8).examples("train")
    assert len(module(long_examples=policy, long_prompts="drop", max_prompt_length=1).validate_rows(rows)) == left
    assert module().validate_rows([]) == []
    narrow = module(long_examples="error")
    narrow.set_model(tiny_lm(positions=16), tokenizer())
    with pytest.raises(UserError, match=r"example 1 \(24 tokens, prompt 21\) exceeds the model's 16 positions"):
        narrow.validate_rows(rows)


def test_left_out_prompts_are_counted_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "lit_narrative"):
        kept = module(long_prompts="drop", max_prompt_length=10).validate_rows(TinyTask(rows=8).prompts("train"))
    assert [row.text for row in kept] == ["Write.", "A"] * 2
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == "left out 4 of 8 prompts that exceed 10 tokens"


def test_chat_wraps_prompts() -> None:
    made, words = SFTModule(sizes(), sampling=SamplingParams(8), chat=True), tokenizer().backend_tokenizer
    chatty = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<|end|>")
    chatty.chat_template = "<{{ messages[0]['content'] }}>"
    made.set_model(tiny_lm(scale=4), chatty)
    (rollout,) = made.generate([Prompt("Write.")])
    assert made.tokenizer.decode(rollout.prompt_ids) == "<Write.>"
    assert rollout.prompt == "Write."


def test_predict_completes_the_test_prompts(tmp_path: Path) -> None:
    made = module()
    batches = trainer(tmp_path).predict(made, TinyTask(rows=6))
    assert batches is not None
    rollouts = [rollout for batch in batches for rollout in batch]
    assert [rollout.prompt for rollout in rollouts] == [row.text for row in TinyTask(rows=6).prompts("test")]


def test_a_task_of_prompts_alone_is_tested_without_likelihood(tmp_path: Path) -> None:
    class Bare(TaskDataModule):
        def prompts(self, split: Split) -> list[Prompt]:
            return indexed()

    made = GRPOModule({"low": 1.0}, sampling=SamplingParams(8))
    made.set_model(tiny_lm(), tokenizer())
    (metrics,) = trainer(tmp_path).test(made, Bare(), verbose=False)
    assert metrics == {}


def test_hyperparameters_are_plain_values() -> None:
    made = module(sampling=SamplingParams(9, temperature=0.5))
    again = SFTModule(**made.hparams)
    assert again.sampling == made.sampling
    assert isinstance(made.hparams["model"], dict)
    assert again.source == made.source


@pytest.mark.parametrize(
    ("name", "value"),
    [("lr", -1.0), ("lr", math.nan), ("lr", math.inf), ("weight_decay", -0.1), ("weight_decay", math.nan)],
)
def test_numbers_of_the_optimizer_that_mean_nothing_are_refused(name: str, value: float) -> None:
    with pytest.raises(UserError, match=rf"^model\.{name}={value} must be a number of 0 or more"):
        module(**{name: value})


def test_a_negative_warmup_is_refused() -> None:
    with pytest.raises(UserError, match=r"^model\.warmup_steps is -1; it must be 0 or more"):
        module(warmup_steps=-1)


def test_a_compiled_step_is_not_for_weights_that_move(tmp_path: Path) -> None:
    module = SFTModule(sizes(), tokenizer_folder(tmp_path), sampling=SamplingParams(4, compile=True))
    module._device_mesh = object()  # type: ignore[assignment]
    with pytest.raises(UserError, match=r"model\.sampling\.compile is not for trainer\.strategy=fsdp2"):
        module.apply_sharding()
