"""Read the settings of a class from its source: names, defaults and the Args of its docstring.

Nothing is imported, so help is fast. A class that can't be read this way raises Unreadable.
"""

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple


class Unreadable(Exception):
    """The class is not in the file, or only running code would create it."""


class Setting(NamedTuple):
    """An argument of __init__. `default` is in YAML, None if there is no default."""

    name: str
    default: str | None
    help: str


def settings_of(named: str | type, package: str) -> list[Setting]:
    """Return the settings of a class, given as such or as `.module:Class` of a package.

    Raises Unreadable.
    """
    if isinstance(named, str):
        module, _, name = named.partition(":")
        return read_settings(_file_of(module, package), name)
    file = getattr(sys.modules.get(named.__module__), "__file__", None)
    if file is None:
        raise Unreadable(f"{named.__name__} has no source file")
    return read_settings(Path(file), named.__qualname__)


def _file_of(module: str, package: str) -> Path:
    """Return the file of a module; a name such as `.data` is relative to the package."""
    dots = len(module) - len(module.lstrip("."))
    names = module.lstrip(".").split(".")
    parts = [*package.split(".")[: 1 - dots or None], *names] if dots else names
    top = getattr(sys.modules.get(parts[0]), "__path__", None)
    if not top:
        raise Unreadable(f"{module} is not part of this project")
    return _existing(Path(top[0]).joinpath(*filter(None, parts[1:])))


def _existing(path: Path) -> Path:
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if file.is_file():
            return file
    raise Unreadable(f"there is no {path.name}.py")


@cache
def _parsed(file: Path) -> ast.Module:
    try:
        return ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError) as error:
        raise Unreadable(f"{file.name} can't be read: {error}") from error


def read_settings(file: Path, name: str) -> list[Setting]:
    """Return the settings of a class in a file, with those that it passes on as **kwargs.

    Raises Unreadable.
    """
    found = _find(file, name)
    if found is None:
        raise Unreadable(f"{file.name} has no class {name}")
    file, node = found
    init = next((part for part in node.body if _is_init(part)), None)
    assert init is None or isinstance(init, ast.FunctionDef)
    own = list(_arguments(init, node)) if init else list(_fields(node))
    for other in _takers_of_the_rest(init, node):
        if _find(file, other):
            names = {setting.name for setting in own}
            own += [s for s in read_settings(file, other) if s.name not in names]
            break
    return own


def _takers_of_the_rest(init: ast.FunctionDef | None, node: ast.ClassDef) -> list[str]:
    """Return the names of the classes that get the **kwargs of __init__."""
    bases = [base.id for base in node.bases if isinstance(base, ast.Name)]
    if init is None:
        return bases
    if init.args.kwarg is None:
        return []
    rest = init.args.kwarg.arg
    built = [
        call.func.id
        for call in ast.walk(init)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name)
        for keyword in call.keywords
        if keyword.arg is None and isinstance(keyword.value, ast.Name) and keyword.value.id == rest
    ]
    return built or bases


def _fields(node: ast.ClassDef) -> Iterator[Setting]:
    """Yield the fields of a dataclass."""
    decorators = [d.func if isinstance(d, ast.Call) else d for d in node.decorator_list]
    if any(isinstance(d, ast.Name) and d.id == "dataclass" for d in decorators):
        helps = _helps(ast.get_docstring(node))
        for part in node.body:
            if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
                name = part.target.id
                yield Setting(name, _as_yaml(part.value), helps.get(name, ""))


def _is_init(part: ast.stmt) -> bool:
    return isinstance(part, ast.FunctionDef) and part.name == "__init__"


def _find(file: Path, name: str) -> tuple[Path, ast.ClassDef] | None:
    """Return a class and its file, following imports from files beside or above."""
    for node in ast.walk(_parsed(file)):
        if isinstance(node, ast.ClassDef) and node.name == name.rpartition(".")[2]:
            return file, node
    for node in ast.walk(_parsed(file)):
        if isinstance(node, ast.ImportFrom) and node.level:
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    names = node.module.split(".") if node.module else []
                    home = _existing(file.parents[node.level - 1].joinpath(*names))
                    return _find(home, alias.name)
    return None


def _arguments(init: ast.FunctionDef, owner: ast.ClassDef) -> Iterator[Setting]:
    helps = _helps(ast.get_docstring(owner)) | _helps(ast.get_docstring(init))
    positional = [*init.args.posonlyargs, *init.args.args]
    without = [None] * (len(positional) - len(init.args.defaults))
    defaults = [*without, *init.args.defaults, *init.args.kw_defaults]
    pairs = [*zip([*positional, *init.args.kwonlyargs], defaults, strict=True)]
    for argument, default in pairs[bool(positional) :]:  # without self
        yield Setting(argument.arg, _as_yaml(default), helps.get(argument.arg, ""))


def _as_yaml(default: ast.expr | None) -> str | None:
    if default is None:
        return None
    try:
        return in_yaml(ast.literal_eval(default))
    except (ValueError, TypeError):  # a name or a call
        return ast.unparse(default)


def in_yaml(value: Any) -> str:
    """Return a value as it is written after a flag."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value) or "''"


def _helps(docstring: str | None) -> dict[str, str]:
    """Return the description of each argument under Args: in a docstring, as one line."""
    _, _, section = (docstring or "").partition("Args:\n")
    section = re.split(r"\n(?=\S)", section)[0]
    entry = r"^ {4}\*{0,2}(\w+)[^:\n]*:\s*(.*(?:\n(?: {5,}.*)?)*)"
    entries = re.findall(entry, section, re.MULTILINE)
    return {name: " ".join(text.split()).removesuffix(".") for name, text in entries}
