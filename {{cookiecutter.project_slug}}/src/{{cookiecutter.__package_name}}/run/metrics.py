"""metrics.csv: one row a step, every step once, however often the run was interrupted."""

import csv
import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from .verified import to_disk, write_whole

Row = dict[str, Any]


class Follower:
    """Gets every row of a run once; what it raises is said once and ends nothing but itself."""

    name, failed = "", False

    def tell(self, step: Literal["start", "log", "finish"], what: Any) -> None:
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

    Rows are appended as steps pass; only a column that was never seen before rewrites the file.
    Each follower is told the rows whose step is over; the last of an interrupted run may be not.
    """

    name, version = "csv", ""

    def __init__(self, folder: Path, followers: Sequence[Follower] = ()) -> None:
        super().__init__()
        self.followers, self.started = followers, False
        self.path = folder / "metrics.csv"
        self.columns = ["step", "epoch"]
        self.row: Row = {}  # of the step that is logged
        self.in_file: Row = {}  # what of it the file holds

    @rank_zero_only
    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Nothing: they stand in config.yaml."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if self.row and self.row["step"] != step:
            self._write()
            self._tell("log", self.row)
            self.row = self.in_file = {}
        row = {"epoch": 0, **self.row, "step": step, **metrics}
        self.row = row | {"epoch": int(row["epoch"])}

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self._write()
        if self.row and status == "success":
            self._tell("log", self.row)
        self._tell("finish", status == "success")

    @rank_zero_only
    def to_disk(self) -> None:
        """Write what was logged until now so that it survives a power failure."""
        self._write()
        if self.path.exists():
            to_disk(self.path)

    @rank_zero_only
    def go_on_from(self, step: int) -> None:
        """Keep what an earlier process logged before that many steps, and drop what came after."""
        rows = [row for row in read_metrics(self.path) if row["step"] < step]
        self.columns = list(dict.fromkeys([*self.columns, *(name for row in rows for name in row)]))
        if self.path.exists():
            self._rewrite(rows)
        self.row = self.in_file = rows[-1] if rows else {}
        self.started = True
        self._tell("start", rows[:-1])  # the last step may not be over

    def _tell(self, step: Literal["start", "log", "finish"], what: Any) -> None:
        for follower in self.followers if self.started else ():
            follower.tell(step, what)

    def _write(self) -> None:
        if self.row == self.in_file:
            return
        new = [name for name in self.row if name not in self.columns]
        if new or self.in_file or not self.path.exists():
            self.columns += new
            rows = read_metrics(self.path)
            self._rewrite([*rows[: len(rows) - bool(self.in_file)], self.row])
        else:
            with self.path.open("a", newline="") as file:
                csv.DictWriter(file, self.columns).writerow(self.row)
        self.in_file = self.row

    def _rewrite(self, rows: list[Row]) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns)
        writer.writeheader()
        writer.writerows(rows)
        write_whole(self.path, text.getvalue())


def read_metrics(path: Path) -> list[Row]:
    """Return the rows of a metrics.csv as numbers, without the cells that are empty.

    A last line that a killed process left half written is passed over.
    """
    rows: list[Row] = []
    if not path.exists():
        return rows
    with path.open(newline="") as file:
        for cells in csv.DictReader(file):
            try:
                row: Row = {name: float(value) for name, value in cells.items() if value}
                row["step"], row["epoch"] = int(row["step"]), int(row["epoch"])
            except (KeyError, TypeError, ValueError):
                continue
            rows.append(row)
    return rows
