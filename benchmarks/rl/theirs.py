"""TRL's side: its trainers, set to the same model, data, optimizer and precision."""

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationMixin, TrainerCallback
from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

from benchmarks.rl.clock import Clock
from benchmarks.rl.shape import ADAPTED, Shape, distinct_words, texts

VERSIONS = ("trl", "accelerate", "transformers", "torch")


class Ticks(TrainerCallback):
    """Ends a step of the clock after so many optimizer steps."""

    def __init__(self, clock: Clock, every: int) -> None:
        self.clock, self.every = clock, every

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Count."""
        if state.global_step % self.every == 0:
            self.clock.tick()


def reward(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
    """The trivial reward, as TRL calls it."""
    return [distinct_words(text) for text in completions]


def run_grpo(shape: Shape, folder: Path, clock: Clock) -> None:
    """Train by GRPO; the clock sees each batch of completions as a step."""
    config = GRPOConfig(
        **_settings(shape, folder, shape.batches * shape.mu),
        num_generations=shape.group,
        num_iterations=shape.mu,
        max_completion_length=shape.completion_tokens,
        loss_type="dapo",
        beta=shape.beta,
        disable_dropout=True,
    )
    rows = texts(shape, shape.prompts * shape.batches, shape.prompt_tokens, 0)
    trainer = GRPOTrainer(
        model=_model(folder),
        reward_funcs=reward,
        args=config,
        train_dataset=Dataset.from_dict({"prompt": rows}),
        processing_class=AutoTokenizer.from_pretrained(folder, padding_side="left"),
        peft_config=_lora(shape),
        callbacks=[Ticks(clock, shape.mu)],
    )

    def scored(model: Any, *args: Any, **kwargs: Any) -> str:
        if torch.is_grad_enabled():
            return "policy forward"
        # Without a copy of its own the reference is the policy with its adapters off.
        off = any(layer.disable_adapters for layer in model.modules() if isinstance(layer, BaseTunerLayer))
        return "reference" if model is trainer.ref_model or off else "old log-probs"

    _time_learning(clock, trainer)
    clock.wrap(trainer, "_generate_single_turn", "decode", lambda result: sum(map(len, result[0])))
    clock.wrap(GenerationMixin, "_prefill", "prefill")
    clock.wrap(trainer, "_calculate_rewards", "rewards")
    clock.wrap(trainer, "_get_per_token_logps_and_entropies", scored)
    trainer.train()


def run_sft(shape: Shape, folder: Path, clock: Clock) -> None:
    """Train on examples; TRL tokenises them before the first step."""
    count = shape.rows * shape.batches
    prompts, completions = (
        texts(shape, count, tokens, stream)
        for stream, tokens in enumerate((shape.prompt_tokens, shape.completion_tokens - 1))
    )
    trainer = SFTTrainer(
        model=_model(folder),
        args=SFTConfig(**_settings(shape, folder, shape.batches), completion_only_loss=True),
        train_dataset=Dataset.from_dict({"prompt": prompts, "completion": completions}),
        processing_class=AutoTokenizer.from_pretrained(folder),
        peft_config=_lora(shape),
        callbacks=[Ticks(clock, 1)],
    )
    _time_learning(clock, trainer)

    def read(model: Any, inputs: Any, *args: Any, **kwargs: Any) -> str:
        clock.tokens += inputs["input_ids"].numel()  # here, because batches are collated a step ahead
        return "policy forward"

    clock.wrap(trainer, "compute_loss", read)
    trainer.train()


def _model(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def _lora(shape: Shape) -> LoraConfig | None:
    return LoraConfig(r=shape.rank, lora_alpha=shape.alpha, target_modules=ADAPTED) if shape.model else None


def _time_learning(clock: Clock, trainer: Any) -> None:
    clock.wrap(trainer, "compute_loss", "policy forward")
    clock.wrap(trainer.accelerator, "backward", "backward")
    clock.wrap(trainer.accelerator, "clip_grad_norm_", "optimiser")
    clock.wrap(torch.optim.AdamW, "step", "optimiser")


def _settings(shape: Shape, folder: Path, steps: int) -> dict[str, Any]:
    """What GRPO and SFT share. TRL's own defaults of precision and checkpointing stay where they are asked for."""
    precision = {} if shape.trl_defaults else {"bf16": False, "gradient_checkpointing": False}
    return {
        "output_dir": str(folder / "trl"),
        "per_device_train_batch_size": shape.rows,
        "max_steps": steps,
        "learning_rate": shape.lr,
        "weight_decay": 0.01,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 1.0,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": shape.device == "cpu",
        "dataloader_pin_memory": False,
        "disable_tqdm": True,
        "seed": shape.seed,
        **precision,
    }
