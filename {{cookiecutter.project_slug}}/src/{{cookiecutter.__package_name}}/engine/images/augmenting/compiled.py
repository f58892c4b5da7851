"""Changes of images, compiled: hundreds of kernels become about forty, with the same bits."""

import functools
import math
from collections.abc import Callable, Hashable
from types import MethodType
from typing import Any

import torch
from torch import Tensor

from ...data.module import Data
from ...decisions import AS_CONFIGURED, optimizer_steps

# On an H200, compiling takes 15 s, or 5 s again later, and saves 0.3 s for each GB of images.
BYTES_THAT_PAY = 30e9

Change = Callable[[Tensor, Tensor], Tensor]  # (images, uniforms) to images

# Without these, Triton contracts a product and a sum, and divides approximately: some values would
# then round to another grey level than uncompiled.
EXACT: dict[str, Any] = {"emulate_precision_casts": True, "eager_numerics.division_rounding": True}


def pays(trainer: Any, data: Data) -> bool:
    """Return whether a Trainer's run is compiled and long enough to compile its changes too.

    Its facts have the shape of the images, which are uint8.
    """
    compiling = data.decisions.compile
    if compiling.value in (False, "eager-graph") or trainer.strategy.root_device.type != "cuda":
        return False
    if compiling.why == AS_CONFIGURED:
        return True
    names = "max_steps", "max_epochs", "limit_train_batches"
    facts, config = data.facts(), {name: getattr(trainer, name) for name in names}
    a_batch = data.batch_size * math.prod(facts.shapes["images"])
    batches = facts.rows["train"] // (data.batch_size * trainer.world_size)
    return optimizer_steps(config, batches, 1) * a_batch >= BYTES_THAT_PAY


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
