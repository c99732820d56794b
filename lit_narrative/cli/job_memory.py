"""A training's settings as what its memory depends on, for ``lit-narrative plan``."""

import math
from typing import Any, Literal

import torch
from lightning.pytorch.cli import ArgsType, LightningArgumentParser

from lit_narrative.cli.lightning import NarrativeCLI, prepare_arguments, quieten
from lit_narrative.cli.memory import Training, read_model_config
from lit_narrative.errors import UserError
from lit_narrative.lm.tokenizer import TrainedTokenizer
from lit_narrative.modules.base import check_precision
from lit_narrative.modules.grpo import GRPOModule
from lit_narrative.modules.language import LanguageModule
from lit_narrative.modules.preference import PreferenceModule
from lit_narrative.modules.sft import SFTModule

KNOWN = (SFTModule, GRPOModule, PreferenceModule)
MOMENTS = {"adamw": 2, "muon": 1}
"""Numbers that an optimizer keeps of each weight; muon keeps one of matrices, which are nearly all."""


class _Built(Exception):
    """The settings are read, and module and data stand by themselves."""

    def __init__(self, built: Any) -> None:
        super().__init__()
        self.built = built


class _Settings(NarrativeCLI):
    """The command line of a fit that ends before its Trainer is made."""

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        super().parse_arguments(parser, args)
        check_precision(self.config["fit"].trainer.precision, True)
        raise _Built(parser.instantiate(self.config)["fit"])


def build_job(settings: list[str]) -> Any:
    """The ``model`` and the ``data`` of a fit, built and not run, and its ``trainer`` as settings.

    Raises:
        UserError: a setting is wrong.
    """
    quieten()
    try:
        _Settings(prepare_arguments(["fit", *settings]))
    except _Built as found:
        return found.built
    raise AssertionError("the settings were not read")


def training_of(built: Any, tokens: int | None) -> Training:
    """What a job's memory depends on, by its settings.

    Args:
        built: its ``model``, ``data`` and ``trainer``, the last as settings.
        tokens: of the longest row, where the settings do not say.

    Raises:
        UserError: the module is of another kind, or something of it is not foreseen here.
    """
    module, trainer = built.model, built.trainer
    if not isinstance(module, KNOWN):
        names = ", ".join(kind.__name__ for kind in KNOWN)
        raise UserError(f"plan knows the memory of {names}, and not of {type(module).__name__}")
    source = module.source
    if module.lora and module.lora.quantization:
        raise UserError("plan does not know a base in 4 bits; leave model.lora.quantization out for an upper bound")
    tokens = tokens or module.max_length
    if tokens is None:
        raise UserError("plan: how long are the rows? give --tokens, of the longest, prompt and completion together")
    vocabulary = source.tokenizer.vocab_size if isinstance(source.tokenizer, TrainedTokenizer) else None
    processes, gpu = _processes(trainer)
    rows, sampled = _rows(module, built.data.batch_size, processes)
    learned = min(tokens, module.sampling.max_new_tokens) if sampled else tokens
    return Training(
        read_model_config(source.model, vocabulary, source.trust_remote_code),
        rows,
        tokens,
        learned,
        source.dtype,
        source.attention,
        _precision(trainer.precision),
        module.lora,
        module.gradient_checkpointing,
        MOMENTS[module.optimizer],
        not isinstance(module, SFTModule) and module.reference_kind == "copy",
        sampled,
        module.settings.num_generations if isinstance(module, GRPOModule) else 1,
        _strategy(trainer.strategy, processes),
        processes,
        gpu,
    )


def _rows(module: LanguageModule, batch_size: int, processes: int) -> tuple[int, int]:
    """Rows of a micro-batch, and completions of a rollout batch."""
    if isinstance(module, GRPOModule):
        plan = module.settings.plan
        completions = plan.prompts(batch_size, processes) * plan.num_generations
        parts = math.ceil(completions / plan.micro_batch_rows(completions))
        return math.ceil(completions / parts), completions
    return batch_size * (2 if isinstance(module, PreferenceModule) else 1), 0


def _processes(trainer: Any) -> tuple[int, bool]:
    """How many processes a job has, and whether they run on GPUs."""
    gpu = trainer.accelerator in ("gpu", "cuda") or (trainer.accelerator == "auto" and torch.cuda.is_available())
    devices = trainer.devices
    if devices in ("auto", -1, "-1"):
        devices = torch.cuda.device_count() if gpu else 1
    count = len(devices) if isinstance(devices, list) else int(devices)
    return max(count, 1) * trainer.num_nodes, gpu


def _strategy(strategy: Any, processes: int) -> Literal["single", "copies", "sharded"]:
    if strategy == "fsdp2" or type(strategy).__name__ == "FSDP2Strategy":
        return "sharded"
    if processes == 1:
        return "single"
    if strategy == "auto" or (isinstance(strategy, str) and strategy.startswith("ddp")):
        return "copies"
    raise UserError(f"plan knows the strategies ddp and fsdp2, and not {strategy!r}")


def _precision(precision: Any) -> str:
    return {
        None: "32-true",
        32: "32-true",
        "32": "32-true",
        16: "16-mixed",
        "16": "16-mixed",
        "bf16": "bf16-mixed",
    }.get(precision, str(precision))
