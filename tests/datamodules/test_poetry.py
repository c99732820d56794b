"""Verse as data."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lit_narrative.cli.recipes.recipe import read_recipe
from lit_narrative.cli.recipes.sweep import read_sweep
from lit_narrative.datamodules.base import Split
from lit_narrative.datamodules.poetry import PoetryData
from lit_narrative.errors import UserError
from lit_narrative.lm.tokenizer import TrainedTokenizer, encode_completion, encode_prompt, train_tokenizer
from lit_narrative.lookup import shipped_configs
from lit_narrative.tasks.poetry.bags import ContrastBag
from lit_narrative.tasks.poetry.grammar import content_share, is_line
from lit_narrative.tasks.poetry.topics import EVERYDAY, TOPICS
from lit_narrative.views import Prompt, Rollout
from tests.paths import DATA

SPLITS: tuple[Split, ...] = ("train", "val", "test")
BOOKS = DATA / "gutenberg"


def data(**settings: Any) -> PoetryData:
    small = {"train_size": 60, "prompt_size": 50, "rated_size": 80, "val_size": 20, "test_size": 30}
    return PoetryData(**{**small, **settings})


def poem(number: int, word: str = "sea") -> str:
    ordinal = chr(97 + number % 26) * (1 + number // 26)
    lines = f"The {ordinal} is gone to the {word},\nThe night is come,\n\nAnd I am home.\nAnd you are."
    return f"POEM {number}\n\n{lines}\n\n\n"


@pytest.fixture
def corpus(tmp_path: Path) -> str:
    (tmp_path / "sailor.txt").write_text("".join(poem(n) for n in range(20)), encoding="utf-8")
    (tmp_path / "soldier.txt").write_text("".join(poem(n, "war") for n in range(20, 40)), encoding="utf-8")
    return str(tmp_path)


def rollout(text: str, prompt: Prompt, finished: bool = True) -> Rollout:
    empty = torch.zeros(0, dtype=torch.long)
    return Rollout(empty, empty, torch.zeros(0), finished, text, prompt.text, prompt.columns)


# --- the grammar ------------------------------------------------------------------------------------------------------


def test_sizes_and_disjoint_splits() -> None:
    made = data()
    assert [len(made.examples(split)) for split in SPLITS] == [60, 20, 30]
    assert [len(made.prompts(split)) for split in SPLITS] == [50, 20, 30]
    assert [len(made.scored(split)) for split in SPLITS] == [80, 20, 30]
    assert [len(made.labelled(split)) for split in SPLITS] == [60, 20, 30]
    for view in ("examples", "prompts"):
        openings = [
            {row.prompt if view == "examples" else row.text for row in made.view(view, split)} for split in SPLITS
        ]
        assert not openings[0] & openings[1]
        assert not openings[0] & openings[2]
        assert not openings[1] & openings[2]


def test_rows_do_not_depend_on_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    views = ("examples", "prompts", "scored", "labelled")
    first = {view: data().view(view, "train") for view in views}
    for variable, value in (("PL_GLOBAL_SEED", "9"), ("LOCAL_RANK", "1"), ("PYTHONHASHSEED", "4")):
        monkeypatch.setenv(variable, value)
    np.random.seed(5)
    assert {view: data().view(view, "train") for view in views} == first
    assert data(train_size=5).examples("train") == first["examples"][:5]
    assert all(data(seed=1).view(view, "train") != first[view] for view in views)


def test_an_example_is_a_first_line_and_the_rest() -> None:
    for row in data().examples("train"):
        assert row.prompt.endswith("\n")
        assert all(is_line(line) for line in (row.prompt + row.completion).split("\n"))
        assert row.prompt.count("\n") == 1
        assert row.meta["topic"] in TOPICS


def test_prompts_of_a_few_words() -> None:
    whole, cut = data(), data(prompt_words=2)
    for one, other in zip(whole.examples("val"), cut.examples("val"), strict=True):
        assert one.prompt + one.completion == other.prompt + other.completion
        assert other.prompt == " ".join(one.prompt.split()[:2])
        assert other.completion.startswith(" ")
    assert [row.text for row in data(prompt_words=99).prompts("val")] == [row.text for row in whole.prompts("val")]


def test_prompts_are_neutral_and_ask_for_each_topic_in_turn() -> None:
    prompts = data().prompts("test")
    assert [row.columns["topic"] for row in prompts[:5]] == list(TOPICS)
    assert len({row.text for row in prompts}) == 6
    assert len({row.text for row in prompts[:5]}) == 1
    topical = [word for topic in TOPICS.values() for word in topic.words]
    for place, row in enumerate(prompts):
        topic = TOPICS[row.columns["topic"]]
        assert row.columns["bag"] == list(topic.bag)
        assert row.columns["held_out"] == list(topic.held_out)
        assert row.columns["index"] == place
        assert content_share(row.text, topical) == 0


def test_topics_by_name_and_file(tmp_path: Path) -> None:
    (tmp_path / "harbour.txt").write_text("quay\nlamp\n", encoding="utf-8")
    prompts = data(topics=["winter", str(tmp_path / "harbour.txt")]).prompts("val")
    assert [row.columns["topic"] for row in prompts[:3]] == ["winter", "harbour", "winter"]
    assert prompts[1].columns["bag"] == ["quay", "lamp"]


def test_ratings_are_the_share_of_the_first_topic_with_noise_in_training() -> None:
    made = data(rated_size=300, topics=["winter", "ocean"])
    for row in made.scored("test"):
        assert row.score == pytest.approx(content_share(row.text, TOPICS["winter"].words))
    truth = np.array([content_share(row.text, TOPICS["winter"].words) for row in made.scored("train")])
    rated = np.array([row.score for row in made.scored("train")])
    assert np.all((rated >= 0) & (rated <= 1))
    inside = (rated > 0) & (rated < 1)
    assert 0.05 < (rated - truth)[inside].std() < 0.15
    assert np.corrcoef(truth, rated)[0, 1] > 0.85
    calm = data(rated_size=300, topics=["winter"], rating_noise=0).scored("train")
    assert [row.score for row in calm] == pytest.approx(truth.tolist())


def test_pairs_of_ratings() -> None:
    scores = {row.text: row.score for row in data().scored("train")}
    pairs = data(pairs=True).scored("train")
    assert 20 < len(pairs) <= 40
    assert all(row.other is not None and scores[row.text] > scores[row.other] for row in pairs)


def test_readers_events_take_the_place_of_made_ratings(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    rows = [{"event_type": "rate", "data": {"text": f"text {n}", "rating": n / 29}} for n in range(30)]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    made = data(events=str(path))
    assert [len(made.scored(split)) for split in SPLITS] == [24, 3, 3]
    assert all(row.other for row in data(events=str(path), pairs=True).scored("train"))
    with pytest.raises(UserError, match=r"data\.events: no file"):
        data(events=str(tmp_path / "gone.jsonl"))


def test_labels_are_the_topics() -> None:
    made = data(train_size=300)
    assert made.label_names == tuple(TOPICS)
    counts = Counter(row.label for row in made.labelled("train"))
    assert min(counts[label] for label in range(5)) > 35
    shares = [content_share(row.text, TOPICS[made.label_names[row.label]].words) for row in made.labelled("train")]
    assert np.mean(shares) > 0.4


def test_one_tokenizer_knows_the_grammar_of_every_seed() -> None:
    spec = TrainedTokenizer(kind="words")
    words, others = (train_tokenizer(data(seed=seed).tokenizer_texts(), spec) for seed in (0, 1))
    assert words.get_vocab() == others.get_vocab()
    for row in data(seed=3).examples("train"):
        ids = [*encode_prompt(words, row.prompt), *encode_completion(words, row.completion)]
        assert words.unk_token_id not in ids
        assert len(ids) <= 96
        assert words.decode(ids, skip_special_tokens=True) == row.prompt + row.completion
    for topic in TOPICS.values():
        assert all(len(words(f" {word}")["input_ids"]) == 1 for word in topic.words)


@pytest.mark.parametrize("name", ["train_size", "prompt_size", "rated_size", "val_size", "test_size", "prompt_words"])
def test_sizes_below_one_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=rf"data\.{name} is 0; it must be 1 or more"):
        data(**{name: 0})


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"max_lines": 1}, r"data\.max_lines is 1; it must be 2 or more"),
        ({"seed": -1}, r"data\.seed is -1"),
        ({"rating_noise": -0.1}, r"data\.rating_noise is -0\.1"),
        ({"label": "source"}, r"give data\.corpus"),
        ({"topics": []}, r"data\.topics is empty"),
        ({"topics": ["ocaen"]}, "did you mean 'ocean'"),
        ({"corpus": "/nowhere/at/all"}, r"data\.corpus: no file or folder /nowhere/at/all"),
    ],
)
def test_settings_that_cannot_be_are_refused_at_once(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        data(**wrong)


# --- a corpus ---------------------------------------------------------------------------------------------------------


def test_a_corpus_is_split_by_poem(corpus: str) -> None:
    made = data(corpus=corpus)
    texts = {split: {row.prompt + row.completion for row in made.examples(split)} for split in SPLITS}
    assert [len(texts[split]) for split in SPLITS] == [32, 4, 4]
    assert len(set.union(*texts.values())) == 40
    row = made.examples("train")[0]
    assert row.prompt.startswith("The ")
    assert row.completion == "The night is come,\n\nAnd I am home.\nAnd you are."
    assert [len(data(corpus=corpus, train_size=7).examples(split)) for split in SPLITS] == [7, 4, 4]


def test_poems_with_one_first_line_are_in_one_split(tmp_path: Path) -> None:
    texts = [f"The tide is in!\nAnd I am {word},\nAnd gone.\n\n\n" for word in "abcdefghijklmnopqrst"]
    (tmp_path / "a.txt").write_text("".join(texts) + "".join(poem(n) for n in range(3)), encoding="utf-8")
    made = data(corpus=str(tmp_path))
    counts = [sum("The tide" in row.prompt for row in made.examples(split)) for split in SPLITS]
    assert sorted(counts) == [0, 0, 20]


def test_long_poems_make_several_rows_of_one_split(tmp_path: Path) -> None:
    long = "".join(f"The {chr(97 + n)} is in,\nThe {chr(97 + n)} is out.\n\n" for n in range(12))
    (tmp_path / "a.txt").write_text(f"{long}\n\n" + "".join(poem(n) for n in range(9)), encoding="utf-8")
    made = data(corpus=str(tmp_path), max_lines=4)
    rows = {split: [row for row in made.examples(split) if " is out." in row.completion] for split in SPLITS}
    assert sorted(map(len, rows.values())) == [0, 0, 6]


def test_the_first_rows_of_a_corpus_are_a_sample_of_all_its_files(corpus: str) -> None:
    few = data(corpus=corpus, train_size=16).examples("train")
    assert few == data(corpus=corpus, train_size=30).examples("train")[:16]
    assert min(Counter(row.meta["source"] for row in few).values()) >= 4
    prompts = [row.text for row in data(corpus=corpus, topics=["sea"], prompt_size=16).prompts("train")]
    assert 4 <= sum("sea" in text for text in prompts) <= 12
    assert few != data(corpus=corpus, train_size=16, seed=1).examples("train")


def test_splits_share_no_first_line_of_a_piece(tmp_path: Path) -> None:
    poems = [poem(n).rstrip() + "\n\nAnd thou America,\nThe last.\n\n\n" for n in range(30)]
    (tmp_path / "a.txt").write_text("".join(poems), encoding="utf-8")
    made = data(corpus=str(tmp_path), max_lines=4)
    rows = {split: {row.prompt for row in made.examples(split)} for split in SPLITS}
    assert not rows["train"] & rows["val"] | rows["train"] & rows["test"] | rows["val"] & rows["test"]
    assert [len(rows[split]) for split in SPLITS] == [24, 3, 4]  # the test keeps the line
    assert {row.text for row in made.prompts("test")} == rows["test"]


def test_fewer_prompts_than_asked_are_said(corpus: str, caplog: pytest.LogCaptureFixture) -> None:
    made = data(corpus=corpus, topics=["sea", "war"], test_size=8, val_size=20, prompt_size=65)
    assert [len(made.prompts(split)) for split in SPLITS] == [64, 8, 8]
    assert [record.getMessage()[:55] for record in caplog.records] == [
        "data.prompt_size=65: there are only 64 prompts (first l",
        "data.val_size=20: there are only 8 prompts (first lines",
    ]


def test_parts_of_a_corpus_share_no_poem_under_any_seed(corpus: str) -> None:
    def texts(**given: Any) -> set[str]:
        made = data(corpus=corpus, **given)
        return {row.prompt + row.completion for split in SPLITS for row in made.examples(split)}

    author, judge = texts(part=0), texts(part=1, seed=100)
    assert len(author) == len(judge) == 20
    assert not author & judge
    assert author | judge == texts()
    assert author == texts(part=0, seed=1)
    assert data(part=1).examples("train") == data().examples("train")


def test_the_judge_of_the_recipe_has_read_none_of_the_authors_poems(corpus: str) -> None:
    recipe = read_recipe("poetry")
    data_of = {}
    for job in (job for job in recipe.jobs if job.command in {"fit", "predict"}):
        given = {key.split(".")[-1]: value for key, value in job.overrides.items() if key.startswith("data.init_args.")}
        given = {key: int(given[key]) for key in ("seed", "part") if key in given}
        data_of[job.name] = data(corpus=corpus, **given)
    for seed in recipe.seeds:
        judge = data_of.pop(f"seed_{seed}/judge")
        read = {row.prompt + row.completion for split in SPLITS for row in judge.examples(split)}
        for name in [name for name in data_of if name.startswith(f"seed_{seed}/")]:
            own = {row.prompt + row.completion for split in SPLITS for row in data_of[name].examples(split)}
            assert not own & read, name
    arms = read_sweep(shipped_configs()["sweeps/poetry"])
    assert {run.job.overrides["data.init_args.part"] for run in arms.runs} == {0}


def test_half_of_the_ratings_are_of_texts_with_a_word_of_the_topic(tmp_path: Path) -> None:
    words = ["sea"] * 12 + ["war"] * 48
    (tmp_path / "a.txt").write_text("".join(poem(n, word) for n, word in enumerate(words)), encoding="utf-8")
    settings = {"corpus": str(tmp_path), "topics": ["sea"], "rating_noise": 0}
    every = data(**settings, rated_size=99).scored("train")
    assert len(every) == 48
    assert sum(row.score > 0 for row in every) >= 8
    some = data(**settings, rated_size=16).scored("train")
    assert sum(row.score > 0 for row in some) == 8
    assert len({row.text for row in some}) == 16
    assert 0 < sum(row.score > 0 for row in some[:8]) < 8  # in no order
    turned = data(**{**settings, "topics": ["war"]}, rated_size=30).scored("train")
    assert sum(row.score == 0 for row in turned) == sum(row.score > 0 for row in every)  # all that there are


def test_ratings_of_a_topic_that_hardly_occurs_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    words = ["sea"] * 2 + ["war"] * 58
    (tmp_path / "a.txt").write_text("".join(poem(n, word) for n, word in enumerate(words)), encoding="utf-8")
    assert data(corpus=str(tmp_path), topics=["sea"]).scored("train")
    assert "of 48 ratings for train are above 0: few poems have a word of 'sea'" in caplog.text
    caplog.clear()
    assert data(corpus=str(tmp_path), topics=["war"]).scored("train")
    assert not caplog.records
    with pytest.raises(UserError, match=r"data\.topics: no training poem to rate has a word of 'love'.*data\.corpus"):
        data(corpus=str(tmp_path), topics=["love"]).scored("train")


def test_a_corpus_of_two_poems_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(poem(0) + poem(1), encoding="utf-8")
    with pytest.raises(UserError, match=r"data\.corpus: .* has 2 poems; training, validation and test need one each"):
        data(corpus=str(tmp_path)).examples("train")
    with pytest.raises(UserError, match="has 1 poems in this half; training"):
        data(corpus=str(tmp_path), part=1).examples("train")


def test_prompts_ratings_and_labels_of_a_corpus(corpus: str) -> None:
    made = data(corpus=corpus, topics=["sea", "war"])
    assert [row.columns["topic"] for row in made.prompts("val")[:2]] == ["sea", "war"]
    assert len(made.prompts("val")) == 8
    for row in made.scored("test"):
        assert row.score == (0.25 if "sea" in row.text else 0)
    assert made.label_names == ("sea", "war")
    assert all(("war" in row.text) == row.label for row in made.labelled("train"))
    by_file = data(corpus=corpus, label="source")
    assert by_file.label_names == ("sailor", "soldier")
    assert all(("war" in row.text) == row.label for row in by_file.labelled("test"))
    assert list(data(corpus=corpus).topics) == list(EVERYDAY)
    assert data(corpus=corpus, topics=["sea"]).label_names == tuple(EVERYDAY)  # one alone tells nothing apart


def test_a_bag_of_two_files(corpus: str) -> None:
    bag = ContrastBag("sea", f"{corpus}/sailor.txt", f"{corpus}/soldier.txt")
    made = data(corpus=corpus, topics=[bag])
    assert made.prompts("val")[0].columns["bag"][0] == "sea"


@pytest.mark.skipif(not BOOKS.is_dir(), reason=f"no books at {BOOKS}; set LIT_DATA")
def test_real_books() -> None:
    made = PoetryData(corpus=str(BOOKS), val_size=10_000, test_size=10_000)
    counts = [len(made.examples(split)) for split in SPLITS]
    assert sum(counts[1:]) > 150
    assert len({row.prompt for split in SPLITS for row in made.examples(split)}) > 0.95 * sum(counts)
    train = {row.prompt for row in made.examples("train")}
    assert not any(row.prompt in train for row in made.examples("test"))
    assert all(row.prompt.strip() and row.completion.strip() for split in SPLITS for row in made.examples(split))


# --- rewards and verifiers --------------------------------------------------------------------------------------------


def test_rewards_by_name_and_by_path() -> None:
    made = data(topics=["ocean"])
    prompt = made.prompts("train")[0]
    names = [
        "topic_share",
        "grammatical",
        "repetition",
        "off_topic",
        "lit_narrative.tasks.poetry.rewards:TopicShare(0.5)",
    ]
    found = made.reward_functions(names)
    one = rollout("the tidal wave waits again\nthe cold snow melts again", prompt)
    assert [found[name]([one])[0] for name in names] == pytest.approx([0.2, 1, 0, -0.3, 0.4])  # type: ignore[operator]


def test_held_out_words_are_no_reward() -> None:
    with pytest.raises(UserError, match=r"'held_out' is what shows that a reward is played.*components/held_out"):
        data().reward_functions(["held_out"])
    with pytest.raises(UserError, match=r"model\.rewards of PoetryData: there is no 'sound'"):  # verse is not played
        data().reward_functions(["sound"])
    with pytest.raises(UserError, match="there is no 'topic_shares'; did you mean 'topic_share'"):
        data().reward_functions(["topic_shares"])


def test_a_corpus_has_no_grammar(corpus: str) -> None:
    made = data(corpus=corpus)
    with pytest.raises(UserError, match="with a corpus no grammatical and no complete"):
        made.reward_functions(["grammatical"])
    (verdict,) = made.verify([rollout("The sea, the sea.", made.prompts("val")[0])])
    assert "grammatical" not in verdict.components
    assert verdict.issues == ()


def test_verdicts() -> None:
    made = data(topics=["ocean"])
    prompt = made.prompts("val")[0]
    good, bad, empty = made.verify(
        [
            rollout("the tidal wave waits again\nthe salty", prompt, finished=False),
            rollout("wave wave wave wave\nsnow", prompt),
            rollout("", prompt),
        ]
    )
    assert good.components == {
        "topic_share": pytest.approx(2 / 7),
        "held_out": pytest.approx(1 / 7),
        "off_topic": 0,
        "on_topic": 1,
        "repetition": 0,
        "grammatical": 1,
    }
    assert good.total == good.components["topic_share"]
    assert good.issues == ()
    assert bad.components["topic_share"] == pytest.approx(4 / 5)
    assert bad.components["off_topic"] == pytest.approx(1 / 5)
    assert bad.components["repetition"] == pytest.approx(1 / 2)
    assert [issue["path"] for issue in bad.issues] == ["line[0]", "line[1]"]
    assert "'wave wave wave wave'" in bad.issues[0]["message"]
    assert (empty.valid, empty.total, empty.components["grammatical"]) == (False, 0, 0)


def test_without_held_out_words_nothing_is_said_of_them(tmp_path: Path) -> None:
    (tmp_path / "harbour.txt").write_text("quay\nlamp\n", encoding="utf-8")
    made = data(topics=[str(tmp_path / "harbour.txt"), "ocean"])
    rows = [rollout("the quay and the lamp", prompt) for prompt in made.prompts("val")[:2]]
    found = made.text_metrics(rows)
    assert "held_out" not in found
    assert found["topic_share"] == pytest.approx(2 / 5 / 2)


def test_other_topics_count_even_if_they_are_not_asked_for() -> None:
    made = data(topics=["ocean"])
    (verdict,) = made.verify(
        [rollout("the tidal snow melts again\nour ice is icy and never cold", made.prompts("val")[0])]
    )
    assert verdict.components["on_topic"] == 0
    assert verdict.components["off_topic"] > 0.3
