"""Which sample comes when, and every random number about it, from (seed, epoch, index) alone.

Nothing here has a state, so nothing has to be saved: a run that resumes anywhere draws the same
numbers. The hash is integer arithmetic: the same bits on CPU and GPU.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..contract import Uniforms

# SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014):
# a counter in steps of GOLDEN, each value scrambled by two rounds of multiply and xor-shift.
GOLDEN = 0x9E3779B97F4A7C15
ROUND_1 = 0xBF58476D1CE4E5B9
ROUND_2 = 0x94D049BB133111EB
MASK = (1 << 64) - 1

Position = Callable[[], tuple[int, int]]  # the epoch that starts, and its first batch


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
class BatchShard:
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
        indices = torch.where(every < n, every, -1)
        return indices.view(-1, self.batch_size, self.world_size)[:, :, self.rank]


@dataclass(frozen=True)
class EpochPlan:
    """Which of n rows each batch of an epoch has.

    With a `position` they are trained on: in an order of each epoch's own, by the seed, or drawn
    with replacement where there are `weights`. Without, they are evaluated: each once, in order.
    Every process has as many batches, of the same size.
    """

    n: int
    shard: BatchShard
    seed: int = 0
    position: Position | None = None
    weights: Tensor | None = None
    lengths: Tensor | None = None  # int32 (n,), where rows differ in length

    def __len__(self) -> int:
        return self.shard.batches(self.n) if self.position else len(self.shard.padded(self.n))

    @cached_property
    def fixed(self) -> tuple[int, ...]:
        """The few lengths that batches have; none where rows do not differ in length."""
        return () if self.lengths is None else fixed_lengths(self.lengths)

    def length(self, index: Tensor) -> int | None:
        """Return the shortest fixed length that the rows at `index` (-1: padding) fit into."""
        if self.lengths is None:
            return None
        longest = int(self.lengths[index.cpu().clamp(min=0)].max())
        return next(length for length in self.fixed if length >= longest)

    def uniforms(self, epoch: int, index: Tensor, skip: int = 0) -> Uniforms:
        """Return what gives each row at `index` k random numbers, after its first `skip` ones."""
        return lambda k: uniforms(self.seed, epoch, index, skip + k)[:, skip:]

    def indices(self, epoch: int, device: torch.device | str = "cpu") -> Tensor:
        """Return the rows of an epoch's batches, int64 (batches, batch_size); -1 is padding."""
        if self.position is None:
            return self.shard.padded(self.n, device)
        if self.weights is not None:
            return self.shard.of(weighted_order(self.seed, epoch, self.weights).to(device))
        return self.shard.of(epoch_order(self.seed, epoch, self.n, device))


def weighted_order(seed: int, epoch: int, weights: Tensor) -> Tensor:
    """Return n rows drawn with replacement by their weights, float64 (n,): int64 (n,)."""
    high, low = uniforms(seed, epoch, torch.arange(len(weights)), 2).double().unbind(1)
    ends = weights.double().cumsum(0)
    return torch.searchsorted(ends, (high + low * 2.0**-24) * ends[-1], right=True)


def fixed_lengths(lengths: Tensor, most: int = 4, multiple: int = 8) -> tuple[int, ...]:
    """Return the few lengths that batches are cut to: shares of the rows fit into each.

    `lengths` are int32 (n,). A few shapes are compiled once each; the longest row always fits.
    """
    shares = torch.arange(1, most + 1, dtype=torch.float64) / most
    ends = torch.quantile(lengths.double(), shares, interpolation="higher").long().tolist()
    return tuple(sorted({-(-end // multiple) * multiple for end in ends}))


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
