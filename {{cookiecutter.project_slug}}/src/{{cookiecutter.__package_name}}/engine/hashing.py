"""SHA-256 in hexadecimal: it identifies data, weights and files."""

import hashlib
from collections.abc import Iterable
from pathlib import Path


def sha256_of(parts: Iterable[bytes | memoryview]) -> str:
    """Return the SHA-256 of all parts, concatenated."""
    content = hashlib.sha256()
    for part in parts:
        content.update(part)
    return content.hexdigest()


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
