"""Adapters merged into the weights of their model."""

from collections import Counter
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from lit_narrative.errors import UserError


def merge_adapters(adapted: Any) -> PreTrainedModel:
    """The model inside ``adapted``, its active adapters merged into its weights in place; it computes the same.

    All of its weights can be trained.

    Where the input and the output embedding are one weight and adapters stand on one of them, they are two weights
    afterwards, and the config says so: merged into the shared weight, they would change both.

    Args:
        adapted: a model with PEFT's adapters around it.

    Raises:
        UserError: the adapters cannot be merged: they stand on layers that share a weight, or are of another kind
            than low-rank updates.
    """
    base: PreTrainedModel = adapted.get_base_model()
    if _untie_adapted(base):
        for config in (base.config, base.config.get_text_config()):
            config.tie_word_embeddings = False
    try:
        merged: PreTrainedModel = adapted.merge_and_unload()
    except (AttributeError, ValueError) as error:
        raise UserError(f"adapters of kind {type(adapted.base_model).__name__} cannot be merged ({error})") from error
    return merged.requires_grad_(True)  # PEFT had frozen it


def _untie_adapted(base: PreTrainedModel) -> bool:
    """Give adapted embeddings that share their weight a weight for themselves; whether there were any."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    owners = Counter(id(weight) for module in base.modules() for weight in module.parameters(recurse=False))
    tied: Any = base.get_input_embeddings().weight
    untied = False
    for name, module in base.named_modules():
        if not isinstance(module, BaseTunerLayer):
            continue
        layer = BaseTunerLayer.get_base_layer(module)
        for part, weight in list(layer.named_parameters(recurse=False)):
            if owners[id(weight)] == 1:
                continue
            if weight is not tied:
                raise UserError(f"the adapters on '{name}' cannot be merged: other layers share its weight")
            setattr(layer, part, nn.Parameter(weight.detach().clone(), weight.requires_grad))
            untied = True
    return untied
