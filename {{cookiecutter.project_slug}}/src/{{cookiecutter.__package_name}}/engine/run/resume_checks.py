"""Whether a run still is what it was: the same steps, seed, data and source as it began with."""

import zipfile
from pathlib import Path
from typing import Any

from ..errors import UserError

# What an elastic resume may change: how the global batch is divided, and how it is computed.
LAYOUT = {"data.batch_size", "the number of devices", "trainer.accumulate_grad_batches"}
LAYOUT |= {"trainer.precision"}
# Settings of the model and the data that change nothing of what is learned. What the data are is
# compared by their content, and pretrained weights are read by a new run only.
MAY_CHANGE = {
    "model": {"compile", "channels_last", "activation_checkpointing", "pretrained", "num_classes"},
    "data": {"source", "options", "eval_batch_size", "loader", "workers", "prefetch", "decoder"},
}
# The Trainer's settings that decide the result. Its length is not one: a run may be trained longer.
OF_THE_TRAINER = (
    *("precision", "gradient_clip_val", "gradient_clip_algorithm", "accumulate_grad_batches"),
    *("limit_train_batches", "overfit_batches"),
)


def check_resume(config: dict[str, Any], was: dict[str, Any], elastic: bool) -> None:
    """Raise UserError if a setting that decides the result of a run is not what it was.

    `was` is the configuration of the run's last start. An `elastic` resume may change how the
    global batch is divided: among more or fewer devices, in larger or smaller parts.
    """
    now, then = _fixed_settings(config), _fixed_settings(was)
    changed = {key for key in now if key in then and then[key] != now[key]}
    if elastic:
        changed -= LAYOUT
    if changed:
        fix = "Leave them as they were, or start a new run from its weights: --model.pretrained"
        if changed <= LAYOUT:
            fix = "Leave them, or add --elastic: the same images in each step, not the same bits"
        told = (f"{key} was {then[key]}, is {now[key]}" for key in now if key in changed)
        raise UserError(f"The run can't go on to the same end: {'; '.join(told)}. {fix}.")


def _fixed_settings(config: dict[str, Any]) -> dict[str, Any]:
    """Return every setting of a configuration that decides what a run learns."""
    found = {
        f"{part}.{key}": value
        for part, may_change in MAY_CHANGE.items()
        for key, value in config[part].items()
        if key not in may_change and not key.startswith("_")
    }
    trainer, data = config["trainer"], config["data"]
    found |= {f"trainer.{key}": trainer[key] for key in OF_THE_TRAINER if key in trainer}
    return {
        **found,
        "the number of devices": int(trainer["devices"]) * trainer["num_nodes"],
        "seed_everything": config["seed_everything"],
        "a step in one CUDA graph": config["model"]["compile"] == "step-graph",
        "random crops of files": data["source"] == "folder"
        and data["loader"] in (None, "streaming"),
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
