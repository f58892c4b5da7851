"""The project's source as a run used it: source.zip and git's commit."""

import subprocess
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..hashing import sha256

NOT_SOURCE = {"runs", "data", "build", "dist", "predictions.csv"}  # at the top of the project
NOT_OURS = ("pyvenv.cfg", "run.json")  # a folder with one of these is an environment or a run
LARGEST_SOURCE_FILE = 1_000_000  # bytes


def pack_source(root: Path, archive: Path) -> dict[str, Any]:
    """Pack the project's text files into a zip whose bytes depend only on the files.

    Large and binary files are skipped and listed as `left_out`; .env, which may hold secrets, is
    skipped.
    """
    left_out = []
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as pack:
        for path in sorted(_source_files(root, leave_out=NOT_SOURCE)):
            name = path.relative_to(root).as_posix()
            if not _is_text(path):
                left_out.append(name)
            else:
                entry = zipfile.ZipInfo(name)  # dated 1980, not now
                entry.external_attr = path.stat().st_mode << 16
                pack.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED)
    return {"zip": archive.name, "sha256": sha256(archive), "left_out": left_out[:20]}


def _is_text(path: Path) -> bool:
    return path.stat().st_size <= LARGEST_SOURCE_FILE and b"\0" not in path.read_bytes()


def _source_files(folder: Path, leave_out: set[str]) -> Iterator[Path]:
    """Yield the files of a folder, without environments, runs, caches and hidden folders."""
    for path in folder.iterdir():
        if path.is_symlink() or path.name in leave_out or path.name.startswith((".env", "__pyc")):
            continue
        if path.is_file():
            yield path
        elif path.name[0] != "." and not any((path / mark).exists() for mark in NOT_OURS):
            yield from _source_files(path, leave_out=set())


def commit(root: Path) -> str | None:
    """Return git's commit, with -dirty if files differ from it. It is only informative."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    with suppress(OSError):
        done = subprocess.run(command, cwd=root, capture_output=True, text=True)
        return done.stdout.strip() or None
    return None


def changed_source(before: Path, now: Path) -> list[str]:
    """Return the files below src/ that differ between two states of the project's source.

    Each is an archive of it, or the project's folder.
    """
    was, is_ = _checksums(before), _checksums(now)
    names = sorted(was.keys() | is_.keys())
    return [name for name in names if name.startswith("src/") and was.get(name) != is_.get(name)]


def _checksums(source: Path) -> dict[str, int]:
    """Return the CRC-32 of each file in an archive, or below src/ in the project's folder."""
    if source.is_file():
        with zipfile.ZipFile(source) as pack:
            return {entry.filename: entry.CRC for entry in pack.infolist()}
    folder = source / "src"
    found = _source_files(folder, leave_out=set()) if folder.is_dir() else ()
    files = filter(_is_text, found)
    return {path.relative_to(source).as_posix(): zlib.crc32(path.read_bytes()) for path in files}
