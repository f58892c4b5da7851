"""Ctrl-C and SIGTERM: outside of training they end the program at once, inside when the step is
over and saved."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
ONE_MORE = 1.0  # seconds: torchrun repeats at once what the terminal sends, a person takes longer


class Interrupted(BaseException):
    """The program is to end: `reason` is SIGINT, SIGTERM, or the flag that asked for it.

    `saved` says whether the run was saved for that.
    """

    def __init__(self, reason: str, saved: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.saved = reason, saved

    @property
    def status(self) -> int:
        """The exit status: 128 plus the signal's number, or 0."""
        return 128 + signal.Signals[self.reason] if self.reason.startswith("SIG") else 0


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
        before = {number: signal.getsignal(number) for number in SIGNALS}
        self.listen()
        try:
            yield
        finally:
            for number in SIGNALS:
                signal.signal(number, before[number])

    def listen(self) -> None:
        """Take both signals, also from others that took them since."""
        for number in SIGNALS:
            signal.signal(number, self._hear)

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
