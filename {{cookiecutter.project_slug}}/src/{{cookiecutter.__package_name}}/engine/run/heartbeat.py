"""Ends a run of several processes soon after one of them has died, failed or stalled.

The others would wait for it in their next all-reduce. NCCL's own watchdog does not see the calls in
a CUDA graph, so a thread on each rank watches all ranks through torchrun's store.
"""

import json
import os
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch

from .. import ranks
from .record import RunRecord

INTERVAL = 1.0  # seconds between two beats
# Seconds without a beat after which a process on another host is given up. One on the same host is
# seen to run, but may be stopped: it is given up after the stall timeout, whatever the others do.
SILENT = 8.0
GRACE = 2.0  # seconds that a rank with an error has to print it
# What may take long: compiling, validating and saving, by the end of a file's name.
EXCUSES: tuple[str, ...] = ("_dynamo/convert_frame.py", "_inductor/compile_fx.py")
EXCUSES += ("loops/evaluation_loop.py", "run/checkpoint_files.py")
WAITING = ("torch/distributed/", "run/consensus.py")  # in a file's name: it waits for others


@dataclass(frozen=True)
class Beat:
    """What a rank writes once a second. `error` is set once it has failed, `ended` at its end."""

    beats: int = 0
    begun: int = 0  # batches
    finished: int = 0  # batches that the device has finished
    excused: bool = True
    waiting: bool = False
    pid: int = 0
    host: str = ""
    error: str | None = None
    ended: bool = False


class Judge:
    """Finds the rank that keeps the others waiting, from all ranks' beats. It does no I/O."""

    def __init__(self, stall_timeout: float, host: str) -> None:
        self.stall_timeout, self.host = stall_timeout, host
        self.last: dict[int, tuple[int, float]] = {}  # each rank's beats, and since when
        self.progress, self.since = -1, 0.0  # batches that all have finished, and since when

    def verdict(self, beats: Sequence[Beat], now: float, alive: Any) -> tuple[int, str] | None:
        """Return the rank that failed and what happened to it, or None.

        `alive(pid)` tells whether a process of this host runs; `now` is in seconds.
        """
        for rank, beat in enumerate(beats):
            if beat.beats != self.last.get(rank, (-1, now))[0]:
                self.last[rank] = beat.beats, now
            silent = now - self.last.get(rank, (0, now))[1]
            if beat.error is not None:
                return rank, f"failed: {beat.error}"
            if beat.ended or not beat.beats:
                continue
            if beat.host == self.host and not alive(beat.pid):
                return rank, "has died without a message"
            if beat.host != self.host and silent > SILENT:
                return rank, f"has been silent for {silent:.0f} s"
            if silent > self.stall_timeout:
                return rank, f"stalled: it was stopped {silent:.0f} s ago, or its computer hangs"
        return self._stalled(beats, now)

    def _stalled(self, beats: Sequence[Beat], now: float) -> tuple[int, str] | None:
        def answers(rank: int) -> bool:
            return now - self.last[rank][1] < 3 * INTERVAL

        finished = min(beat.finished for beat in beats)
        excused = any(
            beat.ended or (answers(rank) and (beat.excused or not beat.finished))
            for rank, beat in enumerate(beats)
        )
        if excused or finished != self.progress:
            self.progress, self.since = finished, now
        if now - self.since <= self.stall_timeout:
            return None

        def order(rank: int) -> tuple[bool, int, bool]:
            return answers(rank), beats[rank].begun, beats[rank].waiting

        slowest = min(range(len(beats)), key=order)
        return slowest, f"stalled in batch {finished + 1}: no progress for {now - self.since:.0f} s"


class Heartbeat(L.Callback):
    """Watches all ranks from the start of training to its end.

    Args:
        folder: of the run, whose record says why it ended.
        stall_timeout: seconds without a batch after which the slowest rank is ended, and the run.
    """

    def __init__(self, folder: Path, stall_timeout: float) -> None:
        self.folder, self.stall_timeout = folder, stall_timeout
        self.rank, self.size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        self.begun = self.finished = 0
        self.running: deque[torch.cuda.Event] = deque()  # the ends of batches
        self.error: str | None = None
        self.ended = threading.Event()

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.on_gpu = pl_module.device.type == "cuda"
        self.thread = threading.Thread(target=self._watch, daemon=True, name="heartbeat")
        self.thread.start()

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        self.begun += 1

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.on_gpu:
            event = torch.cuda.Event()
            event.record()
            self.running.append(event)
        else:
            self.finished += 1

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.ended.set()
        self.thread.join()  # it writes that this rank has ended

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Tell the others, unless all ranks end together."""
        if isinstance(exception, Exception):
            first = (str(exception) or type(exception).__name__).splitlines()[0]
            self.error = f"{type(exception).__name__}: {first}"
        self.ended.set()

    def _watch(self) -> None:
        store, judge = ranks.store().clone(), Judge(self.stall_timeout, socket.gethostname())
        keys, count = [f"beat/{rank}" for rank in range(self.size)], 0
        while True:
            ended, count = self.ended.wait(INTERVAL if count else 0), count + 1
            store.set(keys[self.rank], json.dumps(asdict(self._beat(count, ended))))
            if ended:
                return
            there = [store.get(key) if store.check([key]) else b"{}" for key in keys]
            beats = [Beat(**json.loads(content)) for content in there]
            if (found := judge.verdict(beats, time.monotonic(), _runs)) is not None:
                self._leave(store, beats[found[0]], *found)

    def _beat(self, count: int, ended: bool) -> Beat:
        while self.running and self.running[0].query():
            self.running.popleft()
            self.finished += 1
        files = list(_files())
        waiting = any(name in file for file in files for name in WAITING)
        return Beat(
            count,
            self.begun,
            self.finished,
            not waiting and any(file.endswith(EXCUSES) for file in files),
            waiting,
            os.getpid(),
            socket.gethostname(),
            self.error,
            ended,
        )

    def _leave(self, store: Any, beat: Beat, rank: int, what: str) -> None:
        """Say what happened, once for all ranks, and end this process and that rank."""
        if beat.error is not None:
            time.sleep(GRACE)
            if self.ended.is_set():
                return
        message = f"rank {rank} {what}"
        if store.compare_set("verdict", "", str(self.rank)).decode() == str(self.rank):
            print(f"error: {message}. The other processes of this run end.", file=sys.stderr)
        if self.rank == 0:
            RunRecord(self.folder).update(state="failed", reason=message)
        if beat.host == socket.gethostname() and _runs(beat.pid) and rank != self.rank:
            os.kill(beat.pid, signal.SIGKILL)
        sys.stderr.flush()
        os._exit(1)


def _files() -> Iterator[str]:
    """Yield the files of the functions that the training thread is in."""
    here: Any = sys._current_frames().get(threading.main_thread().ident or 0)
    while here is not None:
        yield here.f_code.co_filename
        here = here.f_back


def _runs(pid: int) -> bool:
    """Return whether a process of this host runs: a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return not Path("/proc/self/stat").exists() and _answers(pid)
    return state != "Z"


def _answers(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
