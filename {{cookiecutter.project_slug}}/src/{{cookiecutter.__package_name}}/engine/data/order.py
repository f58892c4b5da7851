"""Which sample comes when, and every random number about it, from (seed, epoch, index) alone.

Nothing here has a state, so nothing has to be saved: a run that resumes anywhere draws the same
numbers. The hash is integer arithmetic: the same bits on CPU and GPU.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

# SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014):
# a counter in steps of GOLDEN, each value scrambled by two rounds of multiply and xor-shift.
GOLDEN = 0x9E3779B97F4A7C15
ROUND_1 = 0xBF58476D1CE4E5B9
ROUND_2 = 0x94D049BB133111EB
MASK = (1 << 64) - 1

Position = Callable[[], tuple[int, int]]  # which epoch starts, and the batch it goes on with


def uniforms(seed: int, epoch: int, index: Tensor, k: int) -> Tensor:
    """Return k random numbers for each sample, the same wherever and in whatever batch it is drawn.

    Args:
        seed: the run's seed.
        epoch: the epoch, counted from 0.
        index: int64 tensor (n,), the samples' places in the data set.
        k: how many numbers each sample needs; the first j are the same for every k >= j.

    Returns:
        float32 tensor (n, k) in [0, 1), each a multiple of 2**-24, on the device of `index`.
    """
    states = _scramble(index ^ _key(seed, epoch))
    counters = torch.arange(1, k + 1, device=index.device) * _signed(GOLDEN)
    return _shift_right(_scramble(states[:, None] + counters), 40).float() * 2.0**-24


def epoch_order(seed: int, epoch: int, n: int, device: torch.device | str = "cpu") -> Tensor:
    """Return the order in which an epoch visits n samples: int64 tensor (n,), a permutation."""
    keys = _scramble(torch.arange(n, device=device) ^ _key(seed, epoch) ^ _signed(ROUND_1))
    return keys.argsort(stable=True)


@dataclass(frozen=True)
class Share:
    """One process's part of every step.

    A step of all processes together covers the next batch_size * world_size * accumulate samples
    of the order, however many processes and micro-batches share them.
    """

    batch_size: int
    rank: int = 0
    world_size: int = 1
    accumulate: int = 1

    @property
    def step(self) -> int:
        """The global batch size: how many samples a step of all processes takes."""
        return self.batch_size * self.world_size * self.accumulate

    def batches(self, n: int) -> int:
        """Return how many batches an epoch over n samples has; what fills no step is dropped."""
        return n // self.step * self.accumulate

    def of(self, order: Tensor) -> Tensor:
        """Return this process's batches of an epoch: int64 tensor (batches, batch_size)."""
        whole = order[: len(order) // self.step * self.step]
        return whole.view(-1, self.batch_size, self.world_size)[:, :, self.rank]

    def padded(self, n: int, device: torch.device | str = "cpu") -> Tensor:
        """Return this process's batches of all n samples in order, filled up with -1."""
        step = self.batch_size * self.world_size
        every = torch.arange(-(-n // step) * step, device=device)
        places = torch.where(every < n, every, -1)
        return places.view(-1, self.batch_size, self.world_size)[:, :, self.rank]


@dataclass(frozen=True)
class Plan:
    """Which of n images each batch of an epoch has.

    With a `position` they are trained on: in an order of each epoch's own, by the seed. Without,
    they are evaluated: each once, in order. All batches have the same shape, so that nothing
    recompiles, and every process has as many.
    """

    n: int
    share: Share
    seed: int = 0
    position: Position | None = None

    def __len__(self) -> int:
        return self.share.batches(self.n) if self.position else len(self.share.padded(self.n))

    def places(self, epoch: int, device: torch.device | str = "cpu") -> Tensor:
        """Return the images of an epoch, int64 (batches, n): places in the split, or -1."""
        if self.position is None:
            return self.share.padded(self.n, device)
        return self.share.of(epoch_order(self.seed, epoch, self.n, device))


def _key(seed: int, epoch: int) -> int:
    """Mix seed and epoch into 64 bits."""
    mixed = torch.tensor(_signed(seed & MASK))
    for word in (0, epoch):
        mixed = _scramble(mixed + _signed(GOLDEN * (word + 1) & MASK))
    return int(mixed)


def _scramble(x: Tensor) -> Tensor:
    """SplitMix64's output function on an int64 tensor, whose products wrap around."""
    x = (x ^ _shift_right(x, 30)) * _signed(ROUND_1)
    x = (x ^ _shift_right(x, 27)) * _signed(ROUND_2)
    return x ^ _shift_right(x, 31)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Shift in zeros from the left, which int64's own >> does not."""
    return (x >> bits) & (MASK >> bits)


def _signed(value: int) -> int:
    """Return the int64 that has the same 64 bits."""
    return value - (1 << 64) if value >= 1 << 63 else value
