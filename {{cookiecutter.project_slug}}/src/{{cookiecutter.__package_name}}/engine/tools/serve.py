"""Serve a run's best network over HTTP: one image file in, its class and all probabilities out.

The network sees the pixels that evaluation would show it: of data that were files, the middle
square of images/decode.py, whichever loader read them; of data in memory, the largest middle part
of their shape, resized to it, which is the whole of an image that has this shape already.
Whoever reaches the port may ask, so it listens on this machine only, unless told otherwise.
"""

import argparse
import asyncio
import functools
import json
import os
import socket
import sys
import threading
from collections.abc import AsyncIterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Request
from PIL import Image
from starlette.requests import ClientDisconnect

from ...classifier import ImageClassifier
from .. import hardware
from ..errors import UserError
from ..images import decode
from ..model.checks import read_saved
from ..monitor import quiet_lightning
from ..nvml import prefer_idle_gpus
from ..run.checkpoint_files import find_checkpoint
from ..run.digests import digest
from ..run.folder import find_run, project_root, shown

MOST_BYTES = 20 * 2**20  # of one image file
MOST_PIXELS = 50_000_000  # of one image: 150 MB as RGB
MOST_BODIES = 32  # in memory at a time; who comes after them waits
MOST_DECODING = 4  # images at a time
SECONDS_TO_SEND = 30  # an image; or, after SIGTERM, to finish what runs
AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


class ServedRun:
    """The best network of a run, on the GPU if there is one, after its first answer.

    Raises UserError if the run has no whole checkpoint, or the network of this source does not take
    its weights, or answers NaN.
    """

    def __init__(self, folder: Path) -> None:
        saved = read_saved(find_checkpoint(folder, "best", "last"), "--run")
        data = json.loads((folder / "run.json").read_text())["data"]
        self.name = shown(folder)
        self.height, self.width = data["image_shape"][:2]
        # Runs from before that key was written: only a folder's images were files.
        self.from_files = data.get("from_files", data["source"] == "folder")
        machine = hardware.this_machine()
        kind = hardware.accelerator(machine)
        precision, _ = hardware.precision(machine, kind)
        self.device, dtype = torch.device(kind), AUTOCAST.get(precision)
        self.precision = functools.partial(torch.autocast, kind, dtype, enabled=dtype is not None)
        if kind == "cuda":
            torch.set_float32_matmul_precision("high")  # as the classifier does
        if "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(hardware.threads_per_process(machine, 1))
        self.network = _network_of(saved, self.name).to(self.device).eval()
        self.weights_sha256 = digest(self.network.state_dict())
        number = self.network.hparams["num_classes"]
        self.classes: list[str] = saved.get("classes") or [str(i) for i in range(number)]
        self.decoding = threading.Semaphore(MOST_DECODING)
        self.computing = ThreadPoolExecutor(1)  # alone, and with one set of torch's own threads
        black = np.zeros((self.height, self.width, 3), np.uint8)
        if not np.isfinite(self.computing.submit(self._probabilities, black).result()).all():
            raise UserError(f"{self.name} answers NaN: its training diverged. Serve another run.")

    def answer(self, file: bytes) -> dict[str, Any]:
        """Return what an image file shows. Raises BadImage."""
        with self.decoding:
            pixels = self.pixels(file)
        shares = self.computing.submit(self._probabilities, pixels).result()
        best = int(np.argmax(shares))
        return {
            "class": self.classes[best],
            "probability": shares[best],
            "probabilities": dict(zip(self.classes, shares, strict=True)),
            **self.who(),
        }

    def pixels(self, file: bytes) -> np.ndarray:
        """Return what evaluation would show of an image file: uint8 (height, width, 3)."""
        if self.from_files:
            return decode.middle(file, self.height)
        return decode.cropped(file, (self.width, self.height), self._largest)

    def _largest(self, width: int, height: int) -> decode.Box:
        """Return the largest middle part of an image that has the shape of the run's images."""
        scale = min(width / self.width, height / self.height)
        w, h = max(round(self.width * scale), 1), max(round(self.height * scale), 1)
        left, upper = (width - w) // 2, (height - h) // 2
        return left, upper, left + w, upper + h, False

    def who(self) -> dict[str, str]:
        return {"run": self.name, "weights_sha256": self.weights_sha256}

    @torch.inference_mode()
    def _probabilities(self, pixels: np.ndarray) -> list[float]:
        """Return the share of each class for one image: uint8 (height, width, 3)."""
        image = torch.tensor(pixels).permute(2, 0, 1)[None]
        with self.precision():
            return self.network(image.to(self.device)).float().softmax(1)[0].tolist()


def _network_of(saved: dict[str, Any], run: str) -> ImageClassifier:
    settings = {k: v for k, v in saved["hyper_parameters"].items() if not k.startswith("_")}
    try:
        network = ImageClassifier(**settings)
        network.load_state_dict(saved["state_dict"])
    except (TypeError, RuntimeError) as error:  # another signature, other layers
        raise UserError(
            f"The weights of {run} do not fit this source: {' '.join(str(error).split())[:200]} …"
            " Serve a run of this source, or take that of the run, its source.zip."
        ) from error
    return network


def build_app(loading: "Future[ServedRun]") -> FastAPI:
    """Return the service; until its run is loaded it is alive, not ready."""
    app = FastAPI(title="predictions", docs_url=None, redoc_url=None)  # those need the internet
    places = asyncio.Semaphore(MOST_BODIES)

    def ready() -> ServedRun:
        if not loading.done():
            raise HTTPException(503, "The network is being loaded.", {"Retry-After": "1"})
        return loading.result()

    async def image_file(request: Request) -> AsyncIterator[bytes]:
        """Yield the request's body, which is refused as soon as it is known to be too large."""
        too_large = HTTPException(413, f"An image file has at most {MOST_BYTES >> 20} MiB.")
        if int(request.headers.get("content-length", 0)) > MOST_BYTES:
            raise too_large
        async with places:
            body = bytearray()
            try:
                async with asyncio.timeout(SECONDS_TO_SEND):
                    async for part in request.stream():
                        body += part
                        if len(body) > MOST_BYTES:
                            raise too_large
            except ClientDisconnect:  # or else the log would hold a page about it
                raise HTTPException(400, "The caller has gone.") from None
            except TimeoutError:
                raise HTTPException(408, f"No whole image in {SECONDS_TO_SEND} s.") from None
            yield bytes(body)

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """The process lives."""
        return {"status": "alive"}

    @app.get("/readyz")
    async def readyz() -> dict[str, str]:
        """The network is loaded and has answered once."""
        return ready().who()

    content = {"image/*": {"schema": {"type": "string", "format": "binary"}}}

    @app.post("/predict", openapi_extra={"requestBody": {"required": True, "content": content}})
    def predict(file: Annotated[bytes, Depends(image_file)]) -> dict[str, Any]:
        """What the image shows. It runs in a thread, so that nobody else waits."""
        try:
            return ready().answer(file)
        except decode.BadImage as reason:
            expected = "Send the bytes of one image file, as curl --data-binary @FILE does."
            raise HTTPException(422, f"The body {reason}. {expected}") from None

    return app


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens there, port 0 being any free one; UserError if it can't."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{host}:{port}: {reason}. Choose another --port or --host") from None
    # asyncio does this only for sockets that it made; without it every answer takes 40 ms longer.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def serve(folder: Path, listening: socket.socket) -> None:
    """Answer requests until a signal comes: what runs is finished, then the signal is raised.

    Raises UserError if the run can't be served.
    """
    host, port = listening.getsockname()[:2]

    def say(loading: "Future[ServedRun]") -> None:
        if loading.exception():
            server.should_exit = True
        else:
            print(f"{shown(folder)} answers at http://{host}:{port}/predict", flush=True)

    with ThreadPoolExecutor(1) as aside:
        loading = aside.submit(ServedRun, folder)
        config = uvicorn.Config(
            build_app(loading),
            log_level="warning",
            timeout_graceful_shutdown=SECONDS_TO_SEND,
            server_header=False,
        )
        server = uvicorn.Server(config)
        loading.add_done_callback(say)
        server.run(sockets=[listening])
        loading.result()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make serve", description=__doc__)
    parser.add_argument("--run", default="latest", help="a run's folder, or latest")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0: any machine may ask")
    parser.add_argument("--port", type=int, default=8000, help="0: any free one")
    options = parser.parse_args(arguments)
    quiet_lightning()
    prefer_idle_gpus()
    Image.MAX_IMAGE_PIXELS = MOST_PIXELS // 2  # Pillow warns above it, refuses above twice as many
    try:
        folder = find_run(project_root(), options.run)
        with listen(options.host, options.port) as listening:
            serve(folder, listening)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
