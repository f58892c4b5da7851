"""Write a folder that installs the project without network: the locked wheels and the image.

The wheels are for this machine's system and Python version; the target must have the same.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from ..errors import UserError


def download_wheels(locks: list[Path], folder: Path) -> int:
    """Download the locked wheels for this system, check their hashes; return their number.

    Raises:
        UserError: a download failed; pip has printed which.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary=:all:", "--require-hashes", "--dest", str(folder)]
    for lock in locks:
        command += ["--requirement", str(lock)]
    if subprocess.run(command).returncode:
        raise UserError("pip could not download the wheels: see above. Fix that, then: make bundle")
    return len(list(folder.glob("*.whl")))


def save_image(image: str, archive: Path) -> None:
    """Write the image to an archive for `docker load`.

    Raises:
        UserError: Docker or the image is missing, or the disk is full.
    """
    docker = shutil.which("docker")
    inspect = ["docker", "image", "inspect", image]
    if not docker or subprocess.run(inspect, capture_output=True).returncode:
        missing = f"The image {image}" if docker else "Docker"
        build = "Build it with: make image. " if docker else ""
        raise UserError(f"{missing} is missing. {build}Or skip it: make bundle ARGS=--no-image")
    draft = archive.with_name(f".{archive.name}.new")
    try:
        if subprocess.run(["docker", "image", "save", "--output", str(draft), image]).returncode:
            raise UserError(f"Docker could not write {archive}: see above.")
        draft.replace(archive)
    finally:
        draft.unlink(missing_ok=True)


def torch_lock(root: Path) -> Path:
    """Return the lock file of torch and its dependencies.

    Raises:
        UserError: there is none; packages without hashes are not bundled.
    """
    locks = sorted(root.glob("torch-*.lock"))
    if not locks:
        raise UserError(
            "There is no torch-*.lock here, so the version of torch to bundle is unknown. Add the"
            " lock, or transfer only the image: docker image save"
        )
    return locks[0]


def main(project: Any, options: argparse.Namespace, flags: list[str]) -> int:
    wheels, archive = options.folder / "wheels", options.folder / "image.tar"
    count = download_wheels([Path("requirements.lock"), torch_lock(Path.cwd())], wheels)
    if options.image and not options.no_image:
        save_image(options.image, archive)
    print(f"{count} wheels in {wheels}. Copy the project and this folder, then run there:")
    print(f"  make setup WHEELS={wheels}")
    if archive.exists():
        print(f"  docker load --input {archive}")
    return 0
