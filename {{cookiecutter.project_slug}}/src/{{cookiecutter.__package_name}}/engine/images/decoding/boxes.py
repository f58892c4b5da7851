"""Which part of an image is read: boxes with the aspect ratio of the size that it is resized to."""

from collections.abc import Callable

Box = tuple[int, int, int, int, bool]  # left, upper, right, lower, in pixels; whether mirrored
Size = tuple[int, int]  # width, height
Choose = Callable[[int, int], Box]  # from an upright image's width and height

CENTER_CROP_RATIO = 224 / 256  # of the shorter side, in evaluation; usual for ImageNet


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
