"""Progress of work on a known number of rows: rate and time left, if it takes over a second."""

import time

from .bar import Display, display, time_left


class Rate:
    """Shows the progress of `work`, such as "checking images", on n rows of a `unit`."""

    def __init__(self, n: int, work: str, unit: str) -> None:
        self.n, self.work, self.unit = n, work, unit
        self.begun = time.monotonic()
        self.done_before: int | None = None
        self.next_at = self.begun + 1
        self.display: Display | None = None

    def show(self, done: int) -> None:
        """Show that so many rows are done, if the last time was long enough ago.

        Those of the first call took no time.
        """
        if self.done_before is None:
            self.done_before = done
        now, new = time.monotonic(), done - self.done_before
        if now < self.next_at or not new:
            return
        self.display = self.display or display()
        self.next_at = now + self.display.seconds
        rate = new / (now - self.begun)
        left = time_left((self.n - done) / rate)
        extras = [self.work, f"{done:,} of {self.n:,}"]
        needed = (f"{rate:,.0f} {self.unit}/s", f"{left} left"), (f"{rate:,.0f}/s", left)
        self.display.show(done / self.n, extras, needed)

    def close(self) -> None:
        if self.display is not None:
            self.display.close()
