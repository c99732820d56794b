"""The virtuous cycle on a tiny policy that knows sixteen worlds by heart."""

import json
import logging
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_narrative.callbacks.base import RolloutCallback
from lit_narrative.callbacks.sae_refresh import SAERefresh
from lit_narrative.cli.lightning import JobParser
from lit_narrative.datamodules.storyworld import StoryworldData
from lit_narrative.errors import UserError
from lit_narrative.lm.sampler import SamplingParams
from lit_narrative.modules.grpo import GRPOModule
from lit_narrative.modules.sae import SAEModule
from lit_narrative.modules.sft import SFTModule
from lit_narrative.rl.rewards.feature_quality import TokenFeatureQuality
from lit_narrative.rl.rewards.runner import ScoringSettings
from lit_narrative.sae.autoencoder import SAESettings, build_sae
from lit_narrative.tasks.storyworld.feature_quality import FeatureQuality
from lit_narrative.views import ScoredRollouts
from tests.helpers import Recorder, TinyTask, fit, sizes, tokenizer_folder
from tests.runs.jobs import trainer

SETTINGS: dict[str, Any] = {"worlds": 16, "plays_per_world": 2, "steps": 20, "min_worlds": 4}
REWARDS = {"valid_json": 0.6, "feature_quality": 0.4}


def refresh(**settings: Any) -> SAERefresh:
    return SAERefresh(SAESettings(d_sae=16, k=4), **{**SETTINGS, **settings})


class Windows(RolloutCallback):
    """Keeps the windows, and which SAE judged each."""

    def __init__(self) -> None:
        self.given: list[ScoredRollouts] = []
        self.versions: list[int | None] = []

    def on_rollouts(self, trainer: Trainer, module: GRPOModule, scored: ScoredRollouts) -> None:
        reward = module.reward_functions["feature_quality"]
        assert isinstance(reward, FeatureQuality)
        self.given.append(scored)
        self.versions.append(reward.version)


class Cycle(NamedTuple):
    """A finished run, and the metrics after its first and its last cycle."""

    folder: Path
    callback: SAERefresh
    windows: Windows
    first: dict[str, float]
    last: dict[str, float]


def run(folder: Path, policy: Path, callback: SAERefresh, *, cycles: int = 2, **options: Any) -> Cycle:
    """Two windows of four completions a cycle, a step each."""
    sampling = SamplingParams(128)
    module = GRPOModule(REWARDS, num_generations=2, micro_batch_size=4, model=str(policy), sampling=sampling, lr=1e-4)
    data = StoryworldData(train_size=16, val_size=16, test_size=16, state_worlds=16, batch_size=2)
    windows, after = Windows(), AfterEpoch()
    fit(module, data, folder, callback, windows, after, max_epochs=cycles, limit_train_batches=2, **options)
    return Cycle(folder, callback, windows, after.metrics[0], after.metrics[-1])


class AfterEpoch(Recorder):
    """Metrics at the end of each epoch."""

    def on_train_batch_end(self, *_: Any) -> None:
        pass

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        self.metrics.append({name: float(value) for name, value in trainer.callback_metrics.items()})


@pytest.fixture(scope="module")
def cycle(policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Cycle:
    return run(tmp_path_factory.mktemp("cycle"), policy, refresh(threshold=0.01))


def test_a_cycle_logs_how_it_went(cycle: Cycle) -> None:
    always = """number worlds valid_worlds states skipped explained_variance explained_variance_heldout l0 dead_fraction
    mse significant_features reward refresh_share"""
    assert {f"cycle/{name}" for name in always.split()} <= set(cycle.first)
    assert (cycle.first["cycle/number"], cycle.last["cycle/number"]) == (0, 1)
    for metrics in (cycle.first, cycle.last):
        assert metrics["cycle/worlds"] == 16
        assert 4 <= metrics["cycle/valid_worlds"] <= 16
        assert metrics["cycle/states"] >= metrics["cycle/valid_worlds"]
        assert metrics["cycle/skipped"] == 0
        assert 0 < metrics["cycle/l0"] < 4.001
        assert 0 < metrics["cycle/refresh_share"] < 1


def test_reward_improvement_and_threshold(cycle: Cycle) -> None:
    means = [
        torch.cat([scored.totals for scored in cycle.windows.given if scored.epoch == epoch]).mean().item()
        for epoch in (0, 1)
    ]
    assert cycle.first["cycle/reward"] == pytest.approx(means[0], abs=1e-6)
    assert cycle.last["cycle/reward"] == pytest.approx(means[1], abs=1e-6)
    assert "cycle/improvement" not in cycle.first
    assert cycle.last["cycle/improvement"] == pytest.approx(means[1] - means[0], abs=1e-6)
    assert cycle.last["cycle/to_threshold"] == 1


def test_the_reward_is_given_by_the_sae_of_its_cycle(cycle: Cycle) -> None:
    assert cycle.windows.versions == [0, 0, 1, 1]
    scores = torch.cat([scored.rewards["feature_quality"] for scored in cycle.windows.given])
    assert not scores.isnan().any()
    assert scores.max() > 0


def test_each_cycle_leaves_its_sae_layout_and_features(cycle: Cycle) -> None:
    for number in (0, 1):
        folder = cycle.folder / "sae" / f"cycle_{number:03d}"
        names = {path.name for path in folder.iterdir()}
        assert {"cfg.json", "sae_weights.safetensors", "layout.json", "features.json"} <= names
        features = json.loads((folder / "features.json").read_text())
        assert features["cycle"] == number
        assert set(features["metrics"]) >= {
            "explained_variance",
            "explained_variance_heldout",
            "l0",
            "dead_fraction",
            "mse",
        }
        assert set(features) >= {"density", "readout", "features", "significant", "targets", "matched_cosine"}
        assert len(features["density"]) == 16
        assert (features["matched_cosine"] is None) == (number == 0)


def test_features_keep_their_index_from_cycle_to_cycle(policy: Path, tmp_path: Path) -> None:
    """A refresh of one step leaves the latents almost where they were."""
    found = run(tmp_path, policy, refresh(steps=1))
    assert "cycle/matched_cosine" not in found.first
    assert found.last["cycle/matched_cosine"] > 0.99


@pytest.mark.slow
def test_the_same_run_gives_the_same_cycle(cycle: Cycle, policy: Path, tmp_path: Path) -> None:
    again = run(tmp_path, policy, refresh(threshold=0.01))
    timed = {"cycle/refresh_share": 0, "step_time": 0, "rewards_time": 0}
    for one, other in ((again.first, cycle.first), (again.last, cycle.last)):
        assert {**one, **timed} == pytest.approx({**other, **timed}, abs=1e-5)


def test_a_cycle_survives_in_its_state(cycle: Cycle) -> None:
    again = refresh()
    again.sae = SAEModule(d_sae=16, k=4)
    again.load_state_dict(cycle.callback.state_dict())
    assert again.version == 1
    width = cycle.callback.sae.decoder().shape[1]
    vectors = np.random.default_rng(0).normal(size=(5, width)).astype(np.float32)
    for found, expected in zip(again.sae.encoder()(vectors), cycle.callback.sae.encoder()(vectors), strict=True):
        np.testing.assert_allclose(found, expected)


def test_too_few_worlds_leave_the_sae_as_it_is(policy: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "lit_narrative"):
        found = run(tmp_path, policy, refresh(min_worlds=17), cycles=1)
    (message,) = [record.getMessage() for record in caplog.records if "min_worlds" in record.getMessage()]
    assert "of 16 worlds can be played (min_worlds=17); the SAE stays as it is" in message
    assert found.last["cycle/skipped"] == 1
    assert "cycle/explained_variance" not in found.last
    assert not (tmp_path / "sae").exists()
    assert found.windows.versions == [None, None]
    assert all(scored.rewards["feature_quality"].isnan().all() for scored in found.windows.given)


def test_a_run_that_does_not_use_the_reward_is_refused(tmp_path: Path) -> None:
    module = GRPOModule({"valid_json": 1.0}, model=sizes(), tokenizer=tokenizer_folder(tmp_path))
    data = StoryworldData(train_size=4, val_size=2, batch_size=2)
    with pytest.raises(UserError, match=r"no reward of model\.rewards \(valid_json\) reads .*\bfeature_quality"):
        fit(module, data, tmp_path, refresh(), max_steps=1)
    with pytest.raises(UserError, match=r"SAERefresh needs a module with rollouts.*; SFTModule has none"):
        fit(SFTModule(sizes(), tokenizer_folder(tmp_path)), TinyTask(), tmp_path, refresh(), max_steps=1)


def test_a_task_without_plays_is_refused(tmp_path: Path) -> None:
    module = GRPOModule({"low": 1.0}, model=sizes(), tokenizer=tokenizer_folder(tmp_path))
    with pytest.raises(UserError, match="TinyTask offers no plays of texts, which view=states reads; set view"):
        fit(module, TinyTask(), tmp_path, refresh(), max_steps=1)


@pytest.fixture(scope="module")
def residual(policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Cycle:
    """The cycle on the policy's residual stream."""
    callback = refresh(view="activations", layer=1)
    return run(tmp_path_factory.mktemp("residual"), policy, callback)


def test_a_cycle_on_the_residual_stream(residual: Cycle) -> None:
    for number, metrics in enumerate((residual.first, residual.last)):
        assert metrics["cycle/skipped"] == 0
        assert metrics["cycle/explained_variance"] > 0
        folder = residual.folder / "sae" / f"cycle_{number:03d}"
        layout = json.loads((folder / "layout.json").read_text())
        assert (layout["view"], layout["layer"], len(layout["mean"])) == ("activations", 1, 64)
        assert json.loads((folder / "features.json").read_text())["view"] == "activations"
    # The units stay those of the first cycle, and the SAE is as wide as the policy.
    means = [json.loads((residual.folder / "sae" / f"cycle_00{n}" / "layout.json").read_text())["mean"] for n in (0, 1)]
    assert means[0] == means[1]
    assert residual.callback.sae.decoder().shape == (16, 64)
    scores = torch.cat([scored.rewards["feature_quality"] for scored in residual.windows.given])
    assert not scores.isnan().any()
    assert 0 < scores.max() <= 1


def test_a_resumed_cycle_on_the_residual_stream_has_its_layout(residual: Cycle) -> None:
    state = residual.callback.state_dict()
    again = refresh(view="activations", layer=1)
    again.sae = SAEModule(d_sae=16, k=4)
    again.load_state_dict(state)
    assert again.version == 1
    for name, value in state["layout"].items():
        assert torch.equal(torch.as_tensor(again.state_dict()["layout"][name]), torch.as_tensor(value))


@pytest.mark.slow
def test_a_run_on_the_residual_stream_resumes_where_it_was(policy: Path, tmp_path: Path) -> None:
    def cycles(folder: Path, callback: SAERefresh, ckpt_path: Path | None = None) -> None:
        seed_everything(0, verbose=False)
        sampling = SamplingParams(128)
        module = GRPOModule(
            REWARDS, num_generations=2, micro_batch_size=4, model=str(policy), sampling=sampling, lr=1e-4
        )
        data = StoryworldData(train_size=16, val_size=16, test_size=16, state_worlds=16, batch_size=2)
        saver = ModelCheckpoint(folder, filename="{epoch}-{step}", save_top_k=-1, every_n_train_steps=1)
        options = {"max_epochs": 2, "limit_train_batches": 2, "limit_val_batches": 0}
        trainer(folder, callback, saver, **options).fit(module, data, ckpt_path=ckpt_path)

    whole, resumed = (refresh(view="activations", controls=0) for _ in range(2))
    cycles(tmp_path / "whole", whole)
    cycles(tmp_path / "resumed", resumed, tmp_path / "whole" / "epoch=0-step=1.ckpt")
    assert whole.version == resumed.version == 1
    np.testing.assert_allclose(resumed.sae.decoder(), whole.sae.decoder(), atol=1e-5)
    for name in ("mean", "std"):
        np.testing.assert_array_equal(resumed.state_dict()["layout"][name], whole.state_dict()["layout"][name])


def test_the_report_of_a_cycle_has_controls_with_a_random_part(cycle: Cycle) -> None:
    features = json.loads((cycle.folder / "sae" / "cycle_001" / "features.json").read_text())
    assert [one["frozen"] for one in features["controls"]] == ["encoder", "decoder"]
    assert {"random_encoder", "random_decoder"} <= set(features["readout"])
    assert "cycle/auc_random_encoder" in cycle.last


@pytest.mark.slow
def test_an_sae_of_the_first_cycle_may_stay(policy: Path, tmp_path: Path) -> None:
    found = run(tmp_path, policy, refresh(refresh=False, controls=0))
    assert found.windows.versions == [0, 0, 0, 0]
    weights = [(tmp_path / "sae" / f"cycle_00{n}" / "sae_weights.safetensors").read_bytes() for n in (0, 1)]
    assert weights[0] == weights[1]
    assert "cycle/matched_cosine" not in found.last
    assert "cycle/auc_random_encoder" not in found.last


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_a_part_of_the_sae_may_stay_as_it_was_drawn(part: Any, policy: Path, tmp_path: Path) -> None:
    callback = refresh(frozen_part=part, controls=0)
    found = run(tmp_path, policy, callback, cycles=1)
    sae = callback.sae.sae
    drawn = build_sae("topk", sae.cfg.d_in, 16, {"k": 4}, seed=0)
    # Directions: the norms of the decoder's rows are moved into the encoder.
    for name, axis, kept in (("W_enc", 0, part == "encoder"), ("W_dec", 1, part == "decoder")):
        now, begun = (torch.nn.functional.normalize(getattr(one, name), dim=axis) for one in (sae, drawn))
        assert torch.allclose(now, begun, atol=1e-3) == kept
    assert found.windows.versions == [0, 0]


def test_a_task_without_plays_has_a_cycle_on_its_tokens(tmp_path: Path) -> None:
    reward = TokenFeatureQuality()
    module = GRPOModule(
        {"low": 1.0, reward: 0.5},
        num_generations=2,
        model=sizes(),
        tokenizer=tokenizer_folder(tmp_path),
        sampling=SamplingParams(32),
    )
    callback = refresh(view="activations", worlds=8, min_worlds=2, controls=0)
    after = AfterEpoch()
    fit(module, TinyTask(), tmp_path, callback, after, max_epochs=1, limit_train_batches=1)
    assert after.metrics[0]["cycle/states"] > 8
    assert after.metrics[0]["rewards/feature_quality/mean"] > 0
    assert (callback.version, reward.version) == (0, 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"view": "actvations"}, "view.*'actvations'.*activations"),
        ({"layer": 1}, "layer=1 is a layer of the policy, which view=states does not read"),
        ({"frozen_part": "both"}, "frozen_part.*encoder, decoder"),
        ({"controls": -1}, "controls is -1"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        refresh(**settings)


@pytest.mark.parametrize(
    ("settings", "module", "message"),
    [
        ({"view": "activations", "layer": 9}, {}, r"layer is 9, and the model has the layers 0 .* to 1"),
        (
            {"view": "activations"},
            {"scoring": ScoringSettings(workers=1)},
            "reads the policy in this process, and model.scoring.workers is 1; set it to 0",
        ),
        (
            {},
            {"rewards": {TokenFeatureQuality(): 1.0}},
            "'feature_quality' reads the view activations, and view is states",
        ),
    ],
)
def test_what_cannot_go_well_is_refused_before_training(
    settings: dict[str, Any], module: dict[str, Any], message: str, tmp_path: Path
) -> None:
    given = {"rewards": REWARDS, "model": sizes(), "tokenizer": tokenizer_folder(tmp_path), **module}
    data = StoryworldData(train_size=16, val_size=2, state_worlds=4, batch_size=2)
    with pytest.raises(UserError, match=message):
        fit(GRPOModule(**given, sampling=SamplingParams(16)), data, tmp_path, refresh(**settings), max_steps=1)


@pytest.mark.parametrize("settings", [{"heldout": 0.0}, {"heldout": 1.0}, {"min_worlds": 1}])
def test_worlds_to_train_on_and_to_measure_on_are_needed(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="worlds to train on and worlds to measure on"):
        refresh(**settings)


def test_there_is_always_a_world_to_measure_on(policy: Path, tmp_path: Path) -> None:
    found = run(tmp_path, policy, refresh(heldout=0.01), cycles=1)
    assert found.last["cycle/valid_worlds"] < 50
    assert "cycle/explained_variance_heldout" in found.last


@pytest.mark.parametrize(
    "given", ["{d_sae: 16, k: 4}", "{class_path: SAEModule, init_args: {d_sae: 16, k: 4}}"], ids=["settings", "factory"]
)
def test_the_command_line_gives_settings_or_as_before_a_class(given: str) -> None:
    parser = JobParser()
    parser.add_subclass_arguments(SAERefresh, "callback")
    parsed = parser.parse_args(["--callback=SAERefresh", f"--callback.sae={given}", "--callback.sae.lr=0.5"])
    callback = parser.instantiate(parsed).callback
    built = callback._build_sae().settings
    assert (built.d_sae, built.k, built.lr) == (16, 4, 0.5)


def test_a_factory_is_accepted_with_a_notice(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "lit_narrative"):
        callback = SAERefresh(lambda: SAEModule(d_sae=16, k=4), **SETTINGS)
    assert len(caplog.messages) == 1
    assert callback._build_sae().settings == SAESettings(d_sae=16, k=4)


def test_a_wrong_setting_of_the_sae_is_named() -> None:
    parser = JobParser()
    parser.add_subclass_arguments(SAERefresh, "callback")
    with pytest.raises(UserError, match="'kk'") as raised:
        parser.parse_args(["--callback=SAERefresh", "--callback.sae={kk: 4}"])
    assert len(str(raised.value).splitlines()) == 1
