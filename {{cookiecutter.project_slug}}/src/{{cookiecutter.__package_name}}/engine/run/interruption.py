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

from ..ranks import is_launched

SIGNALS = (signal.SIGINT, signal.SIGTERM)
REPEAT_WINDOW = 1.0  # seconds: torchrun repeats the terminal's Ctrl-C at once, a person later


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
        if received:
            return
        self.received_at = now
        if not is_launched():  # of several processes, rank 0 says it once all know
            message = f"\n{self.signal.name}: finishing this step, then saving and exiting.\n"
            os.write(2, message.encode())
