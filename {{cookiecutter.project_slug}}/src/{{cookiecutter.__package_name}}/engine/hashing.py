"""SHA-256 in hexadecimal: it identifies data, weights and files."""

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO


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


class HashedFile:
    """Writes to a file and hashes what it writes at the same time, in a thread."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.sha256 = file, hashlib.sha256()
        self.thread = ThreadPoolExecutor(1)
        self.flush = file.flush

    def write(self, content: bytes) -> int:
        hashed = self.thread.submit(self.sha256.update, content)
        written = self.file.write(content)
        hashed.result()
        return written
