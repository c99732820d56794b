"""Train language models to tell stories, and study how they learn it."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Makes what moved since the release before importable from where it was, whichever module is imported first.
from lit_narrative import lookup as lookup

if TYPE_CHECKING:
    from lit_narrative.datamodules.cards import CardsData as CardsData
    from lit_narrative.datamodules.poetry import PoetryData as PoetryData
    from lit_narrative.datamodules.storyworld import StoryworldData as StoryworldData
    from lit_narrative.datamodules.style import StyleData as StyleData
    from lit_narrative.datamodules.verbalize import VerbalizeData as VerbalizeData
    from lit_narrative.modules.grpo import GRPOModule as GRPOModule
    from lit_narrative.modules.preference import PreferenceModule as PreferenceModule
    from lit_narrative.modules.reward import RewardModule as RewardModule
    from lit_narrative.modules.sae import SAEModule as SAEModule
    from lit_narrative.modules.sft import SFTModule as SFTModule
    from lit_narrative.modules.steering import SteeringModule as SteeringModule

_MODULES = {
    "CardsData": "datamodules.cards",
    "PoetryData": "datamodules.poetry",
    "StoryworldData": "datamodules.storyworld",
    "StyleData": "datamodules.style",
    "VerbalizeData": "datamodules.verbalize",
    "GRPOModule": "modules.grpo",
    "PreferenceModule": "modules.preference",
    "RewardModule": "modules.reward",
    "SAEModule": "modules.sae",
    "SFTModule": "modules.sft",
    "SteeringModule": "modules.steering",
}
"""What a notebook imports from here -> the module that it is in, which is imported with it: they are heavy."""
__all__ = ["__version__", *sorted(_MODULES)]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'lit_narrative' has no attribute '{name}'")
    return getattr(import_module(f"lit_narrative.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
