"""Lightning's EMAWeightAveraging in a configuration: it switches on the engine's own average."""

from importlib import import_module
from typing import Any

from lightning.pytorch.callbacks import EMAWeightAveraging

from ..errors import UserError

# Settings that the engine's average lacks, and their defaults.
OTHERS = {
    "device": None,
    "update_every_n_steps": 1,
    "update_starting_at_step": None,
    "update_starting_at_epoch": None,
}


def take_average(config: Any) -> float | None:
    """Replace EMAWeightAveraging in a verb's configuration by `model.ema`, and return its decay.

    Lightning's waits for the device in each step. Raises UserError if it has other settings, or
    another decay than `model.ema`.
    """
    callbacks = config.trainer.callbacks
    each = callbacks if isinstance(callbacks, list) else [callbacks]
    found = [callback for callback in each if _averages(callback)]
    if not found:
        return None
    settings = vars(found[0].init_args)
    changed = [name for name, usual in OTHERS.items() if settings.get(name, usual) != usual]
    if changed:
        raise UserError(
            f"trainer.callbacks has EMAWeightAveraging with {' and '.join(changed)}; the average"
            " here has only a decay. Leave that out, or set --model.ema 0.999 instead."
        )
    decay = settings["decay"]
    if config.model.ema not in (None, decay):
        raise UserError(
            f"model.ema is {config.model.ema}, and trainer.callbacks has EMAWeightAveraging with"
            f" decay {decay}. Remove one of them."
        )
    config.model.ema = decay
    config.trainer.callbacks = [callback for callback in each if callback not in found] or None
    return decay


def _averages(callback: Any) -> bool:
    module, _, name = getattr(callback, "class_path", "").rpartition(".")
    kind = getattr(import_module(module), name) if module else None
    return isinstance(kind, type) and issubclass(kind, EMAWeightAveraging)
