"""The published data sets, in the real formats of their files, and what is said without them."""

import gzip
import hashlib
import json
import pickle
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import datasets

from {{ cookiecutter.__package_name }}.data import SOURCES
from {{ cookiecutter.__package_name }}.engine.data.sources import load_source
from {{ cookiecutter.__package_name }}.engine.errors import UserError


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def write_pickled(path: Path, count: int, classes: int, key: str) -> str:
    """A file as the CIFAR sets have them: a pickled dictionary of rows, red first, then green."""
    generator = np.random.default_rng(count + len(path.name))
    labels = [i % classes for i in range(count)]
    rows = generator.integers(0, 200, (count, 3072), dtype=np.uint8)
    rows[:, :1024] = np.array(labels)[:, None] * (250 // classes)  # red tells the class
    path.write_bytes(pickle.dumps({"data": rows, key: labels}, protocol=2))
    return md5(path)


SHAPES = {"CIFAR10": (60, 10, "labels"), "CIFAR100": (1500, 100, "fine_labels")}


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """`cifar("CIFAR10")`: a root with such a set, whose checksums torchvision then expects."""

    def write(name: str) -> Path:
        kind = getattr(datasets, name)
        folder = tmp_path / name / kind.base_folder
        folder.mkdir(parents=True)
        size, classes, key = SHAPES[name]
        for part in ("train_list", "test_list"):
            files = [file for file, _ in getattr(kind, part)]
            sums = [[file, write_pickled(folder / file, size, classes, key)] for file in files]
            monkeypatch.setattr(kind, part, sums)
        meta = folder / kind.meta["filename"]
        names = [f"class {i}" for i in range(classes)]
        meta.write_bytes(pickle.dumps({kind.meta["key"]: names}, protocol=2))
        monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": md5(meta)})
        return tmp_path / name

    return write


@pytest.mark.parametrize("name", SHAPES)
def test_cifar_is_read_from_files_as_they_are_published(name, cifar):
    size, classes, _ = SHAPES[name]
    splits = load_source(SOURCES, name.lower(), {"root": str(cifar(name))})
    assert splits.classes == tuple(f"class {i}" for i in range(classes))
    counts = list(splits.rows.values())
    whole = size * len(getattr(datasets, name).train_list)
    assert counts == [whole * 9 // 10, whole // 10, size]
    assert splits.val.labels.bincount(minlength=classes).min() >= 1
    for part in (splits.train, splits.val, splits.test):
        assert part.images.shape[1:] == (3, 32, 32) and part.images.dtype == torch.uint8
        red = part.images[:, 0].flatten(1)
        assert torch.equal(red.float().mean(1).long(), part.labels * (250 // classes))


def test_the_cifar_recipe_trains(cifar, call, tmp_path):
    flags = ("--config", "configs/cifar10.yaml", f"--data.options.root={cifar('CIFAR10')}")
    flags += ("--model.network=small_cnn", "--data.batch_size=16", "--trainer.max_epochs=2")
    flags += ("--data.eval_batch_size=30",)
    assert call("fit", *flags, folder=tmp_path / "run") == 0
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["results"]["best val/accuracy"] > 0.3
    assert record["results"]["steps"] == 2 * (270 // 16)


def test_an_archive_put_by_hand_is_unpacked_and_a_damaged_one_is_not(cifar, tmp_path, monkeypatch):
    root = cifar("CIFAR10")
    archive = tmp_path / "by hand" / datasets.CIFAR10.filename
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz") as pack:
        pack.add(root / datasets.CIFAR10.base_folder, datasets.CIFAR10.base_folder)
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", md5(archive))
    expected = load_source(SOURCES, "cifar10", {"root": str(root)}).fingerprint
    assert load_source(SOURCES, "cifar10", {"root": str(archive.parent)}).fingerprint == expected
    batch = root / datasets.CIFAR10.base_folder / "data_batch_3"
    batch.write_bytes(batch.read_bytes()[:-1] + b"x")
    with pytest.raises(
        UserError, match=r"put cifar-10-python\.tar\.gz there, from https://www\.cs"
    ):
        load_source(SOURCES, "cifar10", {"root": str(root)})


def write_idx(path: Path, array: np.ndarray) -> None:
    """A file as the MNIST sets have them: two zeros, type 8 (uint8), dimensions, the bytes."""
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


@pytest.fixture
def mnist(tmp_path):
    for kind in ("MNIST", "FashionMNIST"):
        raw = tmp_path / kind / "raw"
        raw.mkdir(parents=True)
        for part, count in (("train", 500), ("t10k", 100)):
            labels = np.arange(count) % 10
            images = np.broadcast_to((labels * 20)[:, None, None], (count, 28, 28))
            write_idx(raw / f"{part}-images-idx3-ubyte", images)
            write_idx(raw / f"{part}-labels-idx1-ubyte", labels)
    return tmp_path


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_mnist_is_read_from_files_as_they_are_published(name, mnist):
    splits = load_source(SOURCES, name, {"root": str(mnist)})
    assert list(splits.rows.values()) == [450, 50, 100]
    assert splits.train.images.shape == (450, 3, 28, 28)
    assert torch.equal(splits.train.images[:, 1, 9, 9].long(), splits.train.labels * 20)
    assert len(splits.classes) == 10


def test_a_damaged_mnist_file_says_what_to_remove(mnist):
    images = mnist / "MNIST" / "raw" / "train-images-idx3-ubyte"
    images.write_bytes(images.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"MNIST: shape .* is invalid.*delete damaged files"):
        load_source(SOURCES, "mnist", {"root": str(mnist)})


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "cifar100"])
def test_without_a_network_it_is_said_where_the_files_go(name, tmp_path, monkeypatch):
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")  # where nobody listens
    with pytest.raises(UserError) as refusal:
        load_source(SOURCES, name, {"root": str(tmp_path)})
    text = str(refusal.value)
    assert "\n" not in text and "By hand: " in text and str(tmp_path) in text
    assert ".gz" in text and "http" in text


def test_downloaded_files_are_verified(tmp_path, monkeypatch):
    (tmp_path / "server").mkdir()
    for file, _ in datasets.MNIST.resources:
        (tmp_path / "server" / file).write_bytes(gzip.compress(b"something else"))
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "server"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        mirror = f"http://127.0.0.1:{server.server_port}/"
        monkeypatch.setattr(datasets.MNIST, "mirrors", [mirror])
        with pytest.raises(UserError, match="File not found or corrupted"):
            load_source(SOURCES, "mnist", {"root": str(tmp_path / "data")})
        server.shutdown()
