"""Progress in a terminal of any width, in a log and in a notebook."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import pytest

import {{ cookiecutter.__package_name }} as package
from {{ cookiecutter.__package_name }}.engine.monitor import bar
from {{ cookiecutter.__package_name }}.engine.monitor.bar import (
    Lines,
    fitted,
    time_left,
)
from {{ cookiecutter.__package_name }}.engine.paths import project_root

EXTRAS = ["epoch 12/300", "val 98.1%", "loss 0.029", "accuracy 100.0%"]
NEEDED = ("91,833 images/s", "3 h 45 min left"), ("91,833/s", "3 h 45 min")
PACKAGE = package.__name__


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (-3, "0 s"),
        (7.4, "7 s"),
        (125, "2 min 5 s"),
        (3570, "1 h 0 min"),
        (13_500, "3 h 45 min"),
        (86_399, "1 d 0 h"),
        (183_600, "2 d 3 h"),
    ],
)
def test_the_time_left_is_in_the_units_of_people(seconds, told):
    assert time_left(seconds) == told


def test_rate_and_time_left_are_shown_at_any_width():
    for width in range(22, 140):
        line = fitted(0.42, EXTRAS, NEEDED, width)
        assert len(line) <= width and "91,833" in line and "3 h 45 min" in line
        assert ("images/s" in line) == (width >= 38)
        assert (" 42%" in line) == (width >= 26)
        assert ("epoch 12/300" in line) == (width >= 52)


def test_the_bar_gives_way_first():
    lines = [fitted(0.5, EXTRAS, NEEDED, width) for width in (200, 120, 105, 96)]
    assert all(extra in line for line in lines for extra in EXTRAS)
    bars = [line.count("█") for line in lines]
    assert bars == sorted(bars, reverse=True) and bars[0] == 12 and bars[-1] == 0


def in_a_terminal(columns: int, resized: int, folder: Path) -> list[tuple[int, str]]:
    """Show progress in a terminal that is resized; return its width and each line."""
    script = (
        "import sys, time\n"
        f"from {PACKAGE}.engine.monitor.bar import TerminalBar\n"
        f"bar = TerminalBar()\n"
        f"for i in range(2):\n"
        f"    bar.show(i / 2, {EXTRAS}, {NEEDED})\n"
        f"    sys.stdin.readline()\n"
        f"bar.close()\n"
    )
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    source = str(Path(package.__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": source, "TERM": "xterm"}
    environment.pop("COLUMNS", None)
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stderr=theirs, env=environment
    ) as child:
        shown = []
        for width in (columns, resized):
            fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
            if shown:
                child.stdin.write(b"\n")
                child.stdin.flush()
            said = b""
            while not said.endswith(b"\r"):
                said += os.read(ours, 4096)
            shown.append((width, said.decode()))
        child.stdin.close()
    os.close(ours)
    os.close(theirs)
    return shown


def test_a_bar_fits_its_terminal_also_after_a_resize(tmp_path):
    for width, said in in_a_terminal(80, 40, tmp_path):
        text = re.sub(r"\x1b\[K|\r", "", said)
        assert 35 <= len(text) < width and "91,833 images/s  3 h 45 min left" in text


def test_a_log_gets_a_line_a_minute(call, capsys, tmp_path, monkeypatch):
    flags = ("--config", "configs/digits.yaml", "--trainer.max_epochs=3")
    started, minutes = time.perf_counter(), iter(range(0, 10**6, 20))
    monkeypatch.setattr(time, "perf_counter", lambda: started + next(minutes))
    assert call("fit", *flags, folder=tmp_path) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if " left" in line]
    assert 5 < len(lines) < 48 and "step 48/48" in lines[-1]
    assert re.fullmatch(r"epoch 1/3  step \d+/48  .*[\d,]+ images/s  .+ left", lines[0])


def test_a_closed_terminal_does_not_end_training(monkeypatch):
    survived = []
    ours, theirs = pty.openpty()
    with suppress(OSError), os.fdopen(theirs, "w") as terminal:  # closing it fails too
        monkeypatch.setattr(sys, "stderr", terminal)
        shown = bar.TerminalBar()
        os.close(ours)
        for _ in range(2):
            shown.show(0.5, EXTRAS, NEEDED)
        shown.close()
        survived.append(True)
    assert survived


def test_a_terminal_without_unicode_gets_a_bar_too(monkeypatch):
    with open(os.devnull, "w", encoding="ascii") as ascii_only:  # noqa: PTH123
        monkeypatch.setattr(sys, "stderr", ascii_only)
        assert bar.TerminalBar().full == "#"
        assert isinstance(bar.display(), Lines)


def test_a_notebook_has_one_bar(monkeypatch):
    monkeypatch.setitem(sys.modules, "ipykernel", None)  # afterwards it is as before
    del sys.modules["ipykernel"]
    import_module("ipykernel")
    shown = bar.display()
    shown.show(0.5, EXTRAS, NEEDED)
    texts = [part.value for part in shown.bar.container.children]
    assert texts[1] == 0.5 and "█" not in texts[0] + texts[2]
    assert "3\u2007h\u200745\u2007min\u2007left" in texts[2]
    shown.close()


def test_make_notebook_opens_the_notebook_in_the_projects_root():
    root = project_root()
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    plain.pop("ARGS", None)  # of the make that runs the tests
    make = ["make", "-n", "notebook"]
    told = subprocess.run(make, cwd=root, env=plain, capture_output=True, text=True)
    command = next(line for line in told.stdout.splitlines() if "jupyter lab" in line).split()
    tools = str(Path(sys.executable).parent)
    environment = os.environ | {"PATH": f"{tools}:{os.environ['PATH']}", "JUPYTER_TOKEN": "abc"}
    with subprocess.Popen(
        [*command[command.index("jupyter") :], "--allow-root", "--port=0"],
        cwd=root,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        said = ""
        while "/lab/tree/notebooks/first_day.ipynb?token" not in said and server.poll() is None:
            said += server.stderr.readline()
        server.terminate()
    assert f"local directory: {root}\n" in said
    assert (root / "notebooks" / "first_day.ipynb").is_file()
