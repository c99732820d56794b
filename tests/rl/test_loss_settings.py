"""Every combination that is refused, with what it says; and those that must not be."""

from typing import Any

import pytest

from lit_narrative.errors import UserError
from lit_narrative.rl.loss_settings import CLIPPED, LossSettings

NAN = float("nan")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss_type": "gpro"}, r"loss_type=gpro is not one of grpo, bnpo, .*; did you mean 'grpo'\?"),
        (
            {"importance_sampling_level": "word"},
            r"importance_sampling_level=word is not one of token, sequence, sent",
        ),
        ({"kl_estimator": "k4"}, r"kl_estimator=k4 is not one of k1, k2, k3, abs$"),
        (
            {"importance_sampling_mode": "token"},
            r"importance_sampling_mode=token is not one of auto, token_truncate, token_",
        ),
        ({"epsilon": 0.0}, r"epsilon=0\.0 must be above 0 and not above 1"),
        ({"epsilon": 1.5}, r"epsilon=1\.5 must be above 0 and not above 1"),
        ({"epsilon": NAN}, r"epsilon=nan must be above 0"),
        ({"epsilon_high": -0.1}, r"epsilon_high=-0\.1 must be above 0"),
        ({"beta": -0.1}, r"beta=-0\.1 must be 0 or more"),
        ({"beta": NAN}, r"beta=nan must be 0 or more"),
        ({"top_entropy_quantile": 1.2}, r"top_entropy_quantile=1\.2 must be in 0\.\.1"),
        ({"off_policy_mask_threshold": -1.0}, r"off_policy_mask_threshold=-1\.0 must be 0 or more"),
        ({"entropy_coef": NAN}, r"entropy_coef=nan must be a number"),
        ({"loss_type": "sapo", "sapo_temperature_pos": 0.0}, r"sapo_temperature_pos=0\.0 must be above 0"),
        ({"loss_type": "vespo", "vespo_lambda_neg": -1.0}, r"vespo_lambda_neg=-1\.0 must be above 0"),
        ({"importance_sampling_clip_max": 0.0}, r"importance_sampling_clip_max=0\.0 must be above 0; leave it out"),
        (
            {"importance_sampling_mode": "token_mask", "importance_sampling_clip_min": 4.0},
            r"importance_sampling_clip_max=3\.0 must be above importance_sampling_clip_min=4\.0",
        ),
        # what nothing would read
        (
            {"loss_type": "cispo", "delta": 4.0},
            r"delta=4\.0 is not read by loss_type=cispo \(it is by grpo, .*; remove",
        ),
        ({"loss_type": "sapo", "epsilon": 0.1}, r"epsilon=0\.1 is not read by loss_type=sapo"),
        ({"loss_type": "vespo", "epsilon_high": 0.3}, r"epsilon_high=0\.3 is not read by loss_type=vespo"),
        (
            {"sapo_temperature_neg": 2.0},
            r"sapo_temperature_neg=2\.0 is not read by loss_type=dr_grpo \(it is by sapo\)",
        ),
        ({"vespo_k_pos": 1.0}, r"vespo_k_pos=1\.0 is not read by loss_type=dr_grpo \(it is by vespo\)"),
        ({"entropy_target": 0.5}, r"entropy_target=0\.5 needs use_adaptive_entropy=true"),
        (
            {"importance_sampling_mode": None, "importance_sampling_clip_min": 0.5},
            r"importance_sampling_clip_min=0\.5 needs importance_sampling_mode",
        ),
        (
            {"importance_sampling_mode": None, "importance_sampling_clip_max": None},
            r"importance_sampling_clip_max=None needs importance_sampling_mode",
        ),
        (
            {"loss_type": "vespo", "importance_sampling_level": "sequence"},
            r"importance_sampling_level=sequence does not reach loss_type=vespo, which weighs whole completions by its",
        ),
        (
            {"loss_type": "vespo", "importance_sampling_mode": "sequence_mask"},
            r"importance_sampling_mode=sequence_mask does not fit loss_type=vespo, .*; choose token_truncate or token",
        ),
        # what has no meaning
        (
            {"loss_type": "cispo", "epsilon_high": 0.28},
            r"epsilon_high=0\.28 is the cap of the ratio itself with loss_ty",
        ),
        ({"delta": 1.1}, r"delta=1\.1 must be at least 1 \+ epsilon_high = 1\.2: below, it clips good advantages"),
        (
            {"kl_estimator": "k1", "use_bias_correction_kl": False},
            r"kl_estimator=k1 has a gradient of mean zero in the loss; set use_bias_correction_kl or kl_in_reward",
        ),
        ({"kl_in_reward": True, "beta": 0.0}, r"kl_in_reward=true needs model\.loss\.beta above 0"),
        (
            {"use_adaptive_entropy": True, "entropy_coef_min": 1.0},
            r"entropy_coef_min=1\.0 must be below entropy_coef_max=1\.0",
        ),
        (
            {"use_adaptive_entropy": True, "entropy_coef": 2.0},
            r"entropy_coef=2\.0 must be within entropy_coef_min=0\.0 and entropy_coef_max=1\.0",
        ),
        ({"use_adaptive_entropy": True, "entropy_coef_delta": 0.0}, r"entropy_coef_delta=0\.0 must be above 0"),
    ],
)
def test_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=r"^model\.loss\." + message):
        LossSettings(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"loss_type": "cispo"},
        {"loss_type": "luspo"},
        {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 3e-4, "epsilon_high": 4e-4},
        {"loss_type": "dapo", "epsilon_high": 0.28, "delta": 1.28},
        {"kl_estimator": "k1"},
        {"kl_estimator": "k1", "use_bias_correction_kl": False, "kl_in_reward": True},
        {"kl_estimator": "k1", "use_bias_correction_kl": False, "beta": 0.0},
        {"loss_type": "vespo", "importance_sampling_mode": "token_mask", "importance_sampling_clip_max": None},
        {"loss_type": "sapo", "importance_sampling_level": "sentence", "sapo_temperature_neg": 1.1},
        {"use_adaptive_entropy": True, "entropy_coef": 0.01, "entropy_target": 1.5, "entropy_coef_max": 0.1},
        {"entropy_coef": -0.01},
        {"top_entropy_quantile": 0.0, "off_policy_mask_threshold": 0.0, "mask_truncated_completions": True},
    ],
)
def test_allowed(options: dict[str, Any]) -> None:
    found = LossSettings(**options)
    assert {name: getattr(found, name) for name in options} == options


@pytest.mark.parametrize("options", [{"kl_estimator": "k2"}, {"use_bias_correction_kl": False}], ids=str)
def test_what_only_a_reference_would_need(options: dict[str, Any]) -> None:
    LossSettings(beta=0.0).check_without_reference()
    found = LossSettings(beta=0.0, **options)
    with pytest.raises(
        UserError, match=rf"^model\.loss\.{next(iter(options))}=.* is not read without a reference; set"
    ):
        found.check_without_reference()


def test_upper_bound() -> None:
    for kind in CLIPPED:
        assert LossSettings(kind).upper == 1.2
        assert LossSettings(kind, epsilon_high=0.28).upper == 1.28
    assert LossSettings("cispo").upper == 5.0
    assert LossSettings("cispo", epsilon_high=2.0).upper == 2.0
