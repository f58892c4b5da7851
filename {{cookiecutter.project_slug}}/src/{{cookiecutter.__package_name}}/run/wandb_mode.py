"""Whether wandb sends a run or keeps it for later: found out in two seconds, without asking."""

import netrc
import os
import threading
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

Mode = Literal["online", "offline", "disabled"]

PATIENCE = 2.0  # seconds for wandb's server to say whether it accepts the key


def wandb_server() -> str:
    return os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").rstrip("/")


def wandb_mode() -> tuple[Mode, str]:
    """Return wandb's mode and why: online only where the server accepts the key in time.

    WANDB_MODE is obeyed, but for `online` without any key: wandb would ask for one.
    """
    wish = os.environ.get("WANDB_MODE")
    if wish in ("offline", "dryrun", "disabled"):
        return ("disabled" if wish == "disabled" else "offline"), f"WANDB_MODE is {wish}"
    server, problem = wandb_server(), [f"no answer within {PATIENCE:.0f} s"]

    def ask() -> None:
        try:
            key = _key(server) or (wish and os.environ.get("WANDB_IDENTITY_TOKEN_FILE"))
            if not key:
                problem[0] = "no key: set WANDB_API_KEY, or run `wandb login`"
            else:
                problem[0] = "" if wish else _refusal(server, key)
        except Exception as error:
            problem[0] = f"no usable answer ({type(error).__name__})"

    # A name server that stays silent outlasts the limits of any library: hence a thread.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    if found := problem[0]:
        return "offline", f"{server}, {found}"
    return "online", f"WANDB_MODE is {wish}" if wish else f"{server} accepts the key"


def _key(server: str) -> str | None:
    path = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    login = netrc.netrc(path).authenticators(urlsplit(server).netloc) if path.exists() else None
    return os.environ.get("WANDB_API_KEY") or (login[2] if login else None)


def _refusal(server: str, key: str) -> str:
    """Ask the server whose key this is, and return why it does not accept it, or nothing."""
    import requests

    question = {"query": "query { viewer { id } }"}
    reply = requests.post(f"{server}/graphql", json=question, auth=("api", key), timeout=PATIENCE)
    if reply.status_code in (401, 403):
        return "the key is refused"
    reply.raise_for_status()
    return "" if reply.json()["data"]["viewer"] else "the key is unknown"
