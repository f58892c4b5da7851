"""Whether a run still is what it was: the same steps, seed, data and source as it began with."""

import zipfile
from pathlib import Path
from typing import Any

from ..errors import UserError

LAYOUT = {"data.batch_size", "the number of devices", "trainer.accumulate_grad_batches"}


def check_resume(config: Any, was: Any, elastic: bool) -> None:
    """Raise UserError if a run would go on with other steps, or another seed, than before.

    `was` is the configuration of its last start. An `elastic` resume may divide the global batch
    otherwise: among more or fewer devices, in larger or smaller parts.
    """
    now, then = _telling(config), _telling(was)
    changed = {key for key in now if then[key] not in (None, now[key])}
    if elastic:
        changed -= LAYOUT
    if changed:
        mend = "Leave them as they were, or start a new run from its weights: --model.pretrained"
        if changed <= LAYOUT:
            mend = "Leave them, or add --elastic: the same images in each step, not the same bits"
        told = (f"{key} was {then[key]}, is {now[key]}" for key in now if key in changed)
        raise UserError(f"The run can't go on to the same end: {'; '.join(told)}. {mend}.")


def _telling(config: Any) -> dict[str, Any]:
    """Return what decides the images of each step, and what a checkpoint's optimizer holds."""
    keys = {
        "model": ("learning_rate", "weight_decay", "momentum", "schedule", "warmup"),
        "trainer": ("limit_train_batches", "overfit_batches", "accumulate_grad_batches"),
        "data": ("global_batch_size", "batch_size", "seed"),
    }
    return {
        **{f"{part}.{key}": config[part][key] for part, names in keys.items() for key in names},
        "the number of devices": int(config["trainer"]["devices"]) * config["trainer"]["num_nodes"],
        "seed_everything": config["seed_everything"],
        "a step in one CUDA graph": config["model"]["compile"] == "step-graph",
    }


def check_data(record: dict[str, Any], found: dict[str, Any], resuming: bool) -> None:
    """Raise UserError if a resume would go on with other data; an evaluation is only warned."""
    if record.get("data", found)["fingerprint"] == found["fingerprint"]:
        return
    if resuming:
        raise UserError(
            "The data are not those that the run began with: images were added, removed or changed."
            " Bring them back, or start a new run."
        )
    print("warning: these are not the data that the run was trained on: it may know test images.")


def warn_of_changed_source(record: Any) -> None:
    """Say which files of a run that goes on are no longer those that it began with."""
    starts = record.content, record.newest_start()
    first, newest = (record.path.with_name(start["source"]["zip"]) for start in starts)
    if first.is_file() and (files := changed_source(first, newest)):
        print(f"warning: changed since the run began: {', '.join(files)}. It goes on with them.")


def changed_source(before: Path, now: Path) -> list[str]:
    """Return the files below src/ that differ between two archives of the project's source."""
    with zipfile.ZipFile(before) as old, zipfile.ZipFile(now) as new:
        was, is_ = ({i.filename: i.CRC for i in pack.infolist()} for pack in (old, new))
    names = sorted(was.keys() | is_.keys())
    return [name for name in names if name.startswith("src/") and was.get(name) != is_.get(name)]
