"""Errors in a project's own code: its file, line and message first, and no setting is blamed."""

import csv
from types import ModuleType

import pytest

from {{ cookiecutter.__package_name }}.classifier import ImageClassifier
from {{ cookiecutter.__package_name }}.data import SOURCES, ImageData
from {{ cookiecutter.__package_name }}.engine import own_code
from {{ cookiecutter.__package_name }}.engine.cli.errors import explain
from {{ cookiecutter.__package_name }}.engine.cli.project import Project
from {{ cookiecutter.__package_name }}.engine.data.order import uniforms
from {{ cookiecutter.__package_name }}.engine.data.sources import load_source
from {{ cookiecutter.__package_name }}.engine.errors import UserError
from {{ cookiecutter.__package_name }}.networks import NETWORKS

SHORT = ("--config", "configs/digits.yaml", "--trainer.max_steps", "2")
CODE = """
import torch
from torch import nn


def number(text):
    return int(text)


def birds(path, share=0.5):
    return {path: number("n/a")}


def decode(path):
    return open(path, encoding="utf-8").read()


class Wrong(nn.Module):
    def __init__(self, what):
        super().__init__()
        self.what, self.weight = what, nn.Parameter(torch.ones(10))

    def forward(self, images):
        if self.what == "type":
            return images.undefined_name
        if self.what == "value":
            raise ValueError("no such layer")
        if self.what == "shape":
            return images.flatten(1).float() @ torch.ones(3, 10)
        return images.float().mean((1, 2, 3))[:, None] * self.weight


def wrong_loss(task, logits, batch):
    return logits.mean() / {}["temperature"]


def wrong_augment(data, batch, uniforms):
    return batch._replace(images=torch.stack([batch.images, batch.labels]))
"""


@pytest.fixture(autouse=True)
def _short_reports(monkeypatch):
    monkeypatch.delenv(own_code.SWITCH)


@pytest.fixture
def own(tmp_path):
    """A file of a student, as a module."""
    file = tmp_path / "mine.py"
    file.write_text(CODE)
    module = ModuleType("mine")
    exec(compile(CODE, str(file), "exec"), vars(module))
    return module


def first_line(capsys) -> str:
    said = capsys.readouterr().err
    assert "Traceback" not in said and "data.options" not in said
    return said[said.index("error") :].splitlines()[0]


def test_an_error_in_a_source_is_the_sources(own, call, monkeypatch, capsys):
    monkeypatch.setitem(SOURCES, "birds", own.birds)
    flags = ("--data.source=birds", "--data.options.path=x.csv")
    assert call("fit", *SHORT, *flags) == 1
    said = capsys.readouterr().err
    first, line, *others = said[said.index("error") :].splitlines()
    assert "mine.py, line 7, in number: ValueError: invalid literal for int()" in first
    assert line == "    return int(text)"
    assert "mine.py, line 11, in birds" in others[0] and "calls of the engine" in others[-1]


@pytest.mark.parametrize("options", [{"pat": 1}, {}, {"path": "x", "part": 2}])
def test_only_options_that_a_source_does_not_take_are_the_options_fault(options, own):
    with pytest.raises(UserError, match=r"data.options do not fit the source 'birds'.*path, share"):
        load_source({"birds": own.birds}, "birds", options)


def test_what_is_no_data_set_is_the_sources_fault():
    with pytest.raises(UserError, match=r"line \d+: listed\(\) returned a list; expected"):
        load_source({"mine": listed}, "mine", {})


def listed() -> list[int]:
    return [1, 2]


@pytest.mark.parametrize(
    ("option", "value", "kind"),
    [
        ("path", 2024, "text"),
        ("val_share", "much", "a number"),
        ("skip_bad", "no", "true or false"),
    ],
)
def test_an_option_of_another_type_is_named(option, value, kind):
    options = {"path": "data/images", option: value}
    with pytest.raises(UserError, match=f"data.options.{option} is .*{value}.*; expected {kind}"):
        load_source(SOURCES, "folder", options)


@pytest.mark.parametrize(
    ("what", "status", "said"),
    [
        ("type", 1, "mine.py, line 25, in forward: AttributeError: 'Tensor' object has no"),
        ("value", 1, "mine.py, line 27, in forward: ValueError: no such layer"),
        ("shape", 2, "mine.py, line 29, in forward: mat1 and mat2 shapes cannot be multiplied"),
    ],
)
def test_an_error_in_a_network_is_the_networks(what, status, said, own, call, monkeypatch, capsys):
    monkeypatch.setitem(NETWORKS, "mine", lambda num_classes, small_images: own.Wrong(what))
    assert call("fit", *SHORT, "--model.network=mine", "--model.small_images=false") == status
    assert said in first_line(capsys)


def test_an_error_while_a_network_is_built_is_the_networks(own, call, monkeypatch, capsys):
    monkeypatch.setitem(NETWORKS, "mine", lambda num_classes, small_images: own.number("many"))
    assert call("fit", *SHORT, "--model.network=mine") == 1
    assert "mine.py, line 7, in number: ValueError" in first_line(capsys)


def test_an_error_in_a_loss_is_the_losss(own, call, monkeypatch, capsys):
    monkeypatch.setattr(ImageClassifier, "loss", own.wrong_loss)
    assert call("fit", *SHORT) == 1
    assert "mine.py, line 34, in wrong_loss: KeyError: 'temperature'" in first_line(capsys)


def test_an_error_in_an_augmentation_is_the_augmentations(own, call, monkeypatch, capsys):
    monkeypatch.setattr(ImageData, "augment", own.wrong_augment)
    assert call("fit", *SHORT) == 1
    assert "mine.py, line 38, in wrong_augment: RuntimeError: stack" in first_line(capsys)


def test_an_undecodable_file_that_a_source_reads_is_no_mystery(own, tmp_path):
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(UnicodeDecodeError) as caught:
        own.decode(tmp_path / "latin.txt")
    assert explain(caught.value) is None
    assert "mine.py, line 15, in decode: UnicodeDecodeError" in own_code.report(caught.value)


def test_an_error_of_a_worker_or_the_compiler_is_found_in_its_text(own):
    with pytest.raises(ValueError, match="n/a") as caught:
        own.number("n/a")
    frame = f'  File "{own.number.__code__.co_filename}", line 7, in number'
    text = "Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback (most recent"
    text += f" call last):\n{frame}\n    return int(text)\nValueError: {caught.value}"
    assert explain(RuntimeError(text)) is None
    first = own_code.report(RuntimeError(text)).splitlines()[0]
    assert "mine.py, line 7, in number: ValueError: invalid literal" in first


def test_the_engines_errors_keep_their_traceback_or_their_line():
    with pytest.raises(TypeError) as caught:
        uniforms(0, 0, "no tensor", 1)
    assert own_code.report(caught.value) is None
    assert explain(csv.Error("line contains NUL")) == "line contains NUL"


def test_the_whole_traceback_can_be_asked_for(own, monkeypatch):
    with pytest.raises(ValueError, match="n/a") as caught:
        own.birds("x")
    assert own_code.report(caught.value) is not None
    monkeypatch.setenv(own_code.SWITCH, "1")
    assert own_code.report(caught.value) is None


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("WIDTH = torch.widths(3)", "line 2, in <module>: AttributeError: module 'torch' has no"),
        ("def broken(:", "line 2, in this file: SyntaxError: invalid syntax"),
        ("import not_installed_here", "line 2, in <module>: ModuleNotFoundError: No module named"),
    ],
)
def test_an_error_in_a_module_is_the_modules(line, said, tmp_path, monkeypatch):
    name = f"mine_{abs(hash(line))}"
    (tmp_path / f"{name}.py").write_text(f"import torch\n{line}\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises((AttributeError, SyntaxError, ImportError)) as caught:
        Project("x", name, "y").load(f"{name}:Task")
    assert f"{name}.py, {said}" in own_code.report(caught.value)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import not_installed_here", "line 3, in <module>: ModuleNotFoundError: No module named"),
        ("", "line 7, in __init__: KeyError: 'depth'"),
    ],
)
def test_an_error_in_a_callback_of_ones_own_is_the_callbacks(
    code, said, call, tmp_path, monkeypatch, capsys
):
    name = f"callback_{len(code)}"
    lines = ["import lightning as L", "", code, "", "class Mine(L.Callback):"]
    lines += ["    def __init__(self, depth: int = 1) -> None:", "        self.depth = {}['depth']"]
    (tmp_path / f"{name}.py").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(tmp_path)
    assert call("fit", *SHORT, f"--trainer.callbacks+={name}.Mine", folder=tmp_path / "run") == 1
    assert f"{name}.py, {said}" in first_line(capsys)


def test_a_name_that_a_module_lacks_is_the_mains():
    with pytest.raises(UserError, match=r"__main__.py names json:Nothing.*Fix the name"):
        Project("x", "json:Nothing", "y").load("json:Nothing")
