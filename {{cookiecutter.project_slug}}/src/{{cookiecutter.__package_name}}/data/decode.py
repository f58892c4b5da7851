"""One image file to uint8 RGB: the one place where files are decoded, and every oddity met.

Pillow goes by a file's content, so a wrong extension does not matter. What a plain conversion would
spoil (16 bits, transparency, a camera's rotation) is turned into upright RGB here.
"""

import hashlib
import io
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

SEEN_OF_THE_MIDDLE = 224 / 256  # of the shorter side, in evaluation, as is usual for ImageNet

Box = tuple[float, float, float, float]  # left, upper, right, lower
Size = tuple[int, int]  # width, height
File = Path | bytes  # where an image file lies, or what is in it

# Of large images and of broken metadata: neither keeps an image from being shown.
warnings.filterwarnings("ignore", module="PIL")


class BadImage(Exception):
    """A file that can't be used as an image; the message is the reason."""


def inspect(path: Path) -> tuple[str, str | None]:
    """Return the SHA-256 of a file's bytes and, if it can't be used as an image, why.

    The whole file is decoded: a JPEG that is cut short has a header like any other.
    """
    try:
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return "", f"can't be read: {error.strerror}"
    try:
        _read_rgb(path, lambda width, height: max(width, height))
    except BadImage as reason:
        return content, str(reason)
    return content, None


def random_crop(path: Path, size: int, draws: list[float], smallest: float) -> np.ndarray:
    """Return a random part of an image, see random_box: uint8 (size, size, 3). Raises BadImage."""
    return cropped(path, (size, size), lambda w, h: random_box(w, h, draws, smallest))


def middle(file: File, size: int) -> np.ndarray:
    """Return the middle square of an image: uint8 (size, size, 3). Raises BadImage."""
    return cropped(file, (size, size), _middle_box)


def random_box(width: int, height: int, draws: list[float], smallest: float) -> Box:
    """Return a random part of an image, in pixels.

    It is 3/4 to 4/3 as wide as high (Szegedy et al., "Going deeper with convolutions", 2014) and
    has at least `smallest` of the area. `draws` are four uniforms in [0, 1): area, shape, and two
    for the place.
    """
    area = width * height * (smallest + (1 - smallest) * draws[0])
    shape = (3 / 4) ** (1 - 2 * draws[1])
    w, h = min((area * shape) ** 0.5, width), min((area / shape) ** 0.5, height)
    left, upper = draws[2] * (width - w), draws[3] * (height - h)
    return left, upper, left + w, upper + h


def _middle_box(width: int, height: int) -> Box:
    side = min(width, height) * SEEN_OF_THE_MIDDLE
    left, upper = (width - side) / 2, (height - side) / 2
    return left, upper, left + side, upper + side


def cropped(file: File, size: Size, choose: Callable[[int, int], Box]) -> np.ndarray:
    """Return the box chosen for an image's width and height, resized: uint8 (height, width, 3).

    A JPEG is decoded no larger than that needs. Raises BadImage.
    """

    def reduction(width: int, height: int) -> float:
        left, upper, right, lower = choose(width, height)
        return min((right - left) / size[0], (lower - upper) / size[1])

    image, (width, height) = _read_rgb(file, reduction)
    x, y = image.width / width, image.height / height
    left, upper, right, lower = choose(width, height)
    box = (left * x, upper * y, right * x, lower * y)
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR, box))


def _read_rgb(source: File, reduction: Callable[[int, int], float]) -> tuple[Image.Image, Size]:
    """Return an image as upright RGB, and the size in pixels that it has in the file.

    `reduction` says how many times smaller each side may become: a JPEG is decoded at a half, a
    quarter or an eighth of its size where that allows it.
    """
    try:
        with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
            if not file.read(1):
                raise BadImage("is empty (0 bytes)")
            file.seek(0)
            image = Image.open(file)
            if image.format == "EPS":  # which Pillow has Ghostscript run
                raise BadImage("is a PostScript program and no image")
            width, height = image.size
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
            upright = (height, width) if turned else (width, height)
            by = max(reduction(*upright), 1.0)
            image.draft("RGB", (int(width / by) or 1, int(height / by) or 1))
            return _as_rgb(image), upright
    except BadImage:
        raise
    except UnidentifiedImageError:
        raise BadImage("is no image in a format that Pillow reads") from None
    except Image.DecompressionBombError:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise BadImage(f"has over {most / 1e6:.0f} megapixels: make it smaller") from None
    except Exception as error:  # whatever a decoder stumbles over
        raise BadImage(f"can't be decoded: {error or type(error).__name__}") from None


def _as_rgb(image: Image.Image) -> Image.Image:
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits, which convert() would cut off above 255
        grey = np.asarray(image).astype(np.int64)
        if 0 < grey.max() < 4096:
            raise BadImage(f"has 16 bits and no value above {grey.max()}, nearly black: stretch it")
        grey >>= 8
        return Image.fromarray(grey.clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise BadImage("holds floating point numbers: save it with 8 or 16 bits")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")
