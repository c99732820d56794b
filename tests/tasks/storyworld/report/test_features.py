from dataclasses import replace
from pathlib import Path

import pytest

from lit_narrative.tasks.storyworld.report.features import density_bins, sae, verdict
from lit_narrative.tasks.storyworld.report.reader import read_run
from lit_narrative.tasks.storyworld.report.run import Run
from tests.tasks.storyworld.report.make_run import make_run


def test_significant_features_are_marked_and_others_are_not(run: Run) -> None:
    body = sae(run).body
    assert body.count('class="significant"') == 3 * 3 and body.count("● yes") == 3 * 3
    assert body.count("<td>no</td>") == 3 * 9


def test_none_found_is_said_and_nothing_is_coloured(tmp_path: Path) -> None:
    body = sae(read_run(make_run(tmp_path / "run", significant=False))).body
    assert body.count("None found: no feature tells “some option is closed here”") == 3
    assert "significant" not in body and "● yes" not in body
    assert body.count('<td class="n">none</td>') == 3


@pytest.mark.parametrize(("count", "words"), [(0, "None found"), (1, "1 feature tells"), (7, "7 features tell")])
def test_the_verdict_counts(run: Run, count: int, words: str) -> None:
    assert words in verdict(replace(run.jobs["cycle"].cycles[0], significant=count))


def test_the_three_readouts_stand_side_by_side(run: Run) -> None:
    body = sae(run).body
    for name in ("AUC, SAE features", "AUC, raw state", "AUC, permuted labels"):
        assert name in body
    assert '<td class="n">0.81</td><td class="n">0.90</td>' in body


def test_what_was_not_measured_is_a_dash(run: Run) -> None:
    job = run.jobs["cycle"]
    bare = replace(job.cycles[0], metrics={}, readout={}, features=(), density=(), targets="")
    body = sae(replace(run, jobs={"cycle": replace(job, cycles=(bare,))})).body
    assert body.count("–</td>") == 8 and "No feature was listed" in body and "the open options" not in body[:100]


def test_controls_and_the_residual_stream_are_named(run: Run) -> None:
    job = run.jobs["cycle"]
    assert "random encoder" not in sae(run).body and "residual" not in sae(run).body
    readout = {**job.cycles[0].readout, "random_encoder": 0.61, "random_decoder": 0.62}
    seen = replace(job.cycles[0], readout=readout, view="activations")
    body = sae(replace(run, jobs={"cycle": replace(job, cycles=(seen,))})).body
    assert "AUC, random encoder" in body and "0.61" in body and "residual\nstream" in body


def test_a_run_without_an_sae_says_so(run: Run) -> None:
    assert "No SAE was saved" in sae(replace(run, jobs={})).body


def test_every_latent_is_in_one_bin() -> None:
    counts, names = density_bins([0.0, 0.0, 1e-9, 0.001, 0.01, 0.0101, 0.1, 0.5, 1.0, 1.2])
    assert dict(zip(names, counts, strict=True)) == {
        "dead": 2, "≤0.003": 2, "≤0.01": 1, "≤0.03": 1, "≤0.1": 1, "≤0.3": 0, "≤1": 3,
    }  # fmt: skip


def test_state_texts_are_escaped(run: Run) -> None:
    job = run.jobs["cycle"]
    feature = job.cycles[0].features[0]
    state = replace(feature.top_states[0], text="<script>", encounter="<b>", open=("<i>",), closed=("<u>",))
    cycle = replace(job.cycles[0], features=(replace(feature, top_states=(state,)),), targets="<em>")
    body = sae(replace(run, jobs={"cycle": replace(job, cycles=(cycle,))})).body
    for tag in ("<script", "<b>&lt", "<i>", "<u>", "“<em>"):
        assert tag not in body
    assert "&lt;script&gt;" in body
