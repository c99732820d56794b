"""What a policy's texts are to a sparse autoencoder: the moments of their plays, or what the policy held in them.

For a callback that trains one between cycles, or for a test.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import nn

from lit_narrative.datamodules.base import TaskDataModule
from lit_narrative.errors import UserError, check_choice, check_least
from lit_narrative.lm.vectors.activations import check_layer
from lit_narrative.lm.vectors.residual import (
    Policy,
    ResidualLayout,
    middle_layer,
    moment_means,
    token_ends,
    token_moments,
)
from lit_narrative.modules.sae import SAEModule
from lit_narrative.sae.affordances import analyse
from lit_narrative.sae.controls import FROZEN_PARTS, Training, control
from lit_narrative.seeds import stream_seed
from lit_narrative.views import Layout, Rollout, State

View = Literal["states", "activations"]
VIEWS: tuple[View, ...] = get_args(View)


@dataclass(frozen=True)
class StateReader:
    """What is read of the policy's texts.

    Args:
        view: ``states`` of the games, or ``activations``: the policy's residual stream. In that the vector of a moment
            of a play is the mean over what the play has read by then (`lit_narrative.lm.vectors.residual`); where the
            texts of a task are not played, a moment is a token, and no option is open or closed.
        layer: of the policy (activations): 0 is what its first block reads, l the output of block l; None: the middle.
        plays: seeded plays of each text.
    """

    view: View = "states"
    layer: int | None = None
    plays: int = 3

    def check(self, owner: str) -> None:
        """Check the choice of the view and the numbers.

        Args:
            owner: the callback, for the message.

        Raises:
            UserError: one is out of range.
        """
        check_choice(f"{owner}.view", self.view, VIEWS)
        check_least(f"{owner}.plays_per_world", self.plays, 1)
        if self.layer is not None and self.view == "states":
            raise UserError(
                f"callback {owner}: layer={self.layer} is a layer of the policy, which view=states does not read; set "
                "view=activations, or leave it out"
            )

    def check_run(self, owner: str, data: TaskDataModule, module: LightningModule) -> None:
        """Refuse a task that has not what the view reads, and a layer that the model lacks; before any work.

        Raises:
            UserError: naming what there is.
        """
        if self.view == "activations":
            policy = readable(owner, module)
            check_layer(policy.lm, self.layer_of(policy.lm), f"callback {owner}: layer")
        elif not data.has_plays:
            raise UserError(
                f"callback {owner}: {type(data).__name__} offers no plays of texts, which view=states reads; set "
                "view=activations, or override its method `states_of`"
            )

    def layer_of(self, lm: nn.Module) -> int:
        """The layer that is read."""
        return middle_layer(lm) if self.layer is None else self.layer

    def read(
        self, data: TaskDataModule, module: object, rollouts: Sequence[Rollout], seed: int, layout: Layout | None
    ) -> tuple[list[list[State]], Layout]:
        """The moments of each text that has some, and the layout of their vectors.

        Args:
            data: the task.
            module: what wrote the texts.
            rollouts: the texts.
            seed: of the plays.
            layout: of activations, as an earlier call gave it: units do not move from cycle to cycle. None: it is
                fitted on these texts.
        """
        if self.view == "states":
            return data.states_of([rollout.text for rollout in rollouts], self.plays, seed), data.layout
        policy = readable("SAERefresh", module)
        texts = self._moments(data, policy, rollouts, seed)
        chosen = [rollouts[int(states[0].meta["world"])] for states in texts]
        layer, pieces = self.layer_of(policy.lm), [[state.meta["pieces"] for state in states] for states in texts]
        raw = moment_means(policy, chosen, pieces, layer)
        if layout is None and not any(map(len, raw)):
            return [], ResidualLayout(layer, np.zeros(0), np.zeros(0), policy)
        fitted = (
            layout if isinstance(layout, ResidualLayout) else ResidualLayout.fit(layer, policy, np.concatenate(raw))
        )
        rows = zip(texts, map(fitted.standardise, raw), strict=True)
        return [[replace(s, vector=x) for s, x in zip(states, xs, strict=True)] for states, xs in rows], fitted

    def _moments(
        self, data: TaskDataModule, policy: Policy, rollouts: Sequence[Rollout], seed: int
    ) -> list[list[State]]:
        """The moments of each text that has some, without their vectors."""
        if data.has_plays:
            played = data.states_of([rollout.text for rollout in rollouts], self.plays, seed)
            return [states for states in played if all(state.meta.get("pieces") for state in states)]
        nothing = np.zeros(0, dtype=np.float32)
        moments = [token_moments(ends) for ends in token_ends(policy.tokenizer, rollouts)]
        return [
            [State(nothing, "", (), {"world": str(number), "play": 0, "pieces": pieces}) for pieces in of_text]
            for number, of_text in enumerate(moments)
            if of_text
        ]


def readable(owner: str, module: object) -> Policy:
    """A module as one whose residual stream can be read.

    Raises:
        UserError: it has none.
    """
    if not isinstance(module, Policy):
        raise UserError(
            f"callback {owner}: view=activations reads a language model, and {type(module).__name__} has none; take a "
            "module such as GRPOModule"
        )
    return module


@dataclass(frozen=True)
class Read:
    """Moments of the policy's texts, those to train on and those of other texts apart.

    Attributes:
        written: texts that the policy wrote.
        valid: those among them that have moments.
        train: to train the SAE on.
        heldout: of other texts.
        layout: of their vectors.
    """

    written: int
    valid: int
    train: list[State]
    heldout: list[State]
    layout: Layout

    @classmethod
    def split(cls, written: int, texts: list[list[State]], heldout: float, layout: Layout) -> "Read":
        """Hold out the last ``heldout`` of the texts, one at least, whole: moments of one text are too alike."""
        border = min(max(round(len(texts) * (1 - heldout)), 1), len(texts) - 1)
        train, rest = ([state for one in part for state in one] for part in (texts[:border], texts[border:]))
        return cls(written, len(texts), train, rest, layout)


def state_vectors(states: Sequence[State]) -> np.ndarray:
    """The vectors of states: (n, dim) float32."""
    return np.stack([state.vector for state in states]).astype(np.float32, copy=False)


def describe_features(
    sae: SAEModule, read: Read, steps: int, batch_size: int, seed: int, controls: int
) -> dict[str, Any]:
    """The measures of an SAE, what its features tell of open options, and the same of random-part controls.

    Args:
        sae: trained.
        read: what it was trained on, and other texts.
        steps: of its training, which the controls get as well.
        batch_size: likewise.
        seed: of permutations, folds and controls.
        controls: autoencoders of each kind of control; 0: none.

    Returns:
        ``metrics``, what `analyse` returns, and ``controls``, each as `control` returns it.
    """
    train, heldout = (torch.from_numpy(state_vectors(part)).to(sae.device) for part in (read.train, read.heldout))
    seen, unseen = sae.measure(train), sae.measure(heldout)
    metrics = {name: seen[name] for name in ("explained_variance", "l0", "dead_fraction", "mse")}
    metrics["explained_variance_heldout"] = unseen["explained_variance"]
    states = [*read.train, *read.heldout]
    training = Training(sae.settings, train, steps, batch_size)
    beside = [
        control(part, training, states, stream_seed(seed, kind, number), "worlds")
        for kind, part in enumerate(FROZEN_PARTS)
        for number in range(controls)
    ]
    found = analyse(states, sae.encoder(), seed=seed)
    for part in FROZEN_PARTS:
        areas = [one["auc"] for one in beside if one["frozen"] == part and one["auc"] is not None]
        found["readout"] |= {f"random_{part}": float(np.mean(areas))} if areas else {}
    return {"metrics": metrics, **found, "controls": beside}


def feature_metrics(found: dict[str, Any]) -> dict[str, float]:
    """What is logged of `describe_features`: measures, areas of the readouts, number of significant features."""
    logged = dict(found["metrics"], significant_features=found["significant"])
    return logged | {f"auc_{name}": value for name, value in found["readout"].items() if value is not None}


def draw_features(found: dict[str, Any]) -> bytes:
    """A PNG of `describe_features`: how often each feature fires, and what is told of open options beside controls."""
    from lit_narrative.circuits.figures.canvas import default_style, sheet, to_png  # brings matplotlib

    told = {name: area for name, area in found["readout"].items() if area is not None}
    with default_style():
        figure, ((rates, areas),) = sheet(1, 2, 2.6)
        rates.bar(range(len(found["density"])), sorted(found["density"], reverse=True), width=1.0)
        rates.set_xlabel("features, by how often they fire")
        rates.set_ylabel("share of states")
        areas.barh(list(told), list(told.values()))
        areas.set_xlim(0, 1)
        areas.axvline(0.5, linestyle=":", color="black")
        areas.set_xlabel("area under the curve; chance is 0.5")
        return to_png(figure)
