"""metrics.csv: one row a step, every step once, however often the run was interrupted."""

import csv
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import Tensor

from .trackers import Follower, Row


class MetricsCSV(Logger):
    """Write what is logged to `folder`/metrics.csv; values of the same step share a row.

    Rows are appended as steps pass; only a column that was never seen before rewrites the file.
    Each follower is told the rows whose step is over; the last of an interrupted run may be not.
    """

    name, version = "csv", ""

    def __init__(self, folder: Path, followers: Sequence[Follower] = ()) -> None:
        super().__init__()
        self.followers = followers
        self.path = folder / "metrics.csv"
        self.columns = ["step", "epoch"]
        self.row: Row = {}
        self.latest: Row = {}  # of each value, on rank 0
        self.written = False  # whether the last line of the file is this row

    @rank_zero_only
    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Nothing: they stand in config.yaml."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Take the values of a step; those that are OnItsWay are waited for at the next step's."""
        step = 0 if step is None else step
        if self.row and self.row["step"] != step:
            self._append()
            self._tell("log", self.row)
            self.row, self.written = {}, False
        row = {**self.row, "step": step, **metrics}
        row["epoch"] = int(row["epoch"]) if "epoch" in row else 0
        self.latest |= metrics
        if self.written:
            row = _arrived(row)
        if self.written and row != self.row:  # it has more to say than what stands in the file
            self._add_columns(row)
            self._rewrite([*read_metrics(self.path)[:-1], row])
        self.row = row

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self._append()
        if self.row and status == "success":
            self._tell("log", self.row)
        self._tell("finish", status == "success")

    @rank_zero_only
    def to_disk(self) -> None:
        """Write what was logged until now so that it survives a power failure."""
        self._append()
        if self.path.exists():
            with self.path.open("rb") as file:
                os.fsync(file.fileno())

    @rank_zero_only
    def go_on_from(self, step: int) -> None:
        """Keep what an earlier process logged before that many steps, and drop what came after."""
        rows = [row for row in read_metrics(self.path) if row["step"] < step]
        self.columns = list(dict.fromkeys([*self.columns, *(name for row in rows for name in row)]))
        if self.path.exists():
            self._rewrite(rows)
        self.row, self.written = (rows[-1], True) if rows else ({}, False)
        self._tell("start", rows[:-1])  # the last step may not be over

    def _tell(self, step: Literal["start", "log", "finish"], what: Any) -> None:
        for follower in self.followers:
            follower.tell(step, what)

    def _append(self) -> None:
        if not self.row or self.written:
            return
        self.row = _arrived(self.row)
        if self._add_columns(self.row) or not self.path.exists():
            self._rewrite([*read_metrics(self.path), self.row])
        else:
            with self.path.open("a", newline="") as file:
                csv.DictWriter(file, self.columns).writerow(self.row)
        self.written = True

    def _add_columns(self, row: Row) -> bool:
        """Add those that only this row has; return whether there are any."""
        new = [name for name in row if name not in self.columns]
        self.columns += new
        return bool(new)

    def _rewrite(self, rows: list[Row]) -> None:
        draft = self.path.with_name(".metrics.csv.new")
        with draft.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(rows)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self.path)


class ContinueMetrics(L.Callback):
    """When training starts, cut metrics.csv to the step at which it goes on.

    From then on Lightning hands over what is logged without waiting for the GPU, if all loggers
    are ours: it would read each value at once, and leave the GPU without work meanwhile.
    """

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, MetricsCSV):
                logger.go_on_from(trainer.global_step)
        connector: Any = trainer._logger_connector
        if all(isinstance(logger, MetricsCSV) for logger in trainer.loggers):
            log = type(connector).log_metrics
            connector.log_metrics = lambda metrics, step=None: log(connector, sent(metrics), step)


@dataclass
class OnItsWay:
    """A number that is being copied from the GPU; float() waits until it is here."""

    copy: Tensor
    copied: torch.cuda.Event

    def __float__(self) -> float:
        self.copied.synchronize()
        return float(self.copy)


def sent(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metrics, with those that lie on a GPU on their way to the host, in one copy."""
    there = {k: v for k, v in metrics.items() if isinstance(v, Tensor) and v.is_cuda}
    if not there:
        return dict(metrics)
    copies = torch.stack([value.detach().double().reshape(()) for value in there.values()])
    copies, copied = copies.to("cpu", non_blocking=True), torch.cuda.Event()
    copied.record()
    return {**metrics, **{name: OnItsWay(copies[i], copied) for i, name in enumerate(there)}}


def _arrived(row: Row) -> Row:
    return {name: float(v) if isinstance(v, OnItsWay) else v for name, v in row.items()}


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
