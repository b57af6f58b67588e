"""Training with several processes, one for each GPU, under torchrun."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

import ignite.distributed as idist
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

GLOO_RELEASE_SECONDS = 0.5


def process_device() -> torch.device:
    """Returns the device of this process under torchrun: the GPU of its local rank, or the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def start_process_group() -> None:
    """Initialises the process group of torchrun; NCCL on GPUs, gloo on CPUs.

    Raises:
        RuntimeError: when the process was not started by torchrun.
    """
    if "RANK" not in os.environ:
        raise RuntimeError(
            "Expected several processes under torchrun, found none. Start with: torchrun --standalone --nnodes=1 "
            "--nproc_per_node=N -m monai.bundle run …"
        )
    idist.initialize("nccl" if torch.cuda.is_available() else "gloo")


def stop_process_group() -> None:
    """Destroys the process group once all processes have reached this point.

    Gloo's threads free the tensors of the last collective shortly after it ends and need the interpreter for that: a
    thread that finds Python shutting down aborts the process (https://github.com/pytorch/pytorch/issues/190489). These
    threads outlive the group, so this function waits for them.
    """
    idist.barrier()
    idist.finalize()
    time.sleep(GLOO_RELEASE_SECONDS)


def distribute(network: nn.Module, device: torch.device) -> DistributedDataParallel:
    """Returns the network on the device of this process, wrapped to average gradients over all processes."""
    network = network.to(device)
    return DistributedDataParallel(network, device_ids=[device] if device.type == "cuda" else None)


def process_share(entries: Sequence[Any]) -> list[Any]:
    """Returns the shard of the entries that this process validates; MONAI's metrics gather the cases of all processes.

    With fewer entries than processes, each process takes all of them: no process may be without a case, and a case that
    is scored more often than another would have more weight.
    """
    count = idist.get_world_size()
    return list(entries[idist.get_rank() :: count] if len(entries) >= count else entries)
