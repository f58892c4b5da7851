"""Ctrl-C and SIGTERM: outside of training they end the program at once, inside when the step is
over and saved, and all processes of the run know of it."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch

from ..ranks import is_rank_zero

SIGNALS = (signal.SIGINT, signal.SIGTERM)
ONE_MORE = 1.0  # seconds: torchrun repeats at once what the terminal sends, a person takes longer
SECONDS_BETWEEN = 0.5  # agreements of the processes


class Interrupted(BaseException):
    """The program is to end, for SIGINT, SIGTERM or the flag in `reason`; perhaps it is `saved`."""

    def __init__(self, reason: str, saved: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.saved = reason, saved

    @property
    def status(self) -> int:
        """The exit status: 128 plus the signal's number, or 0."""
        return 128 + signal.Signals[self.reason] if self.reason.startswith("SIG") else 0


@contextmanager
def passing_on_sigterm(process: subprocess.Popen) -> Iterator[None]:
    """Send SIGTERM on to a child for as long as the block lasts; Ctrl-C reaches both by itself."""
    before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class Interruption:
    """Which signal has come, if any. `waits` is true while training looks for it by itself."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self.waits = False
        self.heard_at = 0.0
        self.process = os.getpid()

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Take both signals for as long as the block lasts."""
        before = self.listen()
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def listen(self) -> dict[signal.Signals, Any]:
        """Take both signals, also from others that took them since; return who had them."""
        return {number: signal.signal(number, self._hear) for number in SIGNALS}

    def _hear(self, number: int, frame: Any) -> None:
        if os.getpid() != self.process:
            return  # a worker of the loader: it ends with the process that it reads for
        now, heard = time.monotonic(), self.signal
        self.signal = heard or signal.Signals(number)
        insists = heard and number == signal.SIGINT and now - self.heard_at > ONE_MORE
        if insists or not self.waits:
            raise Interrupted(self.signal.name)
        if not heard:
            self.heard_at = now
            os.write(2, f"\n{self.signal.name}: ends when this step is over and saved.\n".encode())


class Agreement:
    """Asks all processes about twice a second, after as many calls as the first makes in that time.

    Their clocks differ, and a signal may come to one of them alone; but all call it equally often.
    """

    def __init__(self) -> None:
        self.calls, self.wait_for, self.reached_at = 0, 1, 0.0

    def reach(self, trainer: L.Trainer, signal: int, save: bool) -> tuple[int, bool]:
        """Return the signal (0 for none) that anyone has heard, and whether the first would save.

        Between two agreements that is neither.
        """
        if trainer.world_size == 1:
            return signal, save
        self.calls += 1
        if self.calls < self.wait_for:
            return 0, False
        now = time.monotonic()
        calls = round(self.calls / max(now - self.reached_at, 1e-3) * SECONDS_BETWEEN)
        wishes = [signal, save, calls] if is_rank_zero() else [signal, 0, 0]
        agreed = torch.tensor(wishes, device=trainer.strategy.root_device)
        torch.distributed.all_reduce(agreed, torch.distributed.ReduceOp.MAX)
        signal, due, calls = agreed.tolist()
        self.calls, self.reached_at, self.wait_for = 0, now, min(max(calls, 1), 10_000)
        return signal, bool(due)
