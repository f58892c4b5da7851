"""Report an error in the project's own code: its file, line and message first.

A project's own code is what is neither the engine nor installed. An error belongs to it if none of
the engine's functions was called after it: a library may have been.
"""

import linecache
import os
import re
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from .paths import shown

ENGINE = Path(__file__).resolve().parent
INSTALLED = tuple(
    Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "purelib", "platlib")
)
SWITCH = "FULL_TRACEBACK"  # a variable; if it is set, Python prints every call
# A call in the text of an error, as torch's loaders and compiler quote it.
QUOTED = re.compile(r'File "([^"\n]+)", line (\d+), in (\S+)')


class Call(NamedTuple):
    """A call in a traceback."""

    file: Path
    line: int
    function: str

    @property
    def is_engines(self) -> bool:
        return self.file.is_relative_to(ENGINE)

    @property
    def is_own(self) -> bool:
        return not self.is_engines and not is_installed(self.file) and self.file.is_file()

    @property
    def source(self) -> str:
        return linecache.getline(str(self.file), self.line).strip()

    def __str__(self) -> str:
        return f"{shown(self.file)}, line {self.line}, in {self.function}"


def is_installed(file: Path) -> bool:
    """Return whether a file belongs to Python or to an installed package."""
    installed = any(file.is_relative_to(folder) for folder in INSTALLED)
    return installed or "site-packages" in file.parts


def place_of(function: Callable) -> str:
    """Return file, line and name of a function."""
    while isinstance(function, partial):
        function = function.func
    code = getattr(function, "__code__", None)
    name = getattr(function, "__name__", type(function).__name__)
    return (
        f"{shown(Path(code.co_filename))}, line {code.co_firstlineno}: {name}()" if code else name
    )


def source_of_result(function: Callable, *arguments: Any) -> str:
    """Call a function once more; return file, line and name of the own code that made its result.

    Of calls that pass the same object on, it is the innermost. If none is found, it is `function`.
    """
    returned: list[tuple[Call, Any]] = []
    result, source = None, place_of(function)

    def watch(frame: FrameType, event: str, value: Any) -> None:
        if event == "return":
            code = frame.f_code
            found = Call(Path(code.co_filename).resolve(), frame.f_lineno, code.co_name)
            if found.is_own:
                returned.append((found, value))

    before = sys.getprofile()
    sys.setprofile(watch)
    try:
        result = function(*arguments)
    except Exception:
        return source
    finally:
        sys.setprofile(before)
    for call, value in reversed(returned):
        if value is not result:
            break
        source = f"{shown(call.file)}, line {call.line}: {call.function}()"
    return source


def report(error: BaseException) -> str | None:
    """Return a report of an error in the project's own code; None for any other error."""
    if not isinstance(error, Exception) or os.environ.get(SWITCH):
        return None
    found = _found(error)
    if found is None:
        return None
    calls, cause = found
    own = [call for call in calls if call.is_own]
    *callers, place = own
    left_out = len(calls) - len(own)
    lines = [f"error in your code: {place}: {_message(cause)}", f"    {place.source}"]
    for call in reversed(callers):
        lines += [f"  called from {call}", f"    {call.source}"]
    lines.append(f"  ({left_out} calls of the engine and of libraries are left out; {SWITCH}=1")
    lines[-1] += " shows them)"
    return "\n".join(lines)


def own_calls(error: BaseException) -> list[Call]:
    """Return the calls that led to an error in the project's own code, the first one first.

    Return [] if the error is not in it.
    """
    found = _found(error)
    return found[0] if found is not None else []


def _found(error: BaseException) -> tuple[list[Call], BaseException] | None:
    """Return the calls that led into the project's own code, and the error that it raised."""
    for cause in _causes(error):
        for calls in (_syntax(cause), _raised(cause), _quoted(cause)):
            ours = [call for call in calls if call.is_own or call.is_engines]
            if ours and ours[-1].is_own:
                return calls, cause
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, and those that it was raised from or while they were handled."""
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        yield found
        seen.add(id(found))
        hidden = found.__suppress_context__
        found = found.__cause__ or (None if hidden else found.__context__)


def _syntax(error: BaseException) -> list[Call]:
    if not isinstance(error, SyntaxError) or error.filename is None:
        return []
    return [Call(Path(error.filename).resolve(), error.lineno or 1, "this file")]


def _raised(error: BaseException) -> list[Call]:
    frames = traceback.extract_tb(error.__traceback__)
    return [Call(Path(f.filename).resolve(), f.lineno or 1, f.name) for f in frames]


def _quoted(error: BaseException) -> list[Call]:
    found = QUOTED.findall(str(error))
    return [Call(Path(file).resolve(), int(line), function) for file, line, function in found]


def _message(error: BaseException) -> str:
    """Return type and text of an error; of one that quotes another process, only its last line."""
    text = str(error).strip()
    if "Original Traceback" in text:
        return text.splitlines()[-1].strip()
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg}"
    return "".join(traceback.format_exception_only(error)).strip()
