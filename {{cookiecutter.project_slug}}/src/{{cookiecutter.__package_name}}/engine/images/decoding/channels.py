"""Which images can be read with which number of channels: data.channels.

Pillow's pictures have one to four: grey, grey and alpha, RGB, RGB and alpha. Each can be read as
grey, RGB or RGBA. Images with other channels are only read as they are.
"""

from PIL import Image

MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


def channels_of(image: Image.Image) -> int:
    """Return the number of channels of Pillow's picture: 1 to 4."""
    colours = 1 if image.mode[:1] in ("1", "L", "I", "F") and image.mode != "LAB" else 3
    return colours + image.has_transparency_data


def fits(found: int, picture: bool, wanted: int) -> bool:
    """Return whether an image with so many channels can be read with the number wanted."""
    if found == wanted:
        return True
    if picture:
        return wanted in (1, 3) or (wanted == 4 and found < 4)
    return {found, wanted} == {1, 3}


def misfit(found: int, wanted: int) -> str:
    """Return the numbers of channels of an image that can't be read with the number wanted."""
    return f"{found} channel{'s' * (found > 1)}; expected {wanted}"
