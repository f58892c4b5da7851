"""Run a command in which pip and uv use the same package indexes, certificates and proxy.

uv reads neither pip.conf nor pip's variables, and pip reads none of uv's. The Makefile calls this
file: python indexes.py uv pip install ...
"""

import ast
import os
import subprocess
import sys
from collections.abc import Mapping

UVS_DEFAULT = ("UV_DEFAULT_INDEX", "UV_INDEX_URL")  # the second of each is uv's older name
UVS_MORE = ("UV_INDEX", "UV_EXTRA_INDEX_URL")
SECTIONS = ("global", "install")  # of pip's files, the last one wins


def pips_settings(given: Mapping[str, str]) -> dict[str, str]:
    """Return pip's settings for an install: of its files, if pip is here, and `given` variables."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    printed = subprocess.run(command, capture_output=True, text=True).stdout
    found = {}
    for section in SECTIONS:
        for line in printed.splitlines():
            key, _, value = line.partition("=")
            if key.startswith(f"{section}."):
                found[key.removeprefix(f"{section}.")] = str(ast.literal_eval(value))
    for name, value in given.items():
        if name.startswith("PIP_") and value:
            found[name.removeprefix("PIP_").lower().replace("_", "-")] = value
    return found


def for_uv(pips: Mapping[str, str], given: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that make uv use pip's settings. What is `given` for uv stays."""
    wanted = {}
    if not any(map(given.get, UVS_DEFAULT)):
        wanted["UV_DEFAULT_INDEX"] = pips.get("index-url", "")
    if "extra-index-url" in pips and not any(map(given.get, UVS_MORE)):
        wanted["UV_INDEX"] = " ".join(pips["extra-index-url"].split())
        # pip takes the best version of all indexes; uv by default that of the first index.
        wanted["UV_INDEX_STRATEGY"] = "unsafe-best-match"
    wanted["UV_INSECURE_HOST"] = " ".join(pips.get("trusted-host", "").split())
    wanted["SSL_CERT_FILE"] = pips.get("cert", "")
    if proxy := pips.get("proxy", ""):
        wanted["ALL_PROXY"] = proxy if "://" in proxy else f"http://{proxy}"
    return {name: value for name, value in wanted.items() if value and not given.get(name)}


def for_pip(given: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that make pip use the indexes in uv's variables."""
    default = next(filter(None, map(given.get, UVS_DEFAULT)), "")
    more = next(filter(None, map(given.get, UVS_MORE)), "")
    wanted = {
        "PIP_INDEX_URL": _url(default),
        "PIP_EXTRA_INDEX_URL": " ".join(map(_url, more.split())),
        "PIP_TRUSTED_HOST": given.get("UV_INSECURE_HOST", ""),
    }
    return {name: value for name, value in wanted.items() if value and not given.get(name)}


def _url(index: str) -> str:
    """Return the URL of an index that uv may know by a name: NAME=URL."""
    name, _, url = index.partition("=")
    return url if url and name.isidentifier() else index


def main(command: list[str]) -> None:
    """Replace this process by the command."""
    given = dict(os.environ)
    os.execvpe(command[0], command, given | for_uv(pips_settings(given), given) | for_pip(given))


if __name__ == "__main__":
    main(sys.argv[1:])
