"""Run a command in which pip and uv use the same package indexes, certificates and proxy.

uv reads neither pip's files nor its variables, and pip reads none of uv's. The Makefile calls this
file: python indexes.py uv pip install ...
"""

import ast
import os
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

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


def uvs_settings(given: Mapping[str, str]) -> dict[str, str]:
    """Return the indexes in uv's file of the user or machine as variables, and `given` variables.

    A file that can't be read has none: uv will say what is wrong with it.
    """
    home = given.get("XDG_CONFIG_HOME") or Path(given.get("HOME", "/"), ".config")
    usual = [Path(home, "uv/uv.toml"), Path("/etc/uv/uv.toml")]
    files = [Path(given["UV_CONFIG_FILE"])] if given.get("UV_CONFIG_FILE") else usual
    for file in filter(Path.is_file, [] if given.get("UV_NO_CONFIG") else files):
        try:
            found = tomllib.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        found |= found.get("pip", {})
        indexes = [each for each in found.get("index", []) if "url" in each]
        default = [each["url"] for each in indexes if each.get("default")]
        more = [each["url"] for each in indexes if not each.get("default")]
        wanted = {
            "UV_DEFAULT_INDEX": next(iter(default), found.get("index-url", "")),
            "UV_INDEX": " ".join(more + found.get("extra-index-url", [])),
        }
        return {name: value for name, value in wanted.items() if value} | dict(given)
    return dict(given)


def for_uv(pips: Mapping[str, str], uvs: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that make uv use pip's settings. What is set for uv stays."""
    wanted = {}
    if not any(map(uvs.get, UVS_DEFAULT)):
        wanted["UV_DEFAULT_INDEX"] = pips.get("index-url", "")
    if "extra-index-url" in pips and not any(map(uvs.get, UVS_MORE)):
        wanted["UV_INDEX"] = " ".join(pips["extra-index-url"].split())
        # pip takes the best version of all indexes; uv by default that of the first index.
        wanted["UV_INDEX_STRATEGY"] = "unsafe-best-match"
    wanted["UV_INSECURE_HOST"] = " ".join(pips.get("trusted-host", "").split())
    wanted["SSL_CERT_FILE"] = pips.get("cert", "")
    if proxy := pips.get("proxy", ""):
        wanted["ALL_PROXY"] = proxy if "://" in proxy else f"http://{proxy}"
    return {name: value for name, value in wanted.items() if value and not uvs.get(name)}


def for_pip(pips: Mapping[str, str], uvs: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that make pip use uv's indexes. What is set for pip stays."""
    default = next(filter(None, map(uvs.get, UVS_DEFAULT)), "")
    more = next(filter(None, map(uvs.get, UVS_MORE)), "")
    wanted = {
        "index-url": _url(default),
        "extra-index-url": " ".join(map(_url, more.split())),
        "trusted-host": uvs.get("UV_INSECURE_HOST", ""),
    }
    return {
        f"PIP_{name.upper().replace('-', '_')}": value
        for name, value in wanted.items()
        if value and not pips.get(name)
    }


def _url(index: str) -> str:
    """Return the URL of an index that uv may know by a name: NAME=URL."""
    name, _, url = index.partition("=")
    return url if url and name.isidentifier() else index


def main(command: list[str]) -> None:
    """Replace this process by the command."""
    given = dict(os.environ)
    pips, uvs = pips_settings(given), uvs_settings(given)
    os.execvpe(command[0], command, given | for_uv(pips, uvs) | for_pip(pips, uvs))


if __name__ == "__main__":
    main(sys.argv[1:])
