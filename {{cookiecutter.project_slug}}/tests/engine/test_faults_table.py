"""The table in docs/problems.md has messages that are printed, and what goes wrong often."""

import ast
import errno
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

import {{ cookiecutter.__package_name }} as package
from {{ cookiecutter.__package_name }}.engine.paths import project_root
from {{ cookiecutter.__package_name }}.engine.run.record import RunRecord

PLACEHOLDER = "\0"
DIGITS = ("--config", "configs/digits.yaml")
INCEPTION = ("--model.network", "inception_v3", "--model.small_images", "false")
FOLDER = ("--config", "configs/imagefolder.yaml", "--data.options.path")


def quoted() -> list[str]:
    """Return the messages in the first column of the table; … is any text."""
    text = (project_root() / "docs" / "problems.md").read_text()
    rows = re.findall(r"^\| (.+?) \| .+ \|$", text, re.MULTILINE)
    rows = [row for row in rows if row != "message"]  # the heads of tables
    assert len(rows) > 30
    return [message for row in rows for message in re.findall("`(.+?)`", row)]


def matches(message: str, text: str) -> bool:
    parts = (re.escape(part.strip()) for part in message.split("…"))
    return re.search(".*".join(parts), text, re.DOTALL) is not None


def texts_of(source: str) -> Iterator[str]:
    """Yield the strings in a source, without docstrings. Known constants are filled in."""
    tree = ast.parse(source)
    known = {
        target.id: str(node.value.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(_text(part, known) for part in node.values)
        elif isinstance(node, documented) and ast.get_docstring(node) is not None:
            node.body[0].value.value = ""
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def _text(part: ast.expr, known: dict[str, str]) -> str:
    if isinstance(part, ast.Constant):
        return str(part.value)
    name = part.value.id if isinstance(part.value, ast.Name) else ""
    return known.get(name, PLACEHOLDER)


@pytest.fixture(scope="module")
def printed() -> list[str]:
    """All that the engine may print, and the words of the system for its errors and signals."""
    engine = Path(package.__file__).parent / "engine"
    found = [text for file in engine.rglob("*.py") for text in texts_of(file.read_text())]
    found += map(os.strerror, errno.errorcode)
    return found + [signal.strsignal(number) or "" for number in signal.valid_signals()]


@pytest.mark.parametrize("message", quoted())
def test_a_message_of_the_table_is_one_that_is_printed(message, printed):
    assert any(matches(message, text) for text in printed)


def test_docstrings_and_reworded_messages_are_not_found():
    source = (
        '"""All is lost."""\nKIND = "lost"\n\ndef f(x):\n    raise E(f"{x} is {KIND}; find it")\n'
    )
    texts = list(texts_of(source))
    assert any(matches("… is lost; find it", text) for text in texts)
    assert not any(matches("All is lost", text) for text in texts)
    assert not any(matches("… is gone; find it", text) for text in texts)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fit", *DIGITS, "--trainer.max_epoks", "3"), "unknown setting …"),
        (("fit", *DIGITS, "--model.learning_rate", "fast"), "… is …; expected …"),
        (("fit", *DIGITS, "--model.network", "resnet19"), "which is unknown"),
        (("fit", *DIGITS, "--model.learning_rate", "1e30"), "train/loss is … in step …"),
        (("fit", *DIGITS, *INCEPTION), "can't take the data's …"),
        (("fit", *FOLDER, "{}/none"), "does not exist. Create it"),
        (("fit", *FOLDER, "{}/empty"), "holds no images"),
        (("fit", *FOLDER, "{}/classes"), "a class's folder without an image"),
        (("fit", *FOLDER, "{}/table.csv"), "expected path,label[,split]"),
        (("test", "--run", "{}/begun"), "the run ended before its first"),
        (("fit", "--run", "{}/complete"), "To train longer"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_mistake_that_is_made_often_prints_a_message_of_the_table(
    arguments, message, call, tmp_path, capfd
):
    for name in ("empty", "classes/cat", "begun", "complete"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "table.csv").write_text("file,species\n1.png,cat\n")
    for name, state in (("begun", "running"), ("complete", "finished")):
        RunRecord(tmp_path / name).update(state=state)
    assert call(*(argument.format(tmp_path) for argument in arguments)) in (2, 4)
    assert message in quoted()
    assert matches(message, capfd.readouterr().err)
