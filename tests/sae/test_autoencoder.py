"""sae-lens autoencoders as we build, freeze, reorder and save them."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lit_narrative.errors import UserError
from lit_narrative.sae import autoencoder as sparse

OUT = {"transcoder": 4}
"""Length of the vectors that an architecture predicts, where they are others than those that it reads."""
EVERY = pytest.mark.parametrize("architecture", sparse.ARCHITECTURES)


def build(architecture: sparse.Architecture, d_in: int = 6, d_sae: int = 16, seed: int = 0, **options: float) -> Any:
    sae = sparse.build_sae(architecture, d_in, d_sae, options, seed, OUT.get(architecture))
    with torch.no_grad():  # as after some training: no parameter is at its start
        generator = torch.Generator().manual_seed(1)
        for parameter in sae.parameters():
            parameter += 0.1 * torch.rand(parameter.shape, generator=generator)
        sparse.unit_decoder(sae)
    return sae


def vectors(n: int = 40, d: int = 6, seed: int = 2) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def test_same_seed_same_weights_and_the_global_stream_is_left_alone() -> None:
    before = torch.random.get_rng_state()
    first, second = (sparse.build_sae("topk", 6, 16, {}, seed=3).W_enc for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, sparse.build_sae("topk", 6, 16, {}, seed=4).W_enc)
    assert torch.equal(before, torch.random.get_rng_state())


@EVERY
def test_decoder_rows_start_with_unit_norm_and_the_encoder_is_their_transpose(
    architecture: sparse.Architecture,
) -> None:
    sae = sparse.build_sae(architecture, 6, 16, {}, 0, OUT.get(architecture))
    assert torch.allclose(sae.W_dec.norm(dim=1), torch.ones(16))
    assert architecture in OUT or torch.equal(sae.W_enc, sae.W_dec.T)


@pytest.mark.parametrize(
    ("architecture", "option", "takes"),
    [
        ("standard", "k", "l1_coefficient, sparsity_warmup_steps"),
        ("gated", "l0_coefficient", "l1_coefficient, sparsity_warmup_steps"),
        ("topk", "l1_coefficient", "k, aux_loss_coefficient"),
        ("batchtopk", "jumprelu_bandwidth", "k, aux_loss_coefficient"),
        ("jumprelu", "k", "l0_coefficient, sparsity_warmup_steps, jumprelu_init_threshold, jumprelu_bandwidth"),
    ],
)
def test_an_option_of_another_architecture_is_refused(
    architecture: sparse.Architecture, option: str, takes: str
) -> None:
    with pytest.raises(UserError, match=f"{architecture}' takes no {option} .got 2.; it takes {takes}$"):
        sparse.build_sae(architecture, 6, 16, {option: 2}, seed=0)


@pytest.mark.parametrize(
    ("architecture", "option", "field"),
    [
        ("standard", "l1_coefficient", "l1_coefficient"),
        ("standard", "sparsity_warmup_steps", "l1_warm_up_steps"),
        ("topk", "k", "k"),
        ("topk", "aux_loss_coefficient", "aux_loss_coefficient"),
        ("jumprelu", "l0_coefficient", "l0_coefficient"),
        ("jumprelu", "sparsity_warmup_steps", "l0_warm_up_steps"),
        ("jumprelu", "jumprelu_init_threshold", "jumprelu_init_threshold"),
        ("jumprelu", "jumprelu_bandwidth", "jumprelu_bandwidth"),
        ("matryoshka_batchtopk", "k", "k"),
        ("matching_pursuit", "k", "max_iterations"),
        ("matching_pursuit", "residual_threshold", "residual_threshold"),
    ],
)
def test_an_option_reaches_sae_lens(architecture: sparse.Architecture, option: str, field: str) -> None:
    assert getattr(sparse.build_sae(architecture, 6, 16, {option: 3}, seed=0).cfg, field) == 3


def test_an_unknown_architecture_and_a_k_out_of_range_are_refused() -> None:
    with pytest.raises(UserError, match="unknown SAE architecture 'vanilla'; choose from standard, topk"):
        sparse.build_sae("vanilla", 6, 16, {}, seed=0)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"k must lie in 1\.\.16 \(d_sae\); got 17"):
        sparse.build_sae("topk", 6, 16, {"k": 17}, seed=0)


def test_k_defaults_to_eight_and_never_exceeds_the_latents() -> None:
    assert sparse.build_sae("topk", 6, 16, {}, seed=0).cfg.k == 8
    assert sparse.build_sae("topk", 6, 4, {}, seed=0).cfg.k == 4


@EVERY
def test_saving_gives_a_folder_that_sae_lens_loads_and_freezing_gives_the_same(
    architecture: sparse.Architecture, tmp_path: Path
) -> None:
    from sae_lens import SAE

    sae, x = build(architecture), vectors()
    batchwise = architecture.endswith("batchtopk")
    if batchwise:
        sae.topk_threshold.fill_(0.3)
    sparse.save_sae(sae, tmp_path / "sae", {"layout.json": {"slots": 3}})
    loaded, frozen = SAE.load_from_disk(tmp_path / "sae"), sparse.inference_sae(sae)
    assert (tmp_path / "sae" / "layout.json").read_text() == '{\n  "slots": 3\n}\n'
    assert torch.allclose(loaded.encode(x), frozen.encode(x), atol=1e-6)
    assert torch.allclose(loaded(x), frozen(x), atol=1e-6)
    assert torch.allclose(frozen.W_dec.norm(dim=1), torch.ones(16), atol=1e-6)
    if not batchwise:
        assert torch.allclose(sae.encode(x), frozen.encode(x), atol=1e-5)


def test_a_frozen_batchtopk_code_does_not_depend_on_its_batch() -> None:
    sae, x = build("batchtopk"), vectors()
    sae.topk_threshold.fill_(0.3)
    frozen = sparse.inference_sae(sae)
    assert torch.equal(frozen.encode(x)[:5], frozen.encode(x[:5]))
    assert not torch.equal(sae.encode(x)[:5], sae.encode(x[:5]))


def test_saving_replaces_an_older_folder_and_a_failure_leaves_it(tmp_path: Path) -> None:
    folder = sparse.save_sae(build("topk"), tmp_path / "sae", {"old.json": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        sparse.save_sae(build("topk"), folder, {"bad.json": float("nan")})
    assert (folder / "old.json").exists()
    sparse.save_sae(build("topk"), folder)
    assert sorted(path.name for path in folder.iterdir()) == ["cfg.json", "sae_weights.safetensors"]
    assert [path.name for path in tmp_path.iterdir()] == ["sae"]


@EVERY
def test_permuting_latents_moves_the_code_and_keeps_the_function(architecture: sparse.Architecture) -> None:
    sae, x = build(architecture), vectors()
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    code, rebuilt = sae.encode(x), sae(x)
    sparse.permute_latents(sae, order)
    assert torch.allclose(sae.encode(x), code[:, order], atol=1e-6)
    assert torch.allclose(sae(x), rebuilt, atol=1e-5)


@EVERY
def test_an_encoder_comes_back_from_a_pickle_as_it_was(architecture: sparse.Architecture) -> None:
    encode = sparse.Encoder(sparse.inference_sae(build(architecture)))
    x = vectors().numpy()
    for before, after in zip(encode(x), pickle.loads(pickle.dumps(encode))(x), strict=True):
        assert np.array_equal(before, after)


def test_nested_levels_are_a_quarter_a_half_and_all_unless_told_otherwise() -> None:
    def widths(d_sae: int = 16, **options: Any) -> list[int]:
        found: list[int] = sparse.build_sae("matryoshka_batchtopk", 6, d_sae, options, 0).cfg.matryoshka_widths
        return found

    assert widths() == [4, 8, 16]
    assert widths(3, k=1) == [1, 3]
    assert widths(matryoshka_widths=(2, 5)) == [2, 5, 16]
    assert widths(matryoshka_widths=[16]) == [16]
    for wrong in ((5, 2), (0,), (4, 17), ()):
        with pytest.raises(UserError, match=r"matryoshka_widths must grow within 1\.\.16"):
            widths(matryoshka_widths=wrong)


def test_levels_of_latents() -> None:
    sae = sparse.build_sae("matryoshka_batchtopk", 6, 8, {"matryoshka_widths": (2, 5)}, 0)
    found = sparse.levels(sae)
    assert found is not None
    assert found.tolist() == [0, 0, 1, 1, 1, 2, 2, 2]
    assert sparse.levels(build("topk")) is None


def test_only_a_transcoder_predicts_other_vectors_and_it_needs_them() -> None:
    with pytest.raises(UserError, match=r"'transcoder' others: set data\.activations\.target_hook"):
        sparse.build_sae("transcoder", 6, 16, {}, 0)
    with pytest.raises(UserError, match="for it, and for it alone"):
        sparse.build_sae("topk", 6, 16, {}, 0, d_out=4)
    assert build("transcoder")(vectors()).shape == (40, 4)


def test_matching_pursuit_takes_no_more_latents_than_k() -> None:
    frozen = sparse.inference_sae(build("matching_pursuit", k=3))
    counts = (frozen.encode(vectors()) != 0).sum(1)
    assert 1 <= counts.min() <= counts.max() <= 3
