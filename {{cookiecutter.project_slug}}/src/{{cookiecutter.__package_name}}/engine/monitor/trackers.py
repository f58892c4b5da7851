"""wandb and TensorBoard: they get each row of metrics.csv once.

They never ask a question, delay training or end it.
"""

import netrc
import os
import shlex
import sys
import threading
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from ..decisions import Decision, applied
from ..paths import project_root, shown
from ..run.metrics import Row, Tracker
from ..run.record import RunRecord

Mode = Literal["online", "offline", "disabled"]

TIMEOUT = 2.0  # seconds to wait for wandb's server to accept the key


@dataclass
class Tracking:
    """Where a run is logged in addition to its metrics.csv.

    Args:
        wandb: log the run to Weights & Biases; if unset, it is logged if WANDB_API_KEY is set.
        project: the wandb project; if unset, WANDB_PROJECT or the name of this project's folder.
        tensorboard: write event files for TensorBoard.
    """

    wandb: bool | None = None
    project: str | None = None
    tensorboard: bool = False


def decide_wandb(wanted: bool | None) -> Decision:
    """Return whether wandb logs a run (online, offline or off), and why."""
    if wanted is False:
        return Decision("off", "as configured")
    if wanted is None and not os.environ.get("WANDB_API_KEY"):
        return Decision("off", "WANDB_API_KEY is not set")
    mode, why = wandb_mode()
    return Decision("off" if mode == "disabled" else mode, why)


class Wandb(Tracker):
    """A wandb run in `folder`/wandb, with the same id at every start.

    If two offline folders have the same id, the later upload replaces the earlier (wandb issue
    3841). So each start writes all rows again and moves the earlier folders to wandb/older.
    """

    name = "wandb"

    def __init__(self, folder: Path, mode: Mode, **identity: Any) -> None:
        self.folder, self.mode, self.identity = folder.resolve(), mode, identity

    def start(self, rows: list[Row]) -> None:
        import wandb

        # Its telemetry delays the process's exit by half a minute if the server doesn't answer.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        wandb.setup(wandb.Settings(silent=True))
        limits: Any = {"init_timeout": 15, "finish_timeout": 30, "finish_timeout_raises": True}
        settings = wandb.Settings(silent=True, console="off", base_url=_server(), **limits)
        where: Any = {"dir": self.folder, "resume": "allow" if self.mode == "online" else None}
        try:
            self.run = wandb.init(mode=self.mode, settings=settings, **where, **self.identity)
        except Exception as error:
            if self.mode == "offline":
                raise
            reason = str(error).splitlines()[0]
            print(f"wandb could not connect, running offline: {reason}", file=sys.stderr)
            wandb.teardown()  # frees the id
            self.mode = "offline"
            return self.start(rows)
        for row in rows:
            self.log(row)
        self.files, older = Path(self.run.dir).resolve().parent, self.folder / "wandb" / "older"
        older.mkdir(exist_ok=True)
        for path in {*self.folder.glob("wandb/*run-*")} - {self.files}:
            path.rename(older / path.name)

    def log(self, row: Row) -> None:
        if row["step"] >= self.run.starting_step:  # the server has the earlier rows
            self.run.log(row, step=row["step"])

    def finish(self, success: bool) -> None:
        upload = f"wandb sync {shlex.quote(shown(self.files))}"
        try:
            self.run.finish(exit_code=0 if success else 1)
        except Exception as error:
            raise RuntimeError(f"upload incomplete. Finish it with: {upload}") from error
        if self.mode == "offline":
            print(f"\nwandb was offline. Upload the run with: {upload}", flush=True)


class TensorBoard(Tracker):
    """Event files in `folder`/tensorboard, written again from metrics.csv at every start."""

    name = "tensorboard"

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "tensorboard"

    def start(self, rows: list[Row]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        for path in self.folder.glob("events.out.tfevents.*"):
            path.unlink()
        self.writer = SummaryWriter(str(self.folder))
        for row in rows:
            self.log(row)

    def log(self, row: Row) -> None:
        for name in row.keys() - {"step"}:
            self.writer.add_scalar(name, row[name], row["step"])

    def finish(self, success: bool) -> None:
        self.writer.close()


def build_trackers(tracking: Any, record: RunRecord) -> list[Tracker]:
    """Return the trackers that are switched on; the run's record keeps wandb's id."""
    folder, found = record.path.parent, list[Tracker]()
    start = record.newest_start()
    mode = start["decisions"]["tracking.wandb"]["value"]
    if mode != "off":
        identity = {"id": uuid.uuid4().hex[:12], **record.content.get("wandb", {})}
        record.update(wandb={"id": identity["id"]})
        called = record.content.get("name", folder.name)
        name = os.environ.get("WANDB_NAME") or f"{record.content['recipe']}/{called}"
        project = tracking.project or os.environ.get("WANDB_PROJECT") or project_root().name
        identity |= {"project": project, "name": name, "config": applied(start)}
        found.append(Wandb(folder, mode, **identity))
    return [*found, TensorBoard(folder)] if tracking.tensorboard else found


def wandb_mode() -> tuple[Mode, str]:
    """Return wandb's mode and why: online only if the server accepts the key in time.

    WANDB_MODE is respected, except `online` without a key: wandb would ask for one.
    """
    requested = os.environ.get("WANDB_MODE")
    if requested in ("offline", "dryrun", "disabled"):
        return ("disabled" if requested == "disabled" else "offline"), f"WANDB_MODE is {requested}"
    server, problem = _server(), [f"no answer within {TIMEOUT:.0f} s"]

    def check() -> None:
        try:
            problem[0] = _auth_error(server, ask=not requested)
        except Exception as error:
            problem[0] = f"no usable answer ({type(error).__name__})"

    # A thread, as no library's timeout covers a name server that doesn't answer.
    thread = threading.Thread(target=check, daemon=True)
    thread.start()
    thread.join(TIMEOUT)
    if found := problem[0]:
        return "offline", f"{server}, {found}"
    return "online", f"WANDB_MODE is {requested}" if requested else f"{server} accepts the key"


def _server() -> str:
    return os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").rstrip("/")


def netrc_key(server: str) -> str | None:
    """Return the key for a server that `wandb login` wrote to the user's netrc file, or None."""
    usual = [Path("~/.netrc"), Path("~/_netrc")]
    files = [Path(os.environ["NETRC"])] if "NETRC" in os.environ else usual
    for path in map(Path.expanduser, files):
        with suppress(OSError, netrc.NetrcParseError):
            login = netrc.netrc(path).authenticators(urlsplit(server).netloc)
            return (login and login[2]) or None
    return None


def _auth_error(server: str, ask: bool) -> str:
    """Return why the server would refuse a run, or ""; `ask` whether it knows the key."""
    import requests

    key = os.environ.get("WANDB_API_KEY") or netrc_key(server)
    if not ask and (key or os.environ.get("WANDB_IDENTITY_TOKEN_FILE")):
        return ""
    if not key:
        return "no key: set WANDB_API_KEY, or run `wandb login`"
    query = {"query": "query { viewer { id } }"}
    timeout = 2 * TIMEOUT  # longer than wandb_mode() waits: it ends the thread
    reply = requests.post(f"{server}/graphql", json=query, auth=("api", key), timeout=timeout)
    if reply.status_code in (401, 403):
        return "the server refuses the key"
    reply.raise_for_status()
    return "" if reply.json()["data"]["viewer"] else "the key is unknown"
