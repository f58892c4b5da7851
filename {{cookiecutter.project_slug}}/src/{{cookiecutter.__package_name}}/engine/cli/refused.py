"""Callbacks and settings of Lightning that don't work here, and what to do instead.

Everything else of Lightning works: docs/training.md has a table, which a test holds to this module.
"""

from collections.abc import Iterator
from importlib import import_module
from typing import Any

from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    GradientAccumulationScheduler,
    LearningRateFinder,
)

from ..errors import UserError

CALLBACKS = {
    BatchSizeFinder: (
        "its trial steps would change the weights and the record. Set --data.batch_size auto, or"
        " measure with make tune"
    ),
    LearningRateFinder: (
        "its trial steps would change the weights and the record. Compare short runs with"
        " --model.learning_rate, such as 0.01, 0.03 and 0.1, and --trainer.max_epochs 3"
    ),
    GradientAccumulationScheduler: "it changes the global batch: remove it",
}
PRECISIONS = {
    "16-true": (
        "float16 weights lose small updates, and the loss becomes NaN. Set 16-mixed, or bf16-true"
    ),
}


def check_trainer_settings(trainer: Any) -> None:
    """Raise UserError if the Trainer's settings name something that does not work here."""
    if (reason := PRECISIONS.get(str(trainer.precision))) is not None:
        raise UserError(f"trainer.precision is {trainer.precision}: {reason}.")
    for named in _class_paths(trainer.callbacks):
        module, _, name = named.rpartition(".")
        kind = getattr(import_module(module), name)
        for refused, reason in CALLBACKS.items():
            if isinstance(kind, type) and issubclass(kind, refused):
                raise UserError(f"trainer.callbacks has {kind.__name__}: {reason}.")


def check_patience(patience: int | None) -> None:
    if patience is not None and patience < 1:
        raise UserError(f"--patience is {patience}; expected 1 or more validations.")


def _class_paths(callbacks: Any) -> Iterator[str]:
    """Yield the classes that a configuration's callbacks name."""
    each = callbacks if isinstance(callbacks, list) else [callbacks]
    for callback in each:
        path = getattr(callback, "class_path", None)
        if path is not None:
            yield path
