"""Two real processes that talk over gloo, started as ``torchrun`` starts them."""

import multiprocessing
import os
import time
import traceback
from collections.abc import Callable
from typing import Any

import torch
from lightning.fabric.plugins.environments.lightning import find_free_network_port


def two_processes(function: Callable[..., None], *args: Any, nodes: int = 1, limit: float = 120, **kwargs: Any) -> None:
    """Call ``function`` in two processes of one group; what either raises, or a hang, fails here.

    Args:
        function: what both run.
        *args: its arguments.
        nodes: 1, or 2 for processes that believe to be on two machines.
        limit: seconds.
        **kwargs: its keyword arguments.
    """
    context = multiprocessing.get_context("fork")
    errors = context.SimpleQueue()
    port = find_free_network_port()
    processes = [
        context.Process(target=_process, args=(rank, nodes, port, errors, function, args, kwargs)) for rank in range(2)
    ]
    for process in processes:
        process.start()
    deadline = time.monotonic() + limit
    while any(process.is_alive() for process in processes) and errors.empty() and time.monotonic() < deadline:
        time.sleep(0.05)
    hung = [process.pid for process in processes if process.is_alive()]
    for process in processes:
        process.kill()  # Lightning catches a gentler signal
        process.join()
    assert errors.empty(), errors.get()
    assert not hung, f"not finished after {limit} s"
    assert [process.exitcode for process in processes] == [0, 0]


def _process(
    rank: int, nodes: int, port: int, errors: Any, function: Callable[..., None], args: Any, kwargs: Any
) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank if nodes == 1 else 0),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": str(2 // nodes),
        "GROUP_RANK": str(0 if nodes == 1 else rank),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "test",
    }
    try:
        function(*args, **kwargs)
    except BaseException:
        errors.put(traceback.format_exc())
        raise
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
