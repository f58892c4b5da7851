"""Make synthetic photographs for workloads that read files.

`jpegs.py FOLDER [--train 20000 --val 2000]` writes JPEG files of 500 by 375 pixels and about 50 KB,
quality 90, 4:2:0, as ImageNet's. As in photographs, their spectrum falls as 1/f. Each class has its
own colour, so that the loss can fall.
"""

import argparse
import os
import shutil
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image

WIDTH, HEIGHT, CLASSES = 500, 375, 10
PATTERN = 1024  # pixels: a file is two crops of a few patterns, mirrored, mixed and coloured
PATTERNS, CONTRAST, CHUNK = 4, 28, 250


def make(folder: Path, train: int, val: int) -> None:
    """Write train/ and val/ with one folder per class, unless the folder already has them."""
    mark, content = folder / "complete", f"{train} {val}\n"
    if mark.is_file() and mark.read_text() == content:
        return
    shutil.rmtree(folder, ignore_errors=True)
    chunks = [
        (folder / part, range(first + i, min(first + i + CHUNK, first + count)))
        for part, first, count in (("train", 0, train), ("val", train, val))
        for i in range(0, count, CHUNK)
    ]
    for part in ("train", "val"):
        for kind in range(CLASSES):
            (folder / part / f"class_{kind}").mkdir(parents=True)
    with get_context("forkserver").Pool(len(os.sched_getaffinity(0))) as pool:
        pool.starmap(write, chunks, chunksize=1)
    mark.write_text(content)


def write(folder: Path, numbers: range) -> None:
    """Write the files with these numbers. A number always gives the same picture."""
    bank = patterns()
    for number in numbers:
        kind = number % CLASSES
        Image.fromarray(picture(bank, number, kind)).save(
            folder / f"class_{kind}" / f"{number:06}.jpg", quality=90, subsampling="4:2:0"
        )


@cache
def patterns() -> np.ndarray:
    """Return noise whose amplitude falls as 1/f: int16 (PATTERNS, size, size, 3) around 0."""
    random = np.random.default_rng(0)
    rows, columns = np.fft.fftfreq(PATTERN)[:, None], np.fft.rfftfreq(PATTERN)
    falls = 1 / np.maximum(np.hypot(rows, columns), 1 / PATTERN) ** 1.3
    made = np.empty((PATTERNS, PATTERN, PATTERN, 3), np.int16)
    for pattern in made:
        shared = np.fft.rfft2(random.standard_normal((PATTERN, PATTERN)))
        for channel in range(3):
            own = np.fft.rfft2(random.standard_normal((PATTERN, PATTERN)))
            plane = np.fft.irfft2((shared + 0.3 * own) * falls, s=(PATTERN, PATTERN))
            pattern[..., channel] = plane / plane.std() * CONTRAST
    return made


def picture(bank: np.ndarray, number: int, kind: int) -> np.ndarray:
    """Return uint8 (HEIGHT, WIDTH, 3): two crops of the patterns around the colour of the class."""
    random = np.random.default_rng(number)
    colour = 128 + 40 * np.cos(2 * np.pi * (kind / CLASSES + np.arange(3) / 3))
    made = part(bank, random) + (part(bank, random) >> random.integers(3))
    return np.clip(made + colour.astype(np.int16), 0, 255).astype(np.uint8)


def part(bank: np.ndarray, random: np.random.Generator) -> np.ndarray:
    top, left = random.integers(PATTERN - HEIGHT), random.integers(PATTERN - WIDTH)
    cut = bank[random.integers(PATTERNS), top : top + HEIGHT, left : left + WIDTH]
    return cut[:, ::-1] if random.random() < 0.5 else cut


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", type=int, default=20_000)
    parser.add_argument("--val", type=int, default=2_000)
    asked = parser.parse_args()
    make(asked.folder, asked.train, asked.val)
