"""metrics.csv: one row per step, and no step twice, even if the run was interrupted."""

import csv
import io
import math
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import lightning as L
from lightning.pytorch.loggers import Logger

from ..fast.pending import PendingValue
from ..ranks import rank_zero_only
from .checkpoint_files import fsync, write_atomically

LOSS = "train/loss"

Row = dict[str, Any]


class Tracker:
    """Gets every row of a run once; what it raises is said once and ends nothing but itself."""

    name, failed = "", False

    def notify(self, step: Literal["start", "log", "finish"], what: Any) -> None:
        """Call start(rows that are there), log(row) or finish(success), unless it failed before."""
        if self.failed:
            return
        try:
            getattr(self, step)(what)
        except Exception as error:
            self.failed = True
            reason = (str(error) or type(error).__name__).splitlines()[0]
            print(f"{self.name} stopped, training goes on: {reason}", file=sys.stderr)


class MetricsCSV(Logger):
    """Write what is logged to `folder`/metrics.csv; values of the same step share a row.

    Rows are appended; only a new column rewrites the file. Trackers get the rows of completed
    steps; the last step of an interrupted run may be incomplete.
    """

    name, version = "csv", ""
    takes_pending_numbers = True  # see fast/patches.py

    def __init__(self, folder: Path, trackers: Sequence[Tracker] = ()) -> None:
        super().__init__()
        self.trackers, self.started = trackers, False
        self.path = folder / "metrics.csv"
        self.columns = ["step", "epoch"]
        self.completed: list[Row] = []  # rows of earlier steps, not written yet
        self.row: Row = {}  # of the current step
        self.epoch = 0  # of rows that don't name theirs, such as those of Lightning's monitors
        self.in_file: Row = {}  # what the file already has of the first of these rows
        self.latest: Row = {}  # the newest number of each name, on rank 0
        self.unchecked: deque[tuple[int, Any]] = deque()  # steps and losses

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Do nothing: they are stored in config.yaml."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Take the values of a step; its row is written once it is complete."""
        if self.row and self.row["step"] != step:
            self.completed, self.row = [*self.completed, self.row], {}
            self._write()
        row = {"epoch": self.epoch, **self.row, "step": step, **metrics}
        self.row = row | {"epoch": int(row["epoch"])}
        self.latest |= {k: v for k, v in metrics.items() if not isinstance(v, PendingValue)}
        if LOSS in metrics:
            self.unchecked.append((row["step"], metrics[LOSS]))

    def not_finite(self) -> str | None:
        """Return the next loss, of those that have arrived from the GPU, that is not finite."""
        while self.unchecked and _arrived({LOSS: self.unchecked[0][1]}):
            step, loss = self.unchecked.popleft()
            if not math.isfinite(loss):
                return f"{LOSS} is {float(loss)} in step {step + 1}"
        return None

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self._write(wait=True)
        if self.row and status == "success":
            self._notify("log", self.row)
        self._notify("finish", status == "success")

    @rank_zero_only
    def fsync(self) -> None:
        """Write everything logged so far, so that it survives a power failure."""
        self._write(wait=True)
        if self.path.exists():
            fsync(self.path)

    @rank_zero_only
    def resume_from(self, step: int) -> None:
        """Keep the rows that an earlier process logged before this step, and drop later ones."""
        rows = [row for row in read_metrics(self.path) if row["step"] < step]
        self.columns = list(dict.fromkeys([*self.columns, *(name for row in rows for name in row)]))
        if self.path.exists():
            self._rewrite(rows)
        self.row = self.in_file = rows[-1] if rows else {}
        self.started = True
        self._notify("start", rows[:-1])  # the last step may be incomplete

    def _notify(self, step: Literal["start", "log", "finish"], what: Any) -> None:
        for tracker in self.trackers if self.started else ():
            tracker.notify(step, what)

    def _write(self, wait: bool = False) -> None:
        """Write completed rows whose numbers have arrived; with `wait`, write all rows."""
        while self.completed and (wait or _arrived(self.completed[0])):
            self._notify("log", self._put(self.completed.pop(0)))
            self.in_file = {}
        if wait:
            self.row = self._put(self.row)

    def _put(self, row: Row) -> Row:
        here = {k: float(v) for k, v in row.items() if isinstance(v, PendingValue)}
        self.latest, row = self.latest | here, row | here
        new = [name for name in row if name not in self.columns]
        if row != self.in_file and (new or self.in_file or not self.path.exists()):
            self.columns += new
            rows = read_metrics(self.path)
            self._rewrite([*rows[: len(rows) - bool(self.in_file)], row])
        elif row != self.in_file:
            with self.path.open("a", newline="") as file:
                csv.DictWriter(file, self.columns).writerow(row)
        self.in_file = row
        return row

    def _rewrite(self, rows: list[Row]) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns)
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(self.path, text.getvalue())


def _arrived(row: Row) -> bool:
    """Return whether every number of a row has been copied from the GPU."""
    return all(v.copied.query() for v in row.values() if isinstance(v, PendingValue))


def metrics_of(trainer: L.Trainer) -> list[MetricsCSV]:
    return [logger for logger in trainer.loggers if isinstance(logger, MetricsCSV)]


def read_metrics(path: Path) -> list[Row]:
    """Return the rows of a metrics.csv as numbers, without empty cells and truncated lines."""
    rows: list[Row] = []
    with path.open(newline="") if path.exists() else io.StringIO() as file:
        for cells in csv.DictReader(file):
            try:
                row: Row = {name: float(value) for name, value in cells.items() if value}
                row["step"], row["epoch"] = int(row["step"]), int(row["epoch"])
            except (KeyError, TypeError, ValueError):
                continue
            rows.append(row)
    return rows
