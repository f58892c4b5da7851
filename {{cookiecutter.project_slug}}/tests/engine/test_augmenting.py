"""Each augmentation does what torchvision's transform of the same name does."""

import json
import math
import os
import subprocess
import sys

import pytest
import torch
from torch._dynamo.utils import counters
from torchvision.transforms.v2 import functional as F

from {{ cookiecutter.__package_name }}.augment import Augmentation, erase
from {{ cookiecutter.__package_name }}.engine import hardware
from {{ cookiecutter.__package_name }}.engine.data import order
from {{ cookiecutter.__package_name }}.engine.images.augmenting.colours import (
    histograms,
    jitter,
)
from {{ cookiecutter.__package_name }}.engine.images.augmenting.compiled import (
    compiled,
)
from {{ cookiecutter.__package_name }}.engine.images.augmenting.policies import (
    MOST_MAGNITUDE,
    OPERATIONS,
    Ranges,
    operate,
    rand_augment,
    trivial_augment,
)
from {{ cookiecutter.__package_name }}.engine.images.augmenting.warp import (
    rotations,
    warp,
)
from {{ cookiecutter.__package_name }}.engine.images.batch import ImageBatch

HEIGHT, WIDTH = 36, 48
WIDE = Ranges(0.99, (32.0, 32.0), 135.0, 0.99, 6)


def pictures(n: int, channels: int = 3) -> torch.Tensor:
    """Return smooth images with some noise, uint8 (n, channels, HEIGHT, WIDTH)."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(n, channels, 5, 6, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (HEIGHT, WIDTH), mode="bicubic")
    noise = torch.randn(smooth.shape, generator=generator)
    return (smooth * 220 + 20 + noise * 4).clamp(0, 255).byte()


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.float() - b.float()).abs().mean())


def _shear(image: torch.Tensor, degrees: list[float]) -> torch.Tensor:
    return F.affine(image, 0.0, [0, 0], 1.0, degrees, center=[0, 0])


def _move(image: torch.Tensor, pixels: list[int]) -> torch.Tensor:
    return F.affine(image, 0.0, pixels, 1.0, [0.0, 0.0])


def _slope(size: float) -> float:
    return math.degrees(math.atan(size * 0.99))


# What RandAugment and TrivialAugmentWide of torchvision do, by the signed magnitude, at most 1.
OF_TORCHVISION = {
    "identity": lambda image, size: image,
    "shear_x": lambda image, size: _shear(image, [_slope(size), 0.0]),
    "shear_y": lambda image, size: _shear(image, [0.0, _slope(size)]),
    "translate_x": lambda image, size: _move(image, [int(size * 32), 0]),
    "translate_y": lambda image, size: _move(image, [0, int(size * 32)]),
    "rotate": lambda image, size: F.rotate(image, size * 135),
    "brightness": lambda image, size: F.adjust_brightness(image, 1 + size * 0.99),
    "colour": lambda image, size: F.adjust_saturation(image, 1 + size * 0.99),
    "contrast": lambda image, size: F.adjust_contrast(image, 1 + size * 0.99),
    "sharpness": lambda image, size: F.adjust_sharpness(image, 1 + size * 0.99),
    "posterize": lambda image, size: F.posterize(image, 8 - round(abs(size) * 6)),
    "solarize": lambda image, size: F.solarize(image, 255 * (1 - abs(size))),
    "autocontrast": lambda image, size: F.autocontrast(image),
    "equalize": lambda image, size: F.equalize(image),
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_is_that_of_torchvision(name, channels):
    cases = [(k / MOST_MAGNITUDE, sign) for k in (0, 3, 9, 17, 30) for sign in (1, -1)]
    images = pictures(len(cases), channels)
    sizes = torch.tensor([size for size, _ in cases])
    negative = torch.tensor([sign < 0 for _, sign in cases])
    operation = torch.full((len(cases),), OPERATIONS.index(name))
    found = operate(images, operation, sizes, negative, WIDE)
    for image, mine, (size, sign) in zip(images, found, cases, strict=True):
        assert difference(mine, OF_TORCHVISION[name](image, size * sign)) < 1, (size, sign)
    assert (name == "identity" or (name, channels) == ("colour", 1)) == found.equal(images)


@pytest.mark.parametrize("degrees", [0.0, 10.0, -45.0, 90.0, 180.0])
def test_a_rotation_is_that_of_torchvision(degrees):
    images = pictures(2)
    found = warp(images, rotations(torch.full((2,), degrees)))
    assert difference(found, F.rotate(images, degrees)) < 1


@pytest.mark.parametrize("channels", [1, 3])
def test_colours_are_changed_as_by_torchvision(channels):
    images = pictures(40, channels)
    factors = 0.4 + 1.2 * torch.rand(40, 3, generator=torch.Generator().manual_seed(1))
    hue = torch.linspace(-0.5, 0.5, 40)
    for image, mine, factor, shift in zip(
        images, jitter(images, *factors.unbind(1), hue), factors.tolist(), hue.tolist(), strict=True
    ):
        expected = F.adjust_contrast(F.adjust_brightness(image, factor[0]), factor[1])
        expected = F.adjust_hue(F.adjust_saturation(expected, factor[2]), shift)
        assert difference(mine, expected) < 2
    changed = jitter(images, *torch.ones(3, 40), torch.zeros(40))
    assert difference(changed, images) == 0


def test_an_erased_box_is_that_of_torchvision():
    images, chosen = pictures(400).clamp(min=1), order.uniforms(0, 0, torch.arange(400), 5)
    found = erase(images, chosen, 0.5)
    erased = (found == 0).all(1)
    assert torch.equal(erased.flatten(1).any(1), chosen[:, 0] < 0.5)
    shares = erased.flatten(1).float().mean(1)[chosen[:, 0] < 0.5]
    assert shares.min() >= 0.018 and shares.max() <= 0.34 and 0.1 < shares.mean() < 0.2
    for image, mine, box in zip(images, found, erased, strict=True):
        if box.any():
            rows, columns = box.any(1).nonzero(), box.any(0).nonzero()
            place = int(rows[0]), int(columns[0]), len(rows), len(columns)
            assert torch.equal(mine, F.erase(image, *place, torch.zeros(1)))


def test_policies_draw_each_operation_and_both_signs():
    images = torch.full((3000, 3, 8, 8), 100, dtype=torch.uint8)
    images[:, :, 2:5, 3:6] = torch.tensor([180, 30, 60], dtype=torch.uint8)[:, None, None]
    drawn = order.uniforms(0, 0, torch.arange(3000), 4)
    results = len(trivial_augment(images, drawn[:, :3]).unique(dim=0))
    assert results > 100  # of at most 31 magnitudes and 2 signs of 12 operations
    assert len(rand_augment(images, drawn, 9).unique(dim=0)) > 100
    assert len(rand_augment(images, drawn, 30).unique(dim=0)) > 100


CHANGES = {
    "vertical_flip": True,
    "rotation": 20.0,
    "randaugment": 9,
    "trivialaugment": True,
    "brightness": 0.4,
    "contrast": 0.4,
    "saturation": 0.4,
    "hue": 0.1,
    "erasing": 0.5,
}


@pytest.mark.parametrize("channels", [1, 3, 4, 6])
@pytest.mark.parametrize("name", CHANGES)
def test_an_image_depends_only_on_its_own_numbers(name, channels):
    augmentation = Augmentation(**{name: CHANGES[name]})
    images, index = pictures(21, channels), torch.arange(21)

    def augmented(some: torch.Tensor) -> torch.Tensor:
        batch = ImageBatch(images[some], some % 10, some)
        drawn = augmentation(batch, lambda k: order.uniforms(0, 0, some, k), len(some)).images
        assert drawn.shape == images[some].shape and drawn.dtype == torch.uint8
        return drawn

    together = augmented(index)
    assert torch.equal(augmented(index[[4, 17, 9]]), together[[4, 17, 9]])
    assert torch.equal(together, images) == (name in ("saturation", "hue") and channels in (1, 6))


def assert_compiled_once_to_the_same_bits(device: str, channels: int, **settings: float) -> None:
    torch._dynamo.reset()
    counters.clear()
    for n in (40, 17, 300):
        change = Augmentation(**settings)._change
        images = pictures(n, channels).to(device)
        drawn = order.uniforms(0, n, torch.arange(n, device=device), 15)
        assert torch.equal(compiled(change)(images, drawn), change(images, drawn))
        assert compiled(change) is compiled(Augmentation(**settings)._change)
    assert counters["stats"]["unique_graphs"] == 1 and not counters["graph_break"]


@pytest.mark.skipif(not hardware._has_compiler(), reason="needs a C compiler and Python's headers")
def test_compiled_changes_give_the_same_bits():
    changes = ("vertical_flip", "rotation", "brightness", "contrast", "saturation", "hue")
    settings = {name: CHANGES[name] for name in (*changes, "erasing")}
    assert_compiled_once_to_the_same_bits("cpu", 3, **settings)


def test_on_a_cpu_nothing_is_compiled(call, tmp_path):
    """Code for a CPU would not compile: torch 2.11 writes C++ that no compiler takes."""
    flags = ("--data.compile_augmentation=true", "--data.randaugment=9", "--trainer.max_steps=2")
    short = ("--config=configs/digits.yaml", "--trainer.accelerator=cpu", *flags)
    assert call("fit", *short, folder=tmp_path) == 0
    decisions = json.loads((tmp_path / "run.json").read_text())["decisions"]
    assert decisions["data.compile_augmentation"] == {"value": False, "why": "no GPU"}


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("other", ["randaugment", "trivialaugment"])
def test_all_changes_give_the_same_bits_when_compiled_for_a_gpu(other, channels):
    settings = {name: CHANGES[name] for name in CHANGES if name != other}
    assert_compiled_once_to_the_same_bits("cuda", channels, **settings)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("compiles", [False, True])
def test_changes_never_wait_for_the_gpu(compiles):
    change = Augmentation(**CHANGES | {"trivialaugment": False})._change
    change = compiled(change) if compiles else change
    images, drawn = pictures(20).cuda(), torch.rand(20, 15, device="cuda")
    change(images, drawn)
    torch.cuda.set_sync_debug_mode("error")
    try:
        change(images, drawn)
    finally:
        torch.cuda.set_sync_debug_mode("default")


COUNT = """
import torch
from {package}.engine.images.augmenting import colours, counting
for channels in (1, 3, 4):
    for size in ((33, 47), (8, 8), (1, 1)):
        images = torch.randint(0, 256, (5, channels, *size), dtype=torch.uint8)
        for same in (images, images.contiguous(memory_format=torch.channels_last), images.mT):
            assert torch.equal(counting.count(same).long(), colours.histograms(same))
print("as scatter_add counts")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Triton is for Linux")
def test_the_kernel_counts_values_as_the_cpu_does():
    code = COUNT.replace("{package}", order.__name__.split(".")[0])
    interpreted = {"TRITON_INTERPRET": "1"}  # Triton's own reading of a kernel, without a GPU
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | interpreted, capture_output=True, text=True
    )
    assert done.stdout == "as scatter_add counts\n", done.stderr


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("channels", [1, 3])
def test_values_are_counted_on_a_gpu_as_on_the_cpu(channels):
    from {{ cookiecutter.__package_name }}.engine.images.augmenting import counting

    images = torch.randint(40, 200, (5, channels, 33, 47), dtype=torch.uint8)
    images = images.to(memory_format=torch.channels_last)
    assert torch.equal(histograms(images), histograms(images.cuda()).cpu())
    assert torch.equal(histograms(images), counting.count(images.cuda()).cpu().long())
