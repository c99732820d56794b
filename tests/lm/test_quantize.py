"""A base in 4 bits: what is refused without bitsandbytes, and with it (the extra ``qlora``) what is learned."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_narrative.errors import UserError
from lit_narrative.lm.checkpoint import export_model
from lit_narrative.lm.load import Lora, load_lm
from lit_narrative.lm.logprobs import completion_batch, score_completions
from lit_narrative.lm.quantize import quantize
from lit_narrative.lm.sampler import SamplingParams
from lit_narrative.lm.shard import shard
from lit_narrative.modules.grpo import GRPOModule
from lit_narrative.modules.reconstructor import ReconstructorModule
from lit_narrative.modules.sft import SFTModule
from tests.helpers import Recorder, TinyTask, fit, sizes, tiny_lm, tokenizer, tokenizer_folder, trainer, weights

INSTALLED = importlib.util.find_spec("bitsandbytes") is not None
needs_library = pytest.mark.skipif(not INSTALLED, reason="the extra 'qlora' is not installed")
QLORA = Lora(4, target_modules=["q_proj", "v_proj"], quantization="nf4")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model and its tokenizer as a folder."""
    folder = tmp_path_factory.mktemp("base")
    tiny_lm(hidden_size=64, scale=3.0).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.mark.skipif(INSTALLED, reason="bitsandbytes is installed")
def test_without_the_library_the_error_says_how_to_get_it(base: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model\.lora\.quantization needs bitsandbytes.*lit-narrative\[qlora\]"):
        fit(SFTModule(base, lora=QLORA), TinyTask(), tmp_path, max_steps=1)


def test_what_has_no_base_of_its_own_name_is_refused(tmp_path: Path) -> None:
    for model in (sizes(), str(tmp_path / "last.ckpt")):
        with pytest.raises(UserError, match="give a hub name or a folder"):
            SFTModule(model, lora=QLORA)
    with pytest.raises(UserError, match="there is no 'nf8'"):
        Lora(4, quantization="nf8")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="not for a reconstructor"):
        ReconstructorModule(model="x", lora=QLORA)


def test_layers_of_another_kind_and_spread_weights_are_refused() -> None:
    with pytest.raises(UserError, match="models of type 'gpt2' have no linear layers that bitsandbytes knows"):
        quantize(tiny_lm("gpt2"))
    held = torch.nn.Module()
    held.weight = torch.nn.Parameter(torch.zeros(2, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(UserError, match="are not spread over processes"):
        shard(held, None)  # type: ignore[arg-type]


@needs_library
def test_the_blocks_take_less_memory_and_compute_nearly_the_same(base: str) -> None:
    lm, plain = load_lm(base), load_lm(base)
    before = lm.get_memory_footprint()
    quantize(lm)
    assert lm.get_memory_footprint() < before - 0.8 * sum(
        p.numel() * 4 for name, p in plain.named_parameters() if "proj" in name
    )
    batch = completion_batch([[5, 6, 7], [8]], [[9, 10, 11], [12]])
    found, expected = (score_completions(model, batch).logprobs for model in (lm, plain))
    # Sixteen values for a weight: as coarse as that.
    assert 0 < (found - expected).abs().mean() < expected.std()


@needs_library
def test_adapters_learn_on_it_resume_and_are_exported_on_the_whole_base(base: str, tmp_path: Path) -> None:
    from lightning.pytorch.callbacks import ModelCheckpoint

    seen = Recorder()
    saved = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=10, save_top_k=-1)
    module = SFTModule(base, lora=QLORA, lr=1e-2)
    fit(module, TinyTask(), tmp_path, seen, saved, max_steps=20, max_epochs=-1, enable_checkpointing=True)
    assert seen.losses[-1] < 0.9 * seen.losses[0]
    state = torch.load(tmp_path / "step=10.ckpt", weights_only=True)["state_dict"]
    assert state and all("lora_" in name for name in state)
    resumed = SFTModule(base, lora=QLORA, lr=1e-2)
    trainer(tmp_path, max_steps=20, max_epochs=-1).fit(resumed, TinyTask(), ckpt_path=str(tmp_path / "step=10.ckpt"))
    for name, value in weights(resumed).items():
        torch.testing.assert_close(value, weights(module)[name], atol=1e-6, rtol=0)
    export_model(tmp_path / "step=20.ckpt", tmp_path / "exported")
    whole = load_lm(str(tmp_path / "exported"))
    assert whole.model.layers[0].self_attn.q_proj.weight.dtype == torch.float32  # type: ignore[union-attr,index]


@needs_library
def test_sampler_and_trainer_agree_on_it(base: str, tmp_path: Path) -> None:
    seen, settings = Recorder(), dict[str, Any](num_generations=4, sampling=SamplingParams(12), lr=1e-2)
    module = GRPOModule({"low": 1.0}, model=base, tokenizer=tokenizer_folder(tmp_path), lora=QLORA, **settings)
    fit(module, TinyTask(), tmp_path, seen, max_steps=2, max_epochs=-1)
    assert seen.metrics[0]["sampling/sampling_logp_difference/max"] < 1e-4
    assert seen.metrics[0]["kl"] == pytest.approx(0, abs=1e-6)
