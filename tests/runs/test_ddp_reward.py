"""A reward model on two processes measures what one measures, whatever rows each of them has."""

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import seed_everything

from lit_narrative.datamodules.base import Split
from lit_narrative.lm.sentence_encoder import StaticEncoder
from lit_narrative.modules.reward import RewardModule
from lit_narrative.views import Scored
from tests.helpers import trainer
from tests.modules.ratings import Ratings

pytestmark = pytest.mark.ddp


class Uneven(Ratings):
    """Of one kind there are two rows, both of which the first process validates; all others are of the other kind."""

    def __init__(self, few: str) -> None:
        super().__init__(rows=16, noise=0.0)
        self.few = few

    def scored(self, split: Split) -> list[Scored]:
        """Few rows, then many."""
        ratings, pairs = (Ratings(16, 0.0, kind).scored(split) for kind in ("ratings", "preferences"))
        few, many = (ratings, pairs) if self.few == "ratings" else (pairs, ratings)
        return [few[0], many[0], few[1], *many[1:]]


def measure(folder: Path, few: str, **options: Any) -> dict[str, float]:
    """An epoch without learning, so that figures do not depend on the order of rows."""
    seed_everything(0, verbose=False)
    encoder = StaticEncoder(width=8, vocab_size=300)
    module = RewardModule(encoder=encoder, hidden=[8], dropout=0.0, lr=0.0, weight_decay=0.0)
    run = trainer(folder, max_epochs=1, limit_val_batches=1.0, num_sanity_val_steps=1, **options)
    run.fit(module, Uneven(few))
    return {name: float(value) for name, value in run.callback_metrics.items() if name.startswith("val/")}


@pytest.mark.parametrize("few", ["ratings", "preferences"])
def test_processes_with_rows_of_different_kinds(few: str, tmp_path: Path) -> None:
    one = measure(tmp_path / "one", few)
    two = measure(tmp_path / "two", few, devices=2, strategy="ddp_fork")
    assert one.keys() == two.keys() and {"val/mse", "val/preference_auroc"} <= one.keys()
    for name, value in one.items():
        assert two[name] == pytest.approx(value, abs=1e-5, nan_ok=True), name
