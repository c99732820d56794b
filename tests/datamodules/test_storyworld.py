"""Storyworlds as data."""

import json
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lit_narrative.datamodules.base import Split
from lit_narrative.datamodules.storyworld import StoryworldData
from lit_narrative.datamodules.task import numbered
from lit_narrative.errors import UserError
from lit_narrative.lm.passages import PassageSettings
from lit_narrative.sae.quality import FeatureQualitySettings
from lit_narrative.tasks.storyworld.cutting import Cut
from lit_narrative.tasks.storyworld.feature_quality import FeatureQuality
from lit_narrative.tasks.storyworld.formats.parse import Limits
from lit_narrative.tasks.storyworld.generator import Skew
from lit_narrative.tasks.storyworld.prompt_space import PromptSpace
from lit_narrative.tasks.storyworld.verifiers.base import SIX, Context, VerifierConfig
from lit_narrative.views import Rollout
from tests.paths import LIGHT

SPLITS: tuple[Split, ...] = ("train", "val", "test")


def data(**settings: Any) -> StoryworldData:
    return StoryworldData(**{"train_size": 60, "val_size": 20, "test_size": 20, "state_worlds": 12, **settings})


def rollout(text: str) -> Rollout:
    empty = torch.zeros(0, dtype=torch.long)
    return Rollout(empty, empty, torch.zeros(0), True, text)


def short(context: Context) -> float:
    """A component of a user's own."""
    return 1.0 if len(context.text) < 400 else 0.25


def test_splits_have_their_sizes_and_share_no_theme_and_no_cast() -> None:
    rows = {split: list(data().examples(split)) for split in SPLITS}
    assert {split: len(found) for split, found in rows.items()} == {"train": 60, "val": 20, "test": 20}
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        for key in ("theme", "cast"):
            held = {str(row.meta[key]) for row in rows[one]} & {str(row.meta[key]) for row in rows[other]}
            assert not held, (one, other, key)


def test_worlds_do_not_depend_on_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    first = list(data().examples("train"))
    for variable, value in (("PL_GLOBAL_SEED", "9"), ("LOCAL_RANK", "1"), ("PYTHONHASHSEED", "4")):
        monkeypatch.setenv(variable, value)
    np.random.seed(5)
    assert list(data().examples("train")) == first
    assert [data(train_size=5).examples("train")[n] for n in range(5)] == first[:5]


@pytest.mark.parametrize("settings", [{"corpus_seed": 1}, {"skew": Skew(gates=0.9, second_ending=0.9)}])
def test_settings_of_the_corpus_change_it(settings: dict[str, Any]) -> None:
    assert list(data(**settings).examples("train")) != list(data().examples("train"))


@pytest.mark.parametrize("name", ["train_size", "val_size", "test_size", "state_worlds", "plays_per_world"])
def test_counts_below_one_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=rf"data\.{name} is 0; it must be 1 or more"):
        data(**{name: 0})


def test_rows_are_counted_from_nought() -> None:
    rows = data().examples("val")
    with pytest.raises(IndexError):
        rows[20]
    with pytest.raises(IndexError):
        rows[-1]


def test_prompts_carry_the_worlds_own_text_and_place() -> None:
    for place, (prompt, row) in enumerate(zip(data().prompts("test"), data().examples("test"), strict=True)):
        assert prompt.text == row.prompt
        assert prompt.columns["reference"] == row.completion
        assert prompt.columns["index"] == place
        assert prompt.columns["theme"] == row.meta["theme"]


def test_states_are_moments_of_plays_standardised_on_the_training_worlds() -> None:
    found = data(state_worlds=40)
    train, held = found.states("train"), found.states("val")
    vectors = np.stack([state.vector for state in train])
    assert vectors.dtype == np.float32
    spread = vectors.std(0)
    np.testing.assert_allclose(vectors.mean(0), 0, atol=1e-3)
    moving = spread[spread > 0]
    assert moving.max() < 1.01
    assert np.mean(moving > 0.99) > 0.9  # the rest hardly moves: its spread is not blown up to 1
    assert {state.vector.shape for state in (*train, *held)} == {vectors.shape[1:]}
    assert len({state.meta["world"] for state in train}) <= 40
    assert not {state.meta["world"] for state in train} & {state.meta["world"] for state in held}
    again = data(state_worlds=40).states("train")
    assert all(np.array_equal(a.vector, b.vector) for a, b in zip(train, again, strict=True))


def test_more_worlds_and_plays_make_more_states() -> None:
    count = len(data().states("train"))
    assert len(data(state_worlds=24).states("train")) > count
    assert len(data(plays_per_world=8).states("train")) > count


def test_prompts_of_a_space_take_the_place_of_the_examples() -> None:
    space = PromptSpace()
    many = data(prompt_space=space, train_size=10**9, grammar=True)
    rows = many.prompts("train")
    assert len(rows) == 10**9
    assert rows[10**9 - 1].text == space.prompt(10**9 - 1, 0, "train").text
    assert numbered(rows) is rows  # nothing is made of it
    assert set(json.loads(rows[5].columns["grammar"])["properties"]["characters"]["properties"]) == set(
        rows[5].columns["cast"]
    )
    assert (
        data(prompt_space=space, corpus_seed=1).prompts("val")[0].text
        != data(prompt_space=space).prompts("val")[0].text
    )
    with pytest.raises(IndexError):
        rows[10**9]
    few = PromptSpace(("a", "b", "c"), ("d", "e", "f"), ("Al", "Bo", "Cy"), ("gold",), tracked=1)
    with pytest.raises(UserError, match=r"data\.train_size is 600, and data\.prompt_space has 112 prompts"):
        data(prompt_space=few, train_size=600).prompts("train")


def test_passages_of_a_corpus_stand_above_prompts(tmp_path: Path) -> None:
    pytest.importorskip("faiss", reason="passages need the extra `retrieval`")
    (tmp_path / "corpus.txt").write_text("The bell of the abbey rang at dawn.\n\nNobody crossed the bridge that night.")
    settings = PassageSettings(str(tmp_path / "corpus.txt"), least=-1, cache=str(tmp_path / "cache"))
    plain, rich = data().prompts("val")[3], data(passages=settings, passages_per_prompt=2).prompts("val")[3]
    assert len(rich.columns["passages"]) == 2
    above = "".join(f"Passage: {one}\n" for one in rich.columns["passages"])
    assert rich.text == f"{above}{plain.text}"
    assert rich.columns["reference"] == plain.columns["reference"]
    with pytest.raises(UserError, match=r"data\.passages_per_prompt is 0"):
        data(passages=settings, passages_per_prompt=0)


# --- a user's own worlds ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty worlds, a file each."""
    made = tmp_path_factory.mktemp("worlds")
    for number, row in enumerate(data().examples("train")):
        (made / f"world_{number:02}.json").write_text(json.dumps(json.loads(row.completion), indent=1))
    return made


def texts(source: Path | str, split: Split) -> list[str]:
    return [row.completion for row in StoryworldData(worlds=str(source)).examples(split)]


def test_own_worlds_are_dealt_to_disjoint_splits_by_their_content(folder: Path, tmp_path: Path) -> None:
    dealt = {split: texts(folder, split) for split in SPLITS}
    assert sorted(text for found in dealt.values() for text in found) == sorted(
        row.completion for row in data().examples("train")
    )
    assert len(dealt["train"]) > len(dealt["val"]) > 0
    renamed = tmp_path / "renamed"
    renamed.mkdir()
    for number, path in enumerate(sorted(folder.iterdir(), reverse=True)):
        (renamed / f"{number:02}.json").write_text(path.read_text())
    assert {split: sorted(texts(renamed, split)) for split in SPLITS} == {
        s: sorted(found) for s, found in dealt.items()
    }
    lines = tmp_path / "worlds.jsonl"
    lines.write_text("".join(json.dumps(json.loads(path.read_text())) + "\n" for path in sorted(folder.iterdir())))
    assert {split: texts(lines, split) for split in SPLITS} == dealt


def test_own_worlds_name_their_cast_in_the_prompt_and_can_be_played(folder: Path) -> None:
    own = StoryworldData(worlds=str(folder), state_worlds=5)
    prompt = own.prompts("train")[0]
    world = json.loads(prompt.columns["reference"])
    assert all(name in prompt.text for name in (*world["characters"], *world["properties"]))
    assert own.states("train")


def some(folder: Path, into: Path, count: int, start: int = 0) -> Path:
    """A new folder with ``count`` of the worlds, the first of them twice."""
    into.mkdir()
    for number, path in enumerate(sorted(folder.iterdir())[start : start + count]):
        (into / path.name).write_text(path.read_text())
        if not number:
            (into / f"again_{path.name}").write_text(path.read_text())
    return into


@pytest.mark.parametrize("count", [3, 5, 10])
def test_every_split_gets_a_world_of_three_or_more(count: int, tmp_path: Path, folder: Path) -> None:
    for start in (0, 20, 40):
        few = some(folder, tmp_path / f"from_{start}", count, start)
        dealt = [set(texts(few, split)) for split in SPLITS]
        assert min(map(len, dealt)) >= 1
        assert len(set.union(*dealt)) == sum(map(len, dealt)) == count
        assert dealt == [set(texts(few, split)) for split in SPLITS]


def test_fewer_worlds_than_splits_are_refused_with_the_numbers(tmp_path: Path, folder: Path) -> None:
    two = some(folder, tmp_path / "two", 2)
    message = (
        r"data\.worlds: there are 2 different worlds at .*, and 3 splits to fill .*; add 1 or more, or name worlds"
    )
    with pytest.raises(UserError, match=message):
        StoryworldData(worlds=str(two)).examples("train")


def test_worlds_to_hold_out_can_be_named(tmp_path: Path, folder: Path) -> None:
    few, held = some(folder, tmp_path / "few", 20), some(folder, tmp_path / "held", 2, 20)
    own = StoryworldData(worlds=str(few), val_worlds=str(held))
    assert [len(own.examples(split)) for split in SPLITS][1] == 3
    assert sum(len(own.examples(split)) for split in SPLITS) == 21 + 3
    assert not {row.completion for row in own.examples("val")} & set(texts(few, "train"))
    one = some(folder, tmp_path / "one", 1, 30)
    own = StoryworldData(worlds=str(one), val_worlds=str(held), test_worlds=str(few))
    assert [len(own.examples(split)) for split in SPLITS] == [2, 3, 21]
    with pytest.raises(UserError, match=r"data\.test_worlds: the world '.*world_20' is in data\.val_worlds too"):
        StoryworldData(worlds=str(one), val_worlds=str(held), test_worlds=str(held)).examples("train")
    with pytest.raises(UserError, match=r"'.*world_20' at .*held' is in data\.test_worlds too; leave it out of one"):
        StoryworldData(worlds=str(held), test_worlds=str(held)).examples("train")
    with pytest.raises(UserError, match=r"data\.test_worlds stands beside data\.worlds, which is not given"):
        StoryworldData(test_worlds=str(held))


def test_own_worlds_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere"):
        StoryworldData(worlds=str(tmp_path / "nowhere")).examples("train")


@pytest.fixture(scope="module")
def authored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four SweepWeave files that differ in a word, and one file that is cut off."""
    made = tmp_path_factory.mktemp("authored")
    for word in ("red", "green", "blue", "grey"):
        value = json.loads(LIGHT.read_text())
        value["storyworld_title"] = f"The {word} light"
        (made / f"{word}.json").write_text(json.dumps(value))
    (made / "torn.json").write_text(LIGHT.read_text()[:500])
    return made


def test_authored_worlds_are_cut_to_examples_and_the_bad_file_is_named(
    authored: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = StoryworldData(worlds=str(authored), cut=Cut(encounters=3, words=6))
    rows = {split: own.examples(split) for split in SPLITS}
    assert any("1 of the 5 files" in said and "torn.json" in said for said in caplog.messages)
    names = {split: {str(row.meta["name"]).split(":")[0] for row in found} for split, found in rows.items()}
    assert set.union(*names.values()) == {"red", "green", "blue", "grey"}
    assert sum(map(len, names.values())) == 4
    for row in rows["train"]:
        world = json.loads(row.completion)
        assert 2 <= len(world["encounters"]) <= 3
        assert all(len(one["text"].split()) <= 7 for one in world["encounters"])
        assert own.scorer()(row.completion).world is not None


def test_states_of_authored_worlds_by_worlds_and_by_plays(authored: Path) -> None:
    own = {kind: StoryworldData(worlds=str(authored), state_split=kind, state_slots=8) for kind in ("worlds", "plays")}
    of = {kind: {split: {s.meta["world"] for s in one.states(split)} for split in SPLITS} for kind, one in own.items()}
    assert not of["worlds"]["train"] & of["worlds"]["test"]
    assert of["plays"]["train"] == of["plays"]["test"] == {"red", "green", "blue", "grey"}
    assert own["plays"].states("train")[0].vector.shape == (2 * 8 + 18,)
    many = StoryworldData(worlds=str(authored), state_split="plays", plays_per_world=12)
    ways = {split: [s.vector.tobytes() for s in many.states(split)] for split in SPLITS}
    assert ways["train"] != ways["test"]  # other plays of the same worlds


def test_longer_plays_make_more_states(authored: Path) -> None:
    counts = [
        len(StoryworldData(worlds=str(authored), verifiers=VerifierConfig(max_steps=most)).states("train"))
        for most in (1, 20)
    ]
    assert counts[0] < counts[1]


# --- rewards and verifiers --------------------------------------------------------------------------------------------


def test_rewards_come_in_the_order_asked_for() -> None:
    names = ["novelty", "endings", "rarity", "feature_quality", "valid_json", "sound"]
    found = data().reward_functions(names)
    assert list(found) == names
    assert [reward.name for reward in found.values()] == names
    world = rollout(data().examples("train")[0].completion)
    junk = rollout("once upon a time")
    assert found["novelty"]([world, world, junk]) == [0.5, 0.5, 0]
    assert found["valid_json"]([world, junk]) == [1, 0]
    assert found["feature_quality"]([world, junk]) == [None, None]
    assert found["endings"]([junk]) == [0]


def test_rarity_is_worth_less_the_commoner_a_shape_is_among_playable_worlds() -> None:
    rows = StoryworldData(train_size=300, skew=Skew(second_ending=1.0, dangling=0.3)).examples("train")
    asked = data().reward_functions(["rarity", "playable"])
    rollouts = [rollout(row.completion) for row in rows]
    playable = asked["playable"](rollouts)
    one, other, *_ = [r for r, works in zip(rollouts, playable, strict=True) if works]
    broken = rollouts[list(playable).index(0.0)]
    renamed = rollout(one.text.replace("Bram", "Bert").replace("Ines", "Inga"))
    assert asked["rarity"]([one, renamed, other, broken, rollout("{")]) == [2**-0.5, 2**-0.5, 1, 0, 0]


@pytest.mark.parametrize(("reward", "kind"), [("sound", "sound"), ("rarity", "playable")])
def test_a_corpus_without_a_world_of_the_kind_that_a_reward_asks_for_is_told(
    reward: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    StoryworldData(skew=Skew(second_ending=0.5)).reward_functions([reward])
    poor = StoryworldData(skew=Skew(second_ending=0.0))
    poor.reward_functions(["endings", "few_errors"])
    assert not caplog.records
    poor.reward_functions([reward])
    (record,) = caplog.records
    assert f"none of the first 256 training worlds is {kind}" in record.message
    assert "raise data.skew.second_ending and data.skew.gates" in record.message


def test_own_worlds_without_a_sound_one_are_told(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    own = StoryworldData(worlds=str(folder), verifiers=VerifierConfig(min_endings=9))
    own.reward_functions(["sound"])
    assert "add some to data.worlds" in caplog.text


def test_limits_hold_for_every_reward_and_for_uniqueness() -> None:
    text = data().examples("train")[0].completion
    fenced = [rollout(f"```json\n{text}\n```"), rollout(text)]
    made = data(verifiers=VerifierConfig(limits=Limits(strip_code_fence=True)))
    assert data().reward_functions(["novelty"])["novelty"](fenced) == [0, 1]
    assert made.reward_functions(["novelty"])["novelty"](fenced) == [0.5, 0.5]
    assert made.unique_shares([row.text for row in fenced])["unique_skeleton"] == 0.5
    reward = made.reward_functions(["feature_quality"])["feature_quality"]
    assert isinstance(reward, FeatureQuality)
    reward.update_encoder(lambda x: (x, x), made.layout, 0)
    assert all(quality.explained_variance == 1 for quality in reward.qualities(fenced))


def test_settings_of_feature_quality_reach_the_reward() -> None:
    settings = FeatureQualitySettings(weights=(0, 1, 0))
    made = data(feature_quality=settings)
    reward = made.reward_functions(["feature_quality"])["feature_quality"]
    assert isinstance(reward, FeatureQuality)
    reward.update_encoder(lambda x: (x, x), made.layout, 0)
    assert reward([rollout(made.examples("train")[0].completion)]) == [1]


def test_a_reward_of_ones_own() -> None:
    name = f"{__name__}:short"
    (reward,) = data().reward_functions([name]).values()
    world = data().examples("train")[0].completion
    assert reward.name == name
    assert reward([rollout(world), rollout("{")]) == [0.25, 0]


def test_a_reward_on_tokens_by_its_path() -> None:
    names = [
        "valid_json",
        "lit_narrative.rl.rewards.penalties:SoftOverlong(max_completion_length=4, soft_punish_cache=2)",
    ]
    found = data().reward_functions(names)
    assert list(found) == names
    three = Rollout(torch.zeros(1).long(), torch.arange(3), torch.zeros(3), True, "")
    assert found[names[1]]([rollout("{"), three]) == [0, -0.5]


def test_an_unknown_reward_names_the_nearest_and_all() -> None:
    with pytest.raises(
        UserError, match=r"there is no 'secret'; did you mean 'secrets'\? \(known: valid_json, .*novelty"
    ):
        data().reward_functions(["valid_json", "secret"])


def test_verdicts() -> None:
    text = data().examples("train")[0].completion
    good, bad, hostile = data().verify([rollout(text), rollout(text[:80]), rollout("[" * 5000)])
    assert good.valid
    assert set(good.components) == set(SIX)
    assert good.components["valid_json"] == 1
    assert 0 < good.total <= 1
    assert "original_total" in good.extra
    assert good.extra["parses"] == 1 and bad.extra["parses"] == hostile.extra["parses"] == 0
    assert not any(hostile.funnel.values())
    quick = data().quick_shares([rollout(text), rollout(text[:80])])
    assert quick == {name: good.extra[name] / 2 for name in ("sound", "playable", "no_error")}
    asked = replace(rollout(text), columns={"cast": ["Nobody"]})
    assert data().quick_shares([asked])["adherence"] == data().verify([asked])[0].extra["adherence"] == 0
    for verdict in (bad, hostile):
        assert not verdict.valid
        assert verdict.total == 0
        assert set(verdict.issues[0]) == {"path", "message", "severity"}


def test_the_verifiers_settings_count() -> None:
    text = data().examples("train")[0].completion
    (total,) = [v.total for v in data(verifiers=VerifierConfig(weights={"valid_json": 1.0})).verify([rollout(text)])]
    assert total == 1
    (few,) = data(verifiers=VerifierConfig(min_endings=1)).verify([rollout(text)])
    (many,) = data(verifiers=VerifierConfig(min_endings=9)).verify([rollout(text)])
    assert many.components["endings"] < few.components["endings"]


def test_weights_of_ones_own_leave_the_original_total_alone() -> None:
    text = data(skew=Skew(encounters=(1, 0, 0, 0, 0))).examples("train")[0].completion  # without a gate
    weights = {"valid_json": 0.5, "playability": 0.5}
    (own,), (usual,) = (made.verify([rollout(text)]) for made in (data(verifiers=VerifierConfig(weights)), data()))
    assert "playability" in own.components
    assert own.total != usual.total
    assert own.extra["original_total"] == usual.extra["original_total"] > 0


def test_only_what_can_be_played_is_played() -> None:
    made = data()
    worlds = [row.completion for row in islice(made.examples("train"), 3)]
    played = made.states_of([worlds[0], "no world", worlds[1], "{}"], 3, seed=7)
    assert len(played) == 2
    assert [{state.meta["world"] for state in states} for states in played] == [{"0"}, {"2"}]
    again = made.states_of([worlds[0], "no world", worlds[1], "{}"], 3, seed=7)
    for one, other in zip(played, again, strict=True):
        assert all(np.array_equal(a.vector, b.vector) for a, b in zip(one, other, strict=True))


def test_three_levels_of_uniqueness() -> None:
    text = data().examples("train")[0].completion
    renamed = text.replace(json.loads(text)["encounters"][0]["text"], "Another text.")
    assert renamed != text
    shares = data().unique_shares([text, text, renamed])
    assert shares["unique"] == pytest.approx(2 / 3)
    assert shares["unique_skeleton"] == pytest.approx(1 / 3)
    assert shares["effective_shapes"] == pytest.approx(1)


def test_names_for_the_tokenizer_are_those_of_prompts_and_worlds_but_not_of_the_format() -> None:
    names = set(data(train_size=200).tokenizer_names())
    assert {"Bram", "trust", "gold", "tower", "accuse", "lighthouse", "plague"} <= names
    assert not {"encounters", "id", "reactions", "Storyworld", "Cast", "Fever"} & names


def test_names_of_a_few_worlds_are_known_though_each_of_them_has_them() -> None:
    names = set(data(train_size=1).tokenizer_names())
    assert {*data(train_size=1).prompts("train")[0].columns["cast"]} <= names
    assert not {"encounters", "id", "reactions", "initial", "max", "state"} & names
