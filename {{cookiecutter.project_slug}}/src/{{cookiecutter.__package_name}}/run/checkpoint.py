"""Which checkpoints a run keeps, and which one it goes on from."""

import zipfile
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import ModelCheckpoint

from ..errors import UserError


class RunCheckpoint(ModelCheckpoint):
    """Lightning's callback, which remembers the best checkpoint also when the run was moved."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        here = {**state_dict, "dirpath": self.dirpath}
        for key in ("best_model_path", "kth_best_model_path", "last_model_path"):
            here[key] = here[key] and self._here(here[key])
        here["best_k_models"] = {self._here(k): v for k, v in here["best_k_models"].items()}
        super().load_state_dict(here)

    def _here(self, path: str) -> str:
        return str(Path(str(self.dirpath)) / Path(path).name)


def keep_checkpoints(folder: Path) -> RunCheckpoint:
    """Return the callback that keeps best.ckpt, by validation accuracy, and last.ckpt."""
    return RunCheckpoint(
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

    Raises UserError if the run has none of these, or it is not whole.
    """
    paths = [folder / "checkpoints" / f"{name}.ckpt" for name in names]
    path = next(filter(Path.is_file, paths), None)
    if path is None:
        raise UserError(
            f"{folder} has no checkpoint: it ended before its first validation. Start a new run."
        )
    if not zipfile.is_zipfile(path):
        raise UserError(
            f"{path} is damaged: no checkpoint was written to its end. Choose another one with"
            " --ckpt_path, or start a new run."
        )
    return path
