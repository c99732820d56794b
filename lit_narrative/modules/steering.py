"""Steering of a frozen language model by PPLM or its baselines."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from inspect import signature
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from lit_narrative.distributed import gather_objects
from lit_narrative.errors import UserError, check_least
from lit_narrative.lm.checkpoint import keep_policy
from lit_narrative.lm.load import base_lm
from lit_narrative.lm.perplexity import external_nll, mean_log_ratio, sampled_nll, weight_distance
from lit_narrative.lm.policy import Policy
from lit_narrative.modules.base import as_settings
from lit_narrative.modules.classifier import ClassifierModule
from lit_narrative.modules.language import LanguageModule
from lit_narrative.rl.best_of import BestOf, Rank
from lit_narrative.rl.rewards.base import Reward, ask_once
from lit_narrative.seeds import run_seed
from lit_narrative.steering.attributes import Attributes, attribute_losses, attribute_scores, read_attributes
from lit_narrative.steering.baselines import ActivationAddition
from lit_narrative.steering.calibration import find_strength
from lit_narrative.steering.factory import SteeringChoice, read_alike, read_policy
from lit_narrative.steering.pplm.settings import PPLMSettings
from lit_narrative.steering.sampler import SteeredSampler, SteeringTotals
from lit_narrative.steering.settings import (
    ActivationSettings,
    Attribute,
    BestOfSettings,
    ExpertSettings,
    Method,
    SearchSettings,
)
from lit_narrative.text import distinct_n
from lit_narrative.views import Prompt, Rollout

logger = logging.getLogger(__name__)

DISTINCT_AT = 20
"""Texts over which distinct n-grams are counted: the share falls with their number."""


class SteeringModule(LanguageModule):
    """Writes steered text with a model whose weights stay as they are.

    ``predict`` writes completions of the task's prompts, ``test`` measures them. A head to steer by is trained by
    ``ClassifierModule``.

    Args:
        method: ``pplm``, ``bias`` (logit bias), ``activation`` (activation addition), ``experts`` (DExperts), ``none``.
        attributes: targets of steering: word lists, and heads. The words' probability is recorded with every method.
        pplm: parameters of PPLM.
        bias: added to the logits of the listed words.
        activation: parameters of activation addition.
        experts: models of DExperts.
        best_of: sample several and keep the best.
        search: prompts and length on which ``pplm.stepsize: auto`` is calibrated.
        samples: completions of each prompt.
        rows: texts decoded side by side at most.
        judge: another model (hub name, folder or checkpoint), which tells the perplexity of what was written, always
            in float32.
        base: the model that this one was tuned from, or this one; tells how far weights and texts are from it.
        classes: former argument, accepted for one release; it is handed on to ``ClassifierModule``.
        weight_decay: likewise.
        **kwargs: of `LanguageModule`.
    """

    view = eval_view = "prompts"
    frozen = True

    def __init__(
        self,
        method: Method = "pplm",
        attributes: list[Attribute] = [],  # noqa: B006 (never changed; the command line shows it)
        pplm: PPLMSettings = PPLMSettings(),  # noqa: B008
        bias: float = 2.0,
        activation: ActivationSettings = ActivationSettings(),  # noqa: B008
        experts: ExpertSettings = ExpertSettings(),  # noqa: B008
        best_of: BestOfSettings = BestOfSettings(),  # noqa: B008
        search: SearchSettings = SearchSettings(),  # noqa: B008
        samples: int = 1,
        rows: int = 64,
        judge: str | None = None,
        base: str | None = None,
        classes: Sequence[str] = (),
        weight_decay: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(weight_decay=weight_decay, **kwargs)
        if self.turns is not None:
            raise UserError("model.turns is not known to steered sampling; leave it out")
        check_least("model.samples", samples, 1)
        check_least("model.rows", rows, 1)
        self.given = [as_settings(attribute, Attribute) for attribute in attributes]
        self.choice = SteeringChoice(
            method,
            as_settings(pplm, PPLMSettings),
            bias,
            as_settings(activation, ActivationSettings),
            as_settings(experts, ExpertSettings),
        )
        self.best_of, self.search = as_settings(best_of, BestOfSettings), as_settings(search, SearchSettings)
        self.samples, self.rows, self.judge, self.base, self.classes = samples, rows, judge, base, classes
        self.steered: SteeredSampler | None = None
        self.in_use = self.choice
        """The choice as it steers: a step size of ``auto`` is replaced by the calibrated one."""
        self._judge: Policy | None = None
        self._base: Policy | None = None
        self._distances: dict[str, float] = {}

    # --- building ---------------------------------------------------------------------------------------------------

    def classifier(self) -> ClassifierModule:
        """The module that trains a head for this model.

        In the release before ``fit`` with SteeringModule did so; the command line still accepts that.
        """
        logger.warning(
            "'fit' of SteeringModule is now that of ClassifierModule; the old name works for one more release"
        )
        taken = signature(LanguageModule.__init__).parameters
        return ClassifierModule(self.classes, **{name: value for name, value in self.hparams.items() if name in taken})

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the policy alone from a checkpoint of another module."""
        keep_policy(checkpoint["state_dict"])
        super().on_load_checkpoint(checkpoint)

    # --- making ready -----------------------------------------------------------------------------------------------

    def on_predict_start(self) -> None:
        """Prepare the steering of the prompts that ``predict`` completes."""
        self.prepare_steering(self.task.rows_for("prompts", self.task.predict_split))

    def on_test_start(self) -> None:
        """Read the models that judge, and prepare the steering of the prompts of the test split."""
        trusted = self.source.trust_remote_code
        self._judge = None if self.judge is None else read_policy(self.judge, trust_remote_code=trusted)
        self._base = None if self.base is None else read_alike(self.base, base_lm(self.lm), trusted)
        self._distances = self._weights_moved()
        self._attributes = self.prepare_steering(self.task.rows_for("prompts", "test"))

    def _weights_moved(self) -> dict[str, float]:
        """How far this model's weights are from the base's; a warning where another path led to the same weights."""
        if self._base is None:
            return {}
        moved, path = weight_distance(self.lm, self._base[0]), self.trainer.ckpt_path or self.source.model
        if moved == 0 and isinstance(path, str) and Path(path).resolve() != Path(str(self.base)).resolve():
            logger.warning("'%s' has the very weights of model.base='%s': is one of the paths wrong?", path, self.base)
        return {"weights_moved": moved}

    # Out of the Trainer's inference mode: PPLM differentiates, and tensors of that mode can never take part in a graph.
    @torch.inference_mode(False)
    def prepare_steering(self, prompts: Sequence[Prompt]) -> Attributes:
        """Read the attributes, calibrate the step size where it is ``auto``, and take a steered sampler.

        Args:
            prompts: those that will be completed; the step size is calibrated on the first of them.

        Returns:
            The targets of steering.

        Raises:
            UserError: an attribute or the method cannot be used with this model or these prompts.
        """
        if self.device_mesh is not None:
            raise UserError("a model that is spread over processes (fsdp2) cannot be steered; use strategy ddp or auto")
        if self.choice.method == "pplm" and base_lm(self.lm).dtype == torch.float16:
            raise UserError(
                "PPLM divides by norms of gradients, which become 0 in float16; take trainer.precision=bf16-true or "
                "32-true, and model.dtype=bfloat16 or float32"
            )
        attributes = read_attributes(self.given, self.task.word_lists, self.lm, self.tokenizer)
        attributes.check(prompts)
        self.in_use = self.choice
        if self.choice.method == "pplm" and self.choice.pplm.stepsize == "auto":
            self.in_use = self._with(self._find_stepsize(attributes, list(islice(prompts, self.search.prompts))))
        self.sampler = self.steered = self._steered(attributes, self.in_use)
        if isinstance(self.steered.steerer, ActivationAddition):  # a label without a direction fails now
            self.steered.steerer.vectors([prompt.columns for prompt in prompts], self.device)
        if self.best_of.samples > 1:
            rank = self.rank_by(attributes)
            self.sampler = BestOf(self.steered, self.best_of.samples, rank, self.best_of.min_distinct)
        self.written = []
        return attributes

    def _steered(self, attributes: Attributes, choice: SteeringChoice) -> SteeredSampler:
        steerer = choice.steerer(
            base_lm(self.lm), self.tokenizer, attributes, self._by_label, self.source.trust_remote_code
        )
        return SteeredSampler(steerer, attributes.bags, self.rows)

    def _with(self, stepsize: float) -> SteeringChoice:
        return replace(self.choice, pplm=replace(self.choice.pplm, stepsize=stepsize))

    def _find_stepsize(self, attributes: Attributes, prompts: Sequence[Prompt]) -> float:
        params = replace(self.sampling, max_new_tokens=min(self.search.new_tokens, self.sampling.max_new_tokens))

        def divergence(stepsize: float) -> float:
            self.sampler = steered = self._steered(attributes, self._with(stepsize))
            self.generate(prompts, seed=run_seed(), params=params)
            return steered.totals.metrics()["kl"]

        stepsize = find_strength(divergence, self.choice.pplm.target_kl)
        logger.info("model.pplm.stepsize=%.4g: about %g nats a token", stepsize, self.choice.pplm.target_kl)
        return stepsize

    def rank_by(self, attributes: Attributes) -> Rank:
        """The score by which completions are ranked, as ``best_of.rank`` says.

        Raises:
            UserError: there is nothing to rank by, or it is not a reward that can rank.
        """
        if self.best_of.rank == "attribute":
            if not self.given:
                raise UserError("model.best_of ranks by attribute: give attributes, or the name of a reward as rank")
            return lambda rollouts: attribute_scores(attributes, self.lm, self.tokenizer, rollouts)
        self.check_paths("best_of", [self.best_of.rank])
        reward = self.task.reward_functions([self.best_of.rank])[self.best_of.rank]
        if not isinstance(reward, Reward):
            raise UserError(f"model.best_of.rank={self.best_of.rank}: a reward that waits for others cannot rank")
        return partial(ask_once, self.best_of.rank, reward)

    def _by_label(self, most: int) -> tuple[Mapping[int, Sequence[str]], Sequence[str]]:
        """Training texts of each label, and the labels' names."""
        by_label: dict[int, list[str]] = {}
        for row in self.task.view("labelled", "train"):
            if len(texts := by_label.setdefault(row.label, [])) < most:
                texts.append(row.text)
        return by_label, self.task.label_names

    # --- sampling ---------------------------------------------------------------------------------------------------

    def predict_step(self, batch: Sequence[Prompt], batch_idx: int) -> list[Rollout]:
        """Complete every prompt of the batch."""
        return self.generate(batch, self.samples, seed=run_seed())

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Complete every prompt of the batch, to be measured at the end."""
        assert self.written is not None
        self.written += self.predict_step(batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        """Log the task's metrics of the texts, the effect and cost of steering, and perplexities."""
        assert self.steered is not None and self.written is not None
        parts = gather_objects(self.trainer, (self.written, self.steered.totals))
        rollouts = [rollout for written, _ in parts for rollout in written]
        metrics = dict(self.task.text_metrics(rollouts))
        totals = total([part for _, part in parts])
        losses = attribute_losses(self._attributes, totals, self.lm, self.tokenizer, rollouts)
        metrics |= self._cost(totals) | {f"steering/loss/{name}": loss for name, loss in losses.items()}
        metrics |= distinct([rollout.text for rollout in rollouts])
        metrics |= self._perplexities(rollouts) | self._distances | self._divergence(rollouts)
        self.log_dict({f"test/{name}": float(value) for name, value in metrics.items()}, rank_zero_only=False)

    def _cost(self, totals: SteeringTotals) -> dict[str, float]:
        """The effect and cost of steering, over all texts that were drawn: those that were not kept cost as much."""
        metrics = totals.metrics()
        metrics["passes_per_token"] *= self.best_of.samples
        metrics["tokens_per_second"] /= self.best_of.samples
        if self.in_use.method == "pplm":
            metrics["stepsize"] = self.in_use.pplm.step
        return {f"steering/{name}": value for name, value in metrics.items()}

    def _perplexities(self, rollouts: Sequence[Rollout]) -> dict[str, float]:
        """Perplexities of the continuations by tokens, under this model without steering, and under the judge."""
        totals = {"own_perplexity": sampled_nll(self.lm, rollouts)}
        if self._judge is not None:
            lm, tokenizer = self._judge
            totals["judge_perplexity"] = external_nll(lm.to(self.device).eval(), tokenizer, rollouts)
        return {name: float(torch.tensor(nll / max(tokens, 1)).exp()) for name, (nll, tokens) in totals.items()}

    def _divergence(self, rollouts: Sequence[Rollout]) -> dict[str, float]:
        if self._base is None or self.best_of.samples > 1:  # a choice among several shows in no log-probability
            return {}
        base = self._base[0].to(self.device).eval()
        return {"base_kl": mean_log_ratio(base, rollouts, self.sampling.temperature)}


def distinct(texts: Sequence[str]) -> dict[str, float]:
    """Distinct 1-, 2- and 3-grams, means over groups of ``DISTINCT_AT`` texts; of fewer texts, over all together."""
    samples = min(DISTINCT_AT, len(texts)) or None
    return {f"distinct_{n}": distinct_n(texts, n, samples) for n in (1, 2, 3)}


def total(parts: Sequence[SteeringTotals]) -> SteeringTotals:
    """Totals of several processes as one, by sums."""
    return SteeringTotals(
        **{item.name: sum(getattr(part, item.name) for part in parts) for item in fields(SteeringTotals)}
    )
