"""Write the newest torch, torchvision and lightning that go together wherever versions live.

Prints them as a Markdown table. `make newest`; the canary workflow does so every week.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

NAMES = ("torch", "torchvision", "lightning")
HOMES = (Path("cookiecutter.json"), Path("image/pyproject.toml"))


def newest(pins: dict[str, str]) -> dict[str, str]:
    """Return the newest releases on the index that accept each other, for the running Python.

    None is older than its pin: without that floor, a torchvision from before it named its torch
    would go with any, and lightning's malicious releases would be allowed.
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
        return error.returncode  # uv has said why
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
