"""Texts become tokens as transformers makes them, once, and processes may fork afterwards."""

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from some_words import WORDS

from {{ cookiecutter.__package_name }}.engine.artifacts import artifacts_of
from {{ cookiecutter.__package_name }}.engine.errors import UserError
from {{ cookiecutter.__package_name }}.engine.text.module import TextModule
from {{ cookiecutter.__package_name }}.engine.text.splits import Texts, TextSplits
from {{ cookiecutter.__package_name }}.engine.text.token_cache import (
    key_of,
    tokens_of,
)
from {{ cookiecutter.__package_name }}.engine.text.tokenizer import (
    TextTokenizer,
    loaded,
    read,
    trained,
)
from {{ cookiecutter.__package_name }}.engine.text.tokens import Tokens

PACKAGE = "{{ cookiecutter.__package_name }}"


def sentences(n: int, seed: int = 0, most: int = 30) -> list[str]:
    random = np.random.default_rng(seed)
    return [" ".join(random.choice(WORDS, random.integers(1, most))) for _ in range(n)]


def texts(n: int, seed: int = 0, pairs: bool = False, most: int = 30) -> Texts:
    second = sentences(n, seed + 1, most) if pairs else None
    labels = ["even" if i % 2 else "odd" for i in range(n)]
    return Texts(sentences(n, seed, most), second, labels, [f"made:{i + 1}" for i in range(n)])


def splits(pairs: bool = False, most: int = 30) -> TextSplits:
    parts = (texts(n, n, pairs, most) for n in (50, 20, 10))
    return TextSplits(*parts, classes=("even", "odd"))


def module(source: TextSplits, max_length: int = 64, name: str | None = None) -> TextModule:
    return TextModule(source, "made", 10, 10, max_length, name, 200, 0.0)


@pytest.fixture
def tokenizer() -> TextTokenizer:
    return trained(sentences(200), 60)


@pytest.fixture
def folder(tokenizer: TextTokenizer, tmp_path: Path) -> Path:
    """A folder with a tokenizer's files, as a run keeps them in artifacts/tokenizer."""
    for name, content in tokenizer.files().items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def rows(tokens) -> list[list[int]]:
    ends = np.cumsum(tokens.lengths)
    return [part.tolist() for part in np.split(tokens.tokens, ends[:-1])]


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("longest", [512, 16, 9])
def test_tokens_are_those_of_transformers(pairs, longest, tokenizer, folder):
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(str(folder))
    given = texts(60, pairs=pairs)
    ours = tokenizer.encode(given.first, given.second, longest)
    expected = theirs(given.first, given.second, truncation=True, max_length=longest)
    assert rows(ours) == expected["input_ids"]
    if pairs:
        segments = [
            [int(i >= start) for i in range(len(row))]
            for row, start in zip(rows(ours), ours.starts, strict=True)
        ]
        assert segments == expected["token_type_ids"]


def test_a_tokenizer_loaded_from_a_run_is_the_same(tokenizer, folder):
    again = loaded(str(folder))
    assert again.special_ids == tokenizer.special_ids == dict(pad=0, unk=1, cls=2, sep=3, mask=4)
    assert again.vocabulary == tokenizer.vocabulary == 60
    given = texts(30, pairs=True)
    ours, theirs = (each.encode(given.first, given.second, 32) for each in (tokenizer, again))
    assert rows(ours) == rows(theirs)


def test_a_run_that_resumes_uses_the_tokenizer_that_it_kept(tokenizer, tmp_path, monkeypatch):
    kept = tmp_path / "artifacts" / "tokenizer"
    kept.mkdir(parents=True)
    data = module(splits())
    for name, content in data.artifacts().items():
        (tmp_path / "artifacts" / name).write_bytes(content)
    monkeypatch.delattr(f"{PACKAGE}.engine.text.module.trained")
    with artifacts_of(tmp_path):
        again = module(splits(), name="of-a-hub/that-nobody-reaches")
    assert again.facts().fingerprint == data.facts().fingerprint
    assert again.tokenizer.name == "of-a-hub/that-nobody-reaches"
    assert again.tokenizer.digest == data.tokenizer.digest
    assert again.special_ids == data.special_ids


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"can't be loaded: .*Expected a folder with"):
        loaded(str(tmp_path))


def test_training_a_tokenizer_again_in_another_process_gives_the_same(tokenizer):
    code = (
        f"from {PACKAGE}.engine.text.tokenizer import trained\n"
        f"print(trained({sentences(200)!r}, 60).digest)"
    )
    one_thread = os.environ | {"TOKENIZERS_PARALLELISM": "false", "PYTHONHASHSEED": "7"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=one_thread, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == tokenizer.digest


def test_a_process_forked_after_tokenizing_tokenizes_without_a_word(tokenizer):
    code = (
        "import os\n"
        f"from {PACKAGE}.engine.text.tokenizer import trained\n"
        "texts = ['one two three'] * 5000\n"
        "tokenizer = trained(texts, 60)\n"
        "before = tokenizer.encode(texts, None, 16).tokens.sum()\n"
        "if not (child := os.fork()):\n"
        "    os._exit(int(tokenizer.encode(texts, None, 16).tokens.sum() != before))\n"
        "raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_texts_that_are_cut_are_counted():
    data = module(splits(most=60), 16)
    (first, *_) = data.facts().remarks
    long = sum(len(text.split()) > 14 for text in splits(most=60).train.first)
    assert first.startswith(f"{long} of 50 training texts ({long / 50:.1%}) cut to 16 tokens")
    assert data.splits.train.batch.tokens.shape == (50, 16)
    assert not module(splits(), 64).facts().remarks


def test_pairs_have_segments_and_single_texts_have_none():
    batch = module(splits(pairs=True)).splits.train.batch
    assert batch.segments.max() == 1 and not batch.segments[:, 0].any()
    real = np.arange(batch.tokens.shape[1]) < batch.lengths.numpy()[:, None]
    assert not batch.segments.numpy()[~real].any()
    assert module(splits()).splits.train.batch.segments is None


def test_tokens_are_read_from_the_cache_until_the_text_or_the_tokenizer_changes(
    tokenizer, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    given = texts(20, pairs=True)
    made = tokens_of(given, tokenizer, 32)
    monkeypatch.setattr(TextTokenizer, "encode", None)  # whoever tokenizes again fails
    again = tokens_of(given, tokenizer, 32)
    assert rows(again) == rows(made)
    assert again.starts.tolist() == made.starts.tolist()
    assert again.whole.tolist() == made.whole.tolist()
    changed = replace(given, first=[*given.first[:-1], "rain"])
    moved = replace(given, first=[given.first[0] + "a", *given.first[1:]])
    keys = {key_of(each, tokenizer, 32) for each in (given, changed, moved, texts(20))}
    keys |= {key_of(given, tokenizer, 40), key_of(given, trained(sentences(9), 60), 32)}
    assert len(keys) == 6


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "other"])
def test_a_damaged_cache_is_made_again(damage, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    given = texts(20)
    made = rows(tokens_of(given, tokenizer, 32))
    (file,) = (tmp_path / "tokens").glob("*.npy")
    whole = file.read_bytes()
    content = bytearray(whole)
    content[-200] ^= 1
    broken = dict(cut=whole[:-9], flipped=bytes(content), empty=b"", other=b"no array")[damage]
    file.write_bytes(broken)
    assert rows(tokens_of(given, tokenizer, 32)) == made
    assert file.read_bytes() == whole


def test_of_processes_that_start_together_one_tokenizes(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    given, calls = texts(20), []
    encode = TextTokenizer.encode
    monkeypatch.setattr(
        TextTokenizer, "encode", lambda *given: [calls.append(1), encode(*given)][1]
    )
    with ThreadPoolExecutor(8) as together:
        found = list(together.map(lambda _: tokens_of(given, tokenizer, 32), range(8)))
    assert len(calls) == 1
    assert all(rows(each) == rows(found[0]) for each in found)


def test_without_a_place_for_the_cache_texts_are_tokenized_anyway(tokenizer, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert tokens_of(texts(20), tokenizer, 32).n == 20


@pytest.mark.parametrize(
    ("max_length", "name", "message"),
    [
        (60, None, "data.max_length is 60; expected a multiple of 8"),
        (4, None, "data.max_length is 4; it must be at least 8"),
        (64, "./no/such", "data.tokenizer is ./no/such, but "),
    ],
)
def test_wrong_settings_are_refused(max_length, name, message):
    with pytest.raises(UserError, match=re.escape(message)):
        module(splits(), max_length, name)


def test_a_tokenizer_with_only_a_vocabulary_is_loaded_as_transformers_does(tmp_path):
    from transformers import AutoTokenizer

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, "##s", ",", "e", "##t"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    ours, theirs = loaded(str(tmp_path)), AutoTokenizer.from_pretrained(str(tmp_path))
    given = ["The Quick fox, ÉT", "a dog"], ["hills on grey", "RAIN falls"]
    expected = theirs(*given)
    tokens = ours.encode(*given, 64)
    assert rows(tokens) == expected["input_ids"]
    assert ours.special_ids == dict(pad=0, unk=1, cls=2, sep=3, mask=4)
    assert rows(read_again(ours, tmp_path / "again").encode(*given, 64)) == rows(tokens)


def read_again(tokenizer: TextTokenizer, folder: Path) -> TextTokenizer:
    folder.mkdir()
    for name, content in tokenizer.files().items():
        (folder / name).write_bytes(content)
    return read(folder)


def test_robertas_pairs_have_no_segments(tmp_path):
    from tokenizers import ByteLevelBPETokenizer
    from transformers import AutoTokenizer

    trainer = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer.train_from_iterator(sentences(50), 300, special_tokens=special, show_progress=False)
    trainer.save_model(str(tmp_path))
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "RobertaTokenizer"}')
    theirs = AutoTokenizer.from_pretrained(str(tmp_path))
    given = texts(20, pairs=True)
    data = module(splits(pairs=True), name=str(tmp_path))
    assert data.padding_id == 1 and not data.splits.train.batch.segments.any()
    tokens = data.tokenizer.encode(given.first, given.second, 24)
    expected = theirs(given.first, given.second, truncation=True, max_length=24)
    assert rows(tokens) == expected["input_ids"]
    batch = tokens.batch(data.padding_id)
    assert (batch.tokens[torch.arange(batch.tokens.shape[1]) >= batch.lengths[:, None]] == 1).all()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (dict(first=["a", " "], places=["f:1", "f:2"]), "f:2 has an empty text"),
        (
            dict(labels=["odd", "prime"]),
            "made:2 has the label 'prime'; expected one of",
        ),
        (dict(labels=["odd"]), "The source returned 2 texts, but 1 entry in labels"),
    ],
)
def test_what_a_source_returns_is_checked(wrong, message):
    source = replace(splits(), val=replace(texts(2), **wrong))
    with pytest.raises(UserError, match=message):
        module(source)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (dict(labels=torch.tensor([0, 2])), r"the class 2; expected 0 to 1\."),
        (dict(labels=torch.tensor([0, -1])), r"the class -1; expected"),
        (dict(tokens=np.array([5, 50], np.int32)), r"the token 50; expected 0 to 49\."),
    ],
)
def test_tokens_and_classes_that_the_network_lacks_are_named(wrong, message):
    ones = np.ones(2, np.int32)
    good = Tokens(ones, ones, None, ones, torch.tensor([0, 1]))
    assert module(TextSplits(good, good, classes=("a", "b"), vocabulary=50)).num_classes == 2
    bad = replace(good, **wrong)
    with pytest.raises(UserError, match=message):
        module(TextSplits(good, bad, classes=("a", "b"), vocabulary=50))


def test_texts_without_labels_need_masks():
    source = replace(splits(), train=replace(texts(50), labels=None))
    with pytest.raises(UserError, match=r"The texts have no labels\. Name their column"):
        module(source)


def test_a_tokenizer_without_padding_is_refused(tokenizer, tmp_path):
    bare = replace(tokenizer, settings={"tokenizer_class": "PreTrainedTokenizerFast"})
    for name, content in bare.files().items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match="which has no token for padding"):
        loaded(str(tmp_path))
