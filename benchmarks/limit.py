"""The upper bound on this GPU: the same network and optimizer without anything else.

One fixed batch on the GPU, bf16, channels last, fused SGD, compiled, the whole step in one CUDA
graph; no loader, no augmentation, no Lightning.
"""

import torch
from loaders import fast_step
from loop import Loop
from my_project.data import synthetic
from my_project.networks import build_network
from workloads import CLASSES, Workload

BEFORE_CAPTURE = 4  # steps that compile and allocate before the capture
LEAST_SECONDS = 6.0  # timed at least this long, because a GPU warms up


def limit(work: Workload, loop: Loop) -> None:
    """Train on one batch. Without CUDA there is no graph; the figure is then only for tests."""
    device = loop.device
    images = synthetic(work.image_size, work.batch, CLASSES).train
    pixels = images.images.to(device)
    labels = images.labels.to(device)
    network = build_network(work.network, CLASSES, work.small_images)
    if work.compiles:
        network.compile(dynamic=False)
    step = fast_step(network, device)
    an_epoch = [(pixels, labels)] * (work.train // work.batch)
    if device.type != "cuda":
        loop.train(an_epoch, step)
        return

    def alone() -> torch.Tensor:
        torch.clear_autocast_cache()  # it holds casts of the weights before the last step
        return step(pixels, labels)

    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    with torch.cuda.stream(stream):
        loop.begin(alone())
        for _ in range(BEFORE_CAPTURE):
            alone()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph, stream=stream):
        loss = alone()

    def replay(*_: torch.Tensor) -> torch.Tensor:
        graph.replay()
        return loss

    loop.train(an_epoch, replay, LEAST_SECONDS)
