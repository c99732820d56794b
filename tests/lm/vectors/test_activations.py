"""Activations are the raw outputs of a block at the tokens that are asked for, and the same however they are read."""

from typing import Any

import numpy as np
import pytest
import torch

from lit_narrative.errors import UserError
from lit_narrative.lm.load import Lora, add_lora
from lit_narrative.lm.tokenizer import pad_left, pad_right
from lit_narrative.lm.vectors.activations import (
    DocumentActivation,
    ExtractionSettings,
    document_key,
    extract_activations,
    read_block_output,
)
from tests.helpers import ARCHITECTURES, tiny_lm, tokenizer

DOCUMENTS = [f"a road of white salt, {number} tides and no lantern" for number in range(12)]
ROWS = [[5, 6, 7, 8, 9], [10, 11, 12], [13]]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("pad", [pad_right, pad_left])
def test_read_states_are_the_models_own(architecture: str, layer: int, pad: Any) -> None:
    lm = tiny_lm(architecture, layers=3, scale=3.0)
    read = read_block_output(lm, pad(ROWS), pad([[1] * len(row) for row in ROWS]), layer)
    mask = pad([[1] * len(row) for row in ROWS]).bool()
    for row, states, there in zip(ROWS, read, mask, strict=True):
        expected = lm(input_ids=torch.tensor([row]), output_hidden_states=True).hidden_states[layer][0]
        torch.testing.assert_close(states[there], expected, rtol=1e-5, atol=1e-5)


def test_the_last_layer_is_read_before_the_final_norm() -> None:
    lm = tiny_lm("gpt2", scale=3.0)
    ids = torch.tensor(ROWS[:1])
    read = read_block_output(lm, ids, torch.ones_like(ids), 2)
    after = lm(input_ids=ids, output_hidden_states=True).hidden_states[2]
    assert not torch.allclose(read, after, atol=1e-2)
    torch.testing.assert_close(lm.transformer.ln_f(read), after)


def test_adapters_are_part_of_the_model() -> None:
    lm, ids = tiny_lm(), torch.tensor(ROWS[:1])
    plain = read_block_output(lm, ids, torch.ones_like(ids), 1)
    adapted = add_lora(lm, Lora(2)).eval()
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.ones_(parameter)
    assert not torch.allclose(read_block_output(adapted, ids, torch.ones_like(ids), 1), plain, atol=1e-3)


def test_a_layer_past_the_model_is_refused() -> None:
    ids = torch.tensor(ROWS[:1])
    for layer in (-1, 3):
        with pytest.raises(UserError, match=r"layers 0 .* to 2"):
            read_block_output(tiny_lm(), ids, torch.ones_like(ids), layer)
    with pytest.raises(UserError, match="--layer is 3"):
        next(extract_activations(tiny_lm(), tokenizer(), DOCUMENTS, ExtractionSettings(3)))


# --- a corpus ---------------------------------------------------------------------------------------------------------


def extracted(texts: list[str] = DOCUMENTS, **settings: Any) -> list[DocumentActivation]:
    given = {"layer": 1, "min_position": 2, "positions_per_document": 3, **settings}
    return list(extract_activations(tiny_lm(scale=3.0), tokenizer(), texts, ExtractionSettings(**given)))


def places(rows: list[DocumentActivation]) -> set[tuple[str, int]]:
    return {(row.document, row.position) for row in rows}


def test_vectors_are_those_of_their_tokens() -> None:
    lm = tiny_lm(scale=3.0)
    by_key = {document_key(text): text for text in DOCUMENTS}
    rows = extracted()
    assert len(rows) == len(places(rows)) == 36
    for row in rows:
        ids = tokenizer()(by_key[row.document])["input_ids"]
        expected = lm(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states[1][0, row.position]
        np.testing.assert_allclose(row.vector, expected.detach().numpy(), rtol=1e-4, atol=1e-5)
        assert by_key[row.document].startswith(row.source) and row.source.endswith(row.token)
        assert tokenizer()(row.source)["input_ids"][: row.position + 1] == ids[: row.position + 1]
        assert row.vector.dtype == np.float32 and row.position >= 2


def test_tokens_depend_on_seed_and_document_alone() -> None:
    assert places(extracted(batch_size=5)) == places(extracted(DOCUMENTS[::-1])) == places(extracted())
    assert places(extracted(seed=1)) != places(extracted())
    assert places(extracted(DOCUMENTS[:4])) < places(extracted())


def test_short_documents_and_special_tokens_have_no_activation() -> None:
    assert extracted(["", "a", "\ud800"], min_position=3) == []
    text = "a road<|end|> of salt<|end|>"
    row = tokenizer()(text)["input_ids"]
    found = extracted([text], min_position=0, positions_per_document=50)
    assert [one.position for one in found] == [n for n, token in enumerate(row) if token > 1]
    assert len(found) < len(row)


def test_documents_are_read_up_to_a_length() -> None:
    assert max(row.position for row in extracted(max_tokens=4, positions_per_document=9)) == 3
    long = extracted(["salt and tide " * 200], positions_per_document=1000)
    assert max(row.position for row in long) == 127  # the model's positions


@pytest.mark.parametrize("name", ["min_position", "positions_per_document", "max_tokens", "batch_size", "seed"])
def test_settings_out_of_range_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"--{name}"):
        ExtractionSettings(**{"layer": 1, name: -1})


def test_a_letter_that_is_cut_within_is_left_out() -> None:
    for row in extracted(["salt \N{SNOWMAN}\N{SNOWMAN} salt"], min_position=0, positions_per_document=50):
        assert "salt \N{SNOWMAN}\N{SNOWMAN} salt".startswith(row.source)
