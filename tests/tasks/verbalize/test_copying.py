"""The reward against copying."""

import pytest
import torch

from lit_narrative.tasks.verbalize.copying import CopyPenalty
from lit_narrative.tasks.verbalize.prompts import answer, explanation_of
from lit_narrative.text import WordBits
from lit_narrative.views import Rollout

BITS = WordBits(["the fox sat near the red coin", "the owl"])
NOTHING = torch.zeros(0)


def rollout(text: str, source: str = "the fox sat near the red coin") -> Rollout:
    return Rollout(NOTHING.long(), NOTHING.long(), NOTHING, True, text, "p", {"source": source})


def test_quotations_cost_their_bits() -> None:
    penalty = CopyPenalty(BITS, explanation_of)
    free, common, rare, broken = penalty(
        [rollout(answer(text)) for text in ("an animal", "the", "red coin")] + [rollout("red coin")]
    )
    assert free == broken == 0 > common > rare
    assert rare == pytest.approx(-BITS(["red", "coin"]))
    assert penalty([rollout(answer("red coin"), "")]) == [0]
