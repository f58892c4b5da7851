"""Which checkpoints a run keeps, and which one it goes on from."""

from pathlib import Path

from lightning.pytorch.callbacks import ModelCheckpoint

from ..errors import UserError


def keep_checkpoints(folder: Path) -> ModelCheckpoint:
    """Return the callback that keeps best.ckpt, by validation accuracy, and last.ckpt."""
    return ModelCheckpoint(
        dirpath=folder / "checkpoints",
        filename="best",
        monitor="val/accuracy",
        mode="max",
        save_last=True,
        auto_insert_metric_name=False,
        enable_version_counter=False,
    )


def find_checkpoint(folder: Path, *names: str) -> Path:
    """Return the first of a run's checkpoints `best` and `last` that is there.

    Raises:
        UserError: the run has none of these.
    """
    for name in names:
        path = folder / "checkpoints" / f"{name}.ckpt"
        if path.is_file():
            return path
    raise UserError(f"{folder} has no checkpoint yet: it ended before its first validation.")
