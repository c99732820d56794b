"""Claims, position matching, copying, health and controls, each on cases worked out by hand."""

import numpy as np
import pytest

from lit_narrative.errors import UserError
from lit_narrative.report.intervals import Resamples
from lit_narrative.tasks.verbalize.copying import copy_scores
from lit_narrative.tasks.verbalize.evaluation.claims import claim_scores, position_match
from lit_narrative.tasks.verbalize.evaluation.controls import control_prompts, privileged_gain, shuffled
from lit_narrative.tasks.verbalize.evaluation.fve import Fidelity
from lit_narrative.tasks.verbalize.evaluation.health import PoolHealth, text_health
from lit_narrative.text import WordBits, longest_copy
from lit_narrative.views import Prompt
from tests.tasks.verbalize.evaluation.world import documents, fidelity, reconstruct, sentences


def test_claims_are_counted_over_all_rows() -> None:
    claimed = [{("animal", "fox"), ("place", "mill")}, {("animal", "owl")}, set()]
    known = [{("animal", "fox"), ("place", "barn")}, {("animal", "owl")}, {("animal", "hen")}]
    scores = claim_scores(Resamples(["a", "b", "c"]), claimed, known)
    assert scores["claims_precision"] == pytest.approx(2 / 3)
    assert scores["claims_recall"] == pytest.approx(2 / 4)
    assert scores["claims_per_text"] == 1
    assert scores["claims_precision_ci"][0] <= 2 / 3 <= scores["claims_precision_ci"][1]


def test_precision_of_no_claims_is_not_known() -> None:
    scores = claim_scores(Resamples(["a", "b"]), [set(), set()], [{1}, {1}])
    assert scores["claims_precision"] is None and scores["claims_recall"] == 0


def test_position_match_is_one_for_right_explanations_and_chance_for_one_of_the_document() -> None:
    texts = sentences(100, words=6)
    whole = [texts[row - row % 5] for row in range(100)]
    match = position_match(fidelity(texts), reconstruct(texts), documents(100))
    assert match["position_match"] == 1 and match["position_match_n"] == 100
    assert position_match(fidelity(texts), reconstruct(whole), documents(100))["position_match"] == pytest.approx(0.2)


def test_position_match_of_equal_targets_is_chance() -> None:
    targets = np.concatenate([np.tile([[1.0, 0.0]], (5, 1)), np.tile([[0.0, 1.0]], (5, 1))])
    match = position_match(Fidelity(targets, documents(10)), targets, documents(10))
    assert match["position_match"] == pytest.approx(0.2)


def test_position_match_leaves_short_documents_out_and_counts_no_answer_as_a_miss() -> None:
    texts = sentences(8)
    predicted = reconstruct(texts)
    predicted[0] = np.nan
    match = position_match(fidelity(texts), predicted, documents(8))
    assert match["position_match"] == pytest.approx(0.8) and match["position_match_n"] == 5
    assert position_match(fidelity(texts), predicted, [*map(str, range(8))])["position_match"] is None


def test_longest_copy_is_by_bits() -> None:
    bits = WordBits(["the of the of the of the of", "a rare word"])
    assert longest_copy("Zebra, and of the of the way", "of the of the zebra!", bits) == ("of", "the", "of", "the")
    assert longest_copy("then the zebra", "see the of zebra", bits) == ("zebra",)
    assert longest_copy("nothing", "in common", bits) == ()
    assert bits(["the"]) < bits(["rare"]) < bits(["unseen"])


def test_copied_bits_of_rows() -> None:
    bits = WordBits(["one two three four"])
    scores = copy_scores(Resamples(["a", "b"]), ["one two", None], ["zero one two", "one"], bits)
    assert scores["copied_words"] == 1 and scores["words_in_source"] == 0.5
    assert scores["copied_bits"] == pytest.approx(bits(["one", "two"]) / 2)


def test_health_of_texts() -> None:
    answers = ["<explanation>a b</explanation>", "what is ㈎", "<explanation>a b</explanation>", "x"]
    scores = text_health(Resamples([*"abcd"]), answers, ["a b", None, "a b", None], "㈎", ["a b c d"] * 4)
    assert scores["format"] == 0.5 and scores["marker_talk"] == 0.25
    assert scores["words"] == 2 and scores["length_drift"] == -0.5 and scores["unique"] == 0.5


@pytest.mark.parametrize(
    ("vectors", "dead", "repeated"),
    [(np.eye(4), 0, 0), (np.ones((4, 3)), 1, 0.75), (np.zeros((4, 3)), 1, 0.75), (np.eye(4)[[0, 1, 0, 1]], 0.5, 0.5)],
)
def test_health_of_a_pool(vectors: np.ndarray, dead: float, repeated: float) -> None:
    health = PoolHealth.of(vectors)
    assert (health.dead_elements, health.repeated) == (dead, repeated)


def test_a_pool_of_one_token_is_refused() -> None:
    with pytest.raises(UserError, match=r"data\.train: 75% of the activations repeat"):
        PoolHealth.of(np.ones((4, 3))).check("data.train")
    PoolHealth.of(np.eye(4)).check("data.train")


@pytest.mark.parametrize("each", [1, 2, 5, 10])
def test_shuffle_gives_each_row_another_document_and_each_activation_once(each: int) -> None:
    owners = documents(20, each)
    moved = shuffled(owners, seed=3)
    assert sorted(moved) == [*range(20)]
    assert all(owners[row] != owners[other] for row, other in enumerate(moved))
    assert moved == shuffled(owners, seed=3)
    assert each == 10 or moved != shuffled(owners, seed=4)


def test_controls_keep_the_target() -> None:
    prompts = [
        Prompt("p", {"document": str(row), "target": np.full(2, row)}, np.full(2, row, np.float32)) for row in range(4)
    ]
    mixed = control_prompts("shuffled", prompts, np.zeros(2), 0)
    assert all(prompt.injection is not None and prompt.injection[0] != prompt.columns["target"][0] for prompt in mixed)
    mean = control_prompts("mean_activation", prompts, np.array([7.0, 8.0]), 0)
    assert all(prompt.injection is not None and prompt.injection.tolist() == [7, 8] for prompt in mean)
    assert all(prompt.injection is None for prompt in control_prompts("no_injection", prompts, np.zeros(2), 0))


def test_privileged_gain_is_over_the_best_control() -> None:
    ours, rng = np.full(50, 0.6), np.random.default_rng(0)
    controls = {"text_only": 0.5 + 0.01 * rng.normal(size=50), "no_activation": np.full(50, -0.5)}
    gain = privileged_gain([*map(str, range(50))], ours, controls)
    assert gain["privileged_gain_over"] == "text_only"
    assert gain["privileged_gain"] == pytest.approx(0.6 - controls["text_only"].mean())
    low, high = gain["privileged_gain_ci"]
    assert 0.08 < low < gain["privileged_gain"] < high < 0.12
