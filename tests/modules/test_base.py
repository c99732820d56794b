"""What every language module can do: write."""

from pathlib import Path
from typing import Any

import pytest
import torch

from lit_narrative.datamodules.base import Split, TaskDataModule
from lit_narrative.errors import UserError
from lit_narrative.lm.sampler import SamplingParams
from lit_narrative.modules.grpo import GRPOModule
from lit_narrative.modules.sft import SFTModule
from lit_narrative.views import Prompt
from tests.helpers import PROMPTS, TinyTask, sizes, tiny_lm, tokenizer, trainer


def module(**settings: Any) -> SFTModule:
    made = SFTModule(sizes(), **{"sampling": SamplingParams(8), **settings})
    made.adopt(tiny_lm(scale=4), tokenizer())
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


def test_the_caller_may_choose_the_sampling() -> None:
    assert max(len(r.completion_ids) for r in module().generate(indexed(), params=SamplingParams(3))) == 3


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_left_as_it_was(training: bool) -> None:
    made = module().train(training)
    made.generate(indexed())
    assert made.training is training
    assert made.lm.training is training


def test_a_prompt_needs_tokens_and_room() -> None:
    with pytest.raises(UserError, match="a prompt has no tokens"):
        module().generate([Prompt("")])
    with pytest.raises(UserError, match=r"max_new_tokens=200 exceeds the model's 128 positions; shorten .*'Write\.…'"):
        module(sampling=SamplingParams(200)).generate([Prompt("Write.")])
    rollouts = module(sampling=SamplingParams(127), chat=False).generate([Prompt("A")])
    assert len(rollouts[0].prompt_ids) == 1


def test_chat_wraps_prompts() -> None:
    made = module(chat=True)
    made.tokenizer = type(made.tokenizer)(tokenizer_object=tokenizer().backend_tokenizer, eos_token="<|end|>")
    made.tokenizer.chat_template = "<{{ messages[0]['content'] }}>"
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
    made.adopt(tiny_lm(), tokenizer())
    (metrics,) = trainer(tmp_path).test(made, Bare(), verbose=False)
    assert metrics == {}


def test_hyperparameters_are_plain_values() -> None:
    made = module(sampling=SamplingParams(9, temperature=0.5))
    again = SFTModule(**made.hparams)
    assert again.sampling == made.sampling
    assert isinstance(made.hparams["model"], dict)
    assert again.source == made.source
