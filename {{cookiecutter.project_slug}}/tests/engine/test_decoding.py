"""Decoding once, at each epoch or on the GPU: the network sees the same, as fast as can be."""

import io
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from {{ cookiecutter.__package_name }}.augment import Augmentation
from {{ cookiecutter.__package_name }}.data import ImageData
from {{ cookiecutter.__package_name }}.engine.cli.project import data_with_flags
from {{ cookiecutter.__package_name }}.engine.contract import Facts
from {{ cookiecutter.__package_name }}.engine.data.order import (
    BatchShard,
    EpochPlan,
    uniforms,
)
from {{ cookiecutter.__package_name }}.engine.data.streaming import (
    StreamConfig,
    StreamingLoader,
)
from {{ cookiecutter.__package_name }}.engine.errors import UserError
from {{ cookiecutter.__package_name }}.engine.images.decoding import (
    boxes,
    decode,
)
from {{ cookiecutter.__package_name }}.engine.images.finding.file_paths import (
    Paths,
)
from {{ cookiecutter.__package_name }}.engine.images.read import read
from {{ cookiecutter.__package_name }}.engine.images.reading import (
    reader,
)
from {{ cookiecutter.__package_name }}.engine.images.reading.reader import (
    FileRows,
    ReadConfig,
)
from {{ cookiecutter.__package_name }}.engine.images.splits import Files

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


def photograph(width: int, height: int, seed: int) -> Image.Image:
    """Smooth shapes and a little noise, as a camera gives them."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (height // 24 + 2, width // 24 + 2, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    noisy = smooth.astype(np.int16) + random.integers(-6, 7, smooth.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> Path:
    """Two classes of JPEG files of many sizes, with each way of storing colours, and oddities."""
    root = tmp_path_factory.mktemp("photographs")
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    kinds = [{"subsampling": kind} for kind in ("4:4:4", "4:2:2", "4:2:0")]
    kinds += [{"progressive": True}, {"exif": turned}]
    for i in range(30):
        (root / f"class {i % 2}").mkdir(exist_ok=True)
        picture = photograph(120 + 37 * (i % 9), 90 + 53 * (i % 7), i)
        file = root / f"class {i % 2}" / f"{i:02}.jpg"
        picture.save(file, quality=92, **kinds[i % len(kinds)])
    photograph(200, 150, 99).convert("CMYK").save(root / "class 0" / "print.jpg")
    photograph(200, 150, 98).convert("L").save(root / "class 0" / "grey.jpg")
    photograph(200, 150, 97).save(root / "class 1" / "really a png.jpg", "PNG")
    return root


def files_of(root: Path, pattern: str = "*.jpg") -> Files:
    paths = sorted(root.rglob(pattern))
    digests = np.zeros((len(paths), 32), np.uint8)
    return Files(Paths.of(root, paths), torch.arange(len(paths)), digests)


def test_libjpeg_turbo_shows_what_pillow_shows(photographs, monkeypatch):
    files = sorted(photographs.rglob("*.jpg"))
    fast = [decode.center_crop(file, 48).astype(int) for file in files]
    monkeypatch.setattr(decode, "is_common_jpeg", lambda image, content: False)
    differences = [
        np.abs(pixels - decode.center_crop(file, 48)).mean()
        for pixels, file in zip(fast, files, strict=True)
    ]
    assert max(differences) < 0.6 and 0 < np.mean(differences) < 0.2


def test_a_jpeg_that_is_cut_short_is_not_shown_in_part(photographs):
    content = (photographs / "class 0/00.jpg").read_bytes()
    cut = content[: len(content) * 3 // 4]
    with pytest.raises(decode.ImageDecodeError, match="can't be decoded"):
        decode.center_crop(cut, 32)
    with pytest.raises(decode.ImageDecodeError, match="can't be decoded"):
        decode.cropped_or_jpeg(cut, (32, 32), boxes.center_box)  # nor left to the GPU


def streamed(
    files: Files, config: ReadConfig, plan: EpochPlan, augment=None, **how
) -> StreamingLoader:
    stream = StreamConfig(**how)
    return StreamingLoader(FileRows(files, config).reader(stream), plan, stream, augment)


def one_batch(files: Files, epoch: int) -> EpochPlan:
    return EpochPlan(files.n, BatchShard(files.n), 5, lambda: (epoch, 0))


def test_half_of_the_training_images_are_mirrored(photographs):
    files, shown = files_of(photographs), []
    for flip in (False, True):
        (batch,) = streamed(files, ReadConfig(24, flip=flip), one_batch(files, 0))
        shown.append(batch.images)
    same = (shown[0] == shown[1]).flatten(1).all(1)
    mirrored = (shown[0].flip(3) == shown[1]).flatten(1).all(1)
    drawn = uniforms(5, 0, batch.row, reader.UNIFORMS)[:, 4] < 0.5
    assert torch.equal(mirrored, drawn) and torch.equal(same, ~drawn)
    assert 8 <= drawn.sum() <= files.n - 8


def test_images_of_files_are_cut_out_and_mixed_as_resident_ones(photographs):
    files, config = files_of(photographs), ReadConfig(24)
    augment = Augmentation(cutout=8, mixup=0.2, cutmix=1.0)

    def mixed(batch, drawn):
        return augment(batch, drawn, files.n)

    (plain,) = streamed(files, config, one_batch(files, 3))
    (batch,) = streamed(files, config, one_batch(files, 3), mixed)

    def after_reading(k: int) -> torch.Tensor:
        return uniforms(5, 3, plain.row, reader.UNIFORMS + k)[:, reader.UNIFORMS :]

    for part, expected in zip(batch, mixed(plain, after_reading), strict=True):
        assert torch.equal(part, expected)
    assert not torch.equal(batch.images, plain.images)


def test_only_what_every_decoder_reads_alike_is_left_to_the_gpu(photographs):
    def read(name: str):
        return decode.cropped_or_jpeg(photographs / name, (32, 32), boxes.center_box)

    content, box, size = read("class 0/00.jpg")
    assert content == (photographs / "class 0/00.jpg").read_bytes() and size == (120, 90)
    assert box == boxes.center_box(*size)
    for name in ("class 0/04.jpg", "class 0/print.jpg", "class 0/grey.jpg"):
        assert np.array_equal(read(name), decode.center_crop(photographs / name, 32))


def test_what_a_gpu_decoded_is_decoded_by_the_cpu_where_there_is_none(photographs, call, tmp_path):
    flags = ["--config", "configs/imagefolder.yaml", f"--data.options.path={photographs}"]
    flags += ["--model.network=small_cnn", "--data.image_size=32", "--data.batch_size=8"]
    flags += ["--trainer.accelerator=cpu", "--trainer.max_steps=1", "--data.decoder=gpu"]
    assert call("fit", *flags, folder=tmp_path / "run") == 0
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["decisions"]["data.decoder"] == {"value": "cpu", "why": "no GPU"}
    assert record["data"]["extra"]["decoder"] == "cpu"


def test_a_worker_hands_over_files_that_the_gpu_reads_and_images_of_the_others(photographs):
    files = files_of(photographs)
    config = reader.ImageReader(FileRows(files, ReadConfig(32)), "gpu", torch.device("cpu"))
    slot = np.empty(config.slot_size(files.n), np.uint8)
    index = np.array([0, 2, 1, -1])
    jpegs, done = config.read(index, None, None, slot)
    whole = [files[row].read_bytes() for row in (0, 1)]
    held = slot.tobytes()[: sum(map(len, whole))]
    assert held == b"".join(whole) and jpegs[:, 0].tolist() == [len(file) for file in whole]
    assert jpegs[:, 1].tolist() == [0, 2] and list(done) == [1]  # rows of the batch
    assert jpegs[0, 2:].tolist() == [*boxes.center_box(120, 90), 120, 90]
    assert np.array_equal(done[1], decode.center_crop(files[2], 32))  # turned
    jpegs, done = config.read(index, None, None, np.empty(len(whole[0]), np.uint8))
    assert len(jpegs) == 1 and np.array_equal(done[2], decode.center_crop(files[1], 32))


RESIZE = """
import torch
from torch.nn.functional import interpolate
from {package}.engine.images.decoding.gpu_decode import crop_and_resize

torch.manual_seed(0)
whole = [torch.randint(0, 256, (3, h, w), dtype=torch.uint8) for h, w in ((75, 90), (20, 17))]
boxes = torch.tensor([[1, 5, 3, 88, 70, False, 90, 75], [0, 0, 0, 17, 20, True, 17, 20]])
for size in ((24, 24), (12, 31)):
    images = torch.full((2, *size, 3), 77, dtype=torch.uint8)
    crop_and_resize(whole, boxes.int(), images)
    for image, (row, left, upper, right, lower, mirrored, _, _) in zip(whole, boxes.tolist()):
        part = image[None, :, upper:lower, left:right].contiguous(memory_format=torch.channels_last)
        expected = interpolate(part, size, mode="bilinear", antialias=True)[0].permute(1, 2, 0)
        expected = expected.flip(1) if mirrored else expected
        difference = (images[row].int() - expected.int()).abs()
        assert difference.max() <= 1 and difference.float().mean() < 0.05, difference.float().mean()
print("as torch resizes")
"""


def test_the_kernels_resize_as_torch_does():
    if sys.platform != "linux":
        pytest.skip("Triton is for Linux")
    code = RESIZE.replace("{package}", decode.__name__.split(".")[0])
    interpreted = {"TRITON_INTERPRET": "1"}  # Triton's own reading of a kernel, without a GPU
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | interpreted, capture_output=True, text=True
    )
    assert done.stdout == "as torch resizes\n", done.stderr


def test_a_folder_is_decoded_once_and_then_read_from_one_file(photographs, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    options = {"batch_size": 8, "eval_batch_size": 5, "image_size": 40, "workers": 0}
    options |= {"source": "folder", "options": {"path": str(photographs)}}
    data = data_with_flags(ImageData)
    mapped = data(loader="mapped", flip=True, **options)
    batches = list(mapped.val_dataloader())
    plain = list(data(**options).val_dataloader())
    for a, b in zip(batches, plain, strict=True):
        real = a.row >= 0
        assert torch.equal(a.images[real], b.images[real]) and torch.equal(a.labels, b.labels)
    first = list(mapped.train_dataloader())
    assert len(list((tmp_path / "cache/decoded-images").glob("*.npy"))) == 2
    monkeypatch.setattr(decode, "opened", None)  # nothing is decoded again
    resident = data(loader="resident", flip=True, **options)
    for a, b in zip(first, resident.train_dataloader(), strict=True):
        assert torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels)


def test_an_image_size_of_height_and_width_keeps_the_aspect_ratio():
    """A circle is still as wide as high, in evaluation and in training."""
    y, x = np.mgrid[:200, :300]
    circle = ((x - 150) ** 2 + (y - 100) ** 2 < 40**2).astype(np.uint8)[..., None] * 255
    png = io.BytesIO()
    Image.fromarray(circle.repeat(3, 2)).save(png, "PNG")
    choices = {"evaluation": boxes.center_box, "training": partial(boxes.random_box, **HALF)}
    for height, width in ((48, 96), (96, 48), (64, 64)):
        for name, box in choices.items():
            choose = partial(box, size=(width, height))
            shown = decode.cropped(png.getvalue(), (width, height), choose)[..., 0] > 127
            assert shown.shape == (height, width)
            columns, rows = shown.any(0).sum(), shown.any(1).sum()
            whole = min(columns, rows) < min(height, width)  # the crop may cut it
            assert not whole or abs(int(columns) - int(rows)) <= 2, (name, height, width)


HALF = {"uniforms": [0.3, 0.5, 0.5, 0.5, 0.5], "smallest": 0.25, "flip": False}


@pytest.mark.parametrize("size", [[64], [1, 2, 3], 0, [0, 8], []])
def test_an_image_size_that_is_none_is_refused(size):
    with pytest.raises(UserError, match=r"data\.image_size is .*\[height, width\]"):
        ImageData(image_size=size)


def cached(files: Files, size: int) -> torch.Tensor:
    return FileRows(files, ReadConfig(size)).load().batch.images


def test_a_cache_that_is_truncated_is_written_again(photographs, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    files = files_of(photographs)
    before = cached(files, 24).clone()
    (path,) = (tmp_path / "decoded-images").glob("*.npy")
    for length in (0, 50, 1000):
        path.write_bytes(path.read_bytes()[:length])
        assert torch.equal(cached(files, 24), before)


def test_a_cache_that_does_not_fit_on_the_disk_is_refused(photographs, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(UserError, match=r"take [\d,]+ MB, and .* free.*--data\.loader streaming"):
        cached(files_of(photographs), 2_000_000)


@gpu
@pytest.mark.gpu
def test_both_decoders_show_the_same_pictures(photographs):
    device, files, shown = torch.device("cuda"), files_of(photographs), {}
    for decoder in ("cpu", "gpu"):
        train = EpochPlan(files.n, BatchShard(8), 1, lambda: (2, 0))
        config = ReadConfig(96, flip=True, decoder=decoder)
        how = {"workers": 1, "device": device}
        loaders = (
            streamed(files, config, train, **how),
            streamed(files, config, EpochPlan(files.n, BatchShard(8)), **how),
        )
        batches = [batch for loader in loaders for batch in loader]
        shown[decoder] = torch.cat([batch.images for batch in batches]).cpu().float()
        rows = torch.cat([batch.row.clamp(min=0) for batch in batches]).tolist()
    differences = (shown["cpu"] - shown["gpu"]).abs().mean((1, 2, 3)).tolist()
    numbers = [files[row].stem for row in rows]
    of_file = [(int(n), d) for n, d in zip(numbers, differences, strict=True) if n.isdigit()]
    for kind, (stored, most) in enumerate((("4:4:4", 1.0), ("4:2:2", 2.5), ("4:2:0", 2.5))):
        apart = [difference for number, difference in of_file if number % 5 == kind]
        print(f"{stored}: {np.mean(apart):.2f} grey levels apart, at most {max(apart):.2f}")
        assert max(apart) <= most


@gpu
@pytest.mark.gpu
def test_the_service_shows_what_the_gpu_decoded_in_evaluation(photographs):
    files, config = files_of(photographs), ReadConfig(96, decoder="gpu")
    plan = EpochPlan(files.n, BatchShard(files.n))
    (batch,) = streamed(files, config, plan, workers=1, device=torch.device("cuda"))
    extra = {"from_files": True, "decoder": "gpu", "loader": "streaming"}
    facts = Facts("folder", {}, "", shapes={"images": (3, 96, 96)}, extra=extra)
    served, problems = read([files[i] for i in range(files.n)], facts)
    assert not problems and torch.equal(served.images, batch.images.cpu())
