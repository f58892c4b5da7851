"""Print a CycloneDX bill of materials of the machine it runs on: Python and Debian packages.

docker run --rm --interactive IMAGE python - < image/sbom.py > sbom.cdx.json
"""

import importlib.metadata
import json
import platform
import re
import subprocess
from urllib.parse import quote


def component(kind: str, name: str, version: str, qualifiers: str = "") -> dict:
    url = f"pkg:{kind}/{name}@{quote(version, safe=':')}{qualifiers}"
    name = name.rpartition("/")[2]
    return {"type": "library", "name": name, "version": version, "purl": url, "bom-ref": url}


def python_packages() -> list[dict]:
    found = {
        re.sub(r"[-_.]+", "-", d.name).lower(): d.version
        for d in importlib.metadata.distributions()
    }
    return [component("pypi", name, version) for name, version in sorted(found.items())]


def debian_packages() -> list[dict]:
    fields = "${Package} ${Version} ${Architecture}\n"
    listed = subprocess.run(
        ["dpkg-query", "--show", f"--showformat={fields}"],
        capture_output=True,
        text=True,
        check=True,
    )
    rows = (line.split() for line in listed.stdout.splitlines())
    return [
        component("deb", f"debian/{name}", version, f"?arch={arch}") for name, version, arch in rows
    ]


bom = {
    "bomFormat": "CycloneDX",
    "specVersion": "1.6",
    "version": 1,
    "metadata": {
        "component": {
            "type": "container",
            "name": "torch-universal",
            "version": f"python {platform.python_version()}, {platform.machine()}",
        }
    },
    "components": python_packages() + debian_packages(),
}
print(json.dumps(bom, indent=1))
