"""Settings of modules and tasks in plain Python: dicts become their classes, and what is wrong is told by its name."""

from collections.abc import Callable
from typing import Any

import pytest

from lit_narrative import CardsData, GRPOModule, SFTModule, StoryworldData, StyleData
from lit_narrative.datamodules.few_shot import FewShot
from lit_narrative.errors import UserError
from lit_narrative.lm.load import Lora
from lit_narrative.lm.sampler import SamplingParams
from lit_narrative.modules.steering import SteeringModule
from lit_narrative.steering.settings import Attribute
from lit_narrative.tasks.cards.game import CardGame
from lit_narrative.tasks.storyworld.formats.parse import Limits
from lit_narrative.tasks.storyworld.generator import Skew
from lit_narrative.tasks.storyworld.verifiers.base import VerifierConfig

TAKEN: dict[str, tuple[Callable[..., Any], dict[str, Any], Callable[[Any], Any], Any]] = {
    "game": (CardsData, {"game": {"lengths": [2, 4]}}, lambda data: data.game, CardGame(lengths=(2, 4))),
    "few_shot": (CardsData, {"few_shot": {"shots": 2}}, lambda data: data.few_shot, FewShot(2)),  # of the base
    "skew": (StoryworldData, {"skew": {"gates": 0.5}}, lambda data: data.skew, Skew(gates=0.5)),
    "within": (
        StoryworldData,
        {"verifiers": {"limits": {"max_depth": 8}}},
        lambda data: data.verifiers,
        VerifierConfig(limits=Limits(max_depth=8)),
    ),
    "lora": (SFTModule, {"model": "x", "lora": {"r": 2}}, lambda module: module.lora, Lora(r=2)),
    "sampling": (
        SFTModule,
        {"model": "x", "sampling": {"max_new_tokens": 8}},
        lambda module: module.sampling,
        SamplingParams(8),
    ),
    "an item": (
        SteeringModule,
        {"model": "x", "attributes": [{"bag": ["sea"]}]},
        lambda module: module.given,
        [Attribute(bag=["sea"])],
    ),
}


@pytest.mark.parametrize("name", TAKEN)
def test_a_dict_becomes_the_class_of_settings(name: str) -> None:
    build, arguments, find, expected = TAKEN[name]
    assert find(build(**arguments)) == expected


def test_one_given_by_its_place_does_too() -> None:
    assert CardsData({"lengths": (2, 4)}).game == CardGame(lengths=(2, 4))  # type: ignore[arg-type]


WRONG: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "CardsData: game (CardGame of lit_narrative.tasks.cards.game): there is no 'length'; did you mean 'lengths'?": (
        CardsData,
        {"game": {"length": (2, 4)}},
    ),
    "StoryworldData: verifiers.limits (Limits of": (StoryworldData, {"verifiers": {"limits": {"depth": 2}}}),
    "StyleData: prompt is 'plain'; it has to be a dict or StylePrompt(...) of": (StyleData, {"prompt": "plain"}),
    "SFTModule: sampling is 64; it has to be a dict or SamplingParams(...) of": (
        SFTModule,
        {"model": "x", "sampling": 64},
    ),
    "GRPOModule: loss (LossSettings of": (
        GRPOModule,
        {"model": "x", "rewards": {"schema": 1.0}, "loss": {"betta": 0}},
    ),
}


@pytest.mark.parametrize("said", WRONG, ids=lambda said: said.partition(" ")[0])
def test_what_is_no_settings_is_refused_by_name(said: str) -> None:
    build, arguments = WRONG[said]
    with pytest.raises(UserError) as error:
        build(**arguments)
    assert str(error.value).startswith(said)


def test_a_task_whose_types_only_a_checker_knows_is_built() -> None:
    class Own(CardsData):
        def __init__(self, size: "Unknown", **kwargs: Any) -> None:  # type: ignore[name-defined]  # noqa: F821
            super().__init__(**kwargs)

    assert Own(3, game={"seed": 4}).game == CardGame(seed=4)
