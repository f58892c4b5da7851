"""wandb and TensorBoard get each row of metrics.csv once; neither asks, waits or ends training."""

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
from ..run.metrics import Follower, Row
from ..run.record import RunRecord

Mode = Literal["online", "offline", "disabled"]

PATIENCE = 2.0  # seconds for wandb's server to say whether it accepts the key


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


def decide_wandb(wanted: bool | None) -> Decision:
    """Return whether a run is followed with wandb, online or offline, and why."""
    if wanted is False:
        return Decision("off", "as configured")
    if wanted is None and not os.environ.get("WANDB_API_KEY"):
        return Decision("off", "WANDB_API_KEY is not set")
    mode, why = wandb_mode()
    return Decision("off" if mode == "disabled" else mode, why)


class Wandb(Follower):
    """A wandb run in `folder`/wandb, with the same id at every start.

    Of two offline folders with one id the later upload replaces the earlier (wandb issue 3841), so
    each start writes all rows anew, then moves the folders before it to wandb/older.
    """

    name = "wandb"

    def __init__(self, folder: Path, mode: Mode, **identity: Any) -> None:
        self.folder, self.mode, self.identity = folder.resolve(), mode, identity

    def start(self, rows: list[Row]) -> None:
        import wandb

        # Its telemetry holds up the process's end for half a minute if the server is silent.
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
            print(f"wandb is offline after all: {str(error).splitlines()[0]}", file=sys.stderr)
            wandb.teardown()  # which frees the id
            self.mode = "offline"
            return self.start(rows)
        for row in rows:
            self.log(row)
        self.files, older = Path(self.run.dir).resolve().parent, self.folder / "wandb" / "older"
        older.mkdir(exist_ok=True)
        for path in {*self.folder.glob("wandb/*run-*")} - {self.files}:
            path.rename(older / path.name)

    def log(self, row: Row) -> None:
        if row["step"] >= self.run.starting_step:  # the server has those before
            self.run.log(row, step=row["step"])

    def finish(self, success: bool) -> None:
        upload = f"wandb sync {shlex.quote(shown(self.files))}"
        try:
            self.run.finish(exit_code=0 if success else 1)
        except Exception as error:
            raise RuntimeError(f"not all of it is sent. Upload it with: {upload}") from error
        if self.mode == "offline":
            print(f"\nwandb was offline. Upload the run with: {upload}", flush=True)


class TensorBoard(Follower):
    """Event files in `folder`/tensorboard, written anew from metrics.csv at every start."""

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


def followers(tracking: Any, record: RunRecord) -> list[Follower]:
    """Return those that the section asks for; wandb's id is kept in the run's record."""
    folder, found = record.path.parent, list[Follower]()
    start = record.newest_start()
    mode = start["decisions"]["tracking.wandb"]["value"]
    if mode != "off":
        identity = {"id": uuid.uuid4().hex[:12], **record.content.get("wandb", {})}
        record.update(wandb={"id": identity["id"]})
        name = os.environ.get("WANDB_NAME") or f"{record.content['recipe']}/{folder.name}"
        project = tracking.project or os.environ.get("WANDB_PROJECT") or project_root().name
        identity |= {"project": project, "name": name, "config": applied(start)}
        found.append(Wandb(folder, mode, **identity))
    return [*found, TensorBoard(folder)] if tracking.tensorboard else found


def wandb_mode() -> tuple[Mode, str]:
    """Return wandb's mode and why: online only where the server accepts the key in time.

    WANDB_MODE is obeyed, but for `online` without any key: wandb would ask for one.
    """
    wish = os.environ.get("WANDB_MODE")
    if wish in ("offline", "dryrun", "disabled"):
        return ("disabled" if wish == "disabled" else "offline"), f"WANDB_MODE is {wish}"
    server, problem = _server(), [f"no answer within {PATIENCE:.0f} s"]

    def ask() -> None:
        try:
            problem[0] = _refusal(server, asked=not wish)
        except Exception as error:
            problem[0] = f"no usable answer ({type(error).__name__})"

    # A name server that stays silent outlasts the limits of any library: hence a thread.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    if found := problem[0]:
        return "offline", f"{server}, {found}"
    return "online", f"WANDB_MODE is {wish}" if wish else f"{server} accepts the key"


def _server() -> str:
    return os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").rstrip("/")


def netrc_key(server: str) -> str | None:
    """Return the key that `wandb login` has written for a server into the user's netrc file."""
    usual = [Path("~/.netrc"), Path("~/_netrc")]
    files = [Path(os.environ["NETRC"])] if "NETRC" in os.environ else usual
    for path in map(Path.expanduser, files):
        with suppress(OSError, netrc.NetrcParseError):
            login = netrc.netrc(path).authenticators(urlsplit(server).netloc)
            return (login and login[2]) or None
    return None


def _refusal(server: str, asked: bool) -> str:
    """Return why the server would not take a run, or nothing; it is `asked` whose key this is."""
    import requests

    key = os.environ.get("WANDB_API_KEY") or netrc_key(server)
    if not asked and (key or os.environ.get("WANDB_IDENTITY_TOKEN_FILE")):
        return ""
    if not key:
        return "no key: set WANDB_API_KEY, or run `wandb login`"
    question = {"query": "query { viewer { id } }"}
    address, unheard = f"{server}/graphql", 2 * PATIENCE  # seconds: nobody waits that long
    reply = requests.post(address, json=question, auth=("api", key), timeout=unheard)
    if reply.status_code in (401, 403):
        return "the key is refused"
    reply.raise_for_status()
    return "" if reply.json()["data"]["viewer"] else "the key is unknown"
