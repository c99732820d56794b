"""The card game as data."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from lit_narrative.datamodules.base import Split
from lit_narrative.datamodules.cards import CardsData
from lit_narrative.errors import UserError
from lit_narrative.lm.tokenizer import TrainedTokenizer, encode_completion, encode_prompt, train_tokenizer
from lit_narrative.tasks.cards.dealing import bucket_of
from lit_narrative.tasks.cards.game import KINDS, SETS, TEST_SETS, CardGame
from lit_narrative.tasks.cards.rules import Card
from lit_narrative.views import Prompt, Rollout

SPLITS: tuple[Split, ...] = ("train", "val", "test")
SHORT = CardGame(lengths=(2, 3), long_lengths=(5, 6))


def data(**settings: Any) -> CardsData:
    small = {"train_size": 60, "prompt_size": 50, "val_size": 20, "test_size": 30}
    return CardsData(**{"game": SHORT, **small, **settings})


def rollout(text: str, prompt: Prompt) -> Rollout:
    empty = torch.zeros(0, dtype=torch.long)
    return Rollout(empty, empty, torch.zeros(0), True, text, prompt.text, prompt.columns)


def test_splits_have_their_sizes_and_share_no_hand() -> None:
    made = data()
    assert [len(made.examples(split)) for split in SPLITS] == [60, 20, 30]
    assert [len(made.prompts(split)) for split in SPLITS] == [50, 20, 30]
    for split in SPLITS:
        for row in (*made.examples(split), *made.prompts(split)):
            columns = row.columns if isinstance(row, Prompt) else row.meta
            assert bucket_of([Card(card["color"], card["value"]) for card in columns["cards"]]) == split


def test_rows_do_not_depend_on_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    first = list(data().examples("train"))
    for variable, value in (("PL_GLOBAL_SEED", "9"), ("LOCAL_RANK", "1"), ("PYTHONHASHSEED", "4")):
        monkeypatch.setenv(variable, value)
    np.random.seed(5)
    assert list(data().examples("train")) == first
    assert list(data(train_size=5, val_size=3).examples("train")) == first[:5]


def test_the_seed_of_the_game_changes_every_split() -> None:
    other = CardGame(lengths=(2, 3), long_lengths=(5, 6), seed=1)
    for split in SPLITS:
        assert list(data(game=other).examples(split)) != list(data().examples(split))


def test_prompts_carry_the_worked_answer_and_their_place() -> None:
    for place, (prompt, row) in enumerate(zip(data().prompts("test"), data().examples("test"), strict=True)):
        assert prompt.text == row.prompt
        assert prompt.columns["reference"] == row.completion
        assert prompt.columns["index"] == place
        assert prompt.columns["answer"] == row.meta["answer"]


def test_training_prompts_are_the_mixture_and_never_held_out() -> None:
    mix = {"id": 1.0, "new_colors": 1.0, "compositional": 1.0, "paraphrase": 1.0}
    kinds = Counter(row.columns["kind"] for row in data(mix=mix, prompt_size=400).prompts("train"))
    assert set(kinds) == set(mix)
    assert min(kinds.values()) > 60
    assert {row.columns["kind"] for row in data().prompts("train")} == {"id"}
    with pytest.raises(UserError, match=r"'classification' a weight of 1\.0, but data\.held_out says"):
        data(mix={"classification": 1.0})
    assert {row.columns["kind"] for row in data(mix={"classification": 1.0}, held_out=[]).prompts("train")} == {
        "classification"
    }


@pytest.mark.parametrize("name", SETS)
def test_sets_by_name(name: str) -> None:
    made = data(test_sizes={"new_colors": 7})
    expected = {"train": 60, "val": 20, "new_colors": 7}.get(name, 30)
    assert len(made.named_deals(name)) == len(made.named_prompts(name)) == expected
    assert {row.meta["split"] for row in made.named_examples(name)} == {name}


@pytest.mark.parametrize("name", TEST_SETS)
def test_the_test_split_is_the_chosen_set(name: str) -> None:
    made = data(test_set=name)
    assert list(made.examples("test")) == list(made.named_examples(name))
    assert list(made.prompts("test")) == list(made.named_prompts(name))


def test_an_unknown_set_names_the_nearest() -> None:
    with pytest.raises(UserError, match="no 'new_colours'; did you mean 'new_colors'"):
        data(test_set="new_colours")
    with pytest.raises(UserError, match="no 'new_colours'; did you mean 'new_colors'"):
        data(test_sizes={"new_colours": 3})
    with pytest.raises(UserError, match="no 'length'"):
        data().named_deals("length")


@pytest.mark.parametrize("name", ["train_size", "prompt_size", "val_size", "test_size", "test_sizes.paraphrase"])
def test_sizes_below_one_are_refused(name: str) -> None:
    key, _, part = name.partition(".")
    with pytest.raises(UserError, match=rf"data\.{name} is 0; it must be 1 or more"):
        data(**{key: {part: 0} if part else 0})


def test_rows_are_counted_from_nought() -> None:
    with pytest.raises(IndexError):
        data().examples("val")[20]


# --- labels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("label", "classes"), [("rule", 7), ("kind", len(KINDS)), ("paraphrased", 2), ("sign", 3)])
def test_labels_are_all_there_in_every_split(label: Any, classes: int) -> None:
    made = data(label=label, train_size=300, val_size=300, test_size=300)
    assert len(made.label_names) == classes
    for split in SPLITS:
        rows = made.labelled(split)
        assert len(rows) == 300
        assert {row.label for row in rows} == set(range(classes))
    assert not {row.text for row in made.labelled("train")} & {row.text for row in made.labelled("test")}


def test_labels_say_what_their_names_say() -> None:
    made = data(label="rule")
    for row in made.labelled("train"):
        name = made.label_names[row.label]
        assert ("YELLOW" in row.text.splitlines()[0]) == (name == "green_minus_yellow")


# --- words ------------------------------------------------------------------------------------------------------------


def test_a_word_level_tokenizer_knows_every_row_of_any_pool() -> None:
    spec = TrainedTokenizer(kind="words")
    assert len(train_tokenizer(data().tokenizer_texts(), spec)) < 400
    other = CardGame(rules={"id": ["yellow_less_equal_7", "even_minus_odd", "sum_less_equal_149"]}, largest_value=20)
    for made in (data(), data(game=other)):
        words = train_tokenizer(made.tokenizer_texts(), spec)
        for name in SETS:
            for row in made.named_examples(name):
                ids = [*encode_prompt(words, row.prompt), *encode_completion(words, row.completion)]
                assert words.unk_token_id not in ids
                assert words.decode(ids, skip_special_tokens=True) == row.prompt + row.completion
    for number in range(-150, 151):
        assert len(words(f" {number}")["input_ids"]) == 1


# --- rewards and verifiers --------------------------------------------------------------------------------------------


def test_rewards_by_name_and_by_path() -> None:
    names = ["correct", "format", "process", "length", "lit_narrative.rl.rewards.penalties:Repetition(ngram_size=2)"]
    made = data()
    found = made.reward_functions(names)
    assert list(found) == names
    prompt = made.prompts("train")[0]
    right, wrong = rollout(prompt.columns["reference"], prompt), rollout(" none", prompt)
    assert [found[name]([right, wrong]) for name in names[:3]] == [[1, 0]] * 3  # type: ignore[operator]
    with pytest.raises(UserError, match="there is no 'corect'; did you mean 'correct'"):
        made.reward_functions(["corect"])


def test_verdicts() -> None:
    made = data()
    prompt = made.prompts("val")[0]
    totals, answer = prompt.columns["running_totals"], prompt.columns["answer"]
    right, wrong, bad = made.verify(
        [rollout(prompt.columns["reference"], prompt), rollout(f" {totals[0]} ; 99", prompt), rollout(" ?", prompt)]
    )
    assert (right.total, right.valid, right.issues) == (1, True, ())
    assert right.components == {"correct": 1, "format": 1, "process": 1, "trace_exact": 1}
    assert (wrong.total, wrong.valid) == (0, True)
    assert [issue["path"] for issue in wrong.issues] == ["trace[0]", "answer"]
    assert wrong.issues[0]["message"] == f"1 running totals for {len(totals)} cards"
    assert wrong.issues[1]["message"] == f"answered 99, {answer} is right"
    assert (bad.total, bad.valid) == (0, False)
    assert bad.issues[-1]["message"] == f"no answer, {answer} is right"


def test_a_verdict_points_at_the_first_wrong_running_total() -> None:
    made = data(game=CardGame(lengths=(3, 3), long_lengths=(5, 6)))
    prompt = made.prompts("val")[0]
    first, second, _ = prompt.columns["running_totals"]
    (verdict,) = made.verify([rollout(f" {first} {second + 1} 77 ; {prompt.columns['answer']}", prompt)])
    assert verdict.issues == (
        {"path": "trace[1]", "message": f"{second + 1} where {second} is right", "severity": "warning"},
    )
    assert verdict.total == 1


def test_without_scratchpads_traces_are_not_judged() -> None:
    made = data(game=CardGame(lengths=(2, 3), long_lengths=(5, 6), scratchpad="none"))
    prompt = made.prompts("val")[0]
    (verdict,) = made.verify([rollout(prompt.columns["reference"], prompt)])
    assert verdict.components == {"correct": 1, "format": 1}
    assert verdict.issues == ()


def test_uniqueness_of_texts_and_of_answers() -> None:
    found = data().unique_shares([" 1 2 ; 2", " 0 2 ; 2", " 5", " none"])
    assert found == {"unique": 1.0, "unique_answers": pytest.approx(2 / 3)}
    assert data().unique_shares([]) == {"unique": 0.0, "unique_answers": 0.0}
