"""End a program without first freeing all it has: with a GPU, that takes Python a second."""

import atexit
import os
import sys
from contextlib import suppress
from typing import NoReturn


class QuickExit:
    """Ends the program with a status, after all handlers of atexit that are registered later."""

    def __init__(self) -> None:
        self.status: int | None = None
        atexit.register(self._end)

    def __call__(self, status: int) -> NoReturn:
        self.status = status
        # torch waits a second for its compilers. After a success they have no work left, and end by
        # themselves when this process has. If it was interrupted, they would go on without it.
        compilers = sys.modules.get("torch._inductor.async_compile")
        if compilers and not status:
            atexit.unregister(compilers.shutdown_compile_workers)
        raise SystemExit(status)

    def _end(self) -> None:
        if self.status is None:  # an exception ended the program
            return
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):  # nobody reads it any more, or it is closed
                stream.flush()
        os._exit(self.status)
