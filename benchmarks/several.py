"""The limit of several devices: one process on each, which average their gradients."""

import functools
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from loop import Loop
from workload import Workload


def on_several(work: Workload, train: Callable[[Workload, Loop], None], out: Path) -> None:
    """Train on `work.devices` devices by `train`, and write what the first found.

    `train` must be a function of a module: each process imports it.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    of_rank = functools.partial(_rank, work=work, train=train, out=out, port=port)
    torch.multiprocessing.spawn(of_rank, nprocs=work.devices)


def _rank(
    rank: int, work: Workload, train: Callable[[Workload, Loop], None], out: Path, port: int
) -> None:
    devices, on_gpu = work.devices or 1, work.device == "cuda"
    device = torch.device("cuda", rank) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    store = torch.distributed.TCPStore("127.0.0.1", port, devices, rank == 0)
    group = {"rank": rank, "world_size": devices, "store": store}
    torch.distributed.init_process_group("nccl" if on_gpu else "gloo", **group)
    torch.manual_seed(0)
    loop = Loop(device, work.steps, devices)
    train(replace(work, batch=work.batch_of_each), loop)
    loop.write(out if rank == 0 else None)
    torch.distributed.destroy_process_group()


def average(gradients: list[torch.Tensor]) -> None:
    """Average gradients over all devices where they are, on GPUs by a single call of NCCL."""
    device, operation = gradients[0].device, torch.distributed.ReduceOp
    if device.type != "cuda":  # gloo has neither
        for gradient in gradients:
            torch.distributed.all_reduce(gradient.div_(torch.distributed.get_world_size()))
        return
    with torch.distributed._coalescing_manager(device=device):
        for gradient in gradients:
            torch.distributed.all_reduce(gradient, operation.AVG)
