"""The upper bound on this GPU: the same network and optimizer without anything else.

One fixed batch on the GPU, bf16, channels last, fused SGD, compiled, the whole step in one CUDA
graph; no loader, no augmentation, no Lightning. On several devices, one all-reduce in the graph
averages all gradients where they are.
"""

import functools
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from loop import Loop
from my_project.data import synthetic
from my_project.networks import build_network
from torch.nn import functional as F

from .loaders import fast_step
from .workloads import CLASSES, ImageWorkload

BEFORE_CAPTURE = 4  # steps that compile and allocate before the capture
LEAST_SECONDS = 6.0  # timed at least this long, because a GPU warms up
LEAST_VALIDATION = 2.0
EVAL_BATCH = 1000  # as in configs/synthetic.yaml


def limit_of_several(work: ImageWorkload, out: Path) -> None:
    """Train on several devices, in a process each, and write what the first found."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    of_rank = functools.partial(_rank, devices=work.devices, work=work, out=out, port=port)
    torch.multiprocessing.spawn(of_rank, nprocs=work.devices)


def _rank(rank: int, devices: int, work: ImageWorkload, out: Path, port: int) -> None:
    on_gpu = work.device == "cuda"
    device = torch.device("cuda", rank) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    store = torch.distributed.TCPStore("127.0.0.1", port, devices, rank == 0)
    group = {"rank": rank, "world_size": devices, "store": store}
    torch.distributed.init_process_group("nccl" if on_gpu else "gloo", **group)
    torch.manual_seed(0)
    loop = Loop(device, work.steps, devices)
    limit(replace(work, batch=work.batch_of_each), loop)
    if rank == 0:
        loop.write(out)
    torch.distributed.destroy_process_group()


def _average(gradients: list[torch.Tensor]) -> None:
    device, operation = gradients[0].device, torch.distributed.ReduceOp
    if device.type != "cuda":  # gloo has neither
        for gradient in gradients:
            torch.distributed.all_reduce(gradient.div_(torch.distributed.get_world_size()))
        return
    with torch.distributed._coalescing_manager(device=device):
        for gradient in gradients:
            torch.distributed.all_reduce(gradient, operation.AVG)


def limit(work: ImageWorkload, loop: Loop) -> None:
    """Train on one batch. Without CUDA there is no graph; the figure is then only for tests."""
    device = loop.device
    images = synthetic(work.image_size, work.batch, CLASSES).train
    pixels = images.images.to(device)
    labels = images.labels.to(device)
    network = build_network(work.network, CLASSES, work.small_images)
    if work.compiles:
        network.compile(dynamic=False)
    step = fast_step(network, device, _average if loop.devices > 1 else None)
    an_epoch = [(pixels, labels)] * (work.train // work.batch // loop.devices)
    if device.type != "cuda":
        loop.train(an_epoch, step)
        return

    def alone() -> torch.Tensor:
        torch.clear_autocast_cache()  # it holds casts of the weights before the last step
        return step(pixels, labels)

    loop.train(an_epoch, _as_graph(alone, loop), LEAST_SECONDS)


def limit_of_validation(work: ImageWorkload, loop: Loop) -> None:
    """Validate one batch of EVAL_BATCH images again and again: forward pass and loss."""
    device, on_gpu = loop.device, loop.device.type == "cuda"
    images = synthetic(work.image_size, EVAL_BATCH, CLASSES).train
    pixels = images.images.to(device, memory_format=torch.channels_last)
    labels = images.labels.to(device)
    network = build_network(work.network, CLASSES, work.small_images)
    network.to(device, memory_format=torch.channels_last).eval()
    if work.compiles:
        network.compile(dynamic=False)

    @torch.no_grad()
    def validate(*_: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=on_gpu):
            return F.cross_entropy(network(pixels), labels)

    an_epoch = [(pixels, labels)] * (work.val // EVAL_BATCH or 2)
    loop.train(an_epoch, _as_graph(validate, loop) if on_gpu else validate, LEAST_VALIDATION)


def _as_graph(step: Callable[[], torch.Tensor], loop: Loop) -> Callable[..., torch.Tensor]:
    """Return a function that replays `step` as one CUDA graph."""
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    with torch.cuda.stream(stream):
        loop.begin(step())
        for _ in range(BEFORE_CAPTURE):
            step()
    torch.cuda.synchronize()
    # thread_local: NCCL's own thread goes on during the capture
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        loss = step()

    def replay(*_: torch.Tensor) -> torch.Tensor:
        graph.replay()
        return loss

    return replay
