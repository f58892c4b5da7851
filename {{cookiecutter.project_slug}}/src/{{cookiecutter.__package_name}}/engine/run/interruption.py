"""Handle Ctrl-C, SIGTERM, a closed terminal (SIGHUP) and a cluster's warnings (SIGUSR1 …).

Outside of training they end the program at once. During training all processes of the run finish
the step and save first.
"""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from ..ranks import is_launched

# Clusters announce with one of the last three that a job's time is over soon.
SIGNALS: tuple[signal.Signals, ...] = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SIGNALS += (signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)
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
        self.held, self.late = 0, False  # depth of undisturbed(), and whether it held a signal

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle the signals within the block."""
        before = self.listen()
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def listen(self) -> dict[signal.Signals, Any]:
        """Install the handler for the signals and return the previous handlers.

        What is to be ignored stays ignored, such as a closed terminal by `nohup`.
        """
        asking = (signal.SIGINT, signal.SIGTERM)
        heard = [s for s in SIGNALS if s in asking or signal.getsignal(s) is not signal.SIG_IGN]
        return {number: signal.signal(number, self._receive) for number in heard}

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """Complete the block although a signal arrives; raise Interrupted at its end then."""
        self.held += 1
        try:
            yield
        finally:
            self.held -= 1
        if self.late and not self.held and self.signal:
            self.late = False
            raise Interrupted(self.signal.name)

    def _receive(self, number: int, frame: Any) -> None:
        if os.getpid() != self.process:
            return  # a loader worker: it ends with its training process
        if number == signal.SIGHUP:
            drop_closed_terminal()
        now, received = time.monotonic(), self.signal
        self.signal = received or signal.Signals(number)
        if self.held:
            self.late = True
            return
        repeated = received and now - self.received_at > REPEAT_WINDOW
        second_signal = repeated and number == signal.SIGINT
        if second_signal or not self.waits:
            raise Interrupted(self.signal.name)
        if received:
            return
        self.received_at = now
        if not is_launched():  # of several processes, rank 0 says it once all know
            message = f"\n{self.signal.name}: finishing this step, then saving and exiting.\n"
            with suppress(OSError):
                os.write(2, message.encode())


def drop_closed_terminal() -> None:
    """Send output nowhere if its terminal is gone: printing would fail and end the program."""
    for output in (1, 2):
        try:
            os.write(output, b"")
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, output)
            os.close(nowhere)
