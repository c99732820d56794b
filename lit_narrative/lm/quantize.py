"""The weights of a model's blocks in 4 bits, under adapters that are trained (QLoRA, Dettmers et al. 2023)."""

from typing import TYPE_CHECKING, Any

from torch import nn
from transformers import PreTrainedModel

from lit_narrative.errors import UserError, first_line
from lit_narrative.lm.load import blocks

if TYPE_CHECKING:
    from types import ModuleType

SETTING = "model.lora.quantization"


def quantize(lm: PreTrainedModel) -> None:
    """Hold the linear layers of the blocks in 4 bits (NF4 with quantised scales), in place; they are frozen.

    Products are computed in the dtype that the weights had. Embeddings, norms and the output layer stay as they are, so
    that log-probabilities are computed as ever.

    Args:
        lm: a transformers causal LM without adapters, on the CPU or a GPU.

    Raises:
        UserError: bitsandbytes is not installed, or cannot do it here; or the model has no such layers.
    """
    linear = {
        (parent, name): layer
        for block in blocks(lm)
        for parent in block.modules()
        for name, layer in parent.named_children()
        if isinstance(layer, nn.Linear)
    }
    if not linear:
        raise UserError(
            f"{SETTING}: models of type '{lm.config.model_type}' have no linear layers that bitsandbytes knows; leave "
            "it out"
        )
    bnb = _library()
    for (parent, name), layer in linear.items():
        try:
            setattr(parent, name, _quantized(bnb, layer))
        except Exception as error:  # the library raises errors of all kinds where it has no kernel
            raise UserError(
                f"{SETTING}: bitsandbytes {bnb.__version__} cannot hold weights on '{layer.weight.device}' in 4 bits "
                f"({first_line(error)}); train on another device, or leave it out"
            ) from error
    vars(lm)["is_loaded_in_4bit"] = True  # peft looks for this name


def _library() -> "ModuleType":
    try:
        import bitsandbytes
    except ImportError as error:
        raise UserError(
            f"{SETTING} needs bitsandbytes, which is not installed: pip install 'lit-narrative[qlora]', or leave it out"
        ) from error
    return bitsandbytes  # type: ignore[no-any-return]


def _quantized(bnb: Any, layer: nn.Linear) -> nn.Module:
    """A layer in 4 bits, on the device of ``layer``."""
    weight, bias = layer.weight, dict(layer.named_parameters()).get("bias")
    device = weight.device
    made: nn.Module = bnb.nn.Linear4bit(
        layer.in_features, layer.out_features, bias is not None, compute_dtype=weight.dtype, device="meta"
    )
    options = {"quant_type": "nf4", "compress_statistics": True, "module": made}
    # The weights are quantised as they move to a device, be it the one that they are on.
    made.weight = bnb.nn.Params4bit(weight.detach(), requires_grad=False, **options).to(device)
    # In evaluation mode it would repack them for a kernel in bfloat16: sampling would round otherwise than training.
    made.support_avx512bf16_for_cpu = False  # type: ignore[assignment]
    if bias is not None:
        made.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return made
