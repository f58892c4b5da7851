"""metrics.csv: one row a step, every step once, however often the run was interrupted."""

import csv
import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import lightning as L
from lightning.pytorch.loggers import Logger

from ..fast.pending import PendingValue
from ..ranks import rank_zero_only
from .checkpoint_files import fsync, write_atomically

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

    Rows are appended; only a column that was never seen before rewrites the file. Trackers get the
    rows whose step is over; the last row of an interrupted run may be of a step that is not.
    """

    name, version = "csv", ""
    takes_pending_numbers = True  # see fast/patches.py

    def __init__(self, folder: Path, trackers: Sequence[Tracker] = ()) -> None:
        super().__init__()
        self.trackers, self.started = trackers, False
        self.path = folder / "metrics.csv"
        self.columns = ["step", "epoch"]
        self.over: list[Row] = []  # of earlier steps; a number of theirs is on its way
        self.row: Row = {}  # of the step that is logged
        self.in_file: Row = {}  # what the file holds of the first of those
        self.latest: Row = {}  # of each value, on rank 0, as far as they are here

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Nothing: they stand in config.yaml."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Take the values of a step; its row is written when all are here and the step is over."""
        if self.row and self.row["step"] != step:
            self.over, self.row = [*self.over, self.row], {}
            self._write()
        row = {"epoch": 0, **self.row, "step": step, **metrics}
        self.row = row | {"epoch": int(row["epoch"])}
        self.latest |= {k: v for k, v in metrics.items() if not isinstance(v, PendingValue)}

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self._write(wait=True)
        if self.row and status == "success":
            self._notify("log", self.row)
        self._notify("finish", status == "success")

    @rank_zero_only
    def to_disk(self) -> None:
        """Write what was logged until now so that it survives a power failure."""
        self._write(wait=True)
        if self.path.exists():
            fsync(self.path)

    @rank_zero_only
    def go_on_from(self, step: int) -> None:
        """Keep what an earlier process logged before that many steps, and drop what came after."""
        rows = [row for row in read_metrics(self.path) if row["step"] < step]
        self.columns = list(dict.fromkeys([*self.columns, *(name for row in rows for name in row)]))
        if self.path.exists():
            self._rewrite(rows)
        self.row = self.in_file = rows[-1] if rows else {}
        self.started = True
        self._notify("start", rows[:-1])  # the last step may not be over

    def _notify(self, step: Literal["start", "log", "finish"], what: Any) -> None:
        for tracker in self.trackers if self.started else ():
            tracker.notify(step, what)

    def _write(self, wait: bool = False) -> None:
        """Write the rows of steps that are over, once all numbers are here; or wait, for all."""
        while self.over and (
            wait
            or all(v.copied.query() for v in self.over[0].values() if isinstance(v, PendingValue))
        ):
            self._notify("log", self._put(self.over.pop(0)))
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


def metrics_of(trainer: L.Trainer) -> list[MetricsCSV]:
    return [logger for logger in trainer.loggers if isinstance(logger, MetricsCSV)]


def read_metrics(path: Path) -> list[Row]:
    """Return the rows of a metrics.csv as numbers, but for empty cells and lines cut short."""
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
