"""A LightningModule that spares the host: a step of ResNet-18 on an H200 is a fifth shorter."""

from typing import Any

import lightning as L
import torch
from torch import Tensor

HOOKS: tuple[str, ...] = ("on_train_batch_start", "on_before_zero_grad", "on_before_backward")
HOOKS += ("on_after_backward", "on_before_optimizer_step", "on_train_batch_end")


class LeanModule(L.LightningModule):
    """Does what Lightning 2.6.6 and autograd do at each step, without what nobody needs of it."""

    def on_train_start(self) -> None:
        """Log once an epoch at least, and of a step's hooks call the written ones."""
        trainer: Any = self.trainer
        an_epoch = max(int(trainer.num_training_batches) // trainer.accumulate_grad_batches, 1)
        trainer.log_every_n_steps = min(trainer.log_every_n_steps, an_epoch)  # or it logs no loss
        callbacks: list[L.Callback] = trainer.callbacks
        for listener in (self, *callbacks):
            base, own = L.LightningModule if listener is self else L.Callback, vars(listener)
            for hook in HOOKS:
                if getattr(type(listener), hook) is getattr(base, hook):
                    own.setdefault(hook, None)  # what was set on the object itself stays
                elif own.get(hook, hook) is None:  # it was written since an earlier fit
                    del own[hook]

    def __setattr__(self, name: str, value: Any) -> None:
        """Note which hook runs, as Lightning does 30 times a step, without torch's questions."""
        if name == "_current_fx_name":
            vars(self)[name] = value
        else:
            super().__setattr__(name, value)

    def backward(self, loss: Tensor, *arguments: Any, **options: Any) -> None:
        """Compute one GPU's gradients in this thread: autograd's own would have to be woken."""
        several = self._trainer is not None and self._trainer.world_size > 1
        with torch.autograd.set_multithreading_enabled(several):
            super().backward(loss, *arguments, **options)
