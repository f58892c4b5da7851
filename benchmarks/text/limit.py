"""The upper bound on this GPU: the same network and optimizer without anything else.

For each length of our batches, the whole step is one CUDA graph: bf16, fused AdamW, clipping. The
graphs are replayed in the order of our epochs; no loader, no Lightning.
"""

import os
from collections.abc import Callable, Iterator

import torch
from loop import Loop
from my_project.engine.data.order import BatchShard, EpochPlan
from my_project.networks import build_network
from several import average
from torch import Tensor, nn
from torch.nn import functional as F

from .usual import texts
from .workloads import MOST_NORM, RATE, VOCABULARY, WEIGHT_DECAY, TextWorkload

BEFORE_CAPTURE = 4  # steps that compile and allocate before the capture
LEAST_SECONDS = 6.0  # timed at least this long, because a GPU warms up
PADDING = 4  # tokens of each row that the mask hides


class OurLengths:
    """The batches of our epochs, one epoch each time: their lengths, and their labels.

    Of several devices, those of this one.
    """

    def __init__(self, work: TextWorkload, rank: int = 0, devices: int = 1) -> None:
        lengths = torch.tensor([len(text["input_ids"]) for text in texts(work, "train")])
        shard = BatchShard(work.batch, rank, devices)
        self.plan = EpochPlan(work.train, shard, position=lambda: (0, 0), lengths=lengths.int())
        self.labels = torch.zeros(work.batch, dtype=torch.int64)
        self.epoch = 0

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        lengths = self.plan.lengths_of(self.plan.indices(self.epoch))
        self.epoch += 1
        return ((length, self.labels) for length in lengths)


def limit_of_each(work: TextWorkload, loop: Loop) -> None:
    """Train on one of several devices, deterministically."""
    limit(work, loop, compiled=work.compiles, deterministic=True)


def limit(work: TextWorkload, loop: Loop, compiled: bool, deterministic: bool) -> None:
    """Train on one batch of each length. Without CUDA there is no graph: only for tests."""
    if deterministic:
        _be_deterministic()
    torch.set_float32_matmul_precision("high")
    rank = torch.distributed.get_rank() if loop.devices > 1 else 0
    device, epochs = loop.device, OurLengths(work, rank, loop.devices)
    step = _whole_step(work, device, compiled, average if loop.devices > 1 else None)
    ours = {length: _batch(work, length, device) for length in epochs.plan.fixed}
    if device.type != "cuda":
        loop.train(epochs, lambda length, _: step(*ours[length]))
        return
    stream, pool = torch.cuda.Stream(), torch.cuda.graph_pool_handle()
    graphs: dict[int, tuple[torch.cuda.CUDAGraph, Tensor]] = {}
    with torch.cuda.stream(stream):
        for batch in ours.values():
            for _ in range(BEFORE_CAPTURE):
                loss = step(*batch)
            if not loop.losses:
                loop.begin(loss)
    torch.cuda.synchronize()
    for length, batch in ours.items():
        graph = torch.cuda.CUDAGraph()
        # thread_local: NCCL's own thread goes on during the capture
        how = {"stream": stream, "capture_error_mode": "thread_local"}
        with torch.cuda.graph(graph, pool=pool, **how):
            loss = step(*batch)
        graphs[length] = graph, loss

    def replay(length: int, _: Tensor) -> Tensor:
        graph, loss = graphs[length]
        graph.replay()
        return loss

    loop.train(epochs, replay, LEAST_SECONDS)


def _be_deterministic() -> None:
    """Set what `trainer.deterministic: true` sets."""
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    os.environ["TORCHINDUCTOR_DETERMINISTIC"] = "1"
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False


def _batch(work: TextWorkload, length: int, device: torch.device) -> tuple[Tensor, ...]:
    """Return random tokens, int32 (n, length), their mask and their labels."""
    tokens = torch.randint(2, VOCABULARY, (work.batch, length), dtype=torch.int32)
    mask = (torch.arange(length) < length - PADDING).expand(work.batch, -1)
    labels = torch.randint(2, (work.batch,))
    return tokens.to(device), mask.contiguous().to(device), labels.to(device)


def _whole_step(
    work: TextWorkload,
    device: torch.device,
    compiled: bool,
    share: Callable[[list[Tensor]], None] | None = None,
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Return forward, backward, clipping and optimizer as one function that returns the loss."""
    network = build_network(work.network, 2, VOCABULARY).to(device).train()
    on_gpu = device.type == "cuda"
    weights = list(network.parameters())
    optimizer = torch.optim.AdamW(
        weights, lr=RATE, weight_decay=WEIGHT_DECAY, fused=True, capturable=on_gpu
    )

    def lose(tokens: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=on_gpu):  # slow on a CPU
            return F.cross_entropy(network(tokens, None, mask), labels)

    if compiled:
        lose = torch.compile(lose, dynamic=False)

    def step(tokens: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
        torch.clear_autocast_cache()  # it holds casts of the weights before the last step
        optimizer.zero_grad(set_to_none=True)
        loss = lose(tokens, mask, labels)
        loss.backward()
        if share is not None:
            share([weight.grad for weight in weights if weight.grad is not None])
        nn.utils.clip_grad_norm_(weights, MOST_NORM, foreach=True)
        optimizer.step()
        return loss.detach()

    return step
