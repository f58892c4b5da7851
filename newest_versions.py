"""Write the newest compatible torch, torchvision and lightning into every file that pins them.

Prints the versions as a Markdown table. `make newest` runs it, and so does the weekly canary.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

NAMES = ("torch", "torchvision", "lightning")
HOMES = (Path("cookiecutter.json"), Path("image/pyproject.toml"))


def newest(pins: dict[str, str]) -> dict[str, str]:
    """Return the newest compatible releases on the index, for the running Python.

    No release is older than its pin. Without this limit, uv could choose a torchvision so old that
    it requires no particular torch, or one of lightning's malicious releases.
    """
    wanted = "".join(f"{name}>={version}\n" for name, version in pins.items())
    command = ["uv", "pip", "compile", "--quiet", "--no-annotate", "--no-header", "-"]
    done = subprocess.run(command, input=wanted, stdout=subprocess.PIPE, text=True, check=True)
    found = dict(re.findall(r"^([\w-]+)==(\S+)", done.stdout, re.MULTILINE))
    return {name: found[name] for name in pins}


def main() -> int:
    answers = json.loads(HOMES[0].read_text())
    pins = {name: answers[f"_{name}_version"] for name in NAMES}
    try:
        versions = newest(pins)
    except subprocess.CalledProcessError as error:
        return error.returncode  # uv has printed the reason
    for home in HOMES:
        text = home.read_text()
        for name in NAMES:
            pin = rf'("_{name}_version": "|"{name}==){re.escape(pins[name])}"'
            text = re.sub(pin, rf'\g<1>{versions[name]}"', text)
        home.write_text(text)
    print("| | pinned | newest |\n|---|---|---|")
    print("\n".join(f"| {name} | {pins[name]} | {versions[name]} |" for name in NAMES))
    return 0


if __name__ == "__main__":
    sys.exit(main())
