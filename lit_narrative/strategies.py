"""The strategy ``fsdp2``: weights, gradients and optimizer state are sharded over all processes."""

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

    The module shards itself in ``configure_model``. Checkpoints are those of every other strategy, one file with whole
    weights and optimizer states, restored at the same point of a run; a run may change its strategy or its number of
    processes when it resumes. During validation, test and prediction the trainable weights are whole on every process,
    so that processes may read different numbers of batches.

    Args:
        **kwargs: ``process_group_backend`` and ``timeout`` of the original.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False, **kwargs)
        self._whole = ExitStack()

    def setup_environment(self) -> None:
        """Start the process group with a shard for each process."""
        # The default is the number of nodes, and the number of processes is known only here, not at construction.
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def setup(self, trainer: Trainer) -> None:
        """Set up the model; evaluation runs without inference mode."""
        for loop in (trainer.fit_loop.epoch_loop.val_loop, trainer.validate_loop, trainer.test_loop):
            loop.inference_mode = False  # weights that are gathered in inference mode could not be trained afterwards
        trainer.predict_loop.inference_mode = False
        super().setup(trainer)

    # --- evaluation -------------------------------------------------------------------------------------------------

    def on_validation_start(self) -> None:
        """Gather the trainable weights."""
        self._gather()

    def on_validation_end(self) -> None:
        """Shard them again."""
        self._whole.close()

    def on_test_start(self) -> None:
        """Gather the trainable weights."""
        self._gather()

    def on_test_end(self) -> None:
        """Shard them again."""
        self._whole.close()

    def on_predict_start(self) -> None:
        """Gather the trainable weights."""
        self._gather()

    def on_predict_end(self) -> None:
        """Shard them again."""
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
        """Yes, by `load_optimizer_state_dict`."""
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
        """``values`` with whole tensors in place of shards; all processes have to call it."""

        def whole(value: Any) -> Any:
            if not isinstance(value, DTensor):
                return value
            # Every process takes part in the gathering, and only the first keeps the result, on the CPU: one tensor
            # at a time is whole on the device.
            full = value.full_tensor()
            # Kept by the first process alone: by all, a machine would hold a copy of the model for each of its GPUs.
            return full.cpu() if self.is_global_zero else None

        values = tree_map(whole, values)
        return values if self.is_global_zero else {}

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Load whole weights; each process keeps its shard."""
        assert self.lightning_module is not None
        current = self.lightning_module.state_dict()
        state = {name: _shard(value, current.get(name)) for name, value in checkpoint["state_dict"].items()}
        self.lightning_module.load_state_dict(state, strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Load whole optimizer states; each process keeps its shard. Parameters are matched by order, as in PyTorch."""
        for optimizer, stored in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            saved = [key for group in stored["param_groups"] for key in group["params"]]
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            like = dict(zip(saved, parameters, strict=True))
            state = {
                key: {name: _shard(value, like[key]) for name, value in values.items()}
                for key, values in stored["state"].items()
            }
            optimizer.load_state_dict({**stored, "state": state})


def _shard(value: Any, like: Any) -> Any:
    """This process's shard of ``value``, placed as ``like``; ``value`` itself if ``like`` is not sharded."""
    # Scalars of an optimizer state, such as the step, have another shape than their parameter and stay whole.
    if not isinstance(like, DTensor) or not isinstance(value, torch.Tensor) or value.shape != like.shape:
        return value
    shard = distribute_tensor(value.to(like.device), like.device_mesh, like.placements)
    # A copy: the shard may be a view, which would keep the whole tensor in memory.
    return torch.empty_like(like, dtype=value.dtype).copy_(shard)


StrategyRegistry.register("fsdp2", FSDP2Strategy, description="fully sharded data parallelism (FSDP2)")
