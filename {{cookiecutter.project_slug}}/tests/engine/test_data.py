"""Order, draws, loaders and augmentation: what a network sees depends on (seed, epoch, index)."""

import pytest
import torch

from {{ cookiecutter.__package_name }} import data as sources
from {{ cookiecutter.__package_name }}.augment import (
    UNCHANGED,
    Augmentation,
    cut_out,
    mix,
    shift_and_flip,
)
from {{ cookiecutter.__package_name }}.engine.data import order, resident
from {{ cookiecutter.__package_name }}.engine.data.batch import PADDING_LABEL, Batch
from {{ cookiecutter.__package_name }}.engine.data.resident import ResidentLoader
from {{ cookiecutter.__package_name }}.engine.errors import UserError
from {{ cookiecutter.__package_name }}.engine.images import splits
from {{ cookiecutter.__package_name }}.engine.images.module import ImageData
from {{ cookiecutter.__package_name }}.engine.model.means import mixed_cross_entropy

CPU = torch.device("cpu")


def some_images(n: int) -> splits.Images:
    pixels = torch.arange(n * 3 * 4 * 4).remainder(251).byte().view(n, 4, 4, 3)
    return splits.Images(pixels, torch.arange(n))


class Kept(Augmentation):
    """Leaves images as they are and keeps their draws."""

    def __call__(self, batch, draws, batch_size):
        seen.append(draws)
        return batch


seen: list[torch.Tensor] = []


def train_loader(
    n=20, batch_size=4, position=(0, 0), rank=0, world_size=1, accumulate=1, augment=UNCHANGED
):
    share = order.Share(batch_size, rank, world_size, accumulate)
    plan = order.Plan(n, share, position=lambda: position)
    return ResidentLoader(some_images(n), plan, CPU, augment=augment)


def splitmix64(state: int, n: int) -> list[int]:
    """The first n outputs of SplitMix64, in Python's own integers."""
    outputs = []
    for i in range(1, n + 1):
        z = (state + i * 0x9E3779B97F4A7C15) % 2**64
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        outputs.append(z ^ (z >> 31))
    return outputs


def test_draws_are_the_outputs_of_splitmix64():
    assert splitmix64(1234567, 2) == [6457827717110365317, 3203168211198807973]  # Vigna's own
    key = splitmix64(splitmix64(11, 1)[-1], 4 + 1)[-1]  # of seed and epoch
    drawn = order.uniforms(11, 4, torch.tensor([0, 99]), 3)
    for row, index in zip(drawn.tolist(), (0, 99), strict=True):
        (state,) = splitmix64((index ^ key) - 0x9E3779B97F4A7C15, 1)
        assert row == [output / 2**64 // 2**-24 * 2**-24 for output in splitmix64(state, 3)]


def test_uniforms_are_fixed_forever():
    drawn = order.uniforms(seed=1, epoch=2, index=torch.tensor([0, 3]), k=2)
    fixed = [[15902783, 3386640], [5704179, 11920148]]
    assert (drawn * 2**24).long().tolist() == fixed


def test_uniforms_of_a_sample_depend_on_no_other():
    every = order.uniforms(0, 5, torch.arange(100), 4)
    assert torch.equal(order.uniforms(0, 5, torch.tensor([77, 3]), 4), every[[77, 3]])
    assert torch.equal(order.uniforms(0, 5, torch.arange(100), 2), every[:, :2])


def test_uniforms_change_with_seed_epoch_index_and_draw():
    base = order.uniforms(0, 0, torch.arange(1000), 2)
    assert not torch.equal(base, order.uniforms(1, 0, torch.arange(1000), 2))
    assert not torch.equal(base, order.uniforms(0, 1, torch.arange(1000), 2))
    assert base[:, 0].unique().numel() > 990
    assert abs(torch.corrcoef(base.T)[0, 1]) < 0.1


def test_uniforms_are_uniform():
    drawn = order.uniforms(7, 3, torch.arange(20_000), 5).flatten()
    assert drawn.min() >= 0 and drawn.max() < 1
    counts = torch.histc(drawn, bins=50, min=0, max=1)
    chi_square = ((counts - 2000) ** 2 / 2000).sum()
    assert chi_square < 95  # the 0.9999 quantile for 49 degrees of freedom is 94.6


def test_epoch_order_is_a_permutation_of_its_own():
    first, second = (order.epoch_order(0, epoch, 500) for epoch in (0, 1))
    assert torch.equal(first.sort().values, torch.arange(500))
    assert not torch.equal(first, second)
    assert torch.equal(first, order.epoch_order(0, 0, 500))


def test_ranks_share_each_global_batch_without_overlap():
    whole = order.epoch_order(0, 0, 50)
    shares = [order.Share(4, rank, 3).of(whole) for rank in range(3)]
    assert all(share.shape == (4, 4) for share in shares)
    step = torch.cat([share[1] for share in shares])
    assert set(step.tolist()) == set(whole[12:24].tolist())


def test_training_drops_the_tail_and_shows_each_image_once():
    batches = list(train_loader(n=22))
    assert len(batches) == len(train_loader(n=22)) == 5
    seen = torch.cat([batch.indices for batch in batches])
    assert seen.unique().numel() == 20
    assert torch.equal(torch.cat([batch.labels for batch in batches]), seen)


def test_every_epoch_has_its_own_order_and_draws():
    seen.clear()
    epochs = [train_loader(n=500, position=(epoch, 0), augment=Kept()) for epoch in (0, 1)]
    shown = [torch.cat([batch.indices for batch in batches]) for batches in epochs]
    assert not torch.equal(*shown)
    per_image = [drawn[indices.argsort()] for drawn, indices in zip(seen, shown, strict=True)]
    assert (per_image[0] != per_image[1]).all(1).float().mean() > 0.99


def test_ranks_of_a_loader_see_different_images():
    shares = [list(train_loader(n=40, rank=rank, world_size=2)) for rank in range(2)]
    seen = [set(torch.cat([batch.indices for batch in share]).tolist()) for share in shares]
    assert len(seen[0]) == len(seen[1]) == 20 and not seen[0] & seen[1]


def test_a_resumed_epoch_goes_on_with_the_next_batch():
    whole, rest = list(train_loader(position=(3, 0))), list(train_loader(position=(3, 2)))
    assert len(rest) == 3
    for expected, batch in zip(whole[2:], rest, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(expected[:3], batch[:3], strict=True))


@pytest.mark.parametrize("together", [1, 100, 10_000])
def test_how_many_batches_are_augmented_together_changes_no_bit(together, monkeypatch):
    everything = Augmentation(2, True, cutout=2, mixup=1.0, cutmix=1.0)
    monkeypatch.setattr(resident, "AT_ONCE", together)
    parts = list(train_loader(n=40, position=(1, 1), augment=everything))
    alone = order.epoch_order(0, 1, 40)[4:].split(4)
    draws = order.uniforms(0, 1, torch.arange(40), everything.draws)
    pixels = some_images(40).pixels.permute(0, 3, 1, 2)
    assert len(parts) == len(alone) == 9
    for batch, index in zip(parts, alone, strict=True):
        expected = everything(Batch(pixels[index], index, index), draws[index], 4)
        assert all(torch.equal(a, b) for a, b in zip(batch, expected, strict=True))


def test_a_step_takes_the_same_images_in_one_batch_or_in_several():
    whole, parts = list(train_loader(22, 8)), list(train_loader(22, 2, accumulate=4))
    assert (len(whole), len(parts)) == (2, 8)
    for i, batch in enumerate(whole):
        micro_batches = zip(*(part[:3] for part in parts[4 * i : 4 * i + 4]), strict=True)
        for expected, found in zip(batch[:3], map(torch.cat, micro_batches), strict=True):
            assert torch.equal(expected, found)


def test_a_set_smaller_than_one_step_is_refused():
    with pytest.raises(UserError, match=r"1077 images.*--data\.batch_size to 1077 or less"):
        ImageData("digits", batch_size=2000).train_dataloader()


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_evaluation_counts_every_image_once_in_batches_of_one_shape(world_size):
    images, ranks = some_images(10), range(world_size)
    plans = [order.Plan(10, order.Share(4, rank, world_size)) for rank in ranks]
    loaders = [ResidentLoader(images, plan, CPU) for plan in plans]
    batches = [batch for loader in loaders for batch in loader]
    assert {tuple(batch.images.shape) for batch in batches} == {(4, 3, 4, 4)}
    assert len({len(list(loader)) for loader in loaders}) == 1
    labels = torch.cat([batch.labels for batch in batches])
    assert torch.equal(labels[labels != PADDING_LABEL].sort().values, torch.arange(10))


def test_augmentation_shifts_by_its_draws_and_fills_with_black():
    image = torch.arange(1, 10, dtype=torch.uint8).view(1, 1, 3, 3).expand(1, 3, 3, 3)
    down_right = shift_and_flip(image, torch.tensor([[0.99, 0.99, 0.9]]), crop_padding=1, flip=True)
    expected = torch.tensor([[5, 6, 0], [8, 9, 0], [0, 0, 0]], dtype=torch.uint8)
    assert torch.equal(down_right[0, 0], expected)
    mirrored = shift_and_flip(image, torch.tensor([[0.5, 0.5, 0.1]]), crop_padding=1, flip=True)
    assert torch.equal(mirrored, image.flip(-1))


def test_augmentation_of_an_image_does_not_depend_on_its_batch():
    images = torch.randint(0, 256, (64, 3, 8, 8), dtype=torch.uint8)
    draws = order.uniforms(0, 0, torch.arange(64), 5)
    whole = shift_and_flip(images, draws, 2, True)
    assert torch.equal(whole[10:20], shift_and_flip(images[10:20], draws[10:20], 2, True))
    unchanged = (shift_and_flip(images, draws, 0, True) == images).flatten(1).all(1)
    assert 16 < unchanged.sum() < 48


def test_cutout_blackens_one_square_at_a_place_of_each_image():
    images = torch.full((200, 3, 12, 12), 9, dtype=torch.uint8)
    black = cut_out(images, order.uniforms(0, 0, torch.arange(200), 2), 4) == 0
    assert torch.equal(black[:, 0], black[:, 2])
    rows, columns = black[:, 0].any(2).sum(1), black[:, 0].any(1).sum(1)
    assert torch.equal(black[:, 0].sum((1, 2)), rows * columns)  # a rectangle
    assert rows.max() == 4 and rows.min() >= 2 and (rows == 4).float().mean() > 0.5
    assert black[:, 0].any(0).all()


def test_every_kind_of_augmentation_has_draws_of_its_own():
    images = torch.randint(1, 256, (1, 3, 16, 16), dtype=torch.uint8).expand(50, 3, 16, 16)
    draws = torch.full((50, 10), 0.5)
    draws[:, 3:5] = order.uniforms(0, 0, torch.arange(50), 2)  # those of cutout alone
    batch = Batch(images, torch.arange(50), torch.arange(50))
    shown = Augmentation(crop_padding=2, cutout=4)(batch, draws, 50).images
    kept = shown != 0
    assert torch.equal(shown[kept], images[kept])  # nothing is shifted
    assert (~kept).flatten(1).any(1).all() and kept.flatten(1).all(0).float().mean() < 0.3


@pytest.mark.parametrize(("mixup", "cutmix"), [(1.0, 0.0), (0.0, 1.0), (0.4, 1.0)])
def test_mixed_images_hold_the_shares_that_their_loss_is_told(mixup, cutmix):
    batch = Batch(torch.arange(0, 240, 2), torch.arange(120), torch.arange(120))
    flat = batch.images.byte()[:, None, None, None].expand(120, 3, 16, 16)
    draws = order.uniforms(0, 0, torch.arange(120), 5)
    mixed = mix(batch._replace(images=flat), draws, 60, mixup, cutmix)
    assert torch.equal(mixed.labels, batch.labels)
    assert mixed.others[1:60].tolist() == list(range(59)) and mixed.others[0] == 59
    own, other = flat.float().mean((1, 2, 3)), flat[mixed.others].float().mean((1, 2, 3))
    expected = mixed.shares * own + (1 - mixed.shares) * other
    assert (mixed.images.float().mean((1, 2, 3)) - expected).abs().max() < 0.51  # rounded pixels
    assert 0.4 < mixed.shares.mean() < 0.7 and mixed.shares.unique().numel() > 40
    colours = torch.tensor([image.unique().numel() for image in mixed.images])
    share_cut = (colours == 2).float().mean()
    assert share_cut == 0 if not cutmix else share_cut > (0.9 if not mixup else 0.3)


def test_what_is_shown_of_another_image_has_the_shape_of_an_image():
    images = torch.tensor([0, 200]).byte()[:, None, None, None].expand(2, 3, 40, 10)
    labels, draws = torch.arange(2), torch.full((2, 5), 0.5)
    shown = mix(Batch(images, labels, labels), draws, 2, 0.0, 1.0).images[0, 0] == 200
    assert (shown.any(1).sum(), shown.any(0).sum()) == (28, 8)  # sqrt(1/2) of 40 and of 10 pixels


def test_the_loss_of_mixed_images_is_that_of_both_labels_by_their_shares():
    logits, labels = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 0, 1])
    alone = mixed_cross_entropy(logits, labels, None, None, 0.1)
    other = mixed_cross_entropy(logits, labels.flip(0), None, None, 0.1)
    half = mixed_cross_entropy(logits, labels, labels.flip(0), torch.full((6,), 0.5), 0.1)
    assert half == pytest.approx(float(alone + other) / 2, rel=1e-5)
    whole = mixed_cross_entropy(logits, labels, labels.flip(0), torch.ones(6), 0.1)
    assert whole == pytest.approx(float(alone), rel=1e-5)


def test_images_of_the_host_and_of_the_device_give_the_same_bits():
    options = {"batch_size": 64, "eval_batch_size": 50, "crop_padding": 1, "mixup": 0.2}
    ours, theirs = (ImageData("digits", loader=name, **options) for name in ("resident", "mapped"))
    for make in ("train_dataloader", "val_dataloader"):
        pairs = list(zip(getattr(ours, make)(), getattr(theirs, make)(), strict=True))
        assert len(pairs) > 5
        for a, b in pairs:
            given = [(x, y) for x, y in zip(a, b, strict=True) if x is not None]
            assert all(torch.equal(x, y) for x, y in given) and len(given) >= 3
    with pytest.raises(UserError, match="digits has no files"):
        ImageData("digits", loader="streaming")


def test_digits_are_split_by_class_and_never_overlap():
    splits = sources.digits()
    assert [len(part) for part in (splits.train, splits.val, splits.test)] == [1077, 360, 360]
    for part in (splits.train, splits.val, splits.test):
        share = part.labels.bincount() / len(part)
        assert (share - 0.1).abs().max() < 0.01
    assert splits.train.pixels.dtype == torch.uint8
    assert splits.train.pixels.max() == 255


def test_the_fingerprint_follows_the_content():
    splits = sources.synthetic(8, 64, 16)
    assert splits.fingerprint == sources.synthetic(8, 64, 16).fingerprint
    splits.val.pixels[3, 2, 1, 0] ^= 1
    assert splits.fingerprint != sources.synthetic(8, 64, 16).fingerprint


@pytest.mark.parametrize("size", [0, -1])
def test_a_batch_of_no_images_is_refused(size):
    with pytest.raises(UserError, match="from 1 on"):
        ImageData("digits", batch_size=size)
    with pytest.raises(UserError, match="from 1 on"):
        ImageData("digits", eval_batch_size=size)


def test_an_unknown_source_and_an_unknown_option_are_named():
    with pytest.raises(UserError, match=r"'digit', which is unknown\. Known: digits"):
        sources.load("digit")
    with pytest.raises(UserError, match="sise"):
        sources.load("synthetic", {"sise": 3})


def test_the_data_module_works_without_a_trainer():
    batch = next(iter(ImageData("digits", batch_size=32).train_dataloader()))
    assert batch.images.shape == (32, 3, 8, 8)
    assert batch.images.dtype == torch.uint8
