"""Handle Ctrl-C and SIGTERM.

Outside of training they end the program at once. During training all processes of the run finish
the step and save first.
"""

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
REPEAT_WINDOW = 1.0  # seconds: torchrun repeats the terminal's Ctrl-C at once, a person later
SECONDS_BETWEEN = 0.5  # two all-reduces


class Interrupted(BaseException):
    """Ends the program. `reason` is a signal's name or a flag; `saved`: there is a checkpoint."""

    def __init__(self, reason: str, saved: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.saved = reason, saved

    @property
    def status(self) -> int:
        """The exit status: 128 plus the signal's number, or 0."""
        return 128 + signal.Signals[self.reason] if self.reason.startswith("SIG") else 0


@contextmanager
def passing_on_sigterm(process: subprocess.Popen) -> Iterator[None]:
    """Forward SIGTERM to a child process within the block. The terminal sends Ctrl-C to both."""
    before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class Interruption:
    """The signal that was received, if any. `waits` is true while training checks for it."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self.waits = False
        self.received_at = 0.0
        self.process = os.getpid()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle both signals within the block."""
        before = self.listen()
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def listen(self) -> dict[signal.Signals, Any]:
        """Install the handler for both signals and return the previous handlers."""
        return {number: signal.signal(number, self._receive) for number in SIGNALS}

    def _receive(self, number: int, frame: Any) -> None:
        if os.getpid() != self.process:
            return  # a loader worker: it ends with its training process
        now, received = time.monotonic(), self.signal
        self.signal = received or signal.Signals(number)
        repeated = received and now - self.received_at > REPEAT_WINDOW
        second_signal = repeated and number == signal.SIGINT
        if second_signal or not self.waits:
            raise Interrupted(self.signal.name)
        if not received:
            self.received_at = now
            message = f"\n{self.signal.name}: finishing this step, then saving and exiting.\n"
            os.write(2, message.encode())


class RankConsensus:
    """Makes all ranks agree on signals and saves, about twice a second.

    A signal may reach only one process, and clocks differ, but all ranks call `agree` equally
    often. So they all-reduce after a number of calls: as many as rank 0 makes in half a second.
    """

    def __init__(self) -> None:
        self.calls, self.wait_for, self.agreed_at = 0, 1, 0.0

    def agree(self, trainer: L.Trainer, signal: int, save: bool) -> tuple[int, bool]:
        """Return the signal that any rank has received (0: none), and whether rank 0 wants to save.

        Return (0, False) between two all-reduces.
        """
        if trainer.world_size == 1:
            return signal, save
        self.calls += 1
        if self.calls < self.wait_for:
            return 0, False
        now = time.monotonic()
        calls = round(self.calls / max(now - self.agreed_at, 1e-3) * SECONDS_BETWEEN)
        proposal = [signal, save, calls] if is_rank_zero() else [signal, 0, 0]
        agreed = torch.tensor(proposal, device=trainer.strategy.root_device)
        torch.distributed.all_reduce(agreed, torch.distributed.ReduceOp.MAX)
        signal, due, calls = agreed.tolist()
        self.calls, self.agreed_at, self.wait_for = 0, now, min(max(calls, 1), 10_000)
        return signal, bool(due)
