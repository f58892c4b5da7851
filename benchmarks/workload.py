"""What every workload has: a title, rows, and how each is run."""

import os
from abc import ABC, abstractmethod
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

LEFT_OUT = 3  # exit status of a row whose package is not installed
STEP_GRAPH = {"model.compile": "step-graph"}
DATA_PARALLEL = {"trainer.strategy": "data-parallel"}


@dataclass(frozen=True)
class Row:
    """A way to train.

    `flags` are those that it adds to our command line; None if it runs another program. `limit` is
    the row that its speed is compared with.
    """

    label: str
    flags: Mapping[str, Any] | None = None
    limit: str = "limit"


ON_SEVERAL = {  # devices, as --devices says
    "several": Row("ours, data-parallel on {devices}", DATA_PARALLEL, "several-limit"),
    "several-step-graph": Row(
        "ours, data-parallel on {devices}, step graph",
        DATA_PARALLEL | STEP_GRAPH,
        "several-limit",
    ),
    "several-ddp": Row(
        "Lightning's ddp on {devices}", {"trainer.strategy": "ddp"}, "several-limit"
    ),
    "several-limit": Row("the limit of {devices}", None, "several-limit"),
}


@dataclass(frozen=True)
class Workload(ABC):
    """A network, its data, and the number of epochs that our command line trains.

    The first of the `epochs` compiles and is not part of the figures. If `whole_process`, the
    figure is the time from the start of the process to its end instead. Every row but the limit is
    pinned to `cores` cores a GPU, if set. A loop without Lightning times at least `steps` steps.
    `devices` is the number of GPUs of the rows that train on several; if `strong`, they divide the
    batch. A row is stopped after
    `longest` seconds; `expected` is an estimate of its seconds before it has run.
    """

    title: str
    rows: tuple[str, ...]
    network: str
    batch: int
    epochs: int
    train: int
    val: int
    cores: int | None = None
    devices: int | None = None
    strong: bool = False
    workers: int = 8
    steps: int = 300
    compiles: bool = True
    device: str = "cuda"
    whole_process: bool = False
    longest: float = 180.0
    expected: float = 75.0

    ROWS: ClassVar[dict[str, Row]]
    PACKAGE: ClassVar[str]  # the folder here with the rows that are not our command line
    UNIT: ClassVar[str]
    THINGS: ClassVar[str]
    OF_SEVERAL: ClassVar[tuple[str, ...]] = ()  # the rows that compare one GPU with several
    MOST_RISE: ClassVar[float] = 0.0  # of the loss of a valid row, from the first to the last

    @abstractmethod
    def flags(self, row: str, asked: Namespace) -> dict[str, Any]:
        """Return the flags of our command line, with its recipe as `config`."""

    @abstractmethod
    def tiny(self) -> "Workload":
        """Return a version that a CPU trains in seconds."""

    def prepare(self, asked: Namespace) -> None:
        """Make the files that the rows read."""
        return None

    def arguments(self, asked: Namespace) -> list[str]:
        """Return more arguments of rows.py."""
        return []

    def batch_of(self, row: str) -> int | None:
        """Return a row's batch size if it differs from the workload's."""
        return None

    def label(self, row: str) -> str:
        devices = "1 GPU" if self.devices == 1 else f"{self.devices} GPUs"
        return self.ROWS[row].label.format(devices=devices)

    @property
    def batch_of_each(self) -> int:
        """The batch size of each of several devices."""
        return self.batch // (self.devices or 1) if self.strong else self.batch

    def cores_of(self, row: str) -> int | None:
        """The cores that a row is pinned to: as many for each of several GPUs as for one.

        None if it may use all.
        """
        if self.device != "cuda" or "limit" in row:
            return None
        if not self.devices:
            return self.cores
        each = self.cores or len(os.sched_getaffinity(0)) // self.devices
        return each * (self.devices if row in ON_SEVERAL else 1)

    @property
    def all_workers(self) -> int:
        """One worker for each core that this process may use."""
        return len(os.sched_getaffinity(0)) if self.device == "cuda" else self.workers
