"""A model whose mechanism is known: head 1 of layer 1 copies the marked letter to the answer; the rest is noise."""

import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

from lit_narrative.circuits.contrasts import Contrasts
from lit_narrative.circuits.inputs import IGNORED, AnalysisInputs, Positions

LETTERS, WIDTH, HEAD, LENGTH = 8, 32, 16, 7
QUERY = 2 * LETTERS
"""Tokens: plain letters, marked letters, and the query, which ends every prompt."""
MARK, ASKED, OUT = LETTERS, LETTERS + 1, LETTERS + 2
"""Directions of the residual stream: the letter, whether it is marked, whether this is the query, and the answer."""
LAYER, COPIER = 1, 1


@torch.no_grad()
def planted_lm(noise: float = 0.02) -> GPT2LMHeadModel:
    """The model; its answer to a prompt is the plain letter of the marked one."""
    sizes = {"vocab_size": QUERY + 1, "n_positions": 16, "n_embd": WIDTH, "n_layer": 2, "n_head": 2, "n_inner": 24}
    config = GPT2Config(**sizes, tie_word_embeddings=False, bos_token_id=None, eos_token_id=None)  # type: ignore[arg-type]
    lm = GPT2LMHeadModel(config).eval()
    generator = torch.Generator().manual_seed(0)
    for module in lm.modules():
        if not isinstance(module, nn.LayerNorm):
            for parameter in module.parameters(recurse=False):
                parameter.copy_(noise * torch.randn(parameter.shape, generator=generator))
    letters = torch.arange(LETTERS)
    embedding = lm.transformer.wte.weight
    embedding[letters, letters] += 1
    embedding[letters + LETTERS, letters] += 1
    embedding[letters + LETTERS, MARK] += 1
    embedding[QUERY, ASKED] += 1
    attention = lm.transformer.h[LAYER].attn
    first = COPIER * HEAD  # of the copier's dimensions, within query, key and value
    attention.c_attn.weight[ASKED, first] += 1.5
    attention.c_attn.weight[MARK, WIDTH + first] += 1.5
    attention.c_attn.weight[letters, 2 * WIDTH + first + letters] += 1
    attention.c_proj.weight[first + letters, OUT + letters] += 1
    lm.lm_head.weight[letters, OUT + letters] += 2
    return lm


def prompts(rows: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Prompts (n, LENGTH) of letters, one of them marked, its place (n,) and its letter (n,)."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, LETTERS, (rows, LENGTH), generator=generator)
    place = torch.randint(0, LENGTH - 1, (rows,), generator=generator)
    tokens[torch.arange(rows), place] += LETTERS
    letter = tokens[torch.arange(rows), place] - LETTERS
    tokens[:, -1] = QUERY
    return tokens, place, letter


def planted_contrasts(rows: int = 6, seed: int = 0) -> Contrasts:
    """Pairs whose marked letters differ, at the place named ``marked``."""
    clean, place, letter = prompts(rows, seed)
    other = (letter + 1 + torch.arange(rows) % (LETTERS - 1)) % LETTERS
    corrupt = clean.clone()
    corrupt[torch.arange(rows), place] = other + LETTERS
    columns = torch.stack([place, torch.full((rows,), LENGTH - 1)], 1)
    mask = torch.ones_like(clean, dtype=torch.bool)
    return Contrasts(clean, corrupt, mask, letter, other, Positions(("marked", "answer"), columns))


def planted_inputs(rows: int = 40, seed: int = 1) -> AnalysisInputs:
    """Prompts and their answers, without distractors."""
    tokens, place, letter = prompts(rows, seed)
    targets = torch.full_like(tokens, IGNORED)
    targets[:, -1] = letter
    columns = torch.stack([place, torch.full((rows,), LENGTH - 1)], 1)
    mask = torch.ones_like(tokens, dtype=torch.bool)
    return AnalysisInputs(tokens, mask, targets, None, Positions(("marked", "answer"), columns))
