"""Changes of images, compiled: hundreds of kernels become about forty, with the same bits."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Change = Callable[[Tensor, Tensor], Tensor]  # (images, uniforms) to images

# Without these, Triton contracts a product and a sum, and divides approximately: some values would
# then round to another grey level than uncompiled.
EXACT: dict[str, Any] = {"emulate_precision_casts": True, "eager_numerics.division_rounding": True}


@functools.cache
def compiled(change: Change) -> Change:
    """Return the change, compiled once for any number of images, which come first in tensors."""
    faster = torch.compile(change, options=EXACT)

    def of_any_number(images: Tensor, uniforms: Tensor) -> Tensor:
        for tensor in (images, uniforms):
            torch._dynamo.maybe_mark_dynamic(tensor, 0)
        return faster(images, uniforms)

    return of_any_number
