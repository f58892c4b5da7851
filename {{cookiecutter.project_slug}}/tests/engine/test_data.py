"""Order, draws, loaders and augmentation: what a network sees depends on (seed, epoch, index)."""

from itertools import combinations

import pytest
import torch
from torch import Tensor

from {{ cookiecutter.__package_name }}.augment import Augmentation
from {{ cookiecutter.__package_name }}.data import SOURCES, ImageData, synthetic
from {{ cookiecutter.__package_name }}.engine.cli.project import data_with_flags
from {{ cookiecutter.__package_name }}.engine.contract import Splits
from {{ cookiecutter.__package_name }}.engine.data import order, resident
from {{ cookiecutter.__package_name }}.engine.data.resident import ResidentLoader
from {{ cookiecutter.__package_name }}.engine.data.rows import TensorRows, digest
from {{ cookiecutter.__package_name }}.engine.data.sources import load_source
from {{ cookiecutter.__package_name }}.engine.data.whole_steps import (
    remark_on_left_out,
)
from {{ cookiecutter.__package_name }}.engine.errors import UserError
from {{ cookiecutter.__package_name }}.engine.images.batch import (
    ImageBatch,
    in_memory,
)

CPU = torch.device("cpu")


def some_images(n: int) -> ImageBatch:
    pixels = torch.arange(n * 3 * 4 * 4).remainder(251).byte().view(n, 4, 4, 3)
    return in_memory(pixels, torch.arange(n))


def train_loader(
    n=20, batch_size=4, position=(0, 0), rank=0, world_size=1, accumulate=1, augment=None
):
    shard = order.BatchShard(batch_size, rank, world_size, accumulate)
    plan = order.EpochPlan(n, shard, position=lambda: position)
    return ResidentLoader(TensorRows(some_images(n)), plan, CPU, augment=augment)


def loaded_by(loader: str, **settings) -> ImageData:
    return data_with_flags(ImageData)(loader=loader, **settings)


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
    shares = [order.BatchShard(4, rank, 3).of(whole) for rank in range(3)]
    assert all(share.shape == (4, 4) for share in shares)
    step = torch.cat([share[1] for share in shares])
    assert set(step.tolist()) == set(whole[12:24].tolist())


def test_a_steps_micro_batches_are_the_same_on_any_number_of_devices():
    whole = order.epoch_order(0, 0, 100)
    alone = order.BatchShard(4, accumulate=6).of(whole).view(-1, 6, 4)
    for devices in (2, 3, 6):
        parts = [order.BatchShard(4, rank, devices, 6 // devices) for rank in range(devices)]
        shared = torch.stack([part.of(whole).view(-1, 6 // devices, 4) for part in parts], 1)
        assert torch.equal(shared.flatten(1, 2), alone)


def test_step_version_1_deals_a_micro_batch_to_the_devices_in_turn():
    shares = [order.BatchShard(2, rank, 2, in_turn=True).of(torch.arange(8)) for rank in (0, 1)]
    assert [share.tolist() for share in shares] == [[[0, 2], [4, 6]], [[1, 3], [5, 7]]]


def test_training_drops_the_tail_and_shows_each_image_once():
    batches = list(train_loader(n=22))
    assert len(batches) == len(train_loader(n=22)) == 5
    seen = torch.cat([batch.row for batch in batches])
    assert seen.unique().numel() == 20
    assert torch.equal(torch.cat([batch.labels for batch in batches]), seen)


def test_every_epoch_has_its_own_order_and_draws():
    seen = []

    def keep(batch, uniforms):
        seen.append(uniforms(3))
        return batch

    epochs = [train_loader(n=500, position=(epoch, 0), augment=keep) for epoch in (0, 1)]
    shown = [torch.cat([batch.row for batch in batches]) for batches in epochs]
    assert not torch.equal(*shown)
    per_image = [drawn[row.argsort()] for drawn, row in zip(seen, shown, strict=True)]
    assert (per_image[0] != per_image[1]).all(1).float().mean() > 0.99


def test_ranks_of_a_loader_see_different_images():
    shares = [list(train_loader(n=40, rank=rank, world_size=2)) for rank in range(2)]
    seen = [set(torch.cat([batch.row for batch in share]).tolist()) for share in shares]
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
    augment = lambda batch, uniforms: everything(batch, uniforms, 4)  # noqa: E731
    parts = list(train_loader(n=40, position=(1, 1), augment=augment))
    alone = order.epoch_order(0, 1, 40)[4:].split(4)
    images = some_images(40).images
    assert len(parts) == len(alone) == 9
    for batch, index in zip(parts, alone, strict=True):
        expected = everything(
            ImageBatch(images[index], index, index),
            lambda k, index=index: order.uniforms(0, 1, index, k),
            4,
        )
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
    rows, ranks = TensorRows(some_images(10)), range(world_size)
    plans = [order.EpochPlan(10, order.BatchShard(4, rank, world_size)) for rank in ranks]
    loaders = [ResidentLoader(rows, plan, CPU) for plan in plans]
    batches = [batch for loader in loaders for batch in loader]
    assert {tuple(batch.images.shape) for batch in batches} == {(4, 3, 4, 4)}
    assert len({len(list(loader)) for loader in loaders}) == 1
    row = torch.cat([batch.row for batch in batches])
    assert torch.equal(row[row >= 0].sort().values, torch.arange(10))


def test_images_keep_their_channels_last_in_memory():
    for batch in train_loader(n=40):
        assert batch.images.is_contiguous(memory_format=torch.channels_last)


def test_rows_are_drawn_with_replacement_by_their_weights():
    weights = torch.tensor([0.0, 1.0, 3.0, 0.0]).repeat(5000).double()
    drawn = [order.weighted_order(seed, 1, weights) for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    shares = drawn[0].remainder(4).bincount(minlength=4) / len(weights)
    assert shares[0] == shares[3] == 0 and shares[2] == pytest.approx(0.75, abs=0.01)
    assert drawn[0].unique().numel() > 5000
    plan = order.EpochPlan(8, order.BatchShard(4), 0, lambda: (0, 0), weights[:8])
    assert set(plan.rows_of(plan.indices(3)).flatten().tolist()) <= {1, 2, 5, 6}
    assert order.numbered(torch.tensor([2, 0, 2, 2, 0])).tolist() == [2, 0, 7, 12, 5]


def test_batches_of_rows_of_several_lengths_have_the_shortest_of_a_few():
    lengths = torch.tensor([3, 9, 60, 50, 5, 7, 16, 2]).int()
    plan = order.EpochPlan(8, order.BatchShard(2), 0, lambda: (0, 0), lengths=lengths)
    assert plan.fixed == (8, 16, 56, 64)  # quarters: 5, 9, 50 and 60, to multiples of 8
    assert plan.lengths_of(torch.tensor([[0, 4], [1, -1], [2, 0]])) == [8, 16, 64]
    same = order.EpochPlan(8, order.BatchShard(2))
    assert same.lengths_of(torch.tensor([[0, 4], [1, -1]])) == [None, None] and not same.padding()


def test_the_lengths_of_batches_are_those_that_need_the_least_padding():
    def size(lengths: Tensor, fixed: tuple[int, ...]) -> int:
        return sum(next(length for length in fixed if length >= row) for row in lengths.tolist())

    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        lengths = torch.randint(1, 60, (seed + 1,), generator=generator).int()
        longest = -(-int(lengths.max()) // 8) * 8
        shorter = range(8, longest, 8)
        ways = [(*some, longest) for n in range(4) for some in combinations(shorter, n)]
        found = order.fixed_lengths(lengths)
        assert found in ways
        assert size(lengths, found) == min(size(lengths, way) for way in ways)


def test_rows_of_similar_lengths_meet_in_a_step_and_steps_stay_shuffled():
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 100, (4100,), generator=generator).int()
    plan = order.EpochPlan(4100, order.BatchShard(32), 3, lambda: (0, 0), lengths=lengths)
    rows = plan.indices(1)
    assert rows.shape == (128, 32) and rows.unique().numel() == rows.numel()
    assert torch.equal(rows, plan.indices(1)) and not torch.equal(rows, plan.indices(2))
    window = order.WINDOW * 32
    drawn = order.epoch_order(3, 1, 4100)
    for i in range(4):  # it has the rows that the permutation draws for it
        assert set(rows.flatten()[i * window :][:window].tolist()) == set(
            drawn[i * window :][:window].tolist()
        )
    spread = lengths[rows].float().std(1).mean() / lengths.float().std()
    means = lengths[rows].float().mean(1)
    assert spread < 0.1
    assert abs(torch.corrcoef(torch.stack([means[1:], means[:-1]]))[0, 1]) < 0.2
    assert plan.padding(1) < 0.25  # of four lengths: an eighth of the range of lengths, at best
    unsorted = sum(plan.lengths_of(drawn[:4096].view(128, 32))) * 32
    assert plan.padding(1) < 0.5 * (1 - int(lengths[drawn[:4096]].sum()) / unsorted)


def test_rows_of_several_lengths_drawn_by_their_weights_meet_as_others_do():
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 100, (2050,), generator=generator).int()
    rare = torch.arange(2050) % 50 == 0
    weights = torch.where(rare, 49.0, 1.0).double()
    options = (2050, order.BatchShard(32), 3, lambda: (0, 0), weights, lengths)
    plan = order.EpochPlan(*options)
    drawn = plan.indices(1)
    assert torch.equal(drawn, order.EpochPlan(*options).indices(1))
    expected = order.numbered(order.weighted_order(3, 1, weights))[: drawn.numel()]
    assert torch.equal(drawn.flatten().sort().values, expected.sort().values)
    rows = plan.rows_of(drawn)
    assert rare[rows].float().mean() == pytest.approx(0.5, abs=0.03)
    assert lengths[rows].float().std(1).mean() < 0.1 * lengths.float().std()


@pytest.mark.parametrize("weights", [None, torch.arange(1000).double()])
@pytest.mark.parametrize(("world_size", "accumulate"), [(2, 1), (1, 2), (2, 2), (4, 1)])
def test_a_step_has_the_same_rows_of_several_lengths_on_any_number_of_devices(
    world_size, accumulate, weights
):
    lengths = torch.randint(1, 100, (1000,), generator=torch.Generator().manual_seed(0)).int()

    def steps(size: int, world: int, parts: int) -> list[set[int]]:
        plans = [
            order.EpochPlan(1000, shard, 3, lambda: (0, 0), weights, lengths)
            for shard in (order.BatchShard(size, rank, world, parts) for rank in range(world))
        ]
        each = torch.stack([plan.indices(0).view(-1, parts * size) for plan in plans], 1)
        return [set(step.flatten().tolist()) for step in each]

    size = 32 // world_size // accumulate
    assert steps(size, world_size, accumulate) == steps(32, 1, 1)


def test_a_digest_follows_every_value_and_split():
    def splits(value: int = 0) -> Splits:
        part = some_images(12)
        part.labels[7] += value
        return Splits(some_images(9), part)

    assert digest(splits()) == digest(splits()) != digest(splits(1))
    assert digest(splits()) != digest(Splits(splits().val, splits().train))


def test_images_of_the_host_and_of_the_device_give_the_same_bits():
    options = {"batch_size": 64, "eval_batch_size": 50, "crop_padding": 1, "mixup": 0.2}
    ours, theirs = (loaded_by(name, source="digits", **options) for name in ("resident", "mapped"))
    for make in ("train_dataloader", "val_dataloader"):
        pairs = list(zip(getattr(ours, make)(), getattr(theirs, make)(), strict=True))
        assert len(pairs) > 5
        for a, b in pairs:
            given = [(x, y) for x, y in zip(a, b, strict=True) if x is not None]
            assert all(torch.equal(x, y) for x, y in given) and len(given) >= 3
    with pytest.raises(UserError, match="digits has no files"):
        loaded_by("streaming", source="digits").train_dataloader()


def test_the_fingerprint_follows_the_content():
    splits = synthetic(8, 64, 16)
    assert splits.fingerprint == synthetic(8, 64, 16).fingerprint
    splits.val.images[3, 0, 2, 1] ^= 1
    assert splits.fingerprint != synthetic(8, 64, 16).fingerprint


@pytest.mark.parametrize("size", [0, -1])
def test_a_batch_of_no_images_is_refused(size):
    with pytest.raises(UserError, match="must be at least 1"):
        ImageData("digits", batch_size=size)
    with pytest.raises(UserError, match="must be at least 1"):
        ImageData("digits", eval_batch_size=size)


def test_an_unknown_source_and_an_unknown_option_are_named():
    with pytest.raises(UserError, match=r"'digit', which is unknown\. Known: digits"):
        load_source(SOURCES, "digit", {})
    with pytest.raises(UserError, match="sise"):
        load_source(SOURCES, "synthetic", {"sise": 3})


@pytest.mark.parametrize(
    ("n", "size", "parts", "free", "advice"),
    [
        (45, 32, 1, True, " --data.batch_size 15 uses all."),
        (47, 32, 1, True, " --data.batch_size 23 leaves out 1."),
        (45, 32, 1, False, ""),
        (90, 16, 4, True, " --data.batch_size 11 leaves out 2."),
    ],
)
def test_many_rows_that_an_epoch_leaves_out_are_named_with_a_better_batch_size(
    n, size, parts, free, advice
):
    left, step = n % (size * parts), size * parts
    assert remark_on_left_out(n, size, parts, "texts", free) == (
        f"each epoch leaves out {left} of {n} training texts, others each time, because only whole"
        f" steps of {step} are trained.{advice}"
    )
    plan = order.EpochPlan(n, order.BatchShard(size, 0, parts), 0, lambda: (0, 0))
    assert plan.shard.batches(n) * step == n - left


@pytest.mark.parametrize(("n", "size"), [(64, 32), (1077, 64), (71, 32), (31, 32)])
def test_few_rows_that_are_left_out_are_not_named(n, size):
    assert remark_on_left_out(n, size, 1, "texts") is None


def test_the_start_of_a_run_names_the_rows_that_each_epoch_leaves_out(call, tmp_path, capsys):
    flags = ("--config", "configs/digits.yaml", "--data.batch_size", "700")
    assert call("fit", *flags, "--trainer.max_epochs", "1", folder=tmp_path / "all") == 0
    note = "note: each epoch leaves out 377 of 1077 training images, others each time"
    said = capsys.readouterr().out
    assert said.count(note) == 1 and "--data.batch_size 359 uses all." in said
    few = (*flags, "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1")
    assert call("fit", *few, folder=tmp_path / "few") == 0
    assert "leaves out" not in capsys.readouterr().out
