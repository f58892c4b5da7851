"""The service as its clients see it: a real process behind a socket."""

import csv
import http.client
import io
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
import torch
import uvicorn
from PIL import Image
from predicted import predict_as_in_the_evaluation
from served import CLOSE, check_answers, list_of_test_files
from sklearn.datasets import load_digits

import {{ cookiecutter.__package_name }} as package
from {{ cookiecutter.__package_name }} import networks
from {{ cookiecutter.__package_name }}.classifier import ImageClassifier
from {{ cookiecutter.__package_name }}.data import SOURCES, ImageData, digits
from {{ cookiecutter.__package_name }}.engine.cli.project import (
    Project,
    data_with_flags,
)
from {{ cookiecutter.__package_name }}.engine.images.batch import in_memory
from {{ cookiecutter.__package_name }}.engine.images.read import read
from {{ cookiecutter.__package_name }}.engine.images.splits import ImageSplits
from {{ cookiecutter.__package_name }}.engine.tools import serve

# predict computes many images at once; in bfloat16 that shows.


PROJECT = Project(package.__name__, ImageClassifier, ImageData, read)


def file_of(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


@pytest.fixture(scope="module")
def process(trained: Path) -> Iterator[subprocess.Popen]:
    command = [sys.executable, "-m", package.__name__, "serve", "--port", "0"]
    command += ["--run", str(trained)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:
        yield process
        process.kill()


@pytest.fixture(scope="module")
def address(process: subprocess.Popen) -> str:
    """The address that the service prints once its network is loaded."""
    said = re.search(r" listening on http://(127\.0\.0\.1:\d+)/predict$", process.stdout.readline())
    return said[1]


def head(size: int) -> bytes:
    return f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n".encode()


Ask = Callable[..., tuple[int, dict]]


def asking(address: str) -> Ask:
    def ask(path: str, body: bytes | Iterator[bytes] | None = None) -> tuple[int, dict]:
        connection = http.client.HTTPConnection(address, timeout=60)
        connection.request("GET" if body is None else "POST", path, body)
        response = connection.getresponse()
        return response.status, json.loads(response.read())

    return ask


@pytest.fixture(scope="module")
def ask(address: str) -> Ask:
    return asking(address)


def test_the_service_is_alive_and_ready(ask, trained):
    assert ask("/healthz") == (200, {"status": "alive"})
    status, said = ask("/readyz")
    assert status == 200 and said["run"] == str(trained) and len(said["weights_sha256"]) == 64


def test_the_service_is_not_ready_before_its_network_is_loaded():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(serve.build_app(Future()), log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        ask = asking("{}:{}".format(*listening.getsockname()))
        statuses = [
            ask(path, body)[0]
            for path, body in (("/healthz", None), ("/readyz", None), ("/predict", b"image"))
        ]
        server.should_exit = True
        thread.join()
    assert statuses == [200, 503, 503]


def test_the_service_predicts_what_predict_writes(ask, trained, call):
    assert call("predict", "--run", str(trained)) == 0
    rows = list(csv.DictReader((trained / "predictions.csv").open()))
    images = digits().test.images.permute(0, 2, 3, 1).numpy()
    for row in rows[:8]:
        status, said = ask("/predict", file_of(images[int(row["index"])]))
        assert status == 200 and said["class"] == row["prediction"]
        assert said["probability"] == pytest.approx(float(row["probability"]), abs=CLOSE)
        assert said["probability"] == said["probabilities"][said["class"]]
        assert list(said["probabilities"]) == [str(name) for name in load_digits().target_names]
        assert sum(said["probabilities"].values()) == pytest.approx(1, abs=1e-5)
        assert (said["run"], said["weights_sha256"]) == tuple(ask("/readyz")[1].values())


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """Images of noise, so that every pixel shows which part of an image was used."""
    root = tmp_path_factory.mktemp("images")
    for number, name in enumerate(("dark", "light")):
        (root / name).mkdir()
        for i in range(20):
            noise = np.random.default_rng(100 * number + i).integers(0, 120, (60, 90, 3))
            file = file_of((noise + 120 * number).astype(np.uint8), "JPEG")
            (root / name / f"{i}.jpg").write_bytes(file)
    return root


@pytest.mark.parametrize(
    ("loader", "size"), [("streaming", [16, 40]), ("mapped", [40, 16]), ("resident", 24)]
)
def test_service_and_predict_show_a_file_as_evaluation_does_whatever_the_loader(
    loader, size, images, call, tmp_path
):
    flags = ["--config", "configs/imagefolder.yaml", f"--data.options.path={images}"]
    flags += [f"--data.image_size={size}", "--data.batch_size", "8", "--data.workers", "0"]
    flags += ["--model.network", "small_cnn", "--trainer.max_epochs", "1"]
    assert call("fit", *flags, f"--data.loader={loader}", folder=tmp_path) == 0
    assert call("predict", "--run", str(tmp_path)) == 0
    served = serve.ServedRun(PROJECT, tmp_path)
    options = {"image_size": size, "loader": loader, "workers": 0}
    options |= {"source": "folder", "options": {"path": str(images)}}
    data = data_with_flags(ImageData)(**options)
    assert check_answers(served, data, tmp_path / "predictions.csv") == 4
    predict_as_in_the_evaluation(call, tmp_path, list_of_test_files(data, tmp_path / "files.txt"))


def wide() -> ImageSplits:
    """Images in memory that are not square."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (90, 12, 20, 3), dtype=torch.uint8, generator=generator)
    parts = [in_memory(pixels[i : i + 30], torch.arange(30) % 2) for i in (0, 30, 60)]
    return ImageSplits(*parts, classes=("one", "other"))


@pytest.mark.parametrize("source", ["digits", "wide"])
@pytest.mark.parametrize("loader", ["mapped", "resident"])
def test_the_service_uses_the_whole_image_in_memory(source, loader, call, tmp_path, monkeypatch):
    monkeypatch.setitem(SOURCES, "wide", wide)
    flags = ["--config", "configs/digits.yaml", f"--data.source={source}", "--data.batch_size=16"]
    flags += [f"--data.loader={loader}", "--trainer.max_steps=2"]
    assert call("fit", *flags, folder=tmp_path) == 0
    served = serve.ServedRun(PROJECT, tmp_path)
    for image in SOURCES[source]().test.images[:5]:
        shown, problems = read([file_of(image.permute(1, 2, 0).numpy())], served.facts)
        assert not problems and torch.equal(shown.images[0], image)


BLACK = np.zeros((60, 60, 3), np.uint8)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "is empty (0 bytes)"),
        (b"cats", "is not an image"),
        (file_of(BLACK, "JPEG")[:500], "can't be decoded"),
        (file_of(np.zeros((10_000, 10_000), bool)), "has over 50 megapixels"),  # in 12 kB
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "is a PostScript"),
    ],
    ids=["empty", "text", "cut short", "bomb", "program"],
)
def test_a_body_that_is_not_an_image_is_refused_with_the_reason(body, reason, ask):
    status, said = ask("/predict", body)
    assert status == 422 and reason in said["detail"]
    assert said["detail"].endswith(" It was read as a file, not as application/json.")


def test_images_of_any_shape_are_accepted(ask):
    for shape in ((30, 80, 3), (80, 30), (8, 8, 4), (1, 1, 3)):
        assert ask("/predict", file_of(np.full(shape, 200, np.uint8)))[0] == 200


def test_a_too_large_body_is_refused_with_and_without_content_length(address):
    size = serve.MAX_BYTES + 1
    unannounced = head(size).replace(b"Content-Length: %d" % size, b"Transfer-Encoding: chunked")
    for request in (head(size), unannounced + b"%x\r\n" % size + bytes(size)):
        with socket.create_connection(address.split(":"), timeout=60) as connection:
            connection.sendall(request)
            assert connection.recv(100).startswith(b"HTTP/1.1 413 ")


def test_errors_in_the_command_line_are_one_line(trained, call, capsys, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert call("serve", "--run", str(trained), "--port", port) == 2
    assert call("serve", "--run", str(tmp_path)) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2
    assert errors[0].startswith(f"error: 127.0.0.1:{port}: Address already in use")
    assert "is not a run" in errors[1]


def test_a_run_that_does_not_fit_the_source_is_refused(trained, call, monkeypatch, capsys):
    other = {"small_cnn": lambda num_classes, small_images: torch.nn.Linear(2, num_classes)}
    monkeypatch.setattr(networks, "NETWORKS", other)
    assert call("serve", "--run", str(trained), "--port", "0") == 2
    assert "The checkpoint is of another network: network.body" in capsys.readouterr().err


def test_a_reused_connection_does_not_wait_for_delayed_acknowledgements(address):
    connection, seconds = http.client.HTTPConnection(address, timeout=60), []
    for _ in range(10):
        began = time.perf_counter()
        connection.request("POST", "/predict", file_of(BLACK))
        assert connection.getresponse().read()
        seconds.append(time.perf_counter() - began)
    assert min(seconds) < 0.03  # Linux delays an acknowledgement by 40 ms


def test_sigterm_lets_a_slow_client_finish_and_others_are_served(process, address, ask):
    image = file_of(BLACK)
    with socket.create_connection(address.split(":"), timeout=60) as gone:
        gone.sendall(head(len(image)) + image[:20])
    with socket.create_connection(address.split(":"), timeout=60) as slow:
        slow.sendall(head(len(image)) + image[:20])
        assert ask("/predict", image)[0] == 200
        process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        slow.sendall(image[20:])
        assert slow.recv(100).startswith(b"HTTP/1.1 200 ")
    assert process.wait(30) == -signal.SIGTERM
    assert "Traceback" not in process.stderr.read()
