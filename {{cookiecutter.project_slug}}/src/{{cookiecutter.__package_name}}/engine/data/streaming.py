"""The loader that reads rows in worker processes, ahead of time.

A row's random numbers depend only on (seed, epoch, index), so neither the number of workers nor
which worker reads a batch changes a bit of it.
"""

import itertools
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..contract import Rows, Uniforms
from ..errors import UserError
from ..plurals import counted, plural
from .order import EpochPlan, fixed_lengths
from .prefetch import prefetch
from .torch_workers import end_workers, shared_storage

CPU = torch.device("cpu")
PAGE = 4096  # bytes
ALIGNMENT = 64  # bytes, of each tensor in a slot

# Slot; epoch (None in evaluation); length (None if rows don't differ in it); rows (-1 is padding).
Request = tuple[int, int | None, int | None, np.ndarray]


@dataclass(frozen=True)
class StreamConfig:
    """How rows are read: the number of workers, the batches each reads ahead, and the device."""

    workers: int = 0
    prefetch: int = 2
    device: torch.device = CPU
    endless: bool = False  # whether workers read into the next epoch before it starts
    decoder: str = "none"  # cpu or gpu, if rows are files that either can decode

    @property
    def slots(self) -> int:
        """The number of batches between workers and training; each worker has its own slots."""
        return self.workers * (self.prefetch + 1) or 1


class Reader(Protocol):
    """Reads batches into slots, in workers, and turns slots into batches, in the training process.

    A slot is memory that the processes share as long as the loader exists. DataLoader would
    allocate new shared memory for each batch: a page fault for every 4 KiB on both sides, which
    costs more time than the copy.
    """

    uniforms: int  # number of random numbers that reading a row uses
    pinned: bool  # whether finish() copies from a slot to a GPU

    def slot_size(self, batch_size: int) -> int:
        """Return the size of a batch in bytes."""
        ...

    def read(
        self, index: np.ndarray, length: int | None, uniforms: Uniforms | None, slot: np.ndarray
    ) -> Any:
        """Write the rows at `index` into a slot, uint8 (bytes,); return what else finish() needs.

        `index` is int64 (n,), with -1 for padding at its end. `length` and `uniforms` are those of
        Rows.take(). The training process raises a UserError again.
        """
        ...

    def finish(self, index: Tensor, slot: Tensor, rest: Any, device: torch.device) -> Any:
        """Return a slot as a batch on the device; `index` is there too, with 0 for padding."""
        ...


class RowsReader:
    """Reads batches from any Rows with take()."""

    pinned = True

    def __init__(self, rows: Rows) -> None:
        self.rows, self.uniforms = rows, rows.uniforms
        self.longest = None if rows.lengths is None else fixed_lengths(rows.lengths)[-1]

    def slot_size(self, batch_size: int) -> int:
        index = torch.arange(batch_size) % self.rows.n

        def zeros(k: int) -> Tensor:
            return torch.zeros(batch_size, k)

        batch = self.rows.take(index, self.longest, zeros)
        return sum(_aligned(part.nbytes) for part in batch._asdict().values() if part is not None)

    def read(
        self, index: np.ndarray, length: int | None, uniforms: Uniforms | None, slot: np.ndarray
    ) -> list[Any]:
        batch = self.rows.take(torch.from_numpy(index.clip(0)), length, uniforms)
        layout, start = [], 0
        for name, part in batch._asdict().items():
            if part is None or name == "row":
                continue
            content = part.contiguous().flatten().view(torch.uint8).numpy()
            slot[start : start + len(content)] = content
            layout.append((name, part.dtype, tuple(part.shape), start))
            start = _aligned(start + len(content))
        return [type(batch), layout]

    def finish(self, index: Tensor, slot: Tensor, rest: Any, device: torch.device) -> Any:
        kind, layout = rest
        fields = dict.fromkeys(kind._fields)
        for name, dtype, shape, start in layout:
            size = int(np.prod(shape)) * dtype.itemsize
            part = slot[start : start + size].view(dtype).view(shape)
            fields[name] = part.to(device, non_blocking=True, copy=True)
        return kind(**fields | {"row": index})


def check_shared_memory(
    config: StreamConfig, slot_size: int, loaders: int, free: int | None
) -> None:
    """Raise UserError if the batches that workers read ahead don't fit into shared memory.

    Otherwise the kernel would kill a worker without a message. `slot_size` and `free` are in bytes;
    `free` is None if there is no limit.
    """
    needed = loaders * config.slots * slot_size
    if config.workers and free is not None and needed > free:
        n, ahead = loaders * config.workers, counted(config.prefetch, "batch", "batches")
        raise UserError(
            f"/dev/shm has {free / 2**20:.0f} MiB free, and {counted(n, 'worker')} that"
            f" {plural(n, 'reads', 'read')} {ahead} ahead {plural(n, 'needs', 'need')}"
            f" {needed / 2**20:.0f} MiB. Start the container with --shm-size=8g (or --ipc=host), or"
            " set --data.workers, --data.prefetch or the batch size lower."
        )


class StreamingLoader:
    """Batches that workers read.

    With config.endless, workers read the next epoch's first batches while the network is
    validated. `augment` is applied to training batches on the device.
    """

    def __init__(
        self,
        reader: Reader,
        plan: EpochPlan,
        config: StreamConfig,
        augment: Callable[[Any, Uniforms], Any] | None = None,
    ) -> None:
        self.reader, self.plan, self.config, self.augment = reader, plan, config, augment
        self.requests, self.next = _Requests(plan, config), (0, 0)  # epoch and batch
        self.running: Iterator[Any] | None = None
        size = -(-reader.slot_size(plan.shard.batch_size) // PAGE) * PAGE
        storage = shared_storage if config.workers else torch.UntypedStorage
        slots = storage(config.slots * size)
        self.memory = torch.tensor([], dtype=torch.uint8).set_(slots).view(-1, size)
        self.pinned: set[int] = set()
        self.answers = self.rows_read = 0  # of workers, and their rows after each slot's first use
        self.seconds_reading = 0.0
        self.loader: DataLoader = DataLoader(
            _Worker(reader, replace(plan, position=None), self.memory),
            batch_size=None,  # a request is a whole batch
            sampler=self.requests,
            collate_fn=tuple,  # a worker's answer is one already
            num_workers=config.workers,
            prefetch_factor=config.prefetch if config.workers else None,
            persistent_workers=config.workers > 0,
            worker_init_fn=_end_with_parent,
            generator=torch.Generator(),  # the default one would draw from the network's
        )

    def __len__(self) -> int:
        return len(self.plan)

    @property
    def nbytes_on_device(self) -> int:
        return 0

    @property
    def rows_per_second(self) -> float | None:
        """How fast all workers read together; None until each slot was filled twice.

        The time in which they wait for a free slot doesn't count, nor does the first use of a slot,
        whose memory is new then.
        """
        if self.answers < 2 * self.config.slots:
            return None
        return self.rows_read / self.seconds_reading * max(self.config.workers, 1)

    def __iter__(self) -> Iterator[Any]:
        epoch, first = self.plan.position() if self.plan.position else (self.next[0], 0)
        if not self.config.endless or self.running is None or self.next != (epoch, first):
            self.requests.start = epoch, first
            self.running = prefetch(self.loader, self.finish, self.config.device)
        for batch in range(first, len(self)):
            self.next = (epoch, batch + 1) if batch + 1 < len(self) else (epoch + 1, 0)
            yield next(self.running)
        self.running = self.running if self.config.endless else None

    def end(self) -> None:
        """Stop the workers."""
        self.running = None
        end_workers(self.loader)

    def finish(self, answer: Any) -> Any:
        """Return a worker's answer as a batch on the device, or raise its UserError."""
        (slot, epoch, _, indices), rest, seconds = answer
        if isinstance(rest, UserError):
            raise rest
        self.answers += 1
        if self.answers > self.config.slots:
            self.rows_read += len(indices)
            self.seconds_reading += seconds
        device = self.config.device
        row = torch.from_numpy(indices).to(device)
        index = row.clamp(min=0)
        if device.type == "cuda" and self.reader.pinned and slot not in self.pinned:
            self._pin(slot)
        rows = self.plan.rows_of(index)
        batch = self.reader.finish(rows, self.memory[slot], rest, device)
        batch = batch._replace(row=self.plan.rows_of(row))
        if epoch is None or self.augment is None:
            return batch
        return self.augment(batch, self.plan.uniforms(epoch, index, skip=self.reader.uniforms))

    def _pin(self, slot: int) -> None:
        """Pin a slot's memory, so that the GPU copies from it without the host."""
        part, cuda = self.memory[slot], torch.cuda.cudart()
        if int(cuda.cudaHostRegister(part.data_ptr(), part.nbytes, 0)) == 0:
            weakref.finalize(self.memory, cuda.cudaHostUnregister, part.data_ptr()).atexit = False
        self.pinned.add(slot)


class _Requests(Iterable[Request]):
    """The requests to the workers, starting at any batch of any epoch."""

    def __init__(self, plan: EpochPlan, config: StreamConfig) -> None:
        self.plan, self.config, self.start = plan, config, (0, 0)

    def __iter__(self) -> Iterator[Request]:
        """Yield requests. Slots rotate: one is reused once its batch is on the device."""
        begin, first = self.start
        slots = itertools.cycle(range(self.config.slots))
        for epoch in itertools.count(begin) if self.config.endless else [begin]:
            for index in self.plan.indices(epoch)[first:]:
                seeded = epoch if self.plan.position else None
                yield next(slots), seeded, self.plan.lengths_of(index[None])[0], index.numpy()
            first = 0


class _Worker(Dataset):
    """Answers a request with the request, what is not in its slot, or an error to raise, and the
    seconds that it took.
    """

    def __init__(self, reader: Reader, plan: EpochPlan, memory: Tensor) -> None:
        self.reader, self.plan, self.memory = reader, plan, memory  # uint8 (slots, bytes)

    def __getitem__(self, request: Request) -> tuple[Request, Any, float]:
        begun = time.perf_counter()
        slot, epoch, length, index = request
        uniforms = None
        if epoch is not None:
            uniforms = self.plan.uniforms(epoch, torch.from_numpy(index))
        rows, memory = self.plan.rows_of(index), self.memory[slot].numpy()
        try:
            rest = self.reader.read(rows, length, uniforms, memory)
        except UserError as error:
            rest = error
        return request, rest, time.perf_counter() - begun


def _end_with_parent(worker: int) -> None:
    """Let SIGTERM stop a worker only if its parent sends it.

    A cluster sends SIGTERM to all processes, but the parent needs workers to finish its step.
    """

    def wait() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
            pass
        os._exit(0)

    parent = os.getppid()
    if sys.platform == "linux":
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=wait, daemon=True).start()


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
