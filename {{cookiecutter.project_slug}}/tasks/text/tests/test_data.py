"""The sources return the expected splits, and the splits become batches of tokens."""

import torch

from {{ cookiecutter.__package_name }}.data import (
    LANGUAGES,
    TextData,
    languages,
    synthetic,
)


def test_languages_have_as_many_texts_each_and_no_name_is_in_two_splits():
    splits = languages()
    assert splits.rows == {"train": 30_000, "val": 2_000, "test": 2_000}
    named = {}
    for split in ("train", "val", "test"):
        texts = getattr(splits, split)
        assert [texts.labels.count(language) for language in LANGUAGES] == [texts.n // 20] * 20
        named[split] = {
            (label, name)
            for text, label in zip(texts.first, texts.labels, strict=True)
            for name in text.split("; ")
        }
    assert not named["train"] & named["val"]
    assert not named["train"] & named["test"]
    assert not named["val"] & named["test"]


def test_languages_are_the_same_each_time():
    assert languages() == languages()


def test_synthetic_texts_are_as_long_as_those_of_mrpc():
    train = synthetic().train
    assert train.n == 3668 and len(train.tokens) == train.lengths.sum()
    assert (train.lengths.min(), train.lengths.max()) == (16, 103)
    assert abs(train.lengths.mean() - 53) < 1


def test_batches_are_tokens_with_labels_and_rows():
    data = TextData("synthetic", {"rows": 100, "vocabulary": 50}, batch_size=32)
    assert (data.num_classes, data.vocab_size, data.padding_id) == (2, 50, 0)
    batch = next(iter(data.train_dataloader()))
    assert batch.tokens.dtype == torch.int32 and batch.tokens.shape[1] % 8 == 0
    every = data.splits.train.batch
    assert torch.equal(batch.labels, every.labels[batch.row])
    assert torch.equal(batch.lengths, every.lengths[batch.row])
    after = torch.arange(batch.tokens.shape[1]) >= batch.lengths[:, None]
    assert torch.equal(batch.tokens == 0, after)
