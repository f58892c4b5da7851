"""Augmentation of training images: whole batches on the device, uint8 in and uint8 out.

Every parameter is sampled per image, from the image's own uniforms (engine/data/order.py). An
augmented image depends only on (seed, epoch, index); a mixed image also depends on its batch.
Shapes: n images, c channels, h by w pixels.
"""

import functools
from dataclasses import dataclass, replace

import torch
from scipy.special import betaincinv
from torch import Tensor

from .engine import Uniforms, UserError
from .engine.images.batch import ImageBatch


@dataclass(frozen=True)
class Augmentation:
    """The augmentation of training images. Each of these settings is one of ImageData's too.

    Args:
        crop_padding: random shift of training images by up to this many pixels; not for folders.
        flip: mirror half of the training images; wrong for digits and text.
        cutout: side in pixels of a square in each training image that is set to zero; 0 is off.
        mixup: alpha of the shares with which two training images are blended; 0 is off.
        cutmix: alpha of the share of a training image that another one replaces; 0 is off.
    """

    crop_padding: int = 0
    flip: bool = False
    cutout: int = 0
    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 0:
                raise UserError(f"data.{name} is {value}; it must be at least 0.")

    def after_cropping(self) -> "Augmentation":
        """Return the augmentation for images that were already cropped and mirrored."""
        return replace(self, crop_padding=0, flip=False)

    def __call__(self, batch: ImageBatch, uniforms: Uniforms, batch_size: int) -> ImageBatch:
        """Augment one or several batches of `batch_size` images.

        An image's uniforms: 0 and 1 shift, 2 mirrors, 3 and 4 place the cutout, 5 to 9 mix.
        """
        if self.crop_padding or self.flip:
            images = shift_and_flip(batch.images, uniforms(3), self.crop_padding, self.flip)
            batch = batch._replace(images=images)
        if self.cutout:
            batch = batch._replace(images=cut_out(batch.images, uniforms(5)[:, 3:], self.cutout))
        if self.mixup or self.cutmix:
            return mix(batch, uniforms(10)[:, 5:], batch_size, self.mixup, self.cutmix)
        return batch


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
    steps = (torch.arange(1024, dtype=torch.float64) + 0.5) / 1024
    return torch.from_numpy(betaincinv(alpha, alpha, steps.numpy())).float().to(device)
