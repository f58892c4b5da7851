"""What callbacks of Lightning and of the project do to the weights."""

from collections.abc import Iterator
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import StochasticWeightAveraging

ENGINE = __package__.rpartition(".")[0]
SWAP_IN = ("on_validation_start", "on_validation_epoch_start")
SWAP_OUT = ("on_validation_epoch_end", "on_validation_end")


def swaps_weights(trainer: Any) -> bool:
    """Return whether validation may measure other weights than those that are trained.

    Averages of the weights, for example, are put into the network for a validation.
    """
    return trainer.lightning_module.weight_average is not None or any(
        _overrides(each, *SWAP_IN) and _overrides(each, *SWAP_OUT) for each in _others(trainer)
    )


def may_end_with_other_weights(trainer: Any) -> bool:
    """Return whether a callback may change the weights when training ends, after the last step."""
    return any(_overrides(each, "on_train_end") for each in _others(trainer))


def averages_next(trainer: Any) -> bool:
    """Return whether StochasticWeightAveraging puts its averages into the network after this epoch.

    If the network has batch normalization, another epoch measures its statistics for them.
    """
    each = (c for c in trainer.callbacks if isinstance(c, StochasticWeightAveraging))
    return any(trainer.current_epoch == callback.swa_end for callback in each)


def resume_averaging(trainer: Any) -> None:
    """After a resume within an epoch, let StochasticWeightAveraging set its learning rates again.

    It does so when an epoch starts, which Lightning (2.6.6) does not tell after such a resume.
    """
    if not trainer.fit_loop.restarted_mid_epoch:
        return
    for each in trainer.callbacks:
        if isinstance(each, StochasticWeightAveraging) and trainer.current_epoch <= each.swa_end:
            each.on_train_epoch_start(trainer, trainer.lightning_module)


def _others(trainer: Any) -> Iterator[Any]:
    """Yield the task and the callbacks that are not the engine's."""
    yield trainer.lightning_module
    for callback in trainer.callbacks:
        if not type(callback).__module__.startswith(f"{ENGINE}."):
            yield callback


def _overrides(listener: Any, *hooks: str) -> bool:
    base = L.Callback if isinstance(listener, L.Callback) else L.LightningModule
    return any(getattr(type(listener), hook) is not getattr(base, hook) for hook in hooks)
