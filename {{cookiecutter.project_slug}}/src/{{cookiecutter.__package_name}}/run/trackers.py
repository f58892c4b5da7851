"""wandb and TensorBoard follow metrics.csv: they get each row once, when its step is over.

Neither asks, waits long for a network or ends training.
"""

import os
import shlex
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .folder import shown
from .record import RunRecord
from .wandb_mode import wandb_mode, wandb_server

Row = dict[str, Any]


@dataclass
class Tracking:
    """Where a run can be watched, beside its metrics.csv.

    Args:
        wandb: follow the run with Weights & Biases; if unset, where WANDB_API_KEY is set.
        project: its project there; if unset, WANDB_PROJECT or the name of this project's folder.
        tensorboard: write event files for TensorBoard.
    """

    wandb: bool | None = None
    project: str | None = None
    tensorboard: bool = False


def decide_tracking(tracking: Any, root: Path) -> dict[str, str]:
    """Fill in what the section leaves open; return wandb's mode, and why, if it is on."""
    if tracking.wandb is None:
        tracking.wandb = bool(os.environ.get("WANDB_API_KEY"))
    tracking.project = tracking.project or os.environ.get("WANDB_PROJECT") or root.name
    return {"wandb": ": ".join(wandb_mode())} if tracking.wandb else {}


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


class Wandb(Follower):
    """A wandb run in `folder`/wandb, with the same id at every start.

    Of two offline folders with one id the later upload replaces the earlier (wandb issue 3841), so
    each start writes all rows anew, then moves the folders before it to wandb/older.
    """

    name = "wandb"

    def __init__(self, folder: Path, mode: str, **identity: Any) -> None:
        self.folder, self.mode, self.identity = folder.resolve(), mode, identity
        self.run: Any = None

    def start(self, rows: list[Row]) -> None:
        import wandb

        # Its telemetry holds up the process's end for half a minute if the server is silent.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        wandb.setup(wandb.Settings(silent=True))
        try:
            self.run = self._begin()
        except Exception as error:
            if self.mode == "offline":
                raise
            print(f"wandb is offline after all: {str(error).splitlines()[0]}", file=sys.stderr)
            wandb.teardown()  # which frees the id
            self.mode = "offline"
            self.run = self._begin()
        for row in rows:
            self.log(row)
        older = self.folder / "wandb" / "older"
        for path in self.folder.glob("wandb/*run-*"):
            if path != self._files():
                older.mkdir(exist_ok=True)
                path.rename(older / path.name)

    def _begin(self) -> Any:
        import wandb

        limits: dict[str, Any] = {
            "init_timeout": 15,
            "finish_timeout": 30,
            "finish_timeout_raises": True,
        }
        settings = wandb.Settings(silent=True, console="off", base_url=wandb_server(), **limits)
        resume = "allow" if self.mode == "online" else None
        where: dict[str, Any] = {"dir": self.folder, "mode": self.mode, "resume": resume}
        return wandb.init(settings=settings, **where, **self.identity)

    def _files(self) -> Path:
        return Path(self.run.dir).resolve().parent

    def log(self, row: Row) -> None:
        if self.run and row["step"] >= self.run.starting_step:  # the server has those before
            self.run.log(row, step=row["step"])

    def finish(self, success: bool) -> None:
        if not self.run:
            return
        upload = f"wandb sync {shlex.quote(shown(self._files()))}"
        try:
            self.run.finish(exit_code=0 if success else 1)
        except Exception as error:
            raise RuntimeError(f"not all of it is sent. Upload it with: {upload}") from error
        if self.mode == "offline":
            print(f"\nwandb was offline. Upload the run with: {upload}", flush=True)
        self.run = None


class TensorBoard(Follower):
    """Event files in `folder`/tensorboard, written anew from metrics.csv at every start."""

    name = "tensorboard"

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "tensorboard"
        self.writer: Any = None

    def start(self, rows: list[Row]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        for path in self.folder.glob("events.out.tfevents.*"):
            path.unlink()
        self.writer = SummaryWriter(str(self.folder))
        for row in rows:
            self.log(row)

    def log(self, row: Row) -> None:
        if self.writer:
            for name in row.keys() - {"step"}:
                self.writer.add_scalar(name, row[name], row["step"])

    def finish(self, success: bool) -> None:
        if self.writer:
            self.writer.close()
            self.writer = None


def followers(tracking: Any, mode: str, record: RunRecord, config: Any) -> list[Follower]:
    """Return those that the section asks for; wandb's id is kept in the run's record."""
    folder, found = record.path.parent, list[Follower]()
    if tracking.wandb and mode != "disabled":
        identity = {"id": uuid.uuid4().hex[:12], **record.content.get("wandb", {})}
        record.update(wandb={"id": identity["id"]})
        name = os.environ.get("WANDB_NAME") or f"{record.content['recipe']}/{folder.name}"
        identity |= {"project": tracking.project, "name": name, "config": config}
        found.append(Wandb(folder, mode, **identity))
    return [*found, TensorBoard(folder)] if tracking.tensorboard else found
