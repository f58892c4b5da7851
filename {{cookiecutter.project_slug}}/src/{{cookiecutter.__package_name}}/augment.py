"""Augmentation of training images: whole batches on the device, uint8 in and uint8 out.

Every parameter is sampled per image, from the image's own uniforms (engine/data/order.py). An
augmented image depends only on (seed, epoch, index); a mixed image also depends on its batch.
Shapes: n images, c channels, h by w pixels.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .engine import Uniforms, UserError
from .engine.images.augmenting.colours import jitter, without_alpha
from .engine.images.augmenting.compiled import compiled
from .engine.images.augmenting.policies import (
    MOST_MAGNITUDE,
    rand_augment,
    trivial_augment,
)
from .engine.images.augmenting.warp import rotations, warp
from .engine.images.batch import ImageBatch

MOST = {"rotation": 180, "randaugment": MOST_MAGNITUDE, "hue": 0.5, "erasing": 1}
LATER = (  # than the shift and the mirroring
    *("vertical_flip", "rotation", "randaugment", "trivialaugment"),
    *("brightness", "contrast", "saturation", "hue", "erasing"),
)
AREA, RATIO = (0.02, 0.33), (0.3, 3.3)  # of erased boxes: shares of the image, height to width


@dataclass(frozen=True)
class Augmentation:
    """The augmentation of training images. Each of these settings is one of ImageData's too.

    Args:
        crop_padding: random shift of training images by up to this many pixels; not for folders.
        flip: mirror half of the training images; wrong for digits and text.
        vertical_flip: turn half of the training images upside down.
        rotation: turn each training image by up to this many degrees.
        randaugment: magnitude of RandAugment's two random operations, 9 is usual; 0 is off.
        trivialaugment: apply one random operation at a random magnitude.
        brightness: change it by a factor of up to 1 plus or minus this; 0 is off.
        contrast: likewise.
        saturation: likewise; only of RGB images.
        hue: turn it by up to this share of the colour circle, at most 0.5; only of RGB images.
        erasing: share of the training images in which a random box is set to zero.
        cutout: side in pixels of a square in each training image that is set to zero; 0 is off.
        mixup: alpha of the shares with which two training images are blended; 0 is off.
        cutmix: alpha of the share of a training image that another one replaces; 0 is off.
    """

    crop_padding: int = 0
    flip: bool = False
    vertical_flip: bool = False
    rotation: float = 0.0
    randaugment: int = 0
    trivialaugment: bool = False
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    erasing: float = 0.0
    cutout: int = 0
    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 0:
                raise UserError(f"data.{name} is {value}; it must be at least 0.")
            if value > MOST.get(name, value):
                raise UserError(f"data.{name} is {value}; it must be at most {MOST[name]}.")
        if self.randaugment and self.trivialaugment:
            raise UserError("data.randaugment and data.trivialaugment are both set; set one.")

    def after_cropping(self) -> "Augmentation":
        """Return the augmentation for images that were already cropped and mirrored."""
        return replace(self, crop_padding=0, flip=False)

    def __call__(
        self, batch: ImageBatch, uniforms: Uniforms, batch_size: int, compiles: bool = False
    ) -> ImageBatch:
        """Augment one or several batches of `batch_size` images, if `compiles` in fewer kernels.

        An image's uniforms: 0 and 1 shift, 2 mirrors, 3 and 4 place the cutout, 5 to 9 mix. Of
        those for the changes in LATER, 10 flips, 11 rotates, 12 to 15 are for RandAugment or
        TrivialAugment, 16 to 19 for the colours, 20 to 24 for erasing.
        """
        if self.crop_padding or self.flip:
            images = shift_and_flip(batch.images, uniforms(3), self.crop_padding, self.flip)
            batch = batch._replace(images=images)
        if any(getattr(self, name) for name in LATER):
            change = compiled(self._change) if compiles else self._change
            batch = batch._replace(images=change(batch.images, uniforms(25)[:, 10:]))
        if self.cutout:
            batch = batch._replace(images=cut_out(batch.images, uniforms(5)[:, 3:], self.cutout))
        if self.mixup or self.cutmix:
            return mix(batch, uniforms(10)[:, 5:], batch_size, self.mixup, self.cutmix)
        return batch

    def _change(self, images: Tensor, uniforms: Tensor) -> Tensor:
        """Apply the changes in LATER: `images` are uint8 (n, c, h, w), `uniforms` (n, 15)."""
        if self.vertical_flip:
            images = torch.where(uniforms[:, :1, None, None] < 0.5, images.flip(2), images)
        if self.rotation:
            images = warp(images, rotations((2 * uniforms[:, 1] - 1) * self.rotation))
        if self.randaugment:
            images = rand_augment(images, uniforms[:, 2:6], self.randaugment)
        if self.trivialaugment:
            images = trivial_augment(images, uniforms[:, 2:5])
        if any(amounts := (self.brightness, self.contrast, self.saturation, self.hue)):
            images = jitter_colours(images, uniforms[:, 6:10], amounts)
        if self.erasing:
            images = erase(images, uniforms[:, 10:], self.erasing)
        return images


def shift_and_flip(images: Tensor, uniforms: Tensor, crop_padding: int, flip: bool) -> Tensor:
    """Shift each image by up to `crop_padding` pixels, fill with black; `flip` mirrors half.

    `images` are uint8 (n, c, h, w), `uniforms` (n, 3): down, right, mirroring. Returns images of
    the same shape, channels last in memory.
    """
    n, _, height, width = images.shape
    shift = (uniforms[:, :2] * (2 * crop_padding + 1)).long() - crop_padding
    rows = torch.arange(height, device=images.device) + shift[:, :1]
    columns = torch.arange(width, device=images.device) + shift[:, 1:]
    if flip:
        columns = torch.where(uniforms[:, 2:3] < 0.5, width - 1 - columns, columns)
    row, column = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
    inside = (row == rows)[:, :, None, None] & (column == columns)[:, None, :, None]
    sample = torch.arange(n, device=images.device)[:, None, None]
    picked = images.permute(0, 2, 3, 1)[sample, row[:, :, None], column[:, None, :]]
    return (picked * inside).permute(0, 3, 1, 2)


def jitter_colours(images: Tensor, uniforms: Tensor, amounts: Sequence[float]) -> Tensor:
    """Change brightness, contrast, saturation and hue, in this order.

    `images` are uint8 (n, c, h, w), `uniforms` (n, 4), `amounts` the largest changes.
    """
    changes = [(2 * uniforms[:, i] - 1) * amount for i, amount in enumerate(amounts)]
    brightness, contrast, saturation = ((1 + change).clamp(min=0) for change in changes[:3])
    hue = changes[3] if amounts[3] else None
    return without_alpha(images, lambda part: jitter(part, brightness, contrast, saturation, hue))


def erase(images: Tensor, uniforms: Tensor, share: float) -> Tensor:
    """Set a random box in this share of the images to zero (Zhong et al., 2020).

    `images` are uint8 (n, c, h, w), `uniforms` (n, 5): whether, area, ratio, place (2). The whole
    box is in the image: one of too high a ratio is shortened.
    """
    sides = images.shape[2:]
    chance, area, ratio = uniforms[:, :3].double().unbind(1)
    area = (AREA[0] + (AREA[1] - AREA[0]) * area) * sides.numel()
    ratio = RATIO[0] * (RATIO[1] / RATIO[0]) ** ratio  # as often above 1 as below
    inside = []
    for i, length in enumerate(((area * ratio).sqrt(), (area / ratio).sqrt())):
        length = length.round().long().clamp(1, sides[i])
        start = (uniforms[:, 3 + i] * (sides[i] - length + 1)).long()
        place = torch.arange(sides[i], device=images.device) - start[:, None]
        inside.append((place >= 0) & (place < length[:, None]))
    box = inside[0][:, :, None] & inside[1][:, None, :]
    return images * ~(box & (chance < share)[:, None, None])[:, None]


def cut_out(images: Tensor, uniforms: Tensor, side: int) -> Tensor:
    """Set a square of `side` pixels of each image to zero (DeVries and Taylor, 2017).

    `images` are uint8 (n, c, h, w), `uniforms` (n, 2): the square's center. Near an edge, part
    of the square is outside of the image.
    """
    return images * ~_box(images, uniforms, torch.full_like(uniforms, side / 2))[:, None]


def mix(
    batch: ImageBatch, uniforms: Tensor, batch_size: int, mixup: float, cutmix: float
) -> ImageBatch:
    """Mix each image with the previous one in its batch.

    mixup blends the two images (Zhang et al., 2017), cutmix pastes a box of the other image (Yun et
    al., 2019). If both are on, each is used for half of the images.

    Args:
        batch: one or several batches of `batch_size` images.
        uniforms: (n, 5): mixup or cutmix; own share in mixup; own share in cutmix; box center (2).
        mixup, cutmix: shares follow Beta(alpha, alpha) with this alpha; 0 is off.
    """
    images, labels = batch.images, batch.labels
    chance = 0.5 if mixup and cutmix else float(mixup > 0)
    blended = uniforms[:, 0] < chance
    shares = torch.where(blended, _beta(mixup, uniforms[:, 1]), _beta(cutmix, uniforms[:, 2]))
    half = torch.stack([(1 - shares).sqrt() * side / 2 for side in images.shape[2:]], 1)
    shown = ~_box(images, uniforms[:, 3:], half)
    own = torch.where(blended[:, None, None], shares[:, None, None], shown)
    mixed = images * own[:, None] + _before(images, batch_size) * (1 - own[:, None])
    return batch._replace(
        images=mixed.round().to(torch.uint8),
        mixed_labels=_before(labels, batch_size),
        mix_weights=own.mean((1, 2)),
    )


def _box(images: Tensor, middle: Tensor, half: Tensor) -> Tensor:
    """Return where a box covers its image: bool (n, h, w).

    `middle` (n, 2) is the center as a share of height and width, `half` (n, 2) half the box's size
    in pixels.
    """
    covered = [
        ((torch.arange(length, device=images.device) + 0.5) - middle[:, i : i + 1] * length).abs()
        < half[:, i : i + 1]
        for i, length in enumerate(images.shape[2:])
    ]
    return covered[0][:, :, None] & covered[1][:, None, :]


def _before(values: Tensor, batch_size: int) -> Tensor:
    """Return each sample's predecessor in its batch; the first gets the last."""
    return values.unflatten(0, (-1, batch_size)).roll(1, 1).flatten(0, 1)


def _beta(alpha: float, uniform: Tensor) -> Tensor:
    """Return the quantiles of Beta(alpha, alpha) at `uniform`, in 1,024 steps."""
    return _quantiles(alpha or 1.0, uniform.device)[(uniform * 1024).long()]


@functools.lru_cache
def _quantiles(alpha: float, device: torch.device) -> Tensor:
    from scipy.special import betaincinv  # only runs that mix images need it

    steps = (torch.arange(1024, dtype=torch.float64) + 0.5) / 1024
    return torch.from_numpy(betaincinv(alpha, alpha, steps.numpy())).float().to(device)
