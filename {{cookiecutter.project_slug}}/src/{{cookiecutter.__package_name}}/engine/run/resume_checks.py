"""Check that a resumed run has the same settings, data and source as when it started."""

from collections.abc import Mapping, Set
from types import MappingProxyType
from typing import Any

from ..contract import Facts
from ..errors import UserError
from ..plurals import counted
from .source import changed_source

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


def check_length(trained: int, max_epochs: int | None) -> None:
    """Raise UserError if a run that has trained for some epochs is asked to end before."""
    if max_epochs is not None and 0 <= max_epochs < trained:
        raise UserError(
            f"trainer.max_epochs is {max_epochs}, but the run has trained for"
            f" {counted(trained, 'epoch')}. Set a larger number, or start a new run."
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


def warn_of_changed_source(record: Any) -> None:
    """Print which source files have changed since the run started."""
    starts = record.content, record.newest_start()
    first, newest = (record.path.with_name(start["source"]["zip"]) for start in starts)
    if first.is_file() and (files := changed_source(first, newest)):
        names = ", ".join(files)
        print(f"warning: changed since the run started: {names}. Training uses the changed files.")
