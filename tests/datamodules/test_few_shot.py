"""Few-shot prompts: what stands before a prompt, for which model, and what becomes of its rewards."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_narrative.datamodules.cards import CardsData
from lit_narrative.datamodules.few_shot import FewShot
from lit_narrative.datamodules.poetry import PoetryData
from lit_narrative.datamodules.storyworld import StoryworldData
from lit_narrative.errors import UserError
from lit_narrative.lm.load import ScratchModel
from lit_narrative.lm.tokenizer import TrainedTokenizer
from lit_narrative.modules.sft import SFTModule
from lit_narrative.tasks.storyworld.simulator.playing import PlaySettings
from lit_narrative.text import ASKED
from lit_narrative.views import Example, Prompt, Rollout
from tests.helpers import fit

NO_IDS = torch.zeros(0, dtype=torch.long)


def worlds(few_shot: FewShot | None, **settings: Any) -> StoryworldData:
    return StoryworldData(train_size=12, val_size=4, test_size=4, batch_size=4, few_shot=few_shot, **settings)


def verse(few_shot: FewShot | None) -> PoetryData:
    return PoetryData(train_size=20, prompt_size=2, few_shot=few_shot)


def rollout(prompt: str, text: str, columns: Mapping[str, Any]) -> Rollout:
    return Rollout(NO_IDS, NO_IDS, NO_IDS.float(), True, text, prompt, columns)


def prompt_of(row: Example | Prompt) -> Any:
    return row.prompt if isinstance(row, Example) else row.text


@pytest.mark.parametrize("view", ["examples", "prompts"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_training_examples_stand_before_each_row(view: str, split: Any) -> None:
    plain, few = worlds(None), worlds(FewShot(2, instruction="Write worlds."))
    known = {f"{row.prompt}{row.completion}" for row in plain.examples("train")}
    found = [prompt_of(row) for row in few.view(view, split)]
    assert found == [prompt_of(row) for row in few.view(view, split)]
    for row, whole in zip(plain.view(view, split), found, strict=True):
        said, *shown, last = whole.split("\n\n")
        assert said == "Write worlds." and last == prompt_of(row)
        assert len(set(shown)) == 2 and known.issuperset(shown)
        assert not any(one.startswith(last) for one in shown)


def test_they_are_earlier_turns_of_a_chat() -> None:
    few = worlds(FewShot(1, turns=True, instruction="Write worlds."), format="compact")
    row = few.view("prompts", "test")[1]
    assert [message["role"] for message in row.text] == ["system", "user", "assistant", "user"]
    assert row.text[2]["content"].startswith("cast ") and row.text[-1]["content"] == row.columns[ASKED]
    assert row.columns["index"] == 1 and row.columns["reference"].endswith("\nend")


def test_named_sets_have_them_too() -> None:
    few = CardsData(train_size=20, prompt_size=2, val_size=2, test_size=2, few_shot=FewShot(3))
    for prompt in (*few.named_prompts("new_colors"), *few.view("prompts", "train")):
        assert prompt.text.count("Answer:") == 4 and prompt.text.endswith(prompt.columns[ASKED])


def test_rewards_judge_the_prompt_alone() -> None:
    reward: Any = verse(None).reward_functions(["complete"])["complete"]
    rows = [verse(few_shot).view("prompts", "train")[0] for few_shot in (None, FewShot(3))]
    alone, among = (reward([rollout(row.text, "The night\n", row.columns)]) for row in rows)
    assert alone == among and alone[0] < 1


def test_a_prompt_that_is_too_long_is_one_clear_error(tmp_path: Path) -> None:
    size = ScratchModel(hidden_size=8, layers=1, heads=1, positions=600)
    module = SFTModule(size, tokenizer=TrainedTokenizer(vocab_size=300))
    with pytest.raises(UserError, match=r"exceeds the model's 600 positions.*fewer examples by data\.few_shot\.shots"):
        fit(module, worlds(FewShot(4)), tmp_path, max_steps=1)


def test_messages_want_a_chat(tmp_path: Path) -> None:
    module = SFTModule(ScratchModel(hidden_size=8, layers=1, heads=1), tokenizer=TrainedTokenizer(vocab_size=300))
    with pytest.raises(UserError, match=r"only a module with model\.chat=true reads"):
        fit(module, worlds(FewShot(1, turns=True)), tmp_path, max_steps=1)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: FewShot(0), "shows nothing"),
        (lambda: FewShot(-1), r"data\.few_shot\.shots"),
        (lambda: worlds(FewShot(12)).view("prompts", "val"), "shots=12 of 12 training examples"),
        (lambda: worlds(FewShot(1), play=PlaySettings()), "prompts begin plays"),
        (lambda: worlds(None, format="compact", grammar=True), r"data\.grammar is of worlds in JSON"),
        (lambda: worlds(None, format="yaml"), r"data\.format"),
    ],
)
def test_what_cannot_be_is_refused(make: Any, says: str) -> None:
    with pytest.raises(UserError, match=says):
        make()


def test_compact_worlds_are_judged_as_json() -> None:
    plain, compact = worlds(None), worlds(None, format="compact")
    json, lines = (
        [rollout(str(row.prompt), row.completion, row.meta) for row in data.examples("val")]
        for data in (plain, compact)
    )
    assert [row.text for row in json] != [row.text for row in lines]
    assert plain.verify(json) == compact.verify(lines)
    assert plain.unique_shares([row.text for row in json]) == compact.unique_shares([row.text for row in lines])
    assert list(plain.tokenizer_names()) == list(compact.tokenizer_names())
    assert len(plain.states("val")) == len(compact.states("val")) > 0
    pieces = [
        state.meta["pieces"] for states in compact.states_of([row.text for row in lines], 2, 0) for state in states
    ]
    assert pieces and all(pieces)
