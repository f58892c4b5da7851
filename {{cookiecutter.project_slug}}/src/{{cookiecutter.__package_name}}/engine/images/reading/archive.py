"""The images of a .zip file, read from it: nothing is unpacked, so no name in it can do harm."""

import os
import zipfile
from functools import lru_cache
from pathlib import Path

from ...errors import UserError
from ..decoding.decode import ImageDecodeError
from ..finding.kinds import UNSURE, extension_of, is_image, is_side
from ..finding.names import natural

MAX_BYTES = 1 << 30  # of one file: a small archive may hold files that fill all memory
ENCRYPTED = 1  # the bit of a file's flags


class Archive:
    """The images of an archive: `names` and `sizes` in bytes, in natural order.

    Raises UserError if it can't be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with zipfile.ZipFile(path) as opened:
                every = opened.infolist()
                found = [i for i, each in enumerate(every) if _is_image(opened, each)]
        except (zipfile.BadZipFile, OSError) as error:
            raise UserError(
                f"{path} can't be read as a .zip file: {error}. Copy it again."
            ) from None
        self.places = sorted(found, key=lambda i: natural(every[i].filename))
        self.names = [every[i].filename for i in self.places]
        self.sizes = [every[i].file_size for i in self.places]

    def read(self, row: int) -> bytes:
        """Return the content of an image. Raises ImageDecodeError."""
        opened = _opened(self.path, os.getpid())
        info = opened.infolist()[self.places[row]]
        if info.flag_bits & ENCRYPTED:
            raise ImageDecodeError("is encrypted: unpack the archive")
        if info.file_size > MAX_BYTES:
            raise ImageDecodeError(f"has {info.file_size:,} bytes; at most {MAX_BYTES:,} are read")
        try:
            with opened.open(info) as file:
                return file.read(MAX_BYTES)
        except Exception as error:  # of many types, as archives are damaged in many ways
            raise ImageDecodeError(f"can't be unpacked: {error or type(error).__name__}") from None


@lru_cache(1)
def _opened(path: Path, process: int) -> zipfile.ZipFile:
    """Return the archive, opened in this process: others would move its place in the file."""
    return zipfile.ZipFile(path)


def _is_image(opened: zipfile.ZipFile, info: zipfile.ZipInfo) -> bool:
    name = info.filename
    if info.is_dir() or any(is_side(part) for part in name.split("/") if part.strip(".")):
        return False
    if extension_of(name) not in UNSURE:
        return is_image(name)
    try:
        with opened.open(info) as file:
            return is_image(name, file)
    except Exception:  # damaged, or encrypted
        return False
