"""Ablation equals changing the weights, and finds the planted head; overlaps are judged against chance."""

import copy
from itertools import combinations
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lit_narrative.circuits.analyses.ablation import AblationSettings, ablate
from lit_narrative.circuits.bridge import build_bridge
from lit_narrative.circuits.hooks import substitute
from lit_narrative.circuits.inputs import IGNORED, AnalysisInputs
from lit_narrative.circuits.overlap import overlap
from lit_narrative.circuits.records.ablation import Ablation, Base, Importance
from lit_narrative.errors import UserError
from tests.circuits.planted import planted_inputs, planted_lm
from tests.helpers import tiny_lm


def random_inputs(rows: int = 6, length: int = 5, seed: int = 0) -> AnalysisInputs:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, 60, (rows, length), generator=generator)
    targets = torch.full_like(tokens, IGNORED)
    targets[:, -2:] = torch.randint(0, 60, (rows, 2), generator=generator)
    return AnalysisInputs(tokens, torch.ones_like(tokens, dtype=torch.bool), targets)


def test_the_planted_head_matters_and_nothing_else_does() -> None:
    bridge, inputs = build_bridge(planted_lm()), planted_inputs()
    for mode in ("zero", "mean", "positional_mean", "resample"):
        result = ablate(bridge, {"id": inputs}, planted_inputs(30, 5), AblationSettings(mode=mode))  # type: ignore[arg-type]
        assert result.base("id").accuracy == 1.0
        ranking = result.ranking("id")
        assert set(list(ranking)[:2]) == {"a1.h1", "a1"}
        assert ranking["a1.h1"] > 0.7
        assert all(abs(value) < 0.05 for name, value in ranking.items() if name not in ("a1.h1", "a1"))
        profile = result.layer_profile("id")
        assert profile[1] > 10 * abs(profile[0])


def without(lm: nn.Module, unit: str) -> nn.Module:
    """The model with a part's output weights set to zero (and the bias, where it belongs to the part)."""
    cut: nn.Module = copy.deepcopy(lm)
    gpt2 = hasattr(cut, "transformer")
    block = cut.transformer.h[1] if gpt2 else cut.model.layers[1]  # type: ignore[union-attr,index]
    attention = block.attn.c_proj if gpt2 else block.self_attn.o_proj  # type: ignore[union-attr]
    mlp = block.mlp.c_proj if gpt2 else block.mlp.down_proj  # type: ignore[union-attr]
    layer, rows = {
        "a1.h1": (attention, slice(8, 16)),
        "a1": (attention, slice(None)),
        "m1": (mlp, slice(None)),
        "m1.n5": (mlp, slice(5, 6)),
    }[unit]
    weight = layer.weight if gpt2 else layer.weight.T
    weight[rows] = 0
    if gpt2 and unit in ("a1", "m1"):
        layer.bias[:] = 0
    return cut


@torch.no_grad()
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_zeroing_by_hooks_is_zeroing_the_weights(architecture: str) -> None:
    lm = tiny_lm(architecture, scale=4.0, vocabulary=60)
    for parameter in lm.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.1)
    inputs = random_inputs()
    settings = AblationSettings(("heads", "attn", "mlp", "neurons"), "zero", layers=[1], batch_size=20)
    result = ablate(build_bridge(lm), {"id": inputs}, inputs, settings)
    base = result.base("id").logprob
    asked = inputs.targets != IGNORED
    for unit in ("a1.h1", "a1", "m1", "m1.n5"):
        logprobs = without(lm, unit)(inputs.tokens).logits[asked].log_softmax(-1)
        expected = logprobs.gather(1, inputs.targets[asked][:, None]).mean()
        assert base - result.ranking("id", "logprob")[unit] == pytest.approx(float(expected), abs=1e-5), unit


def test_what_takes_the_place() -> None:
    source = torch.tensor([[1.0, 2.0, 3.0], [9.0, 5.0, 7.0]])[..., None]
    mask = torch.tensor([[True, True, True], [False, True, True]])
    reference = AnalysisInputs(torch.zeros(2, 3, dtype=torch.long), mask, torch.zeros(2, 3))
    longer = AnalysisInputs(torch.zeros(5, 4, dtype=torch.long), torch.ones(5, 4, dtype=torch.bool), torch.zeros(5, 4))

    def made(mode: str) -> Tensor:
        return substitute(source, reference, longer, mode, torch.Generator().manual_seed(0))[..., 0]  # type: ignore[arg-type]

    assert made("zero").tolist() == [[0.0]]
    assert made("mean")[0, 0] == pytest.approx(18 / 5)
    assert made("positional_mean")[0].tolist() == pytest.approx([18 / 5, 1.0, 3.5, 5.0])
    rows = {tuple(round(value, 3) for value in row) for row in made("resample").tolist()}
    assert rows == {(3.6, 1.0, 2.0, 3.0), (3.6, 3.6, 5.0, 7.0)}


def test_overlap_is_judged_by_counting_all_sets() -> None:
    names = list("abcdef")
    a = {name: -float(place) for place, name in enumerate(names)}
    b = {**a, "b": -9.0}
    result = overlap(a, b, 2)
    others = [set(pair) for pair in combinations(names, 2)]
    every = [len(set("ab") & pair) / len(set("ab") | pair) for pair in others]
    assert (result.shared, result.jaccard) == (1, pytest.approx(1 / 3))
    assert result.chance == pytest.approx(sum(every) / len(every))
    assert result.p_value == pytest.approx(sum(value > 0 for value in every) / len(every))
    assert result.spearman is not None and 0 < result.spearman < 1
    assert overlap(a, dict.fromkeys(names, 0.0), 2).spearman is None
    with pytest.raises(ValueError, match="same parts"):
        overlap(a, {"a": 1.0}, 1)


def test_a_split_hardly_better_than_a_constant_is_ranked_by_logits_and_flagged() -> None:
    rows = tuple(
        Importance(split, "mean", "heads", f"a0.h{head}", 0, head, accuracy, 0.0, difference)
        for split, figures in {"id": [(0.5, 1.0), (0.1, 3.0)], "ood": [(0.0, 1.0), (-0.1, 2.0)]}.items()
        for head, (accuracy, difference) in enumerate(figures)
    )
    made = Ablation(rows, (Base("id", 10, 0.9, -1.0, 2.0, 0.1), Base("ood", 10, 0.55, -2.0, 0.1, 0.5)))
    assert [base.weak for base in made.bases] == [False, True]
    assert next(iter(made.ranking("id"))) == "a0.h0"
    assert next(iter(made.ranking("ood"))) == "a0.h1"
    (both,) = made.overlaps(0.5)
    assert (both.weak, both.jaccard) == (True, 1.0)
    assert made.compare("id", made, "id", 0.5).weak is False
    assert made.layer_profile("ood") == {0: 1.5}


def test_saved_and_loaded(tmp_path: Path) -> None:
    inputs = planted_inputs(12)
    result = ablate(build_bridge(planted_lm()), {"id": inputs, "again": inputs}, inputs)
    assert Ablation.load(result.save(tmp_path)) == result
    assert {path.name for path in tmp_path.iterdir()} == {"ablation.csv", "ablation_base.csv", "jaccard.json"}
    assert result.overlaps()[0].jaccard == 1.0


def test_progress_and_bounds() -> None:
    bridge, inputs = build_bridge(planted_lm()), planted_inputs(4)
    told: list[tuple[int, int]] = []
    splits = {"a": inputs, "b": inputs}
    ablate(bridge, splits, inputs, AblationSettings(("heads",), batch_size=8), lambda *step: told.append(step))
    assert told == [(2, 8), (4, 8), (6, 8), (8, 8)]
    with pytest.raises(UserError, match=r"48 parts is more than ablation\.max_units=40"):
        ablate(bridge, splits, inputs, AblationSettings(("neurons",), max_units=40))
    with pytest.raises(UserError, match=r"ablation\.mode: no 'means'; did you mean 'mean'"):
        AblationSettings(mode="means")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"ablation\.units: no 'head'; did you mean 'heads'"):
        AblationSettings(units=("head",))
