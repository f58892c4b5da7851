"""How a training ended that no exception ended: complete, stopped by a callback, or out of time."""

from typing import Any

from lightning.pytorch.callbacks import EarlyStopping, Timer


def ending(trainer: Any, out_of_patience: str | None) -> tuple[str, str | None]:
    """Return the state of a run whose fit has ended, and the reason if it ended early.

    A run that is out of time (max_time) is `interrupted`: it can be resumed. A run that a callback
    stopped, or that is out of patience for the reason given, is `finished`.
    """
    epoch, epochs, steps = trainer.current_epoch, trainer.max_epochs, trainer.max_steps
    if 0 <= steps <= trainer.global_step or (epochs not in (None, -1) and epoch >= epochs):
        return "finished", None
    if out_of_patience:
        return "finished", out_of_patience
    callbacks = trainer.callbacks
    if any(_is_over(each) for each in callbacks if isinstance(each, Timer)):
        return "interrupted", f"max_time: the time was over after step {trainer.global_step}"
    for stopping in (each for each in callbacks if isinstance(each, EarlyStopping)):
        if stopping.stopping_reason_message:
            said = " ".join(stopping.stopping_reason_message.split())
            return "finished", f"EarlyStopping after epoch {epoch - 1}: {said}"
    return "finished", f"a callback stopped the training after step {trainer.global_step}"


def _is_over(timer: Timer) -> bool:
    remaining = timer.time_remaining()
    return remaining is not None and remaining <= 0


def forget_elapsed_time(checkpoint: dict[str, Any]) -> None:
    """Make a resume count max_time from its own start: a checkpoint has the time of all before."""
    checkpoint.get("callbacks", {}).get(Timer.__qualname__, {}).pop("time_elapsed", None)
