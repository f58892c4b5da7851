"""The runs in runs/ and what their records say. Nothing here imports torch: a list is fast."""

import csv
import fcntl
import json
import math
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import UserError
from ..json_text import number
from ..paths import shown

# Words in a metric's name for which low is best, in records that don't say it.
LOW_IS_BEST = ("loss", "error", "mae", "mse", "perplexity")


class Score(NamedTuple):
    """A run's best validation: its metric, whether high or low is best, and the value if any."""

    metric: str
    mode: str
    format: str
    value: float | None

    def __str__(self) -> str:
        return "-" if self.value is None else self.shown(self.value)

    def shown(self, value: float) -> str:
        """Return any value of the metric as text."""
        return format(value, self.format)

    @property
    def rank(self) -> float:
        """A number that is higher for a better score; -inf without a score."""
        if self.value is None or math.isnan(self.value):
            return -math.inf
        return self.value if self.mode == "max" else -self.value


@dataclass(frozen=True)
class Run:
    """A run's folder, as it was found, and the content of its run.json."""

    folder: Path
    record: dict[str, Any]

    @property
    def recipe(self) -> str:
        return self.folder.parent.name

    @property
    def started(self) -> datetime:
        return datetime.fromisoformat(self.record["started"]).astimezone()

    @property
    def label(self) -> str:
        """The run's name and note, in one line; empty without either."""
        return " ".join(": ".join(filter(None, map(self.record.get, ("name", "note")))).split())

    @cached_property
    def state(self) -> str:
        """running, finished, interrupted, diverged, failed, or killed: its process is gone."""
        state, reason = str(self.record.get("state")), str(self.record.get("reason"))
        if state == "running" and not is_locked(self.folder):
            return "killed"
        return "diverged" if state == "failed" and reason.startswith("Diverged:") else state

    @cached_property
    def score(self) -> Score | None:
        """The best validation: from the record of a finished run, else from metrics.csv."""
        results = self.record.get("results", {})
        column = next((name for name in results if name.startswith("best ")), "")
        best = self.record.get("best") or {"metric": column.removeprefix("best ")}
        if not (metric := best["metric"]):
            return None
        low = any(word in metric.lower() for word in LOW_IS_BEST)
        mode = best.get("mode", "min" if low else "max")
        known = f"best {metric}"
        found = [results[known]] if known in results else _logged(self.folder, metric)
        values = [value for value in map(number, found) if value is not None]
        values = [value for value in values if not math.isnan(value)]
        value = (max if mode == "max" else min)(values, default=None)
        return Score(metric, mode, best.get("format", ".4f"), value)

    @cached_property
    def size(self) -> int:
        """The bytes of all files in the folder; a link counts for nothing."""
        paths = (path for path in self.folder.rglob("*") if not path.is_symlink())
        return sum(path.stat().st_size for path in paths if path.is_file())


def runs_in(root: Path) -> Iterator[Run]:
    """Yield the runs in a project's runs/, the newest first, and name damaged records.

    Folders outside of runs/ that have a link there are among them.
    """
    found = []
    for path in root.glob("runs/*/*/run.json"):
        try:
            found.append(Run(path.parent, _complete_record(path)))
        except (UserError, OSError) as error:
            print(f"note: {shown(path.parent)} is passed over: {error}", file=sys.stderr)
    yield from sorted(found, key=lambda run: (run.started, run.folder.name), reverse=True)


def _complete_record(path: Path) -> dict[str, Any]:
    record = read_record(path)
    try:
        datetime.fromisoformat(record["started"])
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path} does not say when the run started.") from None
    return record


def read_record(path: Path) -> dict[str, Any]:
    """Return the content of a run.json. Raises UserError if the file does not hold a record."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(
            f"{path} is not JSON: {error}; expected a run's run.json. Restore it from a copy, or"
            " choose another run."
        ) from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}; expected a run's run.json.")
    return content


def is_trial(config: Any) -> bool:
    """Return whether a run's configuration asks for a few batches only, to try the code."""
    trainer = config.get("trainer") if isinstance(config, dict) else None
    return isinstance(trainer, dict) and bool(trainer.get("fast_dev_run"))


def is_repeat(command: Iterable[str]) -> bool:
    """Return whether a command is reproduce's own, which repeats a run by its decisions."""
    return any(word.startswith("--decisions") for word in command)


def is_locked(folder: Path) -> bool:
    """Return whether a process trains in a run's folder; True if the file system can't tell."""
    try:
        with (folder / ".lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def check_not_trained(folder: Path) -> None:
    """Raise UserError if another process trains in a run's folder and the file system says so."""
    with suppress(OSError), (folder / ".lock").open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise being_trained(folder) from None


def being_trained(folder: Path) -> UserError:
    return UserError(f"{folder} is being trained by another process. Stop it, or wait.")


def _logged(folder: Path, metric: str) -> list[str]:
    """Return a metric's values in metrics.csv, which a run appends to while it trains."""
    try:
        with (folder / "metrics.csv").open(newline="") as file:
            rows = csv.reader(file)
            place = next(rows).index(metric)
            return [row[place] for row in rows if len(row) > place and row[place]]
    except (OSError, StopIteration, ValueError):
        return []
