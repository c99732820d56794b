"""Architectures of language models: what each goes through, and the table of it in ``docs/models.md``.

``python -m tests.runs.test_architectures`` prints the table.
"""

import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from lit_narrative.errors import UserError
from lit_narrative.lm.checkpoint import export_model
from lit_narrative.lm.load import Lora, add_lora, attention_name, build_lm
from lit_narrative.lm.sampler import SamplingParams
from lit_narrative.modules.grpo import GRPOModule
from lit_narrative.modules.language import LanguageModule
from lit_narrative.modules.sft import SFTModule
from tests.helpers import Recorder, TinyTask, fit, others_slow, tokenizer, trainer, weights
from tests.paths import ROOT
from tests.rewards import VOCABULARY

PAGE = ROOT / "docs" / "models.md"
IDS = torch.tensor([[5, 9, 2, 40, 17]])
SAMPLING = SamplingParams(6)

# Names of sizes, by families of configs.
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
PLAIN = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 128,
}
GROUPED = {**PLAIN, "num_key_value_heads": 1}
HEADS = {**GROUPED, "head_dim": 8}
WINDOW = {"sliding_window": 8}
MIXED = {**WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
LOCAL_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
LINEAR = {
    "linear_num_value_heads": 2,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"],
}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
LATENT = {
    "num_key_value_heads": 2,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 2,
    "topk_group": 1,
    "moe_intermediate_size": 16,
    "kv_lora_rank": 8,
    "q_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 8,
    "first_k_dense_replace": 1,
}
STATE = {"hidden_size": 16, "num_hidden_layers": 2, "state_size": 4}

CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2Config", GPT),
    "gpt_neo": (
        "GPTNeoConfig",
        {
            "hidden_size": 16,
            "num_layers": 2,
            "num_heads": 2,
            "max_position_embeddings": 128,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 8,
        },
    ),
    "gpt_neox": ("GPTNeoXConfig", PLAIN),
    "gptj": ("GPTJConfig", {**GPT, "rotary_dim": 4}),
    "codegen": ("CodeGenConfig", {**GPT, "rotary_dim": 4}),
    "gpt_bigcode": ("GPTBigCodeConfig", GPT),
    "opt": (
        "OPTConfig",
        {
            "hidden_size": 16,
            "word_embed_proj_dim": 16,
            "ffn_dim": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "max_position_embeddings": 128,
        },
    ),
    "bloom": ("BloomConfig", {"hidden_size": 16, "n_layer": 2, "n_head": 2}),
    "mpt": ("MptConfig", {"d_model": 16, "n_layers": 2, "n_heads": 2, "max_seq_len": 128}),
    "falcon": ("FalconConfig", {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}),
    "xglm": (
        "XGLMConfig",
        {"d_model": 16, "num_layers": 2, "attention_heads": 2, "ffn_dim": 32, "max_position_embeddings": 128},
    ),
    "biogpt": ("BioGptConfig", PLAIN),
    "llama": ("LlamaConfig", GROUPED),
    "mistral": ("MistralConfig", {**HEADS, **WINDOW}),
    "ministral3": ("Ministral3Config", HEADS),
    "mixtral": ("MixtralConfig", {**GROUPED, **LOCAL_EXPERTS}),
    "qwen2": ("Qwen2Config", GROUPED),
    "qwen2_moe": ("Qwen2MoeConfig", {**GROUPED, **EXPERTS, "shared_expert_intermediate_size": 16}),
    "qwen3": ("Qwen3Config", HEADS),
    "qwen3_moe": ("Qwen3MoeConfig", {**HEADS, **EXPERTS}),
    "qwen3_5_text": ("Qwen3_5TextConfig", {**HEADS, **LINEAR}),
    "qwen3_next": ("Qwen3NextConfig", {**HEADS, **EXPERTS, **LINEAR, "shared_expert_intermediate_size": 16}),
    "gemma": ("GemmaConfig", HEADS),
    "gemma2": ("Gemma2Config", {**HEADS, **WINDOW}),
    "gemma3_text": ("Gemma3TextConfig", {**HEADS, **MIXED}),
    "gemma3": ("Gemma3Config", {"text_config": {**HEADS, **MIXED}, "vision_config": VISION, "mm_tokens_per_image": 4}),
    "gemma3n_text": (
        "Gemma3nTextConfig",
        {
            **HEADS,
            **WINDOW,
            "num_hidden_layers": 4,
            "num_kv_shared_layers": 0,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "intermediate_size": [32] * 4,
            "activation_sparsity_pattern": [0.0] * 4,
            "vocab_size_per_layer_input": VOCABULARY + 4,
            "hidden_size_per_layer_input": 8,
            "laurel_rank": 4,
        },
    ),
    "phi": ("PhiConfig", PLAIN),
    "phi3": ("Phi3Config", PLAIN),
    "stablelm": ("StableLmConfig", GROUPED),
    "starcoder2": ("Starcoder2Config", GROUPED),
    "cohere": ("CohereConfig", GROUPED),
    "cohere2": ("Cohere2Config", {**GROUPED, **WINDOW}),
    "olmo": ("OlmoConfig", GROUPED),
    "olmo2": ("Olmo2Config", GROUPED),
    "olmo3": ("Olmo3Config", {**GROUPED, **MIXED}),
    "smollm3": ("SmolLM3Config", GROUPED),
    "granite": ("GraniteConfig", {**GROUPED, "logits_scaling": 8.0, "residual_multiplier": 0.2}),
    "granitemoe": ("GraniteMoeConfig", {**GROUPED, **LOCAL_EXPERTS}),
    "nemotron": ("NemotronConfig", GROUPED),
    "apertus": ("ApertusConfig", GROUPED),
    "glm4": ("Glm4Config", HEADS),
    "glm4_moe": (
        "Glm4MoeConfig",
        {
            **HEADS,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 16,
            "n_group": 1,
            "topk_group": 1,
            "first_k_dense_replace": 1,
        },
    ),
    "hunyuan_v1_dense": ("HunYuanDenseV1Config", HEADS),
    "ernie4_5": ("Ernie4_5Config", HEADS),
    "exaone4": ("Exaone4Config", {**GROUPED, **WINDOW}),
    "seed_oss": ("SeedOssConfig", HEADS),
    "deepseek_v3": ("DeepseekV3Config", {**PLAIN, **LATENT}),
    "gpt_oss": ("GptOssConfig", {**HEADS, **LOCAL_EXPERTS, **MIXED}),
    "lfm2": ("Lfm2Config", {**GROUPED, "layer_types": ["conv", "full_attention"]}),
    "jamba": (
        "JambaConfig",
        {
            **GROUPED,
            "num_experts": 2,
            "mamba_d_state": 4,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "use_mamba_kernels": False,
        },
    ),
    "bamba": (
        "BambaConfig",
        {**GROUPED, "attn_layer_indices": [1], "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 4},
    ),
    "granitemoehybrid": (
        "GraniteMoeHybridConfig",
        {
            **GROUPED,
            **LOCAL_EXPERTS,
            "shared_intermediate_size": 16,
            "layer_types": ["mamba", "attention"],
            "mamba_n_heads": 4,
            "mamba_d_head": 8,
            "mamba_d_state": 4,
        },
    ),
    "falcon_h1": (
        "FalconH1Config",
        {**HEADS, "mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 4},
    ),
    "llama4_text": ("Llama4TextConfig", {**HEADS, "num_local_experts": 2, "intermediate_size_mlp": 32}),
    "mamba": ("MambaConfig", STATE),
    "mamba2": ("Mamba2Config", {**STATE, "num_heads": 4, "head_dim": 8, "n_groups": 1}),
    "falcon_mamba": ("FalconMambaConfig", STATE),
    "xlstm": ("xLSTMConfig", {"hidden_size": 16, "num_blocks": 2, "num_heads": 2}),
    "rwkv": ("RwkvConfig", {"hidden_size": 16, "num_hidden_layers": 2, "attention_hidden_size": 16}),
    "recurrent_gemma": ("RecurrentGemmaConfig", {**GROUPED, "lru_width": 16, "attention_window_size": 8}),
    "openai-gpt": ("OpenAIGPTConfig", GPT),
    "bert": ("BertConfig", {**PLAIN, "is_decoder": True}),
}
QUICK = ("gemma2", "mamba")
"""Those of the default run: one with eager attention and capped logits, one that is refused."""


def make(architecture: str) -> PreTrainedModel:
    """A tiny model, its weights large enough that a wrong mask or position shows."""
    name, sizes = CONFIGS[architecture]
    ids = {"vocab_size": VOCABULARY + 4, "bos_token_id": None, "eos_token_id": 1, "pad_token_id": None}
    sizes = dict(sizes)
    if "text_config" in sizes:
        sizes["text_config"] = {**sizes["text_config"], **ids}
    lm = build_lm(getattr(transformers, name)(**ids, **sizes)).eval()
    with torch.no_grad():
        for parameter in lm.parameters():
            if parameter.ndim > 1:
                parameter.mul_(3.0)
    return lm


@torch.no_grad()
def logits(lm: nn.Module) -> torch.Tensor:
    result: torch.Tensor = lm.eval()(input_ids=IDS).logits
    return result


class Case:
    """One architecture on its way through the package; each method is a column of the table and returns its cell."""

    def __init__(self, architecture: str, folder: Path) -> None:
        self.architecture, self.folder, self.base = architecture, folder, str(folder / "base")
        lm = make(architecture)
        lm.save_pretrained(self.base)
        tokenizer().save_pretrained(self.base)
        self.before, self.attends = weights(lm), attention_name(lm)

    def attention(self) -> str:
        """By the default setting."""
        return self.attends

    def sft(self) -> str:
        """One step on the whole model."""
        self.module = self._train(SFTModule(self.base, sampling=SAMPLING), "sft")
        self._check_changed(self.module)
        return "yes"

    def predict(self) -> str:
        """A completion of every prompt."""
        rows = trainer(self.folder).predict(self.module, TinyTask())
        assert rows is not None
        assert all(len(rollout.completion_ids) for batch in rows for rollout in batch)
        return "yes"

    def export(self) -> str:
        """What transformers reads is the model."""
        torch.testing.assert_close(self._exported("sft"), logits(self.module.lm), atol=1e-5, rtol=1e-5)
        return "yes"

    def elsewhere(self) -> str:
        """The checkpoint alone, in another folder, the base gone."""
        moved = shutil.move(self.folder / "sft" / "last.ckpt", self.folder / "moved.ckpt")
        Path(self.base).rename(self.folder / "gone")
        again = SFTModule.load_from_checkpoint(moved)
        (self.folder / "gone").rename(self.base)
        torch.testing.assert_close(logits(again.lm), logits(self.module.lm), atol=1e-5, rtol=1e-5)
        return "yes"

    def grpo(self) -> str:
        """One rollout batch and a step: the log-probabilities of sampler and trainer agree."""
        seen = Recorder()
        module = GRPOModule({"low": 1.0}, model=self.base, num_generations=2, sampling=SAMPLING)
        self._check_changed(self._train(module, "grpo", seen))
        assert seen.metrics[0]["sampling/sampling_logp_difference/max"] < 1e-4
        return "yes"

    def adapters(self) -> str:
        """One step on the layers that peft knows for the architecture, or that are named; merged in the export."""
        cell, lora = "yes", Lora(r=2)
        try:
            add_lora(make(self.architecture), lora)
        except UserError as error:
            assert "layers of this model: " in str(error)
            names = str(error).rsplit(": ", 1)[1].split(", ")
            cell, lora = (
                "with `target_modules`",
                Lora(r=2, target_modules=["o_proj" if "o_proj" in names else "out_proj"]),
            )
        module = self._train(SFTModule(self.base, lora=lora, sampling=SAMPLING, lr=0.1), "lora")
        adapted = logits(module.lm)
        with module.lm.disable_adapter():  # type: ignore[operator]
            assert not torch.allclose(logits(module.lm), adapted, atol=1e-3)
        torch.testing.assert_close(self._exported("lora"), adapted, atol=1e-3, rtol=1e-3)
        return cell

    def _train(self, module: LanguageModule, name: str, *callbacks: Callback) -> LanguageModule:
        """One optimizer step; the checkpoint is ``name/last.ckpt``."""
        saver = ModelCheckpoint(self.folder / name, save_last=True, save_top_k=0)
        options = {"enable_checkpointing": True, "max_steps": 1}
        fit(module, TinyTask(4), self.folder / name, saver, *callbacks, **options)  # type: ignore[arg-type]
        return module

    def _check_changed(self, module: LanguageModule) -> None:
        assert any(not torch.equal(value, self.before[name]) for name, value in weights(module.lm).items())

    def _exported(self, name: str) -> torch.Tensor:
        folder = export_model(self.folder / name / "last.ckpt", self.folder / name / "exported")
        return logits(AutoModelForCausalLM.from_pretrained(folder, attn_implementation=self.attends))


STEPS: dict[str, Callable[[Case], str]] = {
    "attention": Case.attention,
    "SFT": Case.sft,
    "predict": Case.predict,
    "export": Case.export,
    "load elsewhere": Case.elsewhere,
    "GRPO": Case.grpo,
    "adapters": Case.adapters,
}


def row(architecture: str, folder: Path) -> str:
    """The row of an architecture in the table; one that is refused is refused at its first step, with a reason."""
    case = Case(architecture, folder)
    try:
        cells = [step(case) for step in STEPS.values()]
    except UserError as error:
        # Without the kind of model in front, the library's own words in brackets, and the remedy.
        reason = re.sub(r"^models of type '.*?' ", "", str(error)).split(" (")[0].removesuffix("; choose another model")
        cells = ["", f"refused: they {reason}", *[""] * (len(STEPS) - 2)]
    return f"| `{architecture}` | {' | '.join(cells)} |"


def rows_of_page() -> list[str]:
    """The rows of the table in the docs' section on architectures."""
    section = PAGE.read_text(encoding="utf-8").split("## Architectures")[1].split("\n## ")[0]
    return [line for line in section.splitlines() if re.match(r"\| `[\w-]+` \|", line)]


def test_the_page_has_every_architecture() -> None:
    assert [line.split("`")[1] for line in rows_of_page()] == list(CONFIGS)


@pytest.mark.parametrize("architecture", others_slow(CONFIGS, QUICK))
def test_the_page_says_what_an_architecture_goes_through(architecture: str, tmp_path: Path) -> None:
    assert row(architecture, tmp_path) in rows_of_page()


if __name__ == "__main__":
    sys.stdout.write(f"| architecture | {' | '.join(STEPS)} |\n{'|---' * (len(STEPS) + 1)}|\n")
    for name in CONFIGS:
        with tempfile.TemporaryDirectory() as scratch:
            sys.stdout.write(row(name, Path(scratch)) + "\n")
