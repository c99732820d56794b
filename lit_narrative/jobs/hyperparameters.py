"""Give a model its settings as hyper-parameters, and only that model."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.cli import LightningCLI, _InstantiatorFn


class OwnHyperparameters(_InstantiatorFn):
    """Lightning's way of telling a model what it was built from, kept from modules inside other objects.

    The original takes the settings under ``model`` for every module that is built, so also for the autoencoder that a
    callback is given, which would then believe to have the policy's hyper-parameters.
    """

    def __call__(
        self, class_type: type[Any], *args: Any, applied_instantiation_links: dict[str, Any], **kwargs: Any
    ) -> Any:
        """Build the object."""
        self.cli._dump_config()
        settings = self.cli.config_dump.get(self.key) or {}
        if not describes(settings, class_type, kwargs):
            return class_type(*args, **kwargs)
        return super().__call__(class_type, *args, applied_instantiation_links=applied_instantiation_links, **kwargs)


def instantiators(cli: LightningCLI) -> list[tuple[OwnHyperparameters, type, bool]]:
    """Return what builds the model and the data, so that their checkpoints know the settings they were built from."""
    return [
        (OwnHyperparameters(cli, "model"), LightningModule, True),
        (OwnHyperparameters(cli, "data"), LightningDataModule, True),
    ]


def describes(settings: Mapping[str, Any], class_type: type[Any], arguments: Mapping[str, Any]) -> bool:
    """Tell whether settings are those of an object: its class, and the arguments that are plain values."""
    module, _, name = settings.get("class_path", "").rpartition(".")
    if not module or getattr(import_module(module), name) is not class_type:
        return False
    plain = {
        key: value
        for key, value in settings.get("init_args", {}).items()
        if isinstance(value, str | int | float) and isinstance(arguments.get(key), str | int | float)
    }
    return all(arguments[key] == value for key, value in plain.items())
