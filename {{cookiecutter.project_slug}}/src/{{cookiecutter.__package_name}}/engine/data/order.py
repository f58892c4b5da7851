"""The order of samples and each sample's random numbers, computed from (seed, epoch, index) alone.

Nothing here has state, so nothing has to be saved: a run draws the same numbers wherever it
resumes. The hash is integer arithmetic, so CPU and GPU give the same bits.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..contract import Uniforms

# SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014):
# a counter in steps of GOLDEN; two rounds of multiply and xor-shift scramble each value.
GOLDEN = 0x9E3779B97F4A7C15
ROUND_1 = 0xBF58476D1CE4E5B9
ROUND_2 = 0x94D049BB133111EB
MASK = (1 << 64) - 1

WINDOW = 32  # steps whose rows are sorted by length together

Position = Callable[[], tuple[int, int]]  # returns the next epoch and its first batch


def uniforms(seed: int, epoch: int, index: Tensor, k: int) -> Tensor:
    """Return k random numbers for each sample. They don't depend on its batch or device.

    Args:
        seed: the run's seed.
        epoch: the epoch, counted from 0.
        index: int64 tensor (n,), the samples' indices in the data set.
        k: how many numbers to return per sample; the first j are the same for every k >= j.

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
    """One process's share of every step.

    A step of all processes covers the next batch_size * world_size * accumulate samples of the
    order. Each run of `batch_size` samples is a micro-batch, so a step's micro-batches are the same
    sets of samples on any number of devices: process r computes those from r * accumulate on.

    Args:
        in_turn: deal the samples of each micro-batch to the processes in turn, as step version 1
            did (decisions.py).
    """

    batch_size: int
    rank: int = 0
    world_size: int = 1
    accumulate: int = 1
    in_turn: bool = False

    @property
    def step(self) -> int:
        """The global batch size: the number of samples in a step of all processes."""
        return self.batch_size * self.world_size * self.accumulate

    def batches(self, n: int) -> int:
        """Return the number of batches in an epoch over n samples; a partial step is dropped."""
        return n // self.step * self.accumulate

    def of(self, order: Tensor) -> Tensor:
        """Return this process's batches of an epoch: int64 tensor (batches, batch_size)."""
        whole = order[: len(order) // self.step * self.step]
        if self.in_turn:
            return whole.view(-1, self.batch_size, self.world_size)[:, :, self.rank]
        parts = whole.view(-1, self.world_size, self.accumulate, self.batch_size)
        return parts[:, self.rank].flatten(0, 1)

    def padded(self, n: int, device: torch.device | str = "cpu") -> Tensor:
        """Return this process's batches of all n samples in order, padded with -1.

        The result is an int64 tensor (batches, batch_size).
        """
        step = self.batch_size * self.world_size
        positions = torch.arange(-(-n // step) * step, device=device)
        indices = torch.where(positions < n, positions, -1)
        return indices.view(-1, self.batch_size, self.world_size)[:, :, self.rank]


@dataclass(frozen=True)
class EpochPlan:
    """Which of n rows each batch of an epoch contains.

    With a `position` the plan is for training: the seed shuffles each epoch anew, or, with
    `weights`, rows are drawn with replacement. Without, it is for evaluation: each row once, in
    order. All processes have the same number of batches of the same size.
    """

    n: int
    shard: BatchShard
    seed: int = 0
    position: Position | None = None
    weights: Tensor | None = None
    lengths: Tensor | None = None  # int32 (n,) if rows differ in length
    same_order: bool = False  # in each epoch, for --trainer.overfit_batches

    def __len__(self) -> int:
        return self.shard.batches(self.n) if self.position else len(self.shard.padded(self.n))

    @cached_property
    def fixed(self) -> tuple[int, ...]:
        """The lengths that batches can have; none if all rows have the same length."""
        return () if self.lengths is None else fixed_lengths(self.lengths)

    def lengths_of(self, indices: Tensor) -> list[int | None]:
        """Return the shortest fixed length that fits the rows of each batch.

        `indices` is int64 (batches, batch_size) on the CPU, -1 for padding. Each length is None if
        all rows have the same.
        """
        if self.lengths is None:
            return [None] * len(indices)
        longest = self.lengths[self.rows_of(indices.clamp(min=0))].amax(1)
        places = torch.searchsorted(torch.tensor(self.fixed, dtype=torch.int32), longest)
        return [self.fixed[place] for place in places.tolist()]

    def padding(self, epoch: int = 0) -> float:
        """Return the share of an epoch's tokens that only fill up batches to their lengths."""
        if self.lengths is None:
            return 0.0
        indices = self.indices(epoch)
        filled = sum(length or 0 for length in self.lengths_of(indices)) * indices.shape[1]
        return 1 - int(self.lengths[self.rows_of(indices.clamp(min=0))].sum()) / max(filled, 1)

    def uniforms(self, epoch: int, index: Tensor, skip: int = 0) -> Uniforms:
        """Return the Uniforms of the rows at `index`, without the first `skip` numbers of each."""
        return lambda k: uniforms(self.seed, epoch, index, skip + k)[:, skip:]

    def indices(self, epoch: int, device: torch.device | str = "cpu") -> Tensor:
        """Return the row indices of an epoch's batches, int64 (batches, batch_size).

        -1 is padding. With `weights`, a row's index is n higher each time it is drawn again, so
        that it gets other random numbers; see `rows_of`.
        """
        if self.position is None:
            return self.shard.padded(self.n, device)
        if self.same_order:
            epoch = 0
        if self.weights is not None:
            order = numbered(weighted_order(self.seed, epoch, self.weights)).to(device)
        else:
            order = epoch_order(self.seed, epoch, self.n, device)
        if self.lengths is not None:
            lengths = self.lengths.to(device)
            lengths = lengths[self.rows_of(order)]
            order = sorted_in_windows(order, lengths, self.shard.step, self.seed, epoch)
        return self.shard.of(order)

    def rows_of(self, indices: Any) -> Any:
        """Return the rows, below n, of indices (a tensor or an array); padding stays -1."""
        return indices if self.weights is None else indices % self.n


def weighted_order(seed: int, epoch: int, weights: Tensor) -> Tensor:
    """Draw n rows with replacement, by their weights, float64 (n,): int64 (n,)."""
    high, low = uniforms(seed, epoch, torch.arange(len(weights)), 2).double().unbind(1)
    ends = weights.double().cumsum(0)
    return torch.searchsorted(ends, (high + low * 2.0**-24) * ends[-1], right=True)


def numbered(order: Tensor) -> Tensor:
    """Return draws of n rows, int64 (n,), plus n for each earlier draw of the same row."""
    n, places = len(order), order.argsort(stable=True)
    counts = order.bincount(minlength=n)
    firsts = counts.cumsum(0) - counts
    times = torch.empty_like(order)
    times[places] = torch.arange(n) - firsts[order[places]]
    return order + n * times


def sorted_in_windows(order: Tensor, lengths: Tensor, step: int, seed: int, epoch: int) -> Tensor:
    """Return an epoch's order with rows of similar lengths in the same step: few are then padded.

    The rows of each WINDOW steps are sorted by length and dealt to these steps, whose order is then
    shuffled. `lengths` is int32, that of each row in the order; rows after the last whole step are
    left out.
    """
    count = len(order) // step
    order = order[: count * step]
    window = torch.arange(len(order), device=order.device) // (WINDOW * step)
    longest = int(lengths.max()) + 1
    steps = order[(window * longest + lengths[: len(order)]).argsort(stable=True)].view(count, step)
    shuffled = epoch_order(seed, epoch, count, order.device)
    return steps[shuffled[(shuffled // WINDOW).argsort(stable=True)]].flatten()


def fixed_lengths(lengths: Tensor, most: int = 4, multiple: int = 8) -> tuple[int, ...]:
    """Return the lengths that batches are padded or cut to: those that need the least padding.

    At most `most` lengths keep the number of shapes to compile small. They are multiples of
    `multiple`; the longest row always fits. `lengths` is int32 (n,).
    """
    rounded = (lengths.long() + multiple - 1) // multiple * multiple
    candidates, counts = rounded.unique(return_counts=True)
    rows = counts.cumsum(0).double()
    shorter = torch.cat([rows.new_zeros(1), rows[:-1]])
    # sizes[i, j]: the tokens of the rows from candidate j to i, all padded to candidate i.
    sizes = (rows[:, None] - shorter) * candidates[:, None]
    sizes = sizes.masked_fill(torch.ones_like(sizes).triu(1).bool(), torch.inf)
    least, starts = sizes[:, 0], [torch.zeros_like(candidates)]
    for _ in range(most - 1):  # one length more, for the rows from candidate `start` on
        least, start = (sizes + torch.cat([least.new_zeros(1), least[:-1]])).min(1)
        starts.append(start)
    found, last = [], len(candidates) - 1
    while last >= 0:
        found.append(int(candidates[last]))
        last = int(starts.pop()[last]) - 1
    return tuple(reversed(found))


def _key(seed: int, epoch: int) -> int:
    """Mix seed and epoch into 64 bits."""
    mixed = torch.tensor(_signed(seed & MASK))
    for word in (0, epoch):
        mixed = _scramble(mixed + _signed(GOLDEN * (word + 1) & MASK))
    return int(mixed)


def _scramble(x: Tensor) -> Tensor:
    """Apply SplitMix64's output function to an int64 tensor; products wrap around."""
    x = (x ^ _shift_right(x, 30)) * _signed(ROUND_1)
    x = (x ^ _shift_right(x, 27)) * _signed(ROUND_2)
    return x ^ _shift_right(x, 31)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Shift right and fill with zeros; >> on int64 fills with the sign bit."""
    return (x >> bits) & (MASK >> bits)


def _signed(value: int) -> int:
    """Return the signed integer with the same 64 bits."""
    return value - (1 << 64) if value >= 1 << 63 else value
