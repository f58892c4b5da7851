"""The size of a network: its parameters, and the FLOPs of one row's forward pass."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


class Size(NamedTuple):
    """The parameters of a network, those of them that are trained, and the FLOPs of a row.

    The FLOPs are those of matrix products and convolutions, each multiply-add counted as two; None
    if they can't be counted. `length` is the row's, if rows differ in it.
    """

    parameters: int
    trained: int
    flops: int | None
    length: int | None

    def __str__(self) -> str:
        trained = (
            f" ({_short(self.trained).strip()} trained)" if self.trained < self.parameters else ""
        )
        length = f" of length {self.length}" if self.length else ""
        flops = f", {_short(self.flops)}FLOPs forward for a row{length}" if self.flops else ""
        return f"{_short(self.parameters).strip()} parameters{trained}{flops}"


def size_of(network: nn.Module, flops: int | None, length: int | None) -> Size:
    weights = list(network.parameters())
    trained = sum(weight.numel() for weight in weights if weight.requires_grad)
    return Size(sum(weight.numel() for weight in weights), trained, flops, length)


def with_flops(compute: Callable[[], Any]) -> tuple[Any, int | None]:
    """Return what `compute` returns, and its FLOPs; None if counting them makes it fail."""
    try:
        with _countable(), FlopCounterMode(display=False) as counter:
            return compute(), counter.get_total_flops()
    except Exception:
        return compute(), None


@contextmanager
def _countable() -> Iterator[None]:
    """Compute attention as plain matrix products: the counter knows few of the fused kernels."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _short(number: int) -> str:
    """Return a number as three digits and a prefix of its unit, such as `11.2 M`."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= 0.9995 * size:  # 999,950 is 1 M, not 1e+03 k
            return f"{number / size:.3g} {unit}"
    return f"{number} "
