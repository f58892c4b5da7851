"""Find the largest batch size that fits into GPU memory, before a run with data.batch_size auto.

Each size is tried by training on one batch for a moment, in a process of its own: what it leaves in
GPU memory is gone when it ends.
"""

import sys
import tempfile
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ..decisions import Decision
from ..errors import UserError
from .trials import Process, of_batch

FIRST = 32  # rows of the first batch that is tried
GROWTH = 4  # from the first size to the second
HEADROOM = 0.9  # of the memory: the rest is for validation, other devices' gradients and fragments
SURELY = 1.05  # times the limit: a size predicted to take as much is not tried
SECONDS = 0.3  # of training, after a batch's code is compiled
# A short run of one process that begins anew.
ALONE = ["--trainer.num_nodes=1", "--trainer.strategy=auto", "--trainer.accumulate_grad_batches=1"]
ALONE += ["--trainer.max_steps=-1", "--trainer.max_time=null", "--ckpt_path=null"]

# Returns the GiB that training takes at most with so many rows at once, None if they don't fit.
Probe = Callable[[int], float | None]


def candidates(rows: int, step: int | None = None) -> list[int]:
    """Return the batch sizes to choose from, ascending.

    `rows` is the number of training rows for each device. `step` is the part of each device in the
    global batch size, if that is set: then its divisors. Otherwise powers of two, and these times
    1.5.
    """
    if step is not None:
        return [size for size in range(1, min(step, rows) + 1) if step % size == 0]
    powers = [1 << i for i in range(rows.bit_length())]
    return sorted({size for n in powers for size in (n, n * 3 // 2) if size <= rows})


def largest(sizes: Sequence[int], probe: Probe, limit: float) -> tuple[int, float]:
    """Return the largest of the ascending `sizes` that takes `limit` GiB at most, and its GiB.

    After two sizes, the others' memory is predicted: it grows in proportion to the rows. So few are
    tried. Raises UserError if even the smallest does not fit.
    """
    used: dict[int, float] = {}
    low, high = -1, len(sizes)  # indices of the largest that fits and the smallest that doesn't
    at = max(bisect_right(sizes, FIRST) - 1, 0)
    while high - low > 1:
        peak = probe(sizes[at])
        if peak is None or peak > limit:
            high = at
        else:
            low, used[sizes[at]] = at, peak
        if len(used) > 1 and high - low > 1 and _predicted(used, sizes[low + 1]) > SURELY * limit:
            break
        at = min(max(_next(sizes, used, limit, low, high), low + 1), high - 1)
    if low < 0:
        raise UserError(
            f"Even a batch of {sizes[0]} takes more than {limit:.1f} GiB of GPU memory, nine tenths"
            " of it. Try --model.activation_checkpointing true, or a smaller network."
        )
    return sizes[low], used[sizes[low]]


def _next(
    sizes: Sequence[int], used: Mapping[int, float], limit: float, low: int, high: int
) -> int:
    """Return the index of the size to try next."""
    if not used:
        return high // 2
    if len(used) == 1:
        grown = bisect_right(sizes, GROWTH * sizes[low]) - 1
        return grown if grown < high else (low + high) // 2
    fitting = [i for i, size in enumerate(sizes) if _predicted(used, size) <= limit]
    return fitting[-1] if fitting else low + 1


def _predicted(used: Mapping[int, float], size: int) -> float:
    """Return the memory that a size would take, on the line through the two largest of `used`."""
    (a, peak_a), (b, peak_b) = sorted(used.items())[-2:]
    return peak_b + (size - b) * max(peak_b - peak_a, 0.0) / (b - a)


def probe_of(package: str, config: Path, flags: Sequence[str]) -> Probe:
    """Return a probe that trains the configuration on its longest batch, in a process."""

    def probe(size: int) -> float | None:
        print(f"  trying a batch of {size} …", file=sys.stderr, flush=True)
        tried = [*flags, *of_batch(size)]
        with Process(package, config, tried, one_batch=True, longest=True) as process:
            try:
                return process.ready().trial(SECONDS)["peak_gib"] or 0.0
            except UserError as error:
                if "out of GPU memory" in str(error):
                    return None
                raise

    return probe


def measure(
    package: str, config: str, sizes: Sequence[int], compiled: bool, gpu_gib: float
) -> Decision:
    """Return the largest of the batch sizes that fits into a GPU, and what it takes.

    `config` is the configuration in YAML, `compiled` whether the run compiles its step, `gpu_gib`
    the GPU's memory.
    """
    print("data.batch_size is auto: trying how many rows fit into GPU memory", file=sys.stderr)
    flags = [*ALONE, *([] if compiled else ["--model.compile=false"])]
    with tempfile.TemporaryDirectory(prefix="auto-") as folder:
        file = Path(folder, "config.yaml")
        file.write_text(config, encoding="utf-8")
        size, peak = largest(sizes, probe_of(package, file, flags), HEADROOM * gpu_gib)
    return Decision(size, f"the largest that fits, with {peak:.1f} of {gpu_gib:.0f} GiB")
