"""The feature report of an SAE on states of play: what its features tell of open options, beside controls."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from lit_narrative.callbacks.base import dry_run, task
from lit_narrative.errors import UserError, check_choice, check_least
from lit_narrative.files import write_json, write_text
from lit_narrative.modules.sae import SAEModule
from lit_narrative.report.format import clip
from lit_narrative.report.page import Section, fill_page, render
from lit_narrative.report.run_folder import versions
from lit_narrative.sae.affordances import Exchange, analyse
from lit_narrative.sae.controls import FROZEN_PARTS, Training, control, explained_variance
from lit_narrative.seeds import run_seed, stream_seed
from lit_narrative.views import State

LEAD = (
    "A sparse autoencoder was trained on moments of play. This page says whether its features tell which options are "
    "closed, beyond what the encounter says and beyond what a feature that never learned tells."
)
SHOWN_STATES = 3
LONGEST = 160
"""Characters of a text that the page shows."""


class FeatureReport(Callback):
    """Says at the end of training which features of the SAE tell of open options, or that none does.

    A feature **tells** if its information about "some option is closed here", given the encounter, is beyond chance
    (permutations of whole worlds or plays, false discoveries held to 5 % by Benjamini and Hochberg) and greater than
    that of every feature of the controls: autoencoders trained likewise with a random encoder, or a random decoder,
    that stays as it is. Both are measured on the states of the test split.

    Writes ``sae/`` (sae-lens reads it; with its ``layout.json``), ``features.json`` and ``features.html``.

    Args:
        exchange: what is permuted: ``worlds``, or ``plays`` where the worlds are few; then contexts are encounters of
            one world.
        controls: autoencoders of each kind of control, 1 or more.
        n_top: features in the table, 1 or more.

    Raises:
        UserError: an argument is out of range, or the module is not an SAE on states.
    """

    def __init__(self, exchange: Exchange = "worlds", controls: int = 3, n_top: int = 12) -> None:
        check_choice("FeatureReport.exchange", exchange, get_args(Exchange))
        check_least("FeatureReport.controls", controls, 1)
        check_least("FeatureReport.n_top", n_top, 1)
        self.exchange: Exchange = exchange
        self.controls, self.n_top = controls, n_top

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a module that is no SAE on states."""
        if not isinstance(pl_module, SAEModule) or pl_module.view != "states":
            raise UserError("callback FeatureReport needs SAEModule with view=states")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Analyse, compare and write; one process does."""
        assert isinstance(pl_module, SAEModule)
        if not trainer.is_global_zero or dry_run(trainer):
            return
        data = task(trainer)
        train, states = data.view("states", "train"), data.view("states", "test")
        x = pl_module.collate(train).to(pl_module.device)
        batch_size: int = data.batch_size
        training = Training(pl_module.settings, x, int(pl_module.steps), batch_size)
        record = {
            "seed": run_seed(),
            "exchange": self.exchange,
            "states": {"train": len(train), "test": len(states)},
            "worlds": len({state.meta["world"] for state in states}),
            **self.analyse(pl_module, training, states),
        }
        folder = Path(trainer.default_root_dir)
        pl_module.save(folder / "sae", {"layout.json": data.layout.to_json()})
        write_json(folder / "features.json", {**record, "versions": versions()})
        write_text(folder / "features.html", feature_page(record))
        rank_zero_info(f"FeatureReport: {verdict(record)} ({folder / 'features.html'})")

    def analyse(self, module: SAEModule, training: Training, states: Sequence[State]) -> dict[str, Any]:
        """The features of the trained SAE and those of the controls, as plain JSON values."""
        encode = module.encoder()
        d_sae = module.settings.d_sae
        found = analyse(states, encode, seed=run_seed(), n_top=d_sae, exchange=self.exchange)
        measured = [
            control(part, training, states, stream_seed(run_seed(), kind, number), self.exchange)
            for kind, part in enumerate(FROZEN_PARTS)
            for number in range(self.controls)
        ]
        bar = max(one["best_bits"] for one in measured)
        features = [{**row, "tells": row["significant"] and row["conditional_mi"] > bar} for row in found["features"]]
        # Those that tell first; a feature that chance explains may have more bits than one that it does not.
        features.sort(key=lambda row: (not row["tells"], not row["significant"], -row["conditional_mi"]))
        return {
            **found,
            "d_sae": d_sae,
            "explained_variance": explained_variance(states, encode),
            "best_bits": max((row["conditional_mi"] for row in features), default=0.0),
            "control_bits": bar,
            "telling": [row["latent"] for row in features if row["tells"]],
            "features": features[: self.n_top],
            "controls": measured,
        }


def verdict(record: Mapping[str, Any]) -> str:
    """What was found, in a sentence."""
    told, about = record["telling"], record["targets"]
    beyond = f"{record['significant']} of {record['d_sae']} features tell “{about}” beyond chance (q < 0.05)"
    bar = f"the most telling feature of the random-part controls, {record['control_bits']:.3f} bits"
    if not told:
        return f"None survives: {beyond}, and none of them exceeds {bar}."
    named = ", ".join(map(str, told[:12])) + (" …" if told[12:] else "")
    return f"{len(told)} features survive ({named}): {beyond}, and these exceed {bar}."


def feature_page(record: Mapping[str, Any]) -> str:
    """The page as HTML that needs no other file."""
    rows = [_shown(row) for row in record["features"]]
    controls = [("trained", record["explained_variance"], record["significant"], record["best_bits"],
                 record["readout"]["sae"])]  # fmt: skip
    controls += [
        (f"random {one['frozen']}", one["explained_variance"], one["significant"], one["best_bits"], one["auc"])
        for one in record["controls"]
    ]
    body = render(__name__, "feature_report.html", record=record, verdict=verdict(record), rows=rows, controls=controls)
    return fill_page("Features of play", LEAD, [Section("features", "Which features tell", body)], "feature report")


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    """A feature as the page shows it: texts of worlds are cut short (a page escapes them)."""
    states = [
        {
            **state,
            "text": clip(str(state["text"]), LONGEST),
            "encounter": clip(str(state["encounter"]), 60),
            "open": [clip(name, 50) for name in state["open"][:6]],
            "closed": [clip(name, 50) for name in state["closed"][:6]],
        }
        for state in row["top_states"][:SHOWN_STATES]
    ]
    return {**row, "top_states": states}
