"""Check that a resumed run has the same settings, data and source as when it started."""

import sys
from collections.abc import Mapping, Set
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ..contract import Facts
from ..errors import UserError
from ..plurals import counted
from .record import RunRecord
from .source import changed_source

MOST_NAMED = 10  # changed files

# An elastic resume may change these: how the global batch is divided and computed.
LAYOUT = {"data.batch_size", "the number of devices", "trainer.accumulate_grad_batches"}
LAYOUT |= {"trainer.precision"}
# The engine's settings that do not affect what is learned.
MAY_CHANGE = {
    "model": {"compile", "channels_last", "activation_checkpointing"},
    "data": {"eval_batch_size", "loader", "workers", "prefetch"},
}
# The Trainer's settings that affect the result. The length does not: a run may train longer.
TRAINER_SETTINGS = (
    *("precision", "gradient_clip_val", "gradient_clip_algorithm", "accumulate_grad_batches"),
    *("limit_train_batches", "overfit_batches"),
)


def check_resume(
    config: dict[str, Any],
    was: dict[str, Any],
    elastic: bool,
    may_change: Mapping[str, Set[str]] = MappingProxyType({}),
) -> None:
    """Raise UserError if a setting that affects the result has changed.

    `was` is the configuration of the run's last start; `may_change` the settings that the project's
    task and data allow to change. An `elastic` resume may change how the global batch is divided:
    over more or fewer devices, in larger or smaller parts.
    """
    now, then = (_fixed_settings(some, may_change) for some in (config, was))
    changed = {key for key in now if key in then and then[key] != now[key]}
    if elastic:
        changed -= LAYOUT
    if changed:
        fix = "or start a new run from its weights: --model.pretrained"
        if changed <= LAYOUT:
            fix = "or add --elastic: same batches, not bit-identical"
        them = "it" if len(changed) == 1 else "them"
        shown = (f"{key} was {then[key]}, is {now[key]}" for key in now if key in changed)
        raise UserError(
            f"Resuming would change the result: {'; '.join(shown)}. Set {them} back, {fix}."
        )


def check_length(
    saved: Mapping[str, Any],
    trainer: Mapping[str, Any],
    was: Mapping[str, Any],
    until: int | None = None,
) -> None:
    """Raise UserError if a run is asked to end where its checkpoint is, or before.

    `was` is the Trainer's section of the run's last start. A length that is the same may be
    reached: such a run was killed while it ended.
    """
    done = {
        "max_epochs": (saved["epoch"], f"has trained for {counted(saved['epoch'], 'epoch')}"),
        "max_steps": (saved["global_step"], f"is at step {saved['global_step']} already"),
    }
    asked = {f"trainer.{key}": (trainer.get(key), *done[key]) for key in done}
    same = {f"trainer.{key}" for key in done if trainer.get(key) == was.get(key)}
    asked["--until"] = (until, *done["max_steps"])
    for name, (most, reached, how_far) in asked.items():
        if name not in same and most is not None and 0 <= most <= reached:
            raise UserError(
                f"{name} is {most}, but the run {how_far}. Set a larger number, or start a new run."
            )


def _fixed_settings(config: dict[str, Any], may_change: Mapping[str, Set[str]]) -> dict[str, Any]:
    """Return every setting of a configuration that affects what a run learns."""
    found = {
        f"{part}.{key}": value
        for part, engine in MAY_CHANGE.items()
        for key, value in config[part].items()
        if key not in engine | may_change.get(part, set()) and not key.startswith("_")
    }
    trainer = config["trainer"]
    found |= {f"trainer.{key}": trainer[key] for key in TRAINER_SETTINGS if key in trainer}
    return {
        **found,
        "the number of devices": int(trainer["devices"]) * trainer["num_nodes"],
        "seed_everything": config["seed_everything"],
        "best": config.get("best"),
    }


def check_data(was: Facts, found: Facts, resuming: bool) -> None:
    """Raise UserError if a resume would use other data; an evaluation only prints a warning."""
    if was.fingerprint != found.fingerprint:
        if resuming:
            raise UserError(
                "The dataset has changed since this run started: files or rows were added, removed"
                " or edited. Restore them, or start a new run."
            )
        print("warning: the dataset is not the run's: the run may have been trained on these rows.")
        for remark in found.remarks:
            print(f"note: {remark}")
    loaders = [facts.extra.get("loader", "streaming") for facts in (was, found)]
    if resuming and found.nbytes is None and len({name == "streaming" for name in loaders}) > 1:
        raise UserError(
            f"Resuming would change the result: data.loader was {loaders[0]}, is {loaders[1]}, and"
            " only the streaming loader reads at random. Set it back, or start a new run."
        )


def warn_of_changed_source(record: RunRecord) -> None:
    """Print which source files have changed since a run that resumes started."""
    starts = record.content, record.newest_start()
    first, newest = (record.path.with_name(start["source"]["zip"]) for start in starts)
    if files := _changed(first, newest):
        print(f"warning: changed since the run started: {files}. Training uses the changed files.")


def warn_of_newer_source(folder: Path, root: Path) -> None:
    """Print, on stderr, which source files have changed since a run was last trained."""
    source = RunRecord(folder).newest_start().get("source", {}).get("zip", "")
    if files := _changed(folder / source, root):
        said = f"warning: changed since the run was trained: {files}."
        print(f"{said} The weights are from before the change.", file=sys.stderr, flush=True)


def _changed(before: Path, now: Path) -> str:
    """Return the changed files as text: "" if there are none, or the archive is lost."""
    files = changed_source(before, now) if before.is_file() else []
    more = len(files) - MOST_NAMED
    return ", ".join(files[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
