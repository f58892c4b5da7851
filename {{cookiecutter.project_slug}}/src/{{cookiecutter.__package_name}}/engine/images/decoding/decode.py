"""Decoding one image file to uint8: RGB, or other channels. All decoding on the CPU starts here.

Files with channels that Pillow doesn't know are read by bands.py. Pillow looks at a file's content,
so a wrong extension does not matter. 16 bits, transparency and the orientation in EXIF or XMP,
which a plain conversion would get wrong, are converted to upright pictures. torchvision's
libjpeg-turbo decodes common JPEGs in half of Pillow's time.
"""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch.nn import functional
from torchvision.io import ImageReadMode, decode_jpeg

from .bands import Bands, find_bands
from .boxes import Box, Choose, Size, center_box
from .channels import MODES, channels_of, fits, misfit
from .depth import DepthError, in_eight_bits
from .metadata import without_metadata
from .orientation import SIDEWAYS, orientation_of, turned, turned_pixels

VERSION = 3  # raise it when some file's pixels change: what was checked or decoded before is stale

File = Path | bytes  # an image file's path, or its content
Jpeg = tuple[bytes, Box, Size]  # a file's content, the box to crop, the image's size

# Pillow warns of broken metadata without a file's name, in each epoch.
warnings.filterwarnings("ignore", module=r"PIL\.(Tiff|Jpeg|Mpo)ImagePlugin")


class ImageDecodeError(Exception):
    """A file that can't be used as an image; the message is the reason."""


def center_crop(file: File, size: int, bits: int = 16, channels: int = 3) -> np.ndarray:
    """Return a square center crop: uint8 (size, size, channels). Raises ImageDecodeError."""
    return cropped(file, (size, size), center_box, bits, channels)


def cropped(
    file: File, size: Size, choose: Choose, bits: int = 16, channels: int = 3
) -> np.ndarray:
    """Crop the box that `choose` returns and resize it to `size`: uint8 (height, width, channels).

    `bits` are those that 16-bit images use: see depth.py. Resizing is bilinear with antialiasing,
    like Pillow's. Raises ImageDecodeError.
    """
    with opened(file, channels) as (image, content):
        if isinstance(image, Bands):
            return image.cropped(size, choose(image.width, image.height), bits, channels)
        orientation = orientation_of(image)
        box = choose(*_upright_size(image, orientation))
        return _crop(image, content, orientation, size, box, bits, channels)


def check_pixels(file: File, most: int) -> None:
    """Raise ImageDecodeError if an image has more than `most` pixels; only its header is read."""
    with opened(file) as (image, _):
        bands = image.channels / 3 if isinstance(image, Bands) else 1
        if image.width * image.height * bands > most:
            raise ImageDecodeError(f"has over {most / 1e6:.0f} megapixels: make it smaller")


def cropped_or_jpeg(file: File, size: Size, choose: Choose, bits: int = 16) -> np.ndarray | Jpeg:
    """Return a common JPEG undecoded, with its box; decode any other file as cropped() does.

    The GPU decodes to RGB: other channels are not read this way.
    """
    with opened(file, 3) as (image, content):
        if isinstance(image, Bands):
            return image.cropped(size, choose(image.width, image.height), bits, 3)
        orientation = orientation_of(image)
        box = choose(*_upright_size(image, orientation))
        plain = is_common_jpeg(image, content) and image.mode == "RGB"
        if plain and orientation == 1 and image.info.get("adobe_transform", 1) == 1:
            return content, box, image.size
        return _crop(image, content, orientation, size, box, bits, 3)


def _crop(
    image: Image.Image,
    content: bytes,
    orientation: int,
    size: Size,
    box: Box,
    bits: int,
    channels: int,
) -> np.ndarray:
    left, upper, right, lower, mirrored = box
    shrink = min((right - left) / size[0], (lower - upper) / size[1])
    if shrink < 4 and is_common_jpeg(image, content):  # libjpeg-turbo: half of Pillow's time
        data = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        mode = ImageReadMode.GRAY if channels == 1 else ImageReadMode.RGB
        pixels = turned_pixels(decode_jpeg(data, mode), orientation)
        part, shape = pixels[None, :, upper:lower, left:right], (size[1], size[0])
        whole = functional.interpolate(part, shape, mode="bilinear", antialias=True)
        upright = (whole.flip(3) if mirrored else whole)[0].permute(1, 2, 0).numpy()
        return _opaque(upright) if channels == 4 else upright
    width, height = _upright_size(image, orientation)
    shrink = max(shrink / 2, 1)  # Pillow decodes a JPEG at a half, a quarter or an eighth
    image.draft(
        "L" if channels == 1 else "RGB",
        (int(image.width / shrink) or 1, int(image.height / shrink) or 1),
    )
    picture = as_picture(image, content, orientation, bits, channels)
    x, y = picture.width / width, picture.height / height
    box_in_picture = (left * x, upper * y, right * x, lower * y)
    picture = picture.resize(size, Image.Resampling.BILINEAR, box_in_picture)
    shown = np.asarray(ImageOps.mirror(picture) if mirrored else picture)
    return shown.reshape(size[1], size[0], channels)


def _opaque(pixels: np.ndarray) -> np.ndarray:
    """Return RGB pixels (h, w, 3) as RGBA."""
    return np.concatenate([pixels, np.full_like(pixels[..., :1], 255)], axis=2)


@contextmanager
def opened(file: File, channels: int | None = None) -> Iterator[tuple[Image.Image | Bands, bytes]]:
    """Yield an image, of which only the header is read, and the file's content.

    It is Pillow's picture, or Bands if Pillow can't read it, or not with this number of channels.
    Any exception inside becomes an ImageDecodeError, and so does a number that doesn't fit.
    """
    try:
        content = file if isinstance(file, bytes) else file.read_bytes()
        if not content:
            raise ImageDecodeError("is empty (0 bytes)")
        bands = find_bands(content, channels)
        if bands and bands.used_for(channels):
            _check_channels(bands.channels, False, channels)
            yield bands, content
        else:
            image = _open(content)
            _check_channels(bands.channels if bands else channels_of(image), True, channels)
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


def _check_channels(found: int, picture: bool, wanted: int | None) -> None:
    if wanted is not None and not fits(found, picture, wanted):
        raise ImageDecodeError(f"has {misfit(found, wanted)}")


def _open(content: bytes) -> Image.Image:
    """Return an image, of which only the header is read.

    If metadata keep Pillow from opening a JPEG or PNG, they are left out.
    """
    try:
        image = Image.open(io.BytesIO(content))
    except Image.DecompressionBombError:
        raise
    except Exception:
        bare, exif = without_metadata(content)
        if bare == content:
            raise
        image = Image.open(io.BytesIO(bare))
        image.info["exif"] = exif
    if image.format == "EPS":  # Pillow would run it with Ghostscript
        raise ImageDecodeError("is a PostScript program, not an image")
    return image


def is_common_jpeg(image: Image.Image, content: bytes) -> bool:
    """Return whether this is a complete JPEG of a common kind.

    libjpeg would decode a truncated one in part, without an error.
    """
    return image.format == "JPEG" and image.mode in ("L", "RGB") and b"\xff\xd9" in content[-64:]


def _upright_size(image: Image.Image, orientation: int) -> Size:
    return (image.height, image.width) if orientation in SIDEWAYS else image.size


def as_picture(
    image: Image.Image, content: bytes, orientation: int, bits: int, channels: int = 3
) -> Image.Image:
    """Return the whole image, upright, with 1 to 4 channels: see channels.py.

    Without an alpha channel, transparent pixels are shown on white. Raises DepthError, or what
    Pillow raises.
    """
    image.load()
    image = turned(in_eight_bits(image, content, bits), orientation)
    if channels in (1, 3) and image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert(MODES[channels])
