"""Serve a run's best network over HTTP: a request in, a prediction out.

A request is what the project's `read` takes: of images, the bytes of a file. JSON is parsed before,
if the request says that it is JSON. The network sees what evaluation would show it.
Whoever reaches the port may ask, so it listens on this machine only, unless told otherwise.
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
from ..cli.project import Project
from ..errors import UserError
from ..hardware import this_machine
from ..model.checks import read_saved
from ..paths import project_root, shown
from ..run.checkpoint_files import find_checkpoint
from ..run.digests import digest
from ..run.folder import find_run
from ..run.record import facts_of
from ..task import Task

MOST_BYTES = 20 * 2**20  # of one request
MOST_BODIES = 32  # in memory at a time; who comes after them waits
MOST_READING = 4  # requests at a time
SECONDS_TO_SEND = 30  # a request; or, after SIGTERM, to finish what runs
AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


class BadRequest(Exception):
    """A request that can't be read; the message is the reason."""


class ServedRun:
    """The best network of a run, on the GPU if there is one.

    Raises UserError if the project reads no requests, the run has no intact checkpoint, or the task
    of this source does not take its weights.
    """

    def __init__(self, project: Project, folder: Path) -> None:
        if project.read is None:
            raise UserError("This project reads no requests: give main() a read=, in __main__.py.")
        self.read = project.load(project.read)
        saved = read_saved(find_checkpoint(folder, "best", "last"), "--run")
        self.facts = facts_of(json.loads((folder / "run.json").read_text())["data"])
        self.name = shown(folder)
        machine = this_machine()
        kind = decisions.accelerator(machine).value
        precision = decisions.precision(machine, kind).value
        self.device, dtype = torch.device(kind), AUTOCAST.get(precision)
        self.precision = functools.partial(torch.autocast, kind, dtype, enabled=dtype is not None)
        if kind == "cuda":
            torch.set_float32_matmul_precision("high")  # as training does
        if "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(decisions.threads_per_process(machine, 1))
        task = _task_of(project, saved, self.name)
        if not all(t.isfinite().all() for t in task.state_dict().values() if t.is_floating_point()):
            raise UserError(f"{self.name} has NaN weights: its training diverged. Serve another.")
        self.weights_sha256 = digest(task.state_dict())
        self.task = task.for_export().to(self.device).eval()
        self.classes = list(saved.get("classes") or self.facts.classes)
        self.reading = threading.Semaphore(MOST_READING)
        self.computing = ThreadPoolExecutor(1)  # alone, and with one set of torch's own threads

    def answer(self, request: Any) -> dict[str, Any]:
        """Return the prediction for a request. Raises BadRequest."""
        with self.reading:
            batch, problems = self.read([request], self.facts)
        if problems:
            raise BadRequest(problems[0])
        prediction = self.computing.submit(self._predict, batch).result()
        if not isinstance(prediction, list) or len(prediction) != len(self.classes or ()):
            return {"prediction": prediction, **self.identity()}
        best = max(range(len(prediction)), key=prediction.__getitem__)
        return {
            "class": self.classes[best],
            "probability": prediction[best],
            "probabilities": dict(zip(self.classes, prediction, strict=True)),
            **self.identity(),
        }

    def identity(self) -> dict[str, str]:
        return {"run": self.name, "weights_sha256": self.weights_sha256}

    @torch.inference_mode()
    def _predict(self, batch: Any) -> Any:
        """Return what the task predicts for a batch of one row, as JSON."""
        batch = batch._make(None if part is None else part.to(self.device) for part in batch)
        with self.precision():
            predictions = self.task.predict(self.task(batch))
        if not torch.isfinite(predictions).all():
            raise BadRequest("has no finite prediction")
        return predictions[0].tolist()


def _task_of(project: Project, saved: dict[str, Any], run: str) -> Task:
    settings = {k: v for k, v in saved.get("hyper_parameters", {}).items() if not k.startswith("_")}
    try:
        task = project.task_class(**settings)
        task.load_state_dict(saved["state_dict"])
    except (TypeError, RuntimeError) as error:  # another signature, other layers
        raise UserError(
            f"The weights of {run} do not fit this source: {' '.join(str(error).split())[:200]} …"
            " Serve a run of this source, or take that of the run, its source.zip."
        ) from error
    return task


def build_app(loading: "Future[ServedRun]") -> FastAPI:
    """Return the service; until its run is loaded it is alive, not ready."""
    app = FastAPI(title="predictions", docs_url=None, redoc_url=None)  # those need the internet
    places = asyncio.Semaphore(MOST_BODIES)

    def ready() -> ServedRun:
        if not loading.done():
            raise HTTPException(503, "The network is being loaded.", {"Retry-After": "1"})
        return loading.result()

    async def body_of(request: Request) -> AsyncIterator[Any]:
        _refuse_above(MOST_BYTES, int(request.headers.get("content-length", 0)))
        async with places:
            yield await _read_body(request)

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """The process lives."""
        return {"status": "alive"}

    @app.get("/readyz")
    async def readyz() -> dict[str, str]:
        """The network is loaded."""
        return ready().identity()

    binary = {"schema": {"type": "string", "format": "binary"}}
    content = {"*/*": binary, "application/json": {"schema": {}}}

    @app.post("/predict", openapi_extra={"requestBody": {"required": True, "content": content}})
    def predict(body: Annotated[Any, Depends(body_of)]) -> dict[str, Any]:
        """The prediction for a request. It runs in a thread, so that nobody else waits."""
        try:
            return ready().answer(body)
        except BadRequest as reason:
            expected = "Send a file as curl --data-binary @FILE does, or JSON as application/json."
            raise HTTPException(422, f"The body {reason}. {expected}") from None

    return app


async def _read_body(request: Request) -> Any:
    """Return a request's body: bytes, or what its JSON holds.

    Raises HTTPException as soon as it is known to be too large, too slow, or no JSON.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(SECONDS_TO_SEND):
            async for part in request.stream():
                body += part
                _refuse_above(MOST_BYTES, len(body))
    except ClientDisconnect:  # or else the log would hold a page about it
        raise HTTPException(400, "The caller has gone.") from None
    except TimeoutError:
        raise HTTPException(408, f"No whole request in {SECONDS_TO_SEND} s.") from None
    is_json = request.headers.get("content-type", "").startswith("application/json")
    return _parsed(bytes(body)) if is_json else bytes(body)


def _refuse_above(limit: int, size: int) -> None:
    if size > limit:
        raise HTTPException(413, f"A request has at most {limit >> 20} MiB.")


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError as error:
        raise HTTPException(422, f"The body is no JSON: {error}.") from None


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


def serve(project: Project, folder: Path, listening: socket.socket) -> None:
    """Answer requests until a signal comes: what runs is finished, then the signal is raised.

    Raises UserError if the run can't be served.
    """
    host, port = listening.getsockname()[:2]

    def say(loading: "Future[ServedRun]") -> None:
        if loading.exception():
            server.should_exit = True
        else:
            print(f"{shown(folder)}: listening on http://{host}:{port}/predict", flush=True)

    with ThreadPoolExecutor(1) as aside:
        loading = aside.submit(ServedRun, project, folder)
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


def main(project: Project, options: argparse.Namespace, flags: list[str]) -> int:
    folder = find_run(project_root(), options.run)
    try:
        with listen(options.host, options.port) as listening:
            serve(project, folder, listening)
    except KeyboardInterrupt:
        return 130
    return 0
