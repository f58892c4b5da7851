"""Decoding one image file to uint8 RGB. All decoding on the CPU is in this module.

Pillow looks at a file's content, so a wrong extension does not matter. 16 bits, transparency and
the orientation in EXIF or XMP, which a plain conversion would get wrong, are converted to upright
RGB. torchvision's libjpeg-turbo decodes common JPEGs in half of Pillow's time.
"""

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch.nn import functional
from torchvision.io import ImageReadMode, decode_jpeg

from .depth import DepthError, in_eight_bits
from .metadata import without_metadata
from .orientation import SIDEWAYS, orientation_of, turned, turned_pixels

VERSION = 2  # raise it when some file's pixels change: what was checked or decoded before is stale
CENTER_CROP_RATIO = 224 / 256  # of the shorter side, in evaluation; usual for ImageNet

Box = tuple[int, int, int, int, bool]  # left, upper, right, lower, in pixels; whether mirrored
Size = tuple[int, int]  # width, height
File = Path | bytes  # an image file's path, or its content
Choose = Callable[[int, int], Box]  # from an upright image's width and height
Jpeg = tuple[bytes, Box, Size]  # a file's content, the box to crop, the image's size

# Pillow warns of broken metadata without a file's name, in each epoch.
warnings.filterwarnings("ignore", module=r"PIL\.(Tiff|Jpeg|Mpo)ImagePlugin")


class ImageDecodeError(Exception):
    """A file that can't be used as an image; the message is the reason."""


def center_crop(file: File, size: int, bits: int = 16) -> np.ndarray:
    """Return an image's square center crop: uint8 (size, size, 3). Raises ImageDecodeError."""
    return cropped(file, (size, size), center_box, bits)


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


def cropped(file: File, size: Size, choose: Choose, bits: int = 16) -> np.ndarray:
    """Crop the box that `choose` returns and resize it to `size`: uint8 (height, width, 3).

    `bits` are those that 16-bit images use: see depth.py. Resizing is bilinear with antialiasing,
    like Pillow's. Raises ImageDecodeError.
    """
    with opened(file) as (image, content):
        orientation = orientation_of(image)
        box = choose(*_upright_size(image, orientation))
        return _crop(image, content, orientation, size, box, bits)


def check_pixels(file: File, most: int) -> None:
    """Raise ImageDecodeError if an image has more than `most` pixels; only its header is read."""
    with opened(file) as (image, _):
        if image.width * image.height > most:
            raise ImageDecodeError(f"has over {most / 1e6:.0f} megapixels: make it smaller")


def cropped_or_jpeg(file: File, size: Size, choose: Choose, bits: int = 16) -> np.ndarray | Jpeg:
    """Return a common JPEG undecoded, with its box; decode any other file as cropped() does."""
    with opened(file) as (image, content):
        orientation = orientation_of(image)
        box = choose(*_upright_size(image, orientation))
        plain = is_common_jpeg(image, content) and image.mode == "RGB"
        if plain and orientation == 1 and image.info.get("adobe_transform", 1) == 1:
            return content, box, image.size
        return _crop(image, content, orientation, size, box, bits)


def _crop(
    image: Image.Image, content: bytes, orientation: int, size: Size, box: Box, bits: int
) -> np.ndarray:
    left, upper, right, lower, mirrored = box
    shrink = min((right - left) / size[0], (lower - upper) / size[1])
    if shrink < 4 and is_common_jpeg(image, content):  # libjpeg-turbo: half of Pillow's time
        data = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        pixels = turned_pixels(decode_jpeg(data, ImageReadMode.RGB), orientation)
        part, shape = pixels[None, :, upper:lower, left:right], (size[1], size[0])
        whole = functional.interpolate(part, shape, mode="bilinear", antialias=True)
        return (whole.flip(3) if mirrored else whole)[0].permute(1, 2, 0).numpy()
    width, height = _upright_size(image, orientation)
    shrink = max(shrink / 2, 1)  # Pillow decodes a JPEG at a half, a quarter or an eighth
    image.draft("RGB", (int(image.width / shrink) or 1, int(image.height / shrink) or 1))
    rgb = as_rgb(image, content, orientation, bits)
    x, y = rgb.width / width, rgb.height / height
    box_in_rgb = (left * x, upper * y, right * x, lower * y)
    image = rgb.resize(size, Image.Resampling.BILINEAR, box_in_rgb)
    return np.asarray(ImageOps.mirror(image) if mirrored else image)


@contextmanager
def opened(file: File) -> Iterator[tuple[Image.Image, bytes]]:
    """Yield an image, of which only the header is read, and the file's content.

    Any exception inside becomes an ImageDecodeError.
    """
    try:
        content = file if isinstance(file, bytes) else file.read_bytes()
        if not content:
            raise ImageDecodeError("is empty (0 bytes)")
        image = _open(content)
        if image.format == "EPS":  # Pillow would run it with Ghostscript
            raise ImageDecodeError("is a PostScript program, not an image")
        yield image, content
    except ImageDecodeError:
        raise
    except DepthError as reason:
        raise ImageDecodeError(str(reason)) from None
    except UnidentifiedImageError:
        raise ImageDecodeError("is not an image in a format that Pillow reads") from None
    except Image.DecompressionBombError:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise ImageDecodeError(f"has over {most / 1e6:.0f} megapixels: make it smaller") from None
    except Exception as error:  # decoders raise exceptions of many types
        raise ImageDecodeError(f"can't be decoded: {error or type(error).__name__}") from None


def _open(content: bytes) -> Image.Image:
    """Return an image, of which only the header is read.

    If metadata keep Pillow from opening a JPEG or PNG, they are left out.
    """
    try:
        return Image.open(io.BytesIO(content))
    except Image.DecompressionBombError:
        raise
    except Exception:
        bare, exif = without_metadata(content)
        if bare == content:
            raise
    image = Image.open(io.BytesIO(bare))
    image.info["exif"] = exif
    return image


def is_common_jpeg(image: Image.Image, content: bytes) -> bool:
    """Return whether this is a complete JPEG of a common kind.

    libjpeg would decode a truncated one in part, without an error.
    """
    return image.format == "JPEG" and image.mode in ("L", "RGB") and b"\xff\xd9" in content[-64:]


def _upright_size(image: Image.Image, orientation: int) -> Size:
    return (image.height, image.width) if orientation in SIDEWAYS else image.size


def as_rgb(image: Image.Image, content: bytes, orientation: int, bits: int) -> Image.Image:
    """Return the whole image, upright. Raises DepthError, or what Pillow raises."""
    image.load()
    image = turned(in_eight_bits(image, content, bits), orientation)
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")
