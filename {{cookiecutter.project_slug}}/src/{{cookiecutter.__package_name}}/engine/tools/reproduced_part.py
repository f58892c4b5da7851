"""Which part of a recorded run can be repeated: all of it, or the steps before it was cut short."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ..errors import UserError
from ..model.checks import read_checkpoint
from ..run.checkpoint_files import LAST, find_checkpoint
from ..run.digests import Digests, digests_of_checkpoint, losses, read_digests
from ..run.record import read_yaml

TIMER = "lightning.pytorch.callbacks"  # Timer's class path starts with it
DRAFT = "config.yaml"


class Part(NamedTuple):
    """The steps to repeat (None: all), what they have to give, and why they are not all."""

    until: int | None
    expected: Digests
    reason: str = ""
    by_checkpoint: bool = False  # the weights are those of a checkpoint, not of the end of the run


def part_of(run: Path, record: dict[str, Any], asked: int | None) -> Part:
    """Return what to repeat of a run: all, or up to step `asked`, or up to where it was cut short.

    A run that max_time, a signal, an error or a callback ended is compared with its last
    checkpoint. Early stopping comes again at the same step, so such a run is repeated as a whole.

    Raises UserError if the run has neither a checkpoint nor a loss.
    """
    part = _recorded(run, record)
    if asked is None or (part.until is not None and asked >= part.until):
        return part
    if part.until is None and asked >= record["results"].get("steps", asked + 1):
        return part
    return Part(asked, {"losses": part.expected["losses"], "weights": {}, "optimizer": {}})


def _recorded(run: Path, record: dict[str, Any]) -> Part:
    reason = record.get("reason") or ""
    if record["state"] == "finished" and not reason.startswith("a callback"):
        return Part(None, read_digests(run))
    reason = reason.partition("\n")[0].partition(". ")[0] or "it has not finished"
    try:
        saved = read_checkpoint(str(find_checkpoint(run, "last", "previous")), resuming=True)
    except UserError:
        logged = [int(step) for step, loss in losses(run).items() if _is_finite(loss)]
        if not logged:
            raise
        expected: Digests = {"losses": losses(run), "weights": {}, "optimizer": {}}
        return Part(max(logged) + 1, expected, reason)
    expected = {"losses": losses(run), **digests_of_checkpoint(saved)}
    return Part(saved["global_step"], expected, reason, by_checkpoint=True)


def repeated(again: Path, part: Part) -> Digests:
    """Return the digests of the repetition, to compare with those that are expected."""
    if not part.by_checkpoint:
        return read_digests(again)
    saved = read_checkpoint(str(again / "checkpoints" / LAST), resuming=True)
    return {"losses": losses(again), **digests_of_checkpoint(saved)}


def configuration(run: Path, folder: Path) -> Path:
    """Return the run's configuration file: one in `folder` without limits of time, if it has any.

    A repetition ends at the same step, not after the same time.
    """
    file = run / DRAFT
    recorded = read_yaml(file.read_text(encoding="utf-8"))
    untimed = without_time_limits(recorded)
    if untimed == recorded:
        return file
    (folder / DRAFT).write_text(yaml.safe_dump(untimed, sort_keys=False), encoding="utf-8")
    return folder / DRAFT


def without_time_limits(config: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration without max_time and without Lightning's Timer among the callbacks."""
    trainer = dict(config["trainer"])
    if trainer.get("max_time") is not None:
        trainer["max_time"] = None
    if isinstance(callbacks := trainer.get("callbacks"), list):
        trainer["callbacks"] = [each for each in callbacks if not _is_timer(each)]
    return {**config, "trainer": trainer}


def _is_timer(callback: Any) -> bool:
    path = callback.get("class_path", "") if isinstance(callback, dict) else ""
    return path.startswith(TIMER) and path.endswith(".Timer")


def _is_finite(loss: str) -> bool:
    return math.isfinite(float.fromhex(loss))
