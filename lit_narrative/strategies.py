"""The strategy ``fsdp2``: weights, gradients and optimizer state are spread over all processes."""

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import ModelParallelStrategy, StrategyRegistry
from lightning.pytorch.strategies.strategy import Strategy
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer
from torch.utils._pytree import tree_map

from lit_narrative.lm.shard import gathered


class FSDP2Strategy(ModelParallelStrategy):
    """Lightning's ``ModelParallelStrategy`` with every process a data-parallel one, for ``trainer.strategy: fsdp2``.

    The module shards itself in ``configure_model``. Checkpoints are those of every other strategy, one file with
    whole weights and optimizer states, restored at the same point of a run; a run may change its strategy or its number
    of processes when it resumes. During validation, test and prediction the weights that learn are kept whole on every
    process, so that one may read more batches than another.

    Args:
        **kwargs: ``process_group_backend`` and ``timeout`` of the original.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False, **kwargs)
        self._whole = ExitStack()

    def setup_environment(self) -> None:
        """Start the processes' group with as many shares as processes."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def setup(self, trainer: Trainer) -> None:
        """Take the model; evaluate it without the inference mode."""
        for loop in (trainer.fit_loop.epoch_loop.val_loop, trainer.validate_loop, trainer.test_loop):
            loop.inference_mode = False  # what is gathered in that mode could not be trained any more
        trainer.predict_loop.inference_mode = False
        super().setup(trainer)

    # --- evaluation -------------------------------------------------------------------------------------------------

    def on_validation_start(self) -> None:
        """Gather."""
        self._gather()

    def on_validation_end(self) -> None:
        """Let go."""
        self._whole.close()

    def on_test_start(self) -> None:
        """Gather."""
        self._gather()

    def on_test_end(self) -> None:
        """Let go."""
        self._whole.close()

    def on_predict_start(self) -> None:
        """Gather."""
        self._gather()

    def on_predict_end(self) -> None:
        """Let go."""
        self._whole.close()

    def _gather(self) -> None:
        assert self.lightning_module is not None
        for part in self.lightning_module.children():
            if any(parameter.requires_grad for parameter in part.parameters()):
                self._whole.enter_context(gathered(part))

    # --- checkpoints ------------------------------------------------------------------------------------------------

    @property
    def restore_checkpoint_after_setup(self) -> bool:
        """No: the model is built and sharded before, as under other strategies."""
        return False

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Yes, by :meth:`load_optimizer_state_dict`."""
        return True

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Read the file whole, on every process."""
        return Strategy.load_checkpoint(self, checkpoint_path, weights_only)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Whole weights on the first process, nothing on the others."""
        assert self.lightning_module is not None
        return self._assembled(self.lightning_module.state_dict())

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Whole states on the first process, nothing on the others."""
        return self._assembled(optimizer.state_dict())

    def _assembled(self, values: dict[str, Any]) -> dict[str, Any]:
        """``values`` without shares; all processes have to come here."""

        def whole(value: Any) -> Any:
            if not isinstance(value, DTensor):
                return value
            full = value.full_tensor()
            return full.cpu() if self.is_global_zero else None

        values = tree_map(whole, values)
        return values if self.is_global_zero else {}

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Hand each process its share of whole weights."""
        assert self.lightning_module is not None
        own = self.lightning_module.state_dict()
        state = {name: _share(value, own.get(name)) for name, value in checkpoint["state_dict"].items()}
        self.lightning_module.load_state_dict(state, strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Hand each process its share of whole states; parameters are told by their order, as PyTorch does."""
        for optimizer, stored in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            saved = [key for group in stored["param_groups"] for key in group["params"]]
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            like = dict(zip(saved, parameters, strict=True))
            state = {
                key: {name: _share(value, like[key]) for name, value in values.items()}
                for key, values in stored["state"].items()
            }
            optimizer.load_state_dict({**stored, "state": state})


def _share(value: Any, like: Any) -> Any:
    """This process's share of ``value``, cut as ``like`` is; ``value`` itself if that is not cut."""
    if not isinstance(like, DTensor) or not isinstance(value, torch.Tensor) or value.shape != like.shape:
        return value
    cut = distribute_tensor(value.to(like.device), like.device_mesh, like.placements)
    return torch.empty_like(like, dtype=value.dtype).copy_(cut)  # a cut may be a view that keeps the whole alive


StrategyRegistry.register("fsdp2", FSDP2Strategy, description="fully sharded data parallelism (FSDP2)")
