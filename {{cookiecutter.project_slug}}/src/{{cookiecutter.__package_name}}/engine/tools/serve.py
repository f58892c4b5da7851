"""Serve a run's best network over HTTP: a request in, a prediction out.

A request is what the project's `read` takes; for images, the bytes of a file. If the content type
is JSON, it is parsed first, and may hold several requests if the project has `several`. The
network's input is the same as in evaluation. Anyone who can reach the port can use it, so by
default it listens only on this machine.
"""

import argparse
import asyncio
import functools
import json
import os
import socket
import threading
from collections.abc import AsyncIterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import torch
import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Request
from starlette.requests import ClientDisconnect

from .. import decisions
from ..artifacts import artifacts_of
from ..cli.project import Project
from ..data.order import fixed_lengths
from ..data.rows import as_rows
from ..errors import UserError
from ..hardware import this_machine
from ..model.objectives import labels_above
from ..paths import project_root, shown
from ..run.digests import digest
from ..run.folder import find_run
from .trained import load_trained

MAX_BYTES = 20 * 2**20  # per request
MAX_BODIES = 32  # in memory at a time; further requests wait
MAX_READING = 4  # requests decoded at a time
MAX_SEVERAL = 1024  # requests in one body
ROWS = 32  # of them computed at a time
TIMEOUT = 30  # seconds to receive a request, or to finish requests after SIGTERM
AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


class BadRequest(Exception):
    """The request can't be read; the message is the reason."""


class ServedRun:
    """The best network of a run, on the GPU if there is one.

    Raises UserError if the project has no `read`, the run has no intact checkpoint, or its weights
    do not fit the current source.
    """

    def __init__(self, project: Project, folder: Path, **of_read: bool) -> None:
        if project.read is None:
            raise UserError(
                "This project can't read requests. Pass read= to main() in __main__.py."
            )
        self.read = functools.partial(project.load(project.read), **of_read)
        self.several = project.load(project.several)
        task, self.facts, self.classes = load_trained(project, folder)
        self.folder, self.name = folder, shown(folder)
        machine = this_machine()
        kind = decisions.accelerator(machine).value
        precision = decisions.precision(machine, kind).value
        self.device, dtype = torch.device(kind), AUTOCAST.get(precision)
        self.precision = functools.partial(torch.autocast, kind, dtype, enabled=dtype is not None)
        if kind == "cuda":
            torch.set_float32_matmul_precision("high")  # as training does
        if "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(decisions.threads_per_process(machine, 1))
        self.weights_sha256 = digest(task.state_dict())
        self.task = task.for_export().to(self.device).eval()
        self.reading = threading.Semaphore(MAX_READING)
        self.computing = ThreadPoolExecutor(1)  # one prediction at a time, on all threads

    def answer(self, body: Any) -> dict[str, Any]:
        """Return the prediction for a request, or those for several. Raises BadRequest."""
        requests = self.several(body, self.facts) if self.several else None
        if requests is None:
            return self._answers([body])[0] | self.identity()
        unit = self.facts.unit
        if not 1 <= len(requests) <= MAX_SEVERAL:
            raise BadRequest(f"has {len(requests):,} {unit}; expected 1 to {MAX_SEVERAL:,}")
        return {"predictions": self._answers(requests), **self.identity()}

    def _answers(self, requests: list[Any]) -> list[dict[str, Any]]:
        """Return the prediction for each request, as JSON values."""
        with self.reading, artifacts_of(self.folder):
            batch, problems, *notes = self.read(requests, self.facts)
        if problems:
            raise BadRequest(_reason(problems, len(requests), self.facts.unit))
        predictions = self._predictions(as_rows(batch))
        said = notes[0] if notes else {}
        return [self._described(each) | said.get(i, {}) for i, each in enumerate(predictions)]

    def _described(self, prediction: Any) -> dict[str, Any]:
        if not isinstance(prediction, list) or len(prediction) != len(self.classes or ()):
            return {"prediction": prediction}
        probabilities = dict(zip(self.classes, prediction, strict=True))
        if self.facts.several:
            labels = labels_above(prediction, self.classes)
            return {"labels": labels, "probabilities": probabilities}
        best = max(range(len(prediction)), key=prediction.__getitem__)
        return {
            "class": self.classes[best],
            "probability": prediction[best],
            "probabilities": probabilities,
        }

    def identity(self) -> dict[str, str]:
        return {"run": self.name, "weights_sha256": self.weights_sha256}

    def _predictions(self, rows: Any) -> list[Any]:
        """Return the task's prediction for each row; rows of similar length are computed together.

        Other requests have their turn between the parts.
        """
        lengths, found = rows.lengths, [None] * rows.n
        order = torch.arange(rows.n) if lengths is None else lengths.argsort(stable=True)
        for part in order.split(ROWS):
            length = None if lengths is None else fixed_lengths(lengths[part])[-1]
            batch = rows.take(part, length, None)
            predicted = self.computing.submit(self._predict, batch).result()
            for row, prediction in zip(part.tolist(), predicted, strict=True):
                found[row] = prediction
        return found

    @torch.inference_mode()
    def _predict(self, batch: Any) -> list[Any]:
        """Return the task's prediction for each row of a batch, as JSON values."""
        batch = batch._make(None if part is None else part.to(self.device) for part in batch)
        with self.precision():
            predictions = self.task.predict(self.task(batch))
        if not torch.isfinite(predictions).all():
            raise BadRequest("has no finite prediction")
        return predictions.tolist()


def _reason(problems: dict[int, str], n: int, unit: str) -> str:
    """Return why a body of n requests can't be answered."""
    first = min(problems)
    if n == 1:
        return problems[first]
    which = f"number {first} (counted from 0) {problems[first]}"
    return f"has {n:,} {unit}, {len(problems):,} of which can't be read: {which}"


def build_app(loading: "Future[ServedRun]") -> FastAPI:
    """Return the service. It is alive at once, and ready when its run is loaded."""
    app = FastAPI(title="predictions", docs_url=None, redoc_url=None)  # they need the internet
    slots = asyncio.Semaphore(MAX_BODIES)

    def ready() -> ServedRun:
        if not loading.done():
            raise HTTPException(503, "The network is still loading.", {"Retry-After": "1"})
        return loading.result()

    async def body_of(request: Request) -> AsyncIterator[Any]:
        _refuse_above(MAX_BYTES, int(request.headers.get("content-length", 0)))
        async with slots:
            yield await _read_body(request)

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """The process is running."""
        return {"status": "alive"}

    @app.get("/readyz")
    async def readyz() -> dict[str, str]:
        """The network is loaded."""
        return ready().identity()

    binary = {"schema": {"type": "string", "format": "binary"}}
    content = {"*/*": binary, "application/json": {"schema": {}}}

    @app.post("/predict", openapi_extra={"requestBody": {"required": True, "content": content}})
    def predict(body: Annotated[Any, Depends(body_of)]) -> dict[str, Any]:
        """The prediction for a request."""
        try:
            return ready().answer(body)
        except BadRequest as reason:
            is_file = isinstance(body, bytes)
            read_as = "a file, not as application/json" if is_file else "application/json"
            raise HTTPException(422, f"The body {reason}. It was read as {read_as}.") from None

    return app


async def _read_body(request: Request) -> Any:
    """Return a request's body: bytes or parsed JSON.

    Raises HTTPException as soon as the body is too large or too slow, or if it is invalid JSON.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(TIMEOUT):
            async for part in request.stream():
                body += part
                _refuse_above(MAX_BYTES, len(body))
    except ClientDisconnect:  # not an error: keep its traceback out of the log
        raise HTTPException(400, "The client has disconnected.") from None
    except TimeoutError:
        raise HTTPException(408, f"The request did not arrive within {TIMEOUT} s.") from None
    is_json = request.headers.get("content-type", "").startswith("application/json")
    return _parsed(bytes(body)) if is_json else bytes(body)


def _refuse_above(limit: int, size: int) -> None:
    if size > limit:
        raise HTTPException(413, f"The request is too large; the limit is {limit >> 20} MiB.")


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError as error:
        raise HTTPException(422, f"The body is not valid JSON: {error}.") from None


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens there; port 0 is any free port. Raises UserError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{host}:{port}: {reason}. Choose another --port or --host") from None
    # asyncio does this only for its own sockets; without it each response takes 40 ms longer.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def serve(project: Project, folder: Path, listening: socket.socket, **of_read: bool) -> None:
    """Serve requests until a signal arrives; finish running requests, then raise the signal.

    `of_read` are arguments of the project's read(). Raises UserError if the run can't be served.
    """
    host, port = listening.getsockname()[:2]

    def report(loading: "Future[ServedRun]") -> None:
        if loading.exception():
            server.should_exit = True
        else:
            print(f"{shown(folder)}: listening on http://{host}:{port}/predict", flush=True)

    with ThreadPoolExecutor(1) as loader:
        loading = loader.submit(ServedRun, project, folder, **of_read)
        config = uvicorn.Config(
            build_app(loading),
            log_level="warning",
            timeout_graceful_shutdown=TIMEOUT,
            server_header=False,
        )
        server = uvicorn.Server(config)
        loading.add_done_callback(report)
        server.run(sockets=[listening])
        loading.result()


def main(project: Project, options: argparse.Namespace, flags: list[str]) -> int:
    folder = find_run(project_root(), options.run)
    try:
        with listen(options.host, options.port) as listening:
            of_read = {flag: getattr(options, flag) for flag in project.read_flags}
            serve(project, folder, listening, **of_read)
    except KeyboardInterrupt:
        return 130
    return 0
