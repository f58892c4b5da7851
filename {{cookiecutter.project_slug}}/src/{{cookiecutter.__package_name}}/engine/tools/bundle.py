"""Write a folder from which a machine without network is set up: the locked wheels, the image.

The wheels are those for this machine's system and Python; the other one must have the same.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from ..errors import UserError


def download_wheels(locks: list[Path], folder: Path) -> int:
    """Download what the locks name for this system and Python, hashes checked; return how many.

    Raises:
        UserError: a download failed; pip has said which.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary=:all:", "--require-hashes", "--dest", str(folder)]
    for lock in locks:
        command += ["--requirement", str(lock)]
    if subprocess.run(command).returncode:
        raise UserError("The wheels were not downloaded; pip says why above. Then: make bundle")
    return len(list(folder.glob("*.whl")))


def save_image(image: str, archive: Path) -> None:
    """Write the image to an archive that `docker load` reads.

    Raises:
        UserError: there is no Docker or no such image here, or the disk is full.
    """
    docker = shutil.which("docker")
    inspect = ["docker", "image", "inspect", image]
    if not docker or subprocess.run(inspect, capture_output=True).returncode:
        missing = f"no image {image} here: make image" if docker else "no Docker on this machine"
        raise UserError(f"There is {missing}. Without the image: make bundle ARGS=--no-image")
    draft = archive.with_name(f".{archive.name}.new")
    try:
        if subprocess.run(["docker", "image", "save", "--output", str(draft), image]).returncode:
            raise UserError(f"{archive} was not written; Docker says why above.")
        draft.replace(archive)
    finally:
        draft.unlink(missing_ok=True)


def torch_lock(root: Path) -> Path:
    """Return the lock of torch's stack.

    Raises:
        UserError: the project has none, and what carries no hash is not bundled.
    """
    locks = sorted(root.glob("torch-*.lock"))
    if not locks:
        raise UserError(
            "There is no torch-….lock here, so nothing says which torch is the right one to bundle."
            " Bring that lock, or take the image alone: docker image save"
        )
    return locks[0]


def main(project: Any, options: argparse.Namespace, flags: list[str]) -> int:
    wheels, archive = options.folder / "wheels", options.folder / "image.tar"
    count = download_wheels([Path("requirements.lock"), torch_lock(Path.cwd())], wheels)
    if options.image and not options.no_image:
        save_image(options.image, archive)
    print(f"{count} wheels in {wheels}. Copy the project and this folder, and there:")
    print(f"  make setup WHEELS={wheels}")
    if archive.exists():
        print(f"  docker load --input {archive}")
    return 0
