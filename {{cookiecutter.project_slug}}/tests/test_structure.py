"""The rooms of the house: which file may know which, and how large they may be."""

import ast
from pathlib import Path

import pytest

import {{ cookiecutter.__package_name }}

SOURCE = Path({{ cookiecutter.__package_name }}.__file__).parent
LEAVES = {"hardware", "errors", "nvml"}
MAY_KNOW = {
    "errors": set(),
    "hardware": {"errors"},
    "nvml": set(),
    "model": LEAVES,
    "networks": LEAVES | {"model"},
    "data": LEAVES,
    "classifier": LEAVES | {"networks", "model", "data"},
    "run": LEAVES | {"data"},
    "monitor": LEAVES | {"data", "run"},
    "__main__": LEAVES | {"classifier", "model", "data", "run", "monitor"},
    "tools": LEAVES | {"networks", "model", "data", "classifier", "run", "monitor"},
}


def files() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(SOURCE).with_suffix("").parts[0]


def rooms_imported(path: Path) -> set[str]:
    """Return the rooms that a file's relative imports name."""
    here = path.relative_to(SOURCE).parent.parts
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = here[: len(here) - (node.level - 1)]
            names = [node.module] if node.module else [alias.name for alias in node.names]
            found |= {[*base, *name.split(".")][0] for name in names}
    return found


@pytest.mark.parametrize("path", files(), ids=lambda path: path.name)
def test_imports_go_one_way(path):
    if path.name == "__init__.py" and path.parent == SOURCE:
        assert not rooms_imported(path)
        return
    allowed = MAY_KNOW[room(path)] | {room(path)}
    assert rooms_imported(path) <= allowed


def test_training_is_read_in_an_afternoon():
    needed = [path for path in files() if room(path) != "tools"]
    assert sum(len(path.read_text().splitlines()) for path in needed) <= 5216


def test_files_are_small():
    lengths = {path: len(path.read_text().splitlines()) for path in files()}
    for path, length in lengths.items():
        assert length <= (300 if room(path) == "tools" else 200), path
