"""Activation patching: it finds a planted mechanism, and gives what patching cell by cell gives."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lit_narrative.circuits.analyses.patching import PatchingSettings, patch
from lit_narrative.circuits.bridge import build_bridge, run
from lit_narrative.circuits.contrasts import Contrasts
from lit_narrative.circuits.inputs import Positions
from lit_narrative.circuits.records.patching import Patching
from lit_narrative.errors import UserError
from tests.circuits.planted import COPIER, LAYER, planted_contrasts, planted_lm
from tests.helpers import tiny_lm


def random_contrasts(rows: int = 3, length: int = 5, padded: int = 0) -> Contrasts:
    generator = torch.Generator().manual_seed(3)
    clean = torch.randint(0, 60, (rows, length), generator=generator)
    corrupt = torch.randint(0, 60, (rows, length), generator=generator)
    mask = torch.ones(rows, length, dtype=torch.bool)
    mask[0, :padded] = False
    answers = torch.randperm(60, generator=generator)[: 2 * rows].view(2, rows)
    return Contrasts(clean, corrupt, mask, *answers, Positions(("answer",), torch.full((rows, 1), length - 1)))


def test_the_planted_head_is_found_in_both_directions() -> None:
    settings = PatchingSettings(sites=("z", "attn_out", "mlp_out", "resid_pre"), places=("marked", "answer"))
    result = patch(build_bridge(planted_lm()), planted_contrasts(), settings)
    assert result.clean.min() > 3
    assert result.corrupt.max() < -3
    for direction in ("denoise", "noise"):
        best, second = result.top(2, direction, "z")
        assert (best.layer, best.head, best.flip_rate) == (LAYER, COPIER, 1.0)
        assert best.recovery == pytest.approx(1.0, abs=0.05)
        assert abs(second.recovery or 0) < 0.05
        attention, layers, places = result.grid("attn_out", direction)
        assert (layers, places) == ([0, 1], ["marked", "answer"])
        assert attention == pytest.approx(np.array([[0, 0], [0, 1.0]]), abs=0.05)
        assert result.grid("mlp_out", direction)[0] == pytest.approx(0, abs=0.05)
        assert result.grid("resid_pre", direction)[0] == pytest.approx(np.array([[1.0, 0], [1.0, 0]]), abs=0.05)


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
@pytest.mark.filterwarnings("ignore")
def test_transformer_lens_own_patching_agrees(architecture: str) -> None:
    from transformer_lens import patching

    bridge, pairs = build_bridge(tiny_lm(architecture, scale=4.0, vocabulary=60)), random_contrasts()
    sites = ("resid_pre", "attn_out", "mlp_out", "z", "q", "k", "v", "pattern")
    result = patch(bridge, pairs, PatchingSettings(sites, places="columns", directions=("denoise",), batch_size=7))
    with torch.no_grad():
        _, cache = bridge.run_with_cache(pairs.clean)

        def metric(logits: torch.Tensor) -> torch.Tensor:
            rows = torch.arange(len(pairs))
            return (logits[rows, -1, pairs.answer] - logits[rows, -1, pairs.distractor]).mean()

        theirs = {
            "resid_pre": patching.get_act_patch_resid_pre,
            "attn_out": patching.get_act_patch_attn_out,
            "mlp_out": patching.get_act_patch_mlp_out,
            "z": patching.get_act_patch_attn_head_out_all_pos,
            "q": patching.get_act_patch_attn_head_q_all_pos,
            "k": patching.get_act_patch_attn_head_k_all_pos,
            "v": patching.get_act_patch_attn_head_v_all_pos,
            "pattern": patching.get_act_patch_attn_head_pattern_all_pos,
        }
        for site, function in theirs.items():
            expected = function(bridge, pairs.corrupt, cache, metric).flatten()
            ours = [cell.logit_diff for cell in result.patches if cell.site == site]
            assert torch.tensor(ours) == pytest.approx(expected, abs=1e-4), site


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_batches_change_nothing_and_padding_is_respected(architecture: str) -> None:
    bridge, pairs = build_bridge(tiny_lm(architecture, scale=4.0, vocabulary=60)), random_contrasts(padded=2)
    sites = ("resid_mid", "z", "pattern")
    settings = PatchingSettings(sites, places="columns", heads_by_place=True)
    together, alone = (patch(bridge, pairs, replace(settings, batch_size=size)) for size in (100, 1))
    assert together.logit_diffs == pytest.approx(alone.logit_diffs, abs=1e-5)
    assert len(together.patches) == 2 * (2 * 5 + 2 * 2 * 5 + 2 * 2)
    unpadded = pairs.clean[:1, 2:]
    expected = run(bridge, unpadded)[0, -1]
    assert together.clean[0] == pytest.approx(
        float(expected[pairs.answer[0]] - expected[pairs.distractor[0]]), abs=1e-4
    )
    hidden = [cell for cell in range(10) if together.patches[cell].place in ("0", "1")]
    assert together.logit_diffs[hidden, 0] == pytest.approx(together.corrupt[0], abs=1e-5)


def test_the_whole_stream_at_the_answer_is_the_other_run() -> None:
    bridge, pairs = build_bridge(tiny_lm("llama", scale=4.0, vocabulary=60)), random_contrasts()
    result = patch(bridge, pairs, PatchingSettings(("resid_post",), layers=[1], places=["answer"]))
    assert [cell.recovery for cell in result.patches] == pytest.approx([1.0, 1.0])
    assert result.logit_diffs[0] == pytest.approx(result.clean, abs=1e-5)
    assert result.logit_diffs[1] == pytest.approx(result.corrupt, abs=1e-5)


def test_pairs_and_layers_are_bounded_and_progress_is_told() -> None:
    told: list[tuple[int, int]] = []
    settings = PatchingSettings(("attn_out",), layers=[1], max_pairs=2, batch_size=6)
    result = patch(build_bridge(planted_lm()), planted_contrasts(5), settings, lambda *step: told.append(step))
    assert {patch.place for patch in result.patches} == {"marked", "answer"}
    assert result.logit_diffs.shape == (2 * 2, 2)
    assert told == [(done, 4) for done in (2, 4)]


def test_the_stream_is_no_part_of_a_block_and_wrong_answers_are_weak() -> None:
    result = patch(build_bridge(planted_lm()), planted_contrasts())
    assert result.grid("resid_pre")[0][0, 0] == pytest.approx(1.0, abs=1e-5)  # the other prompt's word itself
    assert {item.site: (item.layer, item.head) for item in result.parts()}["z"] == (LAYER, COPIER)
    assert [item.site for item in result.parts()] == ["attn_out", "mlp_out", "z"]
    assert not result.weak
    assert replace(result, corrupt=-result.corrupt).weak


def test_saved_and_loaded(tmp_path: Path) -> None:
    settings = PatchingSettings(("z", "mlp_out"), places=("marked",))
    result = patch(build_bridge(planted_lm()), planted_contrasts(), settings)
    read = Patching.load(result.save(tmp_path))
    assert read.patches == result.patches
    assert np.array_equal(read.logit_diffs, result.logit_diffs)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "patching.csv",
        "patching.json",
        "patching.safetensors",
    ]


def test_bad_settings_are_named() -> None:
    with pytest.raises(UserError, match=r"patching.sites: no 'resid_pree'; did you mean 'resid_pre'"):
        PatchingSettings(sites=("resid_pree",))
    with pytest.raises(UserError, match=r"patching\.directions"):
        PatchingSettings(directions=("both",))  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"patching\.max_pairs is 0"):
        PatchingSettings(max_pairs=0)
    bridge, pairs = build_bridge(planted_lm()), planted_contrasts()
    with pytest.raises(UserError, match=r"no position is named 'anser'; did you mean 'answer'\?; the rows have: m"):
        patch(bridge, pairs, PatchingSettings(places=("anser",)))
    with pytest.raises(UserError, match="layers 0 to 1"):
        patch(bridge, pairs, PatchingSettings(layers=[2]))
