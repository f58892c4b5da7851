"""A LightningModule of which a step costs the host less: a tenth or more of a small network's."""

from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor

HOOKS: tuple[str, ...] = ("on_train_batch_start", "on_before_zero_grad", "on_before_backward")
HOOKS += ("on_after_backward", "on_before_optimizer_step", "on_train_batch_end")


class LeanModule(L.LightningModule):
    """Does what Lightning 2.6.6 and autograd do at each step, without what nobody needs of it."""

    def on_train_start(self) -> None:
        """Let the Trainer call those hooks of a step alone that somebody has written."""
        callbacks: list[L.Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        for listener in (self, *callbacks):
            base = L.LightningModule if listener is self else L.Callback
            vars(listener).update({h: None for h in HOOKS if not is_overridden(h, listener, base)})

    def __setattr__(self, name: str, value: Any) -> None:
        """Note which hook runs, as Lightning does 30 times a step, without torch's questions."""
        if name == "_current_fx_name":
            vars(self)[name] = value
        else:
            super().__setattr__(name, value)

    def backward(self, loss: Tensor, *arguments: Any, **options: Any) -> None:
        """Compute one GPU's gradients in this thread: autograd's own would have to be woken."""
        with torch.autograd.set_multithreading_enabled(self.trainer.world_size > 1):
            loss.backward(*arguments, **options)
