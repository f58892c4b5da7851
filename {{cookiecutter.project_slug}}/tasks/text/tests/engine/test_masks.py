"""Masked-language modelling: the right share of tokens, and the same masks wherever a row is."""

import torch

from {{ cookiecutter.__package_name }}.data import TextData
from {{ cookiecutter.__package_name }}.engine.data.order import uniforms
from {{ cookiecutter.__package_name }}.engine.text.batch import IGNORED, TextBatch
from {{ cookiecutter.__package_name }}.engine.text.masks import Masks

SPECIAL = (0, 1, 2, 3)
MASKS = Masks(share=0.15, mask=3, special=SPECIAL, vocabulary=100)


def texts(n: int, length: int) -> TextBatch:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(3, length + 1, (n,), generator=generator, dtype=torch.int32)
    tokens = torch.randint(4, 100, (n, length), generator=generator, dtype=torch.int32)
    tokens[:, 0] = 1
    tokens[torch.arange(length) >= lengths[:, None]] = 0
    return TextBatch(tokens, None, lengths, None, torch.arange(n))


def masked(batch: TextBatch, epoch: int = 0) -> TextBatch:
    return MASKS(batch, lambda k: uniforms(7, epoch, batch.row, k))


def test_fifteen_percent_are_chosen_and_treated_80_10_10():
    batch = texts(4000, 64)
    found = masked(batch)
    chosen = found.targets != IGNORED
    ordinary = batch.tokens > 3
    assert not (chosen & ~ordinary).any()
    assert abs(chosen.sum() / ordinary.sum() - 0.15) < 0.003
    assert torch.equal(found.targets[chosen], batch.tokens[chosen].long())
    assert torch.equal(found.tokens[~chosen], batch.tokens[~chosen])
    hidden, same = found.tokens[chosen] == 3, found.tokens[chosen] == batch.tokens[chosen]
    random = found.tokens[chosen][~hidden & ~same]
    assert abs(hidden.float().mean() - 0.80) < 0.02
    assert abs(same.float().mean() - 0.10) < 0.02
    assert random.unique().numel() > 90 and random.max() < 100


def test_masks_of_a_row_depend_neither_on_its_batch_nor_on_the_batchs_length():
    batch = texts(64, 40)
    found = masked(batch)
    some = torch.tensor([9, 3, 50])
    length = int(batch.lengths[some].max())
    part = batch._replace(tokens=batch.tokens[some, :length], row=some)
    again = masked(part)
    assert torch.equal(again.tokens, found.tokens[some, :length])
    assert torch.equal(again.targets, found.targets[some, :length])


def test_each_epoch_masks_other_tokens():
    batch = texts(64, 40)
    assert not torch.equal(masked(batch, 0).targets, masked(batch, 1).targets)


def test_training_masks_change_and_those_of_validation_stay():
    settings = dict(source="synthetic", options={"rows": 90, "vocabulary": 50})
    data = TextData(**settings, batch_size=90, eval_batch_size=10, masking=0.15)
    assert data.objective == "masked" and data.num_classes == data.vocab_size == 50
    assert data.facts().classes == ()
    batch = next(iter(data.train_dataloader()))
    assert batch.labels is None and (batch.targets != IGNORED).any()
    (batch,) = data.val_dataloader()
    again = TextData(**settings, batch_size=30, eval_batch_size=4, masking=0.15)
    parts = [part.targets[part.row >= 0] for part in again.val_dataloader()]
    targets = torch.cat([_to(part, batch.targets.shape[1]) for part in parts])
    assert torch.equal(targets, batch.targets[batch.row >= 0])
    assert again.facts().fingerprint == data.facts().fingerprint


def _to(targets: torch.Tensor, length: int) -> torch.Tensor:
    return torch.nn.functional.pad(targets, (0, length - targets.shape[1]), value=IGNORED)
