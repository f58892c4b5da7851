"""Where progress is shown: a bar in a terminal or a notebook, or lines in a log."""

import os
import shutil
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Protocol

WIDEST_BAR, NARROWEST_BAR = 24, 5
ERASE_TO_END = "\x1b[K"

Needed = Sequence[Sequence[str]]  # what has to be shown, in longer and shorter words


class Display(Protocol):
    """Shows a share of the work done, and texts: extras may be left out, `needed` may not."""

    seconds: float  # between two updates

    def show(self, share: float, extras: Sequence[str], needed: Needed) -> None: ...
    def close(self) -> None: ...


class TerminalBar:
    """One line of a terminal, as wide as it is at each update."""

    seconds = 0.5

    def __init__(self) -> None:
        self.full = "█" if _can_write("█") else "#"

    def show(self, share: float, extras: Sequence[str], needed: Needed) -> None:
        text = fitted(share, extras, needed, _columns() - 1, self.full)
        with suppress(OSError):  # the terminal was closed, and training goes on
            sys.stderr.write(f"{text}{ERASE_TO_END}\r")  # other messages begin there
            sys.stderr.flush()

    def close(self) -> None:
        with suppress(OSError):
            sys.stderr.write("\n")
            sys.stderr.flush()


class NotebookBar:
    """One widget of Jupyter with the text beside it."""

    seconds = 0.5

    def __init__(self) -> None:
        from tqdm.notebook import tqdm_notebook

        self.bar: Any = tqdm_notebook(total=1.0, bar_format="{percentage:3.0f}%{bar} {desc}")

    def show(self, share: float, extras: Sequence[str], needed: Needed) -> None:
        self.bar.n = min(share, 1.0)
        self.bar.set_description_str("  ".join([*extras, *needed[0]]))

    def close(self) -> None:
        self.bar.close()


class Lines:
    """A line a minute, for a log."""

    seconds = 60.0

    def show(self, share: float, extras: Sequence[str], needed: Needed) -> None:
        with suppress(OSError):
            print("  ".join([*extras, *needed[0]]), flush=True)

    def close(self) -> None: ...


def display() -> Display:
    """Return the display for where this process writes to."""
    if "ipykernel" in sys.modules:
        with suppress(ImportError):  # without ipywidgets
            return NotebookBar()
    return TerminalBar() if sys.stderr.isatty() else Lines()


def print_beside(line: str) -> None:
    """Print a line where a bar may be shown."""
    both = sys.stdout.isatty() and sys.stderr.isatty()
    print(f"{ERASE_TO_END if both else ''}{line}\n", flush=True)


def time_left(seconds: float) -> str:
    """Return a duration such as "7 s", "2 min 5 s", "3 h 45 min" or "2 d 3 h"."""
    whole = max(round(seconds), 0)
    if whole < 60:
        return f"{whole} s"
    if whole < 600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(whole / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    hours = round(minutes / 60)
    return f"{hours // 24} d {hours % 24} h"


def fitted(share: float, extras: Sequence[str], needed: Needed, width: int, full: str = "█") -> str:
    """Return a line of at most `width` columns: percentage, bar, extras, and what is needed.

    The bar gives way first, then the last of the extras, then the longer words of what is needed.
    """
    share = min(max(share, 0.0), 1.0)
    percent = f"{share:4.0%}"
    for words in needed:
        for count in range(len(extras), -1, -1):
            text = "  ".join([*extras[:count], *words])
            room = width - len(percent) - len(text)
            bar = min(room - 4, WIDEST_BAR)  # two borders and two spaces
            if bar >= NARROWEST_BAR:
                return f"{percent} |{full * round(share * bar):<{bar}}| {text}"
            if room >= 2:
                return f"{percent}  {text}"
    return " ".join(needed[-1])[: max(width, 0)]


def _columns() -> int:
    """Return the terminal's width now; it may have been resized."""
    with suppress(OSError, ValueError):
        if columns := os.get_terminal_size(sys.stderr.fileno()).columns:
            return columns
    return shutil.get_terminal_size().columns


def _can_write(text: str) -> bool:
    try:
        text.encode(sys.stderr.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True
