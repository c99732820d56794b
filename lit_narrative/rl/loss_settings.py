"""Settings of the policy loss, and checks of which go together."""

import math
from dataclasses import MISSING, dataclass, fields
from typing import Any, Literal, get_args

from lit_narrative.errors import UserError, did_you_mean
from lit_narrative.rl.ratios import ImportanceMode, KLEstimator, Level

LossType = Literal["grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "luspo", "vespo"]
CLIPPED: tuple[LossType, ...] = ("grpo", "bnpo", "dr_grpo", "dapo", "luspo")
# A default of its own: with that of the other losses, epsilon, every ratio would be capped at 0.2.
CISPO_CAP = 5.0
VESPO_KEYS = ("vespo_k_pos", "vespo_lambda_pos", "vespo_k_neg", "vespo_lambda_neg")
SAPO_KEYS = ("sapo_temperature_neg", "sapo_temperature_pos")
ADAPTIVE_KEYS = ("entropy_coef_min", "entropy_coef_max", "entropy_coef_delta", "entropy_target")
# Which loss types read an option; the others would ignore it.
READ_BY: dict[str, tuple[LossType, ...]] = {
    "epsilon": CLIPPED,
    "epsilon_high": (*CLIPPED, "cispo"),
    "delta": CLIPPED,
    **dict.fromkeys(SAPO_KEYS, ("sapo",)),
    **dict.fromkeys(VESPO_KEYS, ("vespo",)),
}


@dataclass(frozen=True)
class LossSettings:
    """The policy loss and its options, under the names and with the meanings of TRL.

    Args:
        loss_type: ``grpo`` mean over completions of the mean over their tokens (Shao et al. 2024, eq. 3); ``dr_grpo``
            sum over a constant length (Liu et al. 2025); ``dapo`` mean over the tokens of the optimizer step (Yu et al.
            2025, eq. 8); ``bnpo`` mean over the tokens of the batch, which is the whole optimizer step here, so it
            equals ``dapo`` (elsewhere it is the micro-batch, and the loss depends on its size); ``luspo`` mean over
            completions of the sum over their tokens, meant for sequence ratios (2026; with token ratios it is
            ``dr_grpo`` without its constant); ``cispo`` capped ratio as a weight (MiniMax 2025, eq. 4); ``sapo``
            sigmoid in place of clipping (Gao et al. 2025); ``vespo`` smooth weight of the whole completion's ratio
            (2026).
        importance_sampling_level: the ratio of a ``token``, the geometric mean over the ``sequence`` (GSPO, Zheng et
            al. 2025, eq. 7), or over the ``sentence`` that the token belongs to. GSPO itself is ``sequence`` with
            ``grpo``; means over tokens weigh a completion by its length beside it.
        epsilon: the ratio is clipped below at 1 - epsilon, in (0, 1].
        epsilon_high: and above at 1 + epsilon_high; default: epsilon. For ``cispo`` the cap itself, at least 1;
            default: 5.
        delta: cap of the ratio where the advantage is negative (two-sided clipping, INTELLECT-2, 2025), at least
            1 + epsilon_high.
        beta: weight of the divergence from the reference, 0 or more; 0 needs no reference.
        kl_estimator: see `lit_narrative.rl.ratios.kl_divergence`; it is logged at ``beta`` 0 too, with a
            reference.
        use_bias_correction_kl: multiply the divergence in the loss by the ratio (DeepSeek-V3.2, 2025), which makes the
            gradient of ``k1`` and ``k3`` that of the reverse KL. Not read where the divergence is in the reward: the
            policy gradient of a reward needs no correction.
        kl_in_reward: take beta times the divergence off the reward instead of adding it to the loss.
        entropy_coef: weight of the entropy bonus; with adaptive control its first value.
        use_adaptive_entropy: see `lit_narrative.rl.entropy.AdaptiveEntropy` for this and the next four.
        entropy_coef_min: lower bound of the weight.
        entropy_coef_max: upper bound of the weight.
        entropy_coef_delta: its change with each optimizer step.
        entropy_target: nats a token; the bonus acts while the entropy is not above it.
        top_entropy_quantile: share of tokens, of the highest entropy, that the policy term keeps (Wang et al. 2025),
            in 0..1; 0 keeps the maximum only.
        off_policy_mask_threshold: drop completions of negative advantage whose mean log-ratio of sampler to policy is
            above it (DeepSeek-V3.2, 2025), 0 or more.
        mask_truncated_completions: completions cut off by the length limit teach nothing (DAPO, section 3.4).
        sapo_temperature_neg: steepness of the sigmoid where the advantage is not positive, above 0.
        sapo_temperature_pos: and where it is positive.
        vespo_k_pos: exponent k where the advantage is not negative.
        vespo_lambda_pos: decay lambda where the advantage is not negative.
        vespo_k_neg: exponent k where it is negative.
        vespo_lambda_neg: decay lambda where it is negative.
        importance_sampling_mode: correction for a sampler that is not quite the policy, see
            `lit_narrative.rl.ratios.importance_ratio`; ``auto``: ``token_truncate`` where a server samples, or
            the policy computes in less than float32, whose rounding differs between sampler and trainer, else none;
            None: no correction.
        importance_sampling_clip_min: lower bound of that ratio.
        importance_sampling_clip_max: upper bound of that ratio.

    Raises:
        UserError: a value is out of range, or would be ignored or mean nothing beside the others.
    """

    loss_type: LossType = "dr_grpo"
    importance_sampling_level: Level = "token"
    epsilon: float = 0.2
    epsilon_high: float | None = None
    delta: float | None = None
    beta: float = 0.04
    kl_estimator: KLEstimator = "k3"
    use_bias_correction_kl: bool = True
    kl_in_reward: bool = False
    entropy_coef: float = 0.0
    use_adaptive_entropy: bool = False
    entropy_coef_min: float = 0.0
    entropy_coef_max: float = 1.0
    entropy_coef_delta: float = 0.005
    entropy_target: float = 0.2
    top_entropy_quantile: float = 1.0
    off_policy_mask_threshold: float | None = None
    mask_truncated_completions: bool = False
    sapo_temperature_neg: float = 1.05
    sapo_temperature_pos: float = 1.0
    vespo_k_pos: float = 2.0
    vespo_lambda_pos: float = 3.0
    vespo_k_neg: float = 3.0
    vespo_lambda_neg: float = 2.0
    importance_sampling_mode: ImportanceMode | Literal["auto"] | None = "auto"
    importance_sampling_clip_min: float | None = None
    importance_sampling_clip_max: float | None = 3.0

    def __post_init__(self) -> None:
        _check_choices(self)
        _check_ranges(self)
        _check_ignored(self)
        _check_meaning(self)

    def check_without_reference(self) -> None:
        """Refuse what only a divergence from a reference would read.

        Raises:
            UserError: it is set.
        """
        for name in ("kl_estimator", "use_bias_correction_kl"):
            remedy = "is not read without a reference; set model.loss.beta or model.reference.kind, or remove it"
            _require(getattr(self, name) == _default(name), name, getattr(self, name), remedy)

    @property
    def upper(self) -> float:
        """Where the ratio is clipped above: 1 + epsilon_high, or the cap of ``cispo``."""
        if self.loss_type == "cispo":
            return CISPO_CAP if self.epsilon_high is None else self.epsilon_high
        return 1 + (self.epsilon if self.epsilon_high is None else self.epsilon_high)

    def importance_mode(self, differs: bool) -> ImportanceMode | None:
        """The correction for the sampler, never ``auto``.

        Args:
            differs: the sampler rounds otherwise than the trainer: it is a server, or both compute in less than
                float32.
        """
        if self.importance_sampling_mode == "auto":
            return "token_truncate" if differs else None
        return self.importance_sampling_mode


def _default(name: str) -> Any:
    (field,) = (field for field in fields(LossSettings) if field.name == name)
    assert field.default is not MISSING
    return field.default


def _require(holds: bool, name: str, value: Any, rule: str) -> None:
    if not holds:
        raise UserError(f"model.loss.{name}={value} {rule}")


def _check_choices(s: LossSettings) -> None:
    choices: dict[str, tuple[str, ...]] = {
        "loss_type": get_args(LossType),
        "importance_sampling_level": get_args(Level),
        "kl_estimator": get_args(KLEstimator),
        "importance_sampling_mode": ("auto", *get_args(ImportanceMode)),
    }
    for name, known in choices.items():
        value = getattr(s, name)
        if value not in known and not (value is None and name == "importance_sampling_mode"):
            raise UserError(f"model.loss.{name}={value} is not one of {', '.join(known)}{did_you_mean(value, known)}")


def _check_ranges(s: LossSettings) -> None:
    _require(0 < s.epsilon <= 1, "epsilon", s.epsilon, "must be above 0 and not above 1; 0.2 is usual")
    for name in ("epsilon_high", *SAPO_KEYS, *VESPO_KEYS, "entropy_coef_delta"):
        value = getattr(s, name)
        _require(value is None or value > 0, name, value, "must be above 0")
    for name in ("beta", "entropy_target", "off_policy_mask_threshold", "importance_sampling_clip_min"):
        value = getattr(s, name)
        _require(value is None or 0 <= value < math.inf, name, value, "must be 0 or more")
    _require(math.isfinite(s.entropy_coef), "entropy_coef", s.entropy_coef, "must be a number")
    _require(0 <= s.top_entropy_quantile <= 1, "top_entropy_quantile", s.top_entropy_quantile, "must be in 0..1")
    low, high = s.importance_sampling_clip_min or 0.0, s.importance_sampling_clip_max
    name = "importance_sampling_clip_max"
    _require(high is None or high > 0, name, high, "must be above 0; leave it out (null) for no bound")
    _require(high is None or high > low, name, high, f"must be above importance_sampling_clip_min={low}")


def _check_ignored(s: LossSettings) -> None:
    """Options that were set and that nothing would read."""
    for name, types in READ_BY.items():
        # A value equal to the default cannot be told from one that was never given.
        read = s.loss_type in types or getattr(s, name) == _default(name)
        remedy = f"is not read by loss_type={s.loss_type} (it is by {', '.join(types)}); remove it"
        _require(read, name, getattr(s, name), remedy)
    for name in ADAPTIVE_KEYS:
        read = s.use_adaptive_entropy or getattr(s, name) == _default(name)
        _require(read, name, getattr(s, name), "needs use_adaptive_entropy=true; set that, or remove it")
    for name in ("importance_sampling_clip_min", "importance_sampling_clip_max"):
        read = s.importance_sampling_mode is not None or getattr(s, name) == _default(name)
        _require(read, name, getattr(s, name), "needs importance_sampling_mode; set that, or remove it")
    if s.loss_type == "vespo":
        level, mode = s.importance_sampling_level, s.importance_sampling_mode
        rule = "does not reach loss_type=vespo, which weighs whole completions by itself; leave it at token"
        _require(level == "token", "importance_sampling_level", level, rule)
        rule = "does not fit loss_type=vespo, which sums token ratios itself; choose token_truncate or token_mask"
        _require(mode in (None, "auto") or str(mode).startswith("token"), "importance_sampling_mode", mode, rule)


def _check_meaning(s: LossSettings) -> None:
    if s.loss_type == "cispo":
        rule = "is the cap of the ratio itself with loss_type=cispo and must be at least 1; 5 is usual"
        _require(s.upper >= 1, "epsilon_high", s.epsilon_high, rule)
    if s.delta is not None:
        rule = f"must be at least 1 + epsilon_high = {s.upper:g}: below, it clips good advantages in place of it"
        _require(s.delta >= s.upper, "delta", s.delta, rule)
    if s.beta and s.kl_estimator == "k1" and not s.kl_in_reward:
        rule = (
            "has a gradient of mean zero in the loss; set use_bias_correction_kl or kl_in_reward to true, or choose k3"
        )
        _require(s.use_bias_correction_kl, "kl_estimator", s.kl_estimator, rule)
    if s.kl_in_reward:
        _require(s.beta > 0, "kl_in_reward", "true", "needs model.loss.beta above 0, the weight that it has there")
    if s.use_adaptive_entropy:
        low, high = s.entropy_coef_min, s.entropy_coef_max
        _require(low < high, "entropy_coef_min", low, f"must be below entropy_coef_max={high}")
        rule = f"must be within entropy_coef_min={low} and entropy_coef_max={high}"
        _require(low <= s.entropy_coef <= high, "entropy_coef", s.entropy_coef, rule)
