"""The upper bound on this GPU: the same network and optimizer without anything else.

One fixed batch on the GPU, bf16, channels last, fused SGD, compiled, the whole step in one CUDA
graph; no loader, no augmentation, no Lightning. On several devices, one all-reduce in the graph
averages all gradients where they are.
"""

from collections.abc import Callable

import torch
from loop import Loop
from my_project.data import synthetic
from my_project.networks import build_network
from several import average
from torch.nn import functional as F

from .loaders import fast_step
from .workloads import CLASSES, ImageWorkload

BEFORE_CAPTURE = 4  # steps that compile and allocate before the capture
LEAST_SECONDS = 6.0  # timed at least this long, because a GPU warms up
LEAST_VALIDATION = 2.0
EVAL_BATCH = 1000  # as in configs/synthetic.yaml


def limit(work: ImageWorkload, loop: Loop) -> None:
    """Train on one batch. Without CUDA there is no graph; the figure is then only for tests."""
    device = loop.device
    images = synthetic(work.image_size, work.batch, CLASSES).train
    pixels = images.images.to(device)
    labels = images.labels.to(device)
    network = build_network(work.network, CLASSES, work.small_images)
    if work.compiles:
        network.compile(dynamic=False)
    step = fast_step(network, device, average if loop.devices > 1 else None)
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
