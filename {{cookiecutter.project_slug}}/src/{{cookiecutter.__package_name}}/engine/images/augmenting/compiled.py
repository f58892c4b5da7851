"""Changes of images, compiled: hundreds of kernels become about forty, with the same bits."""

import functools
from collections.abc import Callable, Hashable
from types import MethodType
from typing import Any

import torch
from torch import Tensor

Change = Callable[[Tensor, Tensor], Tensor]  # (images, uniforms) to images

# Without these, Triton contracts a product and a sum, and divides approximately: some values would
# then round to another grey level than uncompiled.
EXACT: dict[str, Any] = {"emulate_precision_casts": True, "eager_numerics.division_rounding": True}


def compiled(change: Any) -> Change:
    """Return a method compiled for any number of images, which come first in both tensors.

    Equal objects share what was compiled.
    """
    return _compiled(change.__func__, change.__self__)


@functools.cache
def _compiled(function: Callable[..., Tensor], owner: Hashable) -> Change:
    faster = torch.compile(MethodType(function, owner), options=EXACT)

    def of_any_number(images: Tensor, uniforms: Tensor) -> Tensor:
        for tensor in (images, uniforms):
            torch._dynamo.maybe_mark_dynamic(tensor, 0)
        return faster(images, uniforms)

    return of_any_number
