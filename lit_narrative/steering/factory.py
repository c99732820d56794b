"""Steerers built from settings, and further models that steering reads."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lit_narrative.errors import UserError
from lit_narrative.lm.load import Attention, Dtype, attention_name, base_lm
from lit_narrative.lm.policy import Policy, PolicySource
from lit_narrative.steering.attributes import Attributes
from lit_narrative.steering.baselines import ActivationAddition, Experts, LogitBias, Unsteered, contrast_directions
from lit_narrative.steering.pplm.settings import PPLMSettings
from lit_narrative.steering.pplm.steerer import PPLM
from lit_narrative.steering.sampler import Steerer
from lit_narrative.steering.settings import ActivationSettings, ExpertSettings, Method

ByLabel = Callable[[int], tuple[Mapping[int, Sequence[str]], Sequence[str]]]
"""From a largest number of texts per label to the texts of each label, and the names of the labels, if any."""


@dataclass(frozen=True)
class SteeringChoice:
    """A method, and the parameters of every method; see ``SteeringModule``."""

    method: Method
    pplm: PPLMSettings
    bias: float
    activation: ActivationSettings
    experts: ExpertSettings

    def steerer(
        self,
        lm: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        attributes: Attributes,
        by_label: ByLabel,
        trust_remote_code: bool = False,
    ) -> Steerer:
        """Build the steerer of the method.

        Args:
            lm: the model to be steered.
            tokenizer: its tokenizer.
            attributes: what to steer to.
            by_label: texts for activation addition.
            trust_remote_code: run the Python code that the models of ``experts`` bring along.

        Raises:
            UserError: a setting that the method requires is missing, or does not fit the model.
        """
        match self.method:
            case "pplm":
                return PPLM(self.pplm, attributes.bags, attributes.targets)
            case "bias":
                return LogitBias(attributes.bags, self.bias)
            case "activation":
                chosen = self.activation
                texts, names = by_label(chosen.texts)
                directions = contrast_directions(lm, tokenizer, texts, chosen.layer, names)
                return ActivationAddition(directions, chosen.layer, chosen.coefficient, chosen.label, names)
            case "experts":
                return self._experts(lm, tokenizer, trust_remote_code)
            case "none":
                return Unsteered()

    def _experts(self, lm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, trust_remote_code: bool) -> Experts:
        if self.experts.expert is None:
            raise UserError("model.method=experts needs a model of the wanted text: set model.experts.expert")
        names = [name for name in (self.experts.expert, self.experts.anti_expert) if name is not None]
        models = []
        for name in names:
            model, theirs = read_alike(name, lm, trust_remote_code)
            # Logits are added by id, so that equal sizes are not enough: each id has to mean the same token.
            if theirs.get_vocab() != tokenizer.get_vocab():
                raise UserError(
                    f"model.experts: '{name}' has other tokens than the steered model ({len(theirs)} and "
                    f"{len(tokenizer)}); take a model that was trained from the same tokenizer"
                )
            models.append(base_lm(model.to(lm.device).eval().requires_grad_(False)))
        return Experts(models[0], models[1] if len(models) > 1 else None, self.experts.alpha)


def read_policy(
    name: str, dtype: Dtype = "float32", attention: Attention = "sdpa", trust_remote_code: bool = False
) -> Policy:
    """A further model with its tokenizer, by hub name, folder or checkpoint."""
    return PolicySource(name, None, None, dtype, attention, False, trust_remote_code).build()


def read_alike(name: str, lm: PreTrainedModel, trust_remote_code: bool = False) -> Policy:
    """A further model with the dtype and attention of ``lm``: only with the same rounding can two models be equal."""
    dtype = cast(Dtype, str(lm.dtype).removeprefix("torch."))
    return read_policy(name, dtype, cast(Attention, attention_name(lm)), trust_remote_code)
