"""One image file to uint8 RGB: the one place where files are decoded, and every oddity met.

Pillow goes by a file's content, so a wrong extension does not matter. What a plain conversion would
spoil (16 bits, transparency, a camera's rotation) is turned into upright RGB here. A common JPEG is
decoded by libjpeg-turbo through torchvision, which takes half of Pillow's time.
"""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch.nn import functional
from torchvision.io import ImageReadMode, decode_jpeg

from ..hashing import sha256_of

CENTER_CROP_RATIO = 224 / 256  # of the shorter side, in evaluation, as is usual for ImageNet

Box = tuple[int, int, int, int, bool]  # left, upper, right, lower, in pixels; whether mirrored
Size = tuple[int, int]  # width, height
File = Path | bytes  # where an image file lies, or what is in it
Choose = Callable[[int, int], Box]  # of an upright image's width and height
Jpeg = tuple[bytes, Box, Size]  # a file's content, the part that is wanted, the whole's size


class ImageDecodeError(Exception):
    """A file that can't be used as an image; the message is the reason."""


def inspect(path: Path) -> tuple[str, str | None]:
    """Return the SHA-256 of a file's bytes and, if it can't be used as an image, why.

    The whole file is decoded: a JPEG that is truncated has a header like any other.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        return "", f"can't be read: {error.strerror}"
    problem = None
    try:
        with _opened(content) as (image, _):
            image.draft("RGB", (1, 1))  # in the least time
            _as_rgb(image)
    except ImageDecodeError as reason:
        problem = str(reason)
    return sha256_of([content]), problem


def center_crop(file: File, size: int) -> np.ndarray:
    """Return the middle square of an image: uint8 (size, size, 3). Raises ImageDecodeError."""
    return cropped(file, (size, size), center_box)


def largest_box(width: int, height: int, size: Size) -> Box:
    """Return the largest middle part of an image that has the shape of `size`."""
    scale = min(width / size[0], height / size[1])
    w, h = max(round(size[0] * scale), 1), max(round(size[1] * scale), 1)
    left, upper = (width - w) // 2, (height - h) // 2
    return left, upper, left + w, upper + h, False


def random_box(width: int, height: int, draws: list[float], smallest: float, flip: bool) -> Box:
    """Return a part of an image by five uniforms: area, shape, two for its place, mirroring.

    It is 3/4 to 4/3 as wide as high (Szegedy et al., "Going deeper with convolutions", 2014) and
    has at least `smallest` of the area.
    """
    area = width * height * (smallest + (1 - smallest) * draws[0])
    shape = (3 / 4) ** (1 - 2 * draws[1])
    w = min(max(round((area * shape) ** 0.5), 1), width)
    h = min(max(round((area / shape) ** 0.5), 1), height)
    left, upper = int(draws[2] * (width - w + 1)), int(draws[3] * (height - h + 1))
    return left, upper, left + w, upper + h, flip and draws[4] < 0.5


def center_box(width: int, height: int) -> Box:
    side = max(round(min(width, height) * CENTER_CROP_RATIO), 1)
    left, upper = (width - side) // 2, (height - side) // 2
    return left, upper, left + side, upper + side, False


def cropped(file: File, size: Size, choose: Choose) -> np.ndarray:
    """Return the box chosen for an image's width and height, resized: uint8 (height, width, 3).

    Resizing is linear and reaches as far as the image shrinks, as Pillow's. Raises
    ImageDecodeError.
    """
    with _opened(file) as (image, content):
        return _crop(image, content, size, choose(*_upright_size(image)))


def check_pixels(file: File, most: int) -> None:
    """Raise ImageDecodeError if an image has more pixels than that; only its header is read."""
    with _opened(file) as (image, _):
        if image.width * image.height > most:
            raise ImageDecodeError(f"has over {most / 1e6:.0f} megapixels: make it smaller")


def cropped_or_jpeg(file: File, size: Size, choose: Choose) -> np.ndarray | Jpeg:
    """Return a common JPEG undecoded, with its box, and of any other file what cropped() does."""
    with _opened(file) as (image, content):
        box = choose(*_upright_size(image))
        plain = _is_jpeg(image, content) and image.mode == "RGB"
        if plain and _orientation(image) == 1 and image.info.get("adobe_transform", 1) == 1:
            return content, box, image.size
        return _crop(image, content, size, box)


def _crop(image: Image.Image, content: bytes, size: Size, box: Box) -> np.ndarray:
    left, upper, right, lower, mirrored = box
    by = min((right - left) / size[0], (lower - upper) / size[1])
    if by < 4 and _is_jpeg(image, content):  # libjpeg-turbo without Pillow: in half of the time
        data = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        pixels = decode_jpeg(data, ImageReadMode.RGB, apply_exif_orientation=True)
        part, shape = pixels[None, :, upper:lower, left:right], (size[1], size[0])
        whole = functional.interpolate(part, shape, mode="bilinear", antialias=True)
        return (whole.flip(3) if mirrored else whole)[0].permute(1, 2, 0).numpy()
    width, height = _upright_size(image)
    by = max(by / 2, 1)  # a JPEG is decoded at a half, a quarter or an eighth of its size
    image.draft("RGB", (int(image.width / by) or 1, int(image.height / by) or 1))
    rgb = _as_rgb(image)
    x, y = rgb.width / width, rgb.height / height
    part_of_it = (left * x, upper * y, right * x, lower * y)
    part = rgb.resize(size, Image.Resampling.BILINEAR, part_of_it)
    return np.asarray(ImageOps.mirror(part) if mirrored else part)


@contextmanager
def _opened(file: File) -> Iterator[tuple[Image.Image, bytes]]:
    """Yield an image of which only the header is read, and the file's content.

    Whatever is raised inside becomes a ImageDecodeError.
    """
    try:
        content = file if isinstance(file, bytes) else file.read_bytes()
        if not content:
            raise ImageDecodeError("is empty (0 bytes)")
        image = Image.open(io.BytesIO(content))
        if image.format == "EPS":  # which Pillow has Ghostscript run
            raise ImageDecodeError("is a PostScript program and no image")
        yield image, content
    except ImageDecodeError:
        raise
    except UnidentifiedImageError:
        raise ImageDecodeError("is no image in a format that Pillow reads") from None
    except Image.DecompressionBombError:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise ImageDecodeError(f"has over {most / 1e6:.0f} megapixels: make it smaller") from None
    except Exception as error:  # whatever a decoder stumbles over
        raise ImageDecodeError(f"can't be decoded: {error or type(error).__name__}") from None


def _is_jpeg(image: Image.Image, content: bytes) -> bool:
    """Return whether this is a JPEG of a common kind, and whole: of others libjpeg shows a part."""
    return image.format == "JPEG" and image.mode in ("L", "RGB") and b"\xff\xd9" in content[-64:]


def _orientation(image: Image.Image) -> int:
    return image.getexif().get(ExifTags.Base.Orientation, 1)


def _upright_size(image: Image.Image) -> Size:
    turned = _orientation(image) in (5, 6, 7, 8)
    return (image.height, image.width) if turned else image.size


def _as_rgb(image: Image.Image) -> Image.Image:
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits, which convert() would cut off above 255
        grey = np.asarray(image).astype(np.int64)
        if 0 < grey.max() < 4096:
            raise ImageDecodeError(
                f"has 16 bits and no value above {grey.max()}, nearly black: stretch it"
            )
        image = Image.fromarray((grey >> 8).clip(0, 255).astype(np.uint8))
    elif image.mode == "F":
        raise ImageDecodeError("holds floating point numbers: save it with 8 or 16 bits")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")
