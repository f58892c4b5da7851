"""Each augmentation beside torchvision's v2 transform of the same name, on the same parameters.

An image's parameters are drawn from its uniforms, as augment.py says; here, each is computed once
more and given to the transform. The images are photographs.
"""

import math
from collections.abc import Callable

import pytest
import torch
from sklearn.datasets import load_sample_images
from torch import Tensor
from torch.nn.functional import one_hot
from torchvision.transforms import v2

from {{ cookiecutter.__package_name }}.augment import Augmentation
from {{ cookiecutter.__package_name }}.engine.data import order
from {{ cookiecutter.__package_name }}.engine.images.augmenting.policies import (
    OPERATIONS,
)
from {{ cookiecutter.__package_name }}.engine.images.batch import ImageBatch

N, HEIGHT, WIDTH = 300, 44, 60
MOST = 2.0  # grey levels by which an image may differ on average
EXPLAINED = {  # the share of images that may differ by more, and why
    # torchvision cuts each of four results to whole grey levels, augment.py rounds the last.
    "ColorJitter": 0.01,
    # Likewise, and autocontrast or equalize multiplies that level if an image is nearly black.
    "RandAugment": 0.03,
    # Of 31 translations, torchvision's 16th is 15.999999 pixels, and it moves by 15.
    "TrivialAugmentWide": 0.01,
}
Expected = Callable[[Tensor, list[float]], Tensor]


def photographs() -> Tensor:
    """Return cuts of two photographs, uint8 (N, 3, HEIGHT, WIDTH)."""
    both = [torch.tensor(pixels).permute(2, 0, 1) for pixels in load_sample_images().images]
    places = order.uniforms(1, 0, torch.arange(N), 2)
    cuts = []
    for i, (down, right) in enumerate(places.tolist()):
        top, left = int(down * (427 - HEIGHT)), int(right * (640 - WIDTH))
        cuts.append(both[i % 2][:, top : top + HEIGHT, left : left + WIDTH])
    return torch.stack(cuts)


def augmented(images: Tensor, **settings: float) -> ImageBatch:
    row = torch.arange(N)
    batch = ImageBatch(images, row % 10, row)
    return Augmentation(**settings)(batch, lambda k: order.uniforms(0, 0, row, k), N)


def shifted(padding: int) -> Expected:
    crop = v2.RandomCrop((HEIGHT, WIDTH), padding=padding)

    def expected(image: Tensor, u: list[float]) -> Tensor:
        top, left = (int(share * (2 * padding + 1)) for share in u[:2])
        given = crop.make_params([image]) | {"top": top, "left": left}
        return crop.transform(image, given)

    return expected


def flipped(flip: v2.Transform, place: int) -> Expected:
    return lambda image, u: flip(image) if u[place] < 0.5 else image


def turned(degrees: float) -> Expected:
    rotation = v2.RandomRotation(degrees)
    return lambda image, u: rotation.transform(image, {"angle": (2 * u[11] - 1) * degrees})


def jittered(**amounts: float) -> Expected:
    names = ("brightness", "contrast", "saturation", "hue")
    jitter = v2.ColorJitter(**amounts)

    def expected(image: Tensor, u: list[float]) -> Tensor:
        changes = [(2 * u[16 + i] - 1) * amounts.get(name, 0) for i, name in enumerate(names)]
        given = jitter.make_params([image]) | {"fn_idx": range(4)}
        for name, change in zip(names, changes, strict=True):
            if name in amounts:
                given[f"{name}_factor"] = change if name == "hue" else 1 + change
        return jitter.transform(image, given)

    return expected


def erased(share: float) -> Expected:
    erasing = v2.RandomErasing(1.0)

    def expected(image: Tensor, u: list[float]) -> Tensor:
        chance, area, ratio, down, right = u[20:25]
        (least, most), (low, high) = erasing.scale, erasing.ratio
        area, ratio = HEIGHT * WIDTH * (least + (most - least) * area), low * (high / low) ** ratio
        h, w = min(round(math.sqrt(area * ratio)), HEIGHT), round(math.sqrt(area / ratio))
        place = {"i": int(down * (HEIGHT - h + 1)), "j": int(right * (WIDTH - w + 1))}
        given = {**place, "h": h, "w": w, "v": torch.zeros(3, 1, 1, dtype=torch.uint8)}
        return erasing.transform(image, given) if chance < share else image

    return expected


def drawing(policy: v2.Transform, draws: Callable[[list[float]], tuple]) -> Expected:
    """Give a policy its draws in place of torch's: of operations, their signs, and a magnitude."""

    def expected(image: Tensor, u: list[float]) -> Tensor:
        operations, signs, size = draws(u)
        number = -1  # of the operation

        def randint(high: int, _: tuple) -> Tensor:
            nonlocal number
            if high == len(OPERATIONS):
                number += 1
                return torch.tensor(int(operations[number] * high))
            return torch.tensor(int(size * high))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch, "randint", randint)
            patch.setattr(torch, "rand", lambda _: torch.tensor(signs[number]))
            return policy(image)

    return expected


ALIKE: dict[str, tuple[dict[str, float], Expected]] = {
    "RandomCrop": ({"crop_padding": 4}, shifted(4)),
    "RandomHorizontalFlip": ({"flip": True}, flipped(v2.RandomHorizontalFlip(1.0), 2)),
    "RandomVerticalFlip": ({"vertical_flip": True}, flipped(v2.RandomVerticalFlip(1.0), 10)),
    "RandomRotation": ({"rotation": 30.0}, turned(30.0)),
    **{
        f"ColorJitter of {name}": ({name: 0.4}, jittered(**{name: 0.4}))
        for name in ("brightness", "contrast", "saturation", "hue")
    },
    "ColorJitter": (
        {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1},
        jittered(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1),
    ),
    "RandomErasing": ({"erasing": 0.5}, erased(0.5)),
    **{
        f"RandAugment of magnitude {size}": (
            {"randaugment": size},
            drawing(v2.RandAugment(2, size), lambda u: (u[12:16:2], u[13:16:2], None)),
        )
        for size in (5, 9, 30)
    },
    "TrivialAugmentWide": (
        {"trivialaugment": True},
        drawing(v2.TrivialAugmentWide(), lambda u: (u[12:13], u[14:15], u[13])),
    ),
}


@pytest.mark.parametrize("name", ALIKE)
def test_an_augmentation_is_the_transform_of_torchvision(name):
    settings, expected = ALIKE[name]
    images, uniforms = photographs(), order.uniforms(0, 0, torch.arange(N), 25).tolist()
    found = augmented(images, **settings).images
    theirs = torch.stack([expected(*each) for each in zip(images, uniforms, strict=True)])
    differences = (found.float() - theirs.float()).abs().mean((1, 2, 3))
    mean, highest = differences.mean(), differences.max()
    print(f"\n{name}: {mean:.2f} on average, at most {highest:.2f}", end=" ")
    assert mean < MOST
    assert (differences >= MOST).float().mean() <= EXPLAINED.get(name.split()[0], 0)
    assert (theirs != images).flatten(1).any(1).float().mean() > 0.2


def test_mixup_is_that_of_torchvision():
    images, mixup = photographs(), v2.MixUp(num_classes=10)
    found = augmented(images, mixup=0.4)
    for i, share in enumerate(found.mix_weights.tolist()):
        given = {"labels": found.labels, "batch_size": N, "lam": share}
        theirs = mixup.transform(images.float(), given)[i]
        assert (found.images[i] - theirs).abs().max() <= 0.51  # rounded
        torch.testing.assert_close(targets_of(found)[i], mixup.transform(found.labels, given)[i])


def test_cutmix_is_that_of_torchvision():
    images, cutmix = photographs(), v2.CutMix(num_classes=10)
    found, sizes = augmented(images, cutmix=1.0), []
    numbers = (torch.arange(N) % 2).byte()[:, None, None, None].expand_as(images)
    pasted = (augmented(numbers, cutmix=1.0).images != numbers)[:, 0]  # (n, h, w)
    for i, box in enumerate(pasted):
        rows, columns = box.any(1).nonzero(), box.any(0).nonzero()
        if not len(rows):
            assert torch.equal(found.images[i], images[i]) and found.mix_weights[i] == 1
            continue
        corners = int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
        area = len(rows) * len(columns) / (HEIGHT * WIDTH)
        given = {"labels": found.labels, "batch_size": N, "box": corners, "lam_adjusted": 1 - area}
        assert torch.equal(found.images[i], cutmix.transform(images, given)[i])
        torch.testing.assert_close(targets_of(found)[i], cutmix.transform(found.labels, given)[i])
        sizes.append(area)
    assert 0.3 < sum(sizes) / N < 0.5  # half the area on average, but for what is outside


def targets_of(batch: ImageBatch) -> Tensor:
    """Return what the loss of a mixed batch is computed with: the share of each class, (n, 10)."""
    own, other = (one_hot(labels, 10) for labels in (batch.labels, batch.mixed_labels))
    share = batch.mix_weights[:, None]
    return share * own + (1 - share) * other
