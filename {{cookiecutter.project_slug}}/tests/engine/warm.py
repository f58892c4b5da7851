"""Start processes in half a second: fork them from one that has imported the libraries.

Each is a real process with its own arguments, environment, files, signals and exit status. This
saves `import torch, lightning`, ten seconds per start. `WarmPopen` is a subprocess.Popen for
`python -m MODULE ...` and `python FILE ...`: the server in `$WARM_SERVER` starts these. The server
ends with the process `$WARM_OWNER`. `$WARM_PYTHON` is the Python to use, if not the caller's.
"""

import atexit
import fcntl
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

SERVER, OWNER, PYTHON = "WARM_SERVER", "WARM_OWNER", "WARM_PYTHON"
LIBRARIES = (
    "lightning.pytorch.cli",
    "lightning.pytorch.loggers",
    "matplotlib.figure",
    "matplotlib.backends.backend_agg",
    "scipy.special",
    "sklearn.datasets",
    "sklearn.model_selection",
    "torch._dynamo",
    "torch._inductor.compile_fx",
    "torch.distributed.run",
    "torchvision",
    "uvicorn",
    "fastapi",
)


def server_address() -> str:
    """Return the address of the server in `$WARM_SERVER`; start the server if necessary."""
    folder = Path(os.environ[SERVER])
    address = folder / "socket"
    with (folder / "lock").open("w") as lock:  # several test processes share it
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not address.exists():
            command = [_python(), __file__, str(address), os.environ[OWNER]]
            with (folder / "log").open("w") as log:  # it may outlive the caller's stderr
                streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": log}
                server = _real_popen(command, start_new_session=True, **streams)
            assert server.stdout and server.stdout.readline() == b"ready\n"
    return str(address)


def _python() -> str:
    return os.environ.get(PYTHON, sys.executable)


_real_popen = subprocess.Popen


class WarmPopen(subprocess.Popen):
    """A subprocess.Popen that starts `python -m MODULE` from the warm server."""

    def __init__(self, args: Sequence[str], **options: Any) -> None:
        self.connection: socket.socket | None = None
        command = list(args) if not isinstance(args, str) else []
        command = [part for i, part in enumerate(command) if not (i == 1 and part == "-u")]
        warm = command[:1] == [_python()] and command[1:2] != ["-c"] and SERVER in os.environ
        if not warm or subprocess.PIPE in map(options.get, ("stdin", "stdout", "stderr")):
            super().__init__(args, **options)
            return
        self.args, self.returncode = args, None
        self.stdin = self.stdout = self.stderr = None
        streams = {1: options.get("stdout"), 2: options.get("stderr")}
        files = {number: _descriptor(stream, number) for number, stream in streams.items()}
        if options.get("stderr") == subprocess.STDOUT:
            files[2] = files[1]
        files |= {number: number for number in options.get("pass_fds", ())}
        order = {
            "arguments": [str(part) for part in command[1:]],
            "environment": dict(options.get("env") or os.environ),
            "folder": str(options.get("cwd") or Path.cwd()),
            "files": list(files),
            "new_session": bool(options.get("start_new_session")),
        }
        self.connection = socket.socket(socket.AF_UNIX)
        self.connection.connect(server_address())
        content = json.dumps(order).encode()
        head = len(content).to_bytes(8, "big")
        socket.send_fds(self.connection, [head], list(files.values()))
        self.connection.sendall(content)
        self.pid = json.loads(self.connection.recv(32))

    def poll(self) -> int | None:
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.connection is None:
            return super().wait(timeout)
        if self.returncode is None:
            self.connection.settimeout(1e-6 if timeout == 0 else timeout)
            try:
                status = os.waitstatus_to_exitcode(json.loads(self.connection.recv(32)))
            except TimeoutError:
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0) from None
            self.returncode = status
        return self.returncode

    def send_signal(self, sig: int) -> None:
        if self.connection is None:
            super().send_signal(sig)
        elif self.poll() is None:
            os.kill(self.pid, sig)

    def __exit__(self, *error: Any) -> None:
        if self.connection is None:
            super().__exit__(*error)
        self.wait()

    def __del__(self, *_: Any) -> None:
        if self.connection is None:
            super().__del__()
        else:
            self.connection.close()


def _descriptor(stream: Any, inherited: int) -> int:
    if stream is None or stream == subprocess.STDOUT:
        return inherited
    if stream == subprocess.DEVNULL:
        return os.open(os.devnull, os.O_RDWR)
    return stream if isinstance(stream, int) else stream.fileno()


def _serve(address: str, owner: int) -> None:
    for name in LIBRARIES:
        with suppress(ImportError):  # only processes that need it fail
            import_module(name)
    # Compile sources once for all processes, even if bytecode must not be written.
    sys.dont_write_bytecode, sys.pycache_prefix = False, f"{address}.cache"
    threading.Thread(target=_end_with, args=(owner,), daemon=True).start()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen()
    os.write(1, b"ready\n")
    while True:
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            _supervise(connection)
        connection.close()


def _end_with(owner: int) -> None:
    with suppress(ProcessLookupError):
        while True:
            os.kill(owner, 0)
            time.sleep(0.5)
    os._exit(0)


def _supervise(connection: socket.socket) -> NoReturn:
    """Fork the requested process, and report its id and its exit status."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    head, received, _, _ = socket.recv_fds(connection, 8, 64)
    content = b""
    while len(content) < int.from_bytes(head, "big"):
        content += connection.recv(1 << 20)
    order = json.loads(content)
    if (child := os.fork()) == 0:
        connection.close()
        _become(order, dict(zip(order["files"], received, strict=True)))
    with suppress(OSError):  # the caller may be gone
        connection.sendall(json.dumps(child).encode())
    for number in received:
        os.close(number)
    _, status = os.waitpid(child, 0)
    with suppress(OSError):
        connection.sendall(json.dumps(status).encode())
    os._exit(0)


def _become(order: dict[str, Any], files: dict[int, int]) -> NoReturn:
    """Run as the requested process, from its environment to its exit status."""
    import torch

    if order["new_session"]:
        os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    files[0] = os.open(os.devnull, os.O_RDONLY)
    spare = {number: os.dup(number) for number in files.values()}  # no target overwrites a source
    for target, number in files.items():
        os.dup2(spare[number], target, inheritable=target > 2)
    for number in {*files.values(), *spare.values()} - files.keys():
        os.close(number)
    os.environ.clear()
    os.environ.update(order["environment"])
    os.chdir(order["folder"])
    if threads := os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(int(threads))
    added = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    is_module = order["arguments"][0] == "-m"
    name, *arguments = order["arguments"][is_module:]
    first = order["folder"] if is_module else str(Path(name).parent)
    sys.path[:1] = [first, *(folder for folder in added if folder)]
    sys.argv = [name, *arguments]
    _replace_popen()
    status: Any = 1
    try:
        if is_module:
            runpy.run_module(name, run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(name, run_name="__main__")
        status = 0
    except SystemExit as end:
        status = end.code
        if isinstance(status, str):
            print(status, file=sys.stderr)
            status = 1
    except BaseException:
        traceback.print_exc()
    with suppress(BaseException):
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status or 0)


def _replace_popen() -> None:
    """Start processes warm from here on, also in modules that import Popen by name: torchrun."""
    for module in list(sys.modules.values()):
        if vars(module).get("Popen") is _real_popen:
            module.Popen = WarmPopen  # type: ignore[attr-defined]


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]))
