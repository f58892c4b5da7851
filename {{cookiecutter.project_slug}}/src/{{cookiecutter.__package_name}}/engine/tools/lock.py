"""Update requirements.lock and torch-cu130.lock from pyproject.toml, with hashes, without hosts.

The registry has torch for CUDA 13.0, so that build is locked here. Locks for cu126 and cpu need
access to PyTorch's own index. Without such a lock, `make setup` installs the pinned torch from that
index, without hashes.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TORCH_STACK = re.compile(r"torch|torchvision|triton|nvidia-(?!ml-py).+|cuda-.+")
HEADER = "# Written by `make lock` from pyproject.toml; changes belong there.\n"


def compile_lock(root: Path, options: list[str]) -> str:
    """Return all packages that the project needs, pinned and hashed, for all platforms.

    Versions in the locks are kept if pyproject.toml allows them. `options` such as --upgrade are
    passed to uv. Raises CalledProcessError if uv fails.
    """
    command = "uv pip compile --quiet --universal --python-version 3.11 --generate-hashes"
    command += " --no-annotate --no-header --no-emit-index-url --group dev pyproject.toml"
    draft = root / ".lock.txt"
    try:
        draft.write_text("".join(path.read_text() for path in sorted(root.glob("*.lock"))))
        command += f" --output-file {draft.name}"
        subprocess.run([*command.split(), *options], cwd=root, check=True)
        return draft.read_text()
    finally:
        draft.unlink(missing_ok=True)


def split(lock: str) -> tuple[str, str]:
    """Return two locks: the packages without torch's stack, and torch's stack."""
    packages = re.split(r"\n(?=\S)", lock.strip())
    torch = [p for p in packages if TORCH_STACK.fullmatch(p.split("==")[0])]
    rest = [p for p in packages if p not in torch]
    return HEADER + "\n".join(rest) + "\n", HEADER + "\n".join(torch) + "\n"


def add(root: Path, packages: list[str]) -> None:
    """Add packages to pyproject.toml. Raises CalledProcessError if uv fails.

    Without the variables that name indexes: uv would write these into the file.
    """
    around = {name: value for name, value in os.environ.items() if "INDEX" not in name}
    command = ["uv", "add", "--quiet", "--frozen", *packages]
    subprocess.run(command, cwd=root, env=around, check=True)


@contextmanager
def unchanged_on_error(file: Path) -> Iterator[None]:
    """Put a file's content back if the block raises."""
    before = file.read_bytes()
    try:
        yield
    except BaseException:
        file.write_bytes(before)
        raise


def main(project: object, options: object, flags: list[str]) -> int:
    """Write the locks. `--add PACKAGE ...` adds packages to pyproject.toml first.

    If one can't be found, pyproject.toml and the locks stay as they are.
    """
    root = Path.cwd()
    added = flags[1:] if flags[:1] == ["--add"] else []
    try:
        with unchanged_on_error(root / "pyproject.toml"):
            if added:
                add(root, added)
            requirements, torch = split(compile_lock(root, [] if added else flags))
    except subprocess.CalledProcessError as error:
        if added:
            what = f"{' '.join(added)} can't be added, see above: nothing was changed."
            print(f"error: {what} Check the name.", file=sys.stderr)
        return error.returncode  # uv has printed why
    (root / "requirements.lock").write_text(requirements)
    if (root / "torch-cu130.lock").exists():  # not in a project for cu126 or cpu
        (root / "torch-cu130.lock").write_text(torch)
    return 0


if __name__ == "__main__":
    sys.exit(main(None, None, sys.argv[1:]))
