"""The planner of memory: its parts against numbers made by hand, its flags, and what it refuses."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lit_narrative.cli.main import main
from lit_narrative.cli.memory import Needs, Training, read_model_config, with_changes
from lit_narrative.errors import UserError
from lit_narrative.lm.load import Lora, ScratchModel, build_lm
from tests.helpers import tiny_lm

SIZES = ScratchModel("llama", hidden_size=32, layers=2, heads=4, positions=64)


def training(**more: object) -> Training:
    return replace(Training(read_model_config(SIZES, 100, False), rows=4, tokens=20, learned=10), **more)  # type: ignore[arg-type]


def test_weights_gradients_and_moments_are_those_of_the_model() -> None:
    needs = Needs.of(training(), libraries=7)
    numbers = sum(weight.numel() for weight in build_lm(training().config).parameters())
    assert (needs.libraries, needs.weights, needs.gradients, needs.optimizer) == (
        7,
        *(4 * numbers * n for n in (1, 1, 2)),
    )
    assert Needs.of(training(reference=True), 0).reference == needs.weights
    assert Needs.of(training(dtype="bfloat16"), 0).weights == needs.weights // 2
    adapted = Needs.of(training(lora=Lora(r=2, target_modules=["q_proj"])), 0)
    assert adapted.gradients == 2 * 2 * (32 + 32) * 4 and adapted.weights == needs.weights + adapted.gradients
    assert adapted.activations < needs.activations


def test_activations_are_what_autograd_keeps_of_the_real_pass() -> None:
    lm, seen = build_lm(training().config).train(), {}
    owned = {weight.data_ptr() for weight in lm.parameters()} | {buffer.data_ptr() for buffer in lm.buffers()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in owned:
            seen[tensor.untyped_storage().data_ptr()] = (tensor.untyped_storage().nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        lm.get_decoder()(input_ids=torch.zeros(4, 20, dtype=torch.long), use_cache=False)
    real = sum(size for size, _ in seen.values())
    assert Needs.of(training(), 0).activations == pytest.approx(real, rel=0.05)
    assert Needs.of(training(rows=8), 0).activations == pytest.approx(2 * real, rel=0.05)


def test_strategies_share_out_what_they_share() -> None:
    alone = Needs.of(training(), 0)
    copies = Needs.of(training(strategy="copies", processes=4), 0)
    shards = Needs.of(training(strategy="sharded", processes=4), 0)
    assert copies.gradients == 2 * alone.gradients and copies.weights == alone.weights
    assert (shards.weights, shards.optimizer) == (alone.weights // 4, alone.optimizer // 4)
    assert 0 < shards.gathered < alone.weights
    sampling = Needs.of(training(strategy="sharded", processes=4, sampled=8), 0)
    assert sampling.gathered == alone.weights


def test_sampling_takes_keys_and_values_where_those_are_more() -> None:
    needs = Needs.of(training(sampled=5000, rows=1), 0)
    assert needs.step == "sampling" and "activations" not in needs.parts()
    # Layers, keys and values, width, tokens; and the logits of a step.
    assert needs.cache == 5000 * 4 * (2 * 2 * 32 * 20 + 3 * 100)
    assert needs.total == sum(needs.parts().values())


def test_every_change_that_is_named_is_one_of_the_training() -> None:
    changes = dict(with_changes(training(processes=2, strategy="copies", sampled=4, gpu=True)))
    assert len(changes) == 6
    names = " ".join(changes)
    for setting in ("gradient_checkpointing", "micro_batch_size", "generation_batch_size", "fsdp", "lora", "precision"):
        assert setting in names
    deep = replace(training(), config=read_model_config(replace(SIZES, layers=8), 100, False))
    assert Needs.of(replace(deep, checkpointing=True), 0).activations < Needs.of(deep, 0).activations


def test_command_says_parts_and_remedies_and_keeps_to_a_limit(capsys: pytest.CaptureFixture[str]) -> None:
    job = ["plan", "--config", "storyworld/sft", "--trainer.accelerator=cpu", "--tokens=128", "--data.batch_size=64"]
    with pytest.raises(SystemExit) as end:
        main([*job, "--memory=0.1"])
    assert end.value.code == 1
    out = capsys.readouterr().out
    assert "64 rows of 128 tokens" in out and "activations" in out
    assert "--data.batch_size=32" in out and "--model.lora.r=8" in out
    main([*job, "--format", "json", "--memory=64"])
    found = json.loads(capsys.readouterr().out)
    assert found["peak"] == "learning"
    assert found["total_mib"] == pytest.approx(sum(found["parts_mib"].values()), abs=6)


def test_a_checkpoint_or_a_folder_gives_the_sizes(tmp_path: Path) -> None:
    lm = tiny_lm()
    lm.save_pretrained(tmp_path)
    assert read_model_config(str(tmp_path), None, False).hidden_size == lm.config.hidden_size
    with pytest.raises(UserError, match="no config of a language model at"):
        read_model_config(str(tmp_path / "nothing"), None, False)
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(UserError, match="holds no language model"):
        read_model_config(str(tmp_path / "other.ckpt"), None, False)


@pytest.mark.parametrize(
    ("more", "part"),
    [
        ([], "give --tokens"),
        (["--tokens=many"], "--tokens must be a number, not 'many'"),
        (["--tokens=0"], "must be at least 1"),
        (["--tokens"], "--tokens must be a number, not ''"),
        (["--format=xml", "--tokens=9"], "--format must be text or json"),
        (["--tokens=9", "--model.lr=-1"], "model.lr"),
        (["--tokens=9", "--trainer.strategy=deepspeed", "--trainer.devices=2"], "knows the strategies ddp and fsdp2"),
    ],
)
def test_what_cannot_be_planned_is_one_line(more: list[str], part: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["plan", "--config", "storyworld/sft", "--trainer.accelerator=cpu", *more])
    assert part in capsys.readouterr().err


def test_a_module_without_a_policy_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["plan", "--config", "storyworld/sae", "--tokens=9"])
    assert "not of SAEModule" in capsys.readouterr().err
