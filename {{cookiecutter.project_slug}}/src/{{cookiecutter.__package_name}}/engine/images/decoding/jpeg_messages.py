"""What libjpeg says about damaged JPEG data.

It decodes what it can and writes a line to the process's stderr that names no file. To learn which
file a line is about, stderr goes to a file in memory while images are checked.
"""

import os
import re
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, suppress

FEW_BYTES = 32  # left over before a marker: padding of some encoders, not damage

_DAMAGE = ("premature end", "bad huffman code", "bad arithmetic code", "instead of rst")
_LEFT_OVER = re.compile(r"(\d+) extraneous bytes before marker")
_OURS = re.compile(rb"^(Corrupt JPEG data|Premature end of JPEG|Invalid SOS|Warning:|Inconsistent)")


class _Room:
    """A room for any number of threads at a time, or for one alone."""

    def __init__(self) -> None:
        self.changed, self.inside, self.taken = threading.Condition(), 0, False

    @contextmanager
    def shared(self) -> Iterator[None]:
        with self.changed:
            self.changed.wait_for(lambda: not self.taken)
            self.inside += 1
        try:
            yield
        finally:
            with self.changed:
                self.inside -= 1
                self.changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        with self.changed:
            self.changed.wait_for(lambda: not self.taken)
            self.taken = True
            self.changed.wait_for(lambda: not self.inside)
        try:
            yield
        finally:
            with self.changed:
                self.taken = False
                self.changed.notify_all()


_room = _Room()
_heard: int | None = None  # the descriptor of the file that receives stderr


@contextmanager
def heard() -> Iterator[None]:
    """Receive what C code writes to stderr, for `said_while`. Python's own lines pass.

    What isn't from libjpeg is written to stderr at the end. Without a stderr nothing is received.
    """
    global _heard
    if _heard is not None:
        yield
        return
    with ExitStack() as closing:
        try:
            real = os.dup(2)
            closing.callback(os.close, real)
            file = closing.enter_context(_in_memory())
        except OSError:
            yield
            return
        with suppress(AttributeError, OSError, ValueError):  # not a file, or closed
            sys.stderr.flush()
            if sys.stderr.fileno() == 2:
                passing = open(  # noqa: SIM115
                    real, "w", 1, sys.stderr.encoding, sys.stderr.errors, closefd=False
                )
                closing.enter_context(redirect_stderr(closing.enter_context(passing)))
        os.dup2(file.fileno(), 2)
        _heard = file.fileno()
        try:
            yield
        finally:
            os.dup2(real, 2)
            rest = os.pread(_heard, os.fstat(_heard).st_size, 0)
            _heard = None
            others = [x for x in rest.splitlines(keepends=True) if not _OURS.match(x)]
            os.write(2, b"".join(others))


@contextmanager
def beside_others() -> Iterator[Callable[[], int]]:
    """Let a thread decode beside others in the block. Yield what returns the bytes received so far.

    If they become more, libjpeg has said something, in this thread or another one: see said_while.
    """
    with _room.shared():
        yield _size


def said_while(decode: Callable[[], object]) -> str:
    """Return the lines that libjpeg writes in `decode`, which is called again if there are any."""
    if _heard is not None:
        with beside_others() as received:
            before = received()
            decode()
            if received() == before:
                return ""
    with _room.alone(), heard():  # the lines may be another thread's
        before = _size()
        decode()
        lines = os.pread(_heard, _size() - before, before) if _heard is not None else b""
    texts = lines.decode("ascii", "replace").splitlines()
    return "; ".join(text.removeprefix("Corrupt JPEG data: ") for text in texts)


def means_damage(said: str) -> bool:
    """Return whether libjpeg's lines mean that pixels are wrong."""
    left_over = max(map(int, _LEFT_OVER.findall(said)), default=0)
    return left_over > FEW_BYTES or any(sign in said.lower() for sign in _DAMAGE)


def _size() -> int:
    return os.fstat(_heard).st_size if _heard is not None else 0


def _in_memory():  # type: ignore[no-untyped-def]
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("stderr"), "r+b", 0)
    return tempfile.TemporaryFile(buffering=0)
