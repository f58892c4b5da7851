"""Decoding one image file to uint8 RGB. All decoding on the CPU is in this module.

Pillow looks at a file's content, so a wrong extension does not matter. 16 bits, transparency and
EXIF rotation, which a plain conversion would get wrong, are converted to upright RGB. torchvision's
libjpeg-turbo decodes common JPEGs in half of Pillow's time.
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

CENTER_CROP_RATIO = 224 / 256  # of the shorter side, in evaluation; usual for ImageNet

Box = tuple[int, int, int, int, bool]  # left, upper, right, lower, in pixels; whether mirrored
Size = tuple[int, int]  # width, height
File = Path | bytes  # an image file's path, or its content
Choose = Callable[[int, int], Box]  # from an upright image's width and height
Jpeg = tuple[bytes, Box, Size]  # a file's content, the box to crop, the image's size


class ImageDecodeError(Exception):
    """A file that can't be used as an image; the message is the reason."""


def inspect(path: Path) -> tuple[str, str | None]:
    """Return the SHA-256 of a file and why it can't be used as an image, or None if it can.

    The whole file is decoded, because a truncated JPEG has a valid header.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        return "", f"can't be read: {error.strerror}"
    problem = None
    try:
        with _opened(content) as (image, _):
            image.draft("RGB", (1, 1))  # decodes a JPEG at its smallest scale: fastest
            _as_rgb(image)
    except ImageDecodeError as reason:
        problem = str(reason)
    return sha256_of([content]), problem


def center_crop(file: File, size: int) -> np.ndarray:
    """Return an image's square center crop: uint8 (size, size, 3). Raises ImageDecodeError."""
    return cropped(file, (size, size), center_box)


def largest_box(width: int, height: int, size: Size) -> Box:
    """Return the largest centered box with the aspect ratio of `size`."""
    scale = min(width / size[0], height / size[1])
    w, h = max(round(size[0] * scale), 1), max(round(size[1] * scale), 1)
    left, upper = (width - w) // 2, (height - h) // 2
    return left, upper, left + w, upper + h, False


def random_box(
    width: int,
    height: int,
    uniforms: list[float],
    smallest: float,
    flip: bool,
    size: Size = (1, 1),
) -> Box:
    """Return a random box from five uniforms: area, aspect ratio, position (2), mirroring.

    Its aspect ratio is 3/4 to 4/3 of that of `size` (Szegedy et al., "Going deeper with
    convolutions", 2014) and its area at least `smallest` of the image's, if such a box fits into
    it. `flip` mirrors half of the boxes.
    """
    area = width * height * (smallest + (1 - smallest) * uniforms[0])
    shape = size[0] / size[1] * (3 / 4) ** (1 - 2 * uniforms[1])
    w, h = (area * shape) ** 0.5, (area / shape) ** 0.5
    if size[0] != size[1]:  # a square's box is cut off where it exceeds the image
        fit = min(width / w, height / h, 1)
        w, h = w * fit, h * fit
    w, h = min(max(round(w), 1), width), min(max(round(h), 1), height)
    left, upper = int(uniforms[2] * (width - w + 1)), int(uniforms[3] * (height - h + 1))
    return left, upper, left + w, upper + h, flip and uniforms[4] < 0.5


def center_box(width: int, height: int, size: Size = (1, 1)) -> Box:
    """Return the box of the center crop, with the aspect ratio of `size`."""
    aspect = size[0] / size[1]
    w = max(round(min(width, height * aspect) * CENTER_CROP_RATIO), 1)
    h = max(round(min(height, width / aspect) * CENTER_CROP_RATIO), 1)
    left, upper = (width - w) // 2, (height - h) // 2
    return left, upper, left + w, upper + h, False


def cropped(file: File, size: Size, choose: Choose) -> np.ndarray:
    """Crop the box that `choose` returns and resize it to `size`: uint8 (height, width, 3).

    Resizing is bilinear with antialiasing, like Pillow's. Raises ImageDecodeError.
    """
    with _opened(file) as (image, content):
        return _crop(image, content, size, choose(*_upright_size(image)))


def check_pixels(file: File, most: int) -> None:
    """Raise ImageDecodeError if an image has more than `most` pixels; only its header is read."""
    with _opened(file) as (image, _):
        if image.width * image.height > most:
            raise ImageDecodeError(f"has over {most / 1e6:.0f} megapixels: make it smaller")


def cropped_or_jpeg(file: File, size: Size, choose: Choose) -> np.ndarray | Jpeg:
    """Return a common JPEG undecoded, with its box; decode any other file as cropped() does."""
    with _opened(file) as (image, content):
        box = choose(*_upright_size(image))
        plain = _is_jpeg(image, content) and image.mode == "RGB"
        if plain and _orientation(image) == 1 and image.info.get("adobe_transform", 1) == 1:
            return content, box, image.size
        return _crop(image, content, size, box)


def _crop(image: Image.Image, content: bytes, size: Size, box: Box) -> np.ndarray:
    left, upper, right, lower, mirrored = box
    shrink = min((right - left) / size[0], (lower - upper) / size[1])
    if shrink < 4 and _is_jpeg(image, content):  # libjpeg-turbo takes half of Pillow's time
        data = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        pixels = decode_jpeg(data, ImageReadMode.RGB, apply_exif_orientation=True)
        part, shape = pixels[None, :, upper:lower, left:right], (size[1], size[0])
        whole = functional.interpolate(part, shape, mode="bilinear", antialias=True)
        return (whole.flip(3) if mirrored else whole)[0].permute(1, 2, 0).numpy()
    width, height = _upright_size(image)
    shrink = max(shrink / 2, 1)  # Pillow decodes a JPEG at a half, a quarter or an eighth
    image.draft("RGB", (int(image.width / shrink) or 1, int(image.height / shrink) or 1))
    rgb = _as_rgb(image)
    x, y = rgb.width / width, rgb.height / height
    box_in_rgb = (left * x, upper * y, right * x, lower * y)
    part = rgb.resize(size, Image.Resampling.BILINEAR, box_in_rgb)
    return np.asarray(ImageOps.mirror(part) if mirrored else part)


@contextmanager
def _opened(file: File) -> Iterator[tuple[Image.Image, bytes]]:
    """Yield an image, of which only the header is read, and the file's content.

    Any exception inside becomes an ImageDecodeError.
    """
    try:
        content = file if isinstance(file, bytes) else file.read_bytes()
        if not content:
            raise ImageDecodeError("is empty (0 bytes)")
        image = Image.open(io.BytesIO(content))
        if image.format == "EPS":  # Pillow would run it with Ghostscript
            raise ImageDecodeError("is a PostScript program, not an image")
        yield image, content
    except ImageDecodeError:
        raise
    except UnidentifiedImageError:
        raise ImageDecodeError("is not an image in a format that Pillow reads") from None
    except Image.DecompressionBombError:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise ImageDecodeError(f"has over {most / 1e6:.0f} megapixels: make it smaller") from None
    except Exception as error:  # decoders raise exceptions of many types
        raise ImageDecodeError(f"can't be decoded: {error or type(error).__name__}") from None


def _is_jpeg(image: Image.Image, content: bytes) -> bool:
    """Return whether this is a complete JPEG of a common kind.

    libjpeg would decode a truncated one in part, without an error.
    """
    return image.format == "JPEG" and image.mode in ("L", "RGB") and b"\xff\xd9" in content[-64:]


def _orientation(image: Image.Image) -> int:
    return image.getexif().get(ExifTags.Base.Orientation, 1)


def _upright_size(image: Image.Image) -> Size:
    rotated = _orientation(image) in (5, 6, 7, 8)
    return (image.height, image.width) if rotated else image.size


def _as_rgb(image: Image.Image) -> Image.Image:
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits; convert() would clip at 255
        grey = np.asarray(image).astype(np.int64)
        if 0 < grey.max() < 4096:
            raise ImageDecodeError(
                f"has 16 bits and no value above {grey.max()}, nearly black: rescale its values"
            )
        image = Image.fromarray((grey >> 8).clip(0, 255).astype(np.uint8))
    elif image.mode == "F":
        raise ImageDecodeError("holds floating point numbers: save it with 8 or 16 bits")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")
