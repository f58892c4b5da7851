"""Help and wrong arguments: fast, on one screen, without importing torch."""

import json
import os
import re
import subprocess
import sys
import textwrap
from importlib import import_module
from pathlib import Path

import pytest
from jsonargparse import ArgumentParser

import {{ cookiecutter.__package_name }} as package
from {{ cookiecutter.__package_name }}.engine.cli.settings import (
    Unreadable,
    read_settings,
    settings_of,
)
from {{ cookiecutter.__package_name }}.engine.cli.verbs import VERBS

PACKAGE = package.__name__
PROGRAM = f"python -m {PACKAGE}"
SOURCE = Path(package.__file__).parents[1]
# The last line of stderr is the CPU time, and the heavy modules that were imported.
MEASURED = """
import json, resource, runpy, sys
package = sys.argv.pop(1)
try:
    runpy.run_module(package, run_name="__main__", alter_sys=True)
finally:
    used = resource.getrusage(resource.RUSAGE_SELF)
    heavy = sorted({"torch", "lightning", "numpy", "matplotlib"} & sys.modules.keys())
    print(json.dumps([used.ru_utime + used.ru_stime, heavy]), file=sys.stderr)
"""


def say(*arguments, source=SOURCE, status=0):
    """Return the program's output; check that it is fast and imports nothing heavy."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, PACKAGE, *arguments],
        env=os.environ | {"PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
    )
    *errors, measured = done.stderr.splitlines()
    assert done.returncode == status, done.stderr
    seconds, heavy = json.loads(measured)
    assert heavy == []
    assert seconds < 1, "0.1 to 0.2 were measured"
    return "\n".join([*done.stdout.splitlines(), *errors])


@pytest.fixture
def changed(tmp_path):
    """Return a function that copies the project's source with a text replaced in one file."""

    def change(file, old, new):
        for path in SOURCE.joinpath(PACKAGE).rglob("*.py"):
            copy = tmp_path / path.relative_to(SOURCE)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(path.read_text())
        text = (tmp_path / PACKAGE / file).read_text()
        assert old in text
        (tmp_path / PACKAGE / file).write_text(text.replace(old, new, 1))
        return tmp_path

    return change


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help_is_fast_and_fits_on_a_screen(verb):
    said = say(*filter(None, [verb]), "--help").splitlines()
    assert said[0].startswith(f"usage: {PROGRAM} {verb or 'VERB'} ")
    assert max(map(len, said)) <= 80
    assert len(said) <= 40


def test_the_programs_help_lists_every_verb():
    said = say("-h")
    assert [verb for verb in VERBS if f"\n  {verb} " not in said] == []


def test_without_arguments_there_is_help_and_status_2():
    assert say(status=2) == say("--help")


def test_help_whose_reader_has_ended_is_no_error():
    command = f"'{sys.executable}' -m {package.__name__} fit --help | true"
    around = os.environ | {"PYTHONPATH": str(Path(package.__file__).parents[1])}
    done = subprocess.run(["sh", "-c", command], env=around, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("verb", ["runs", "prune", "compare"])
def test_runs_are_listed_and_compared_without_torch(verb):
    words = ("no-run", "none") if verb == "compare" else ()
    said = say(verb, *words, status=2 if words else 0)
    assert ("'no-run' is not a run" in said) == bool(words)


def test_the_help_of_fit_begins_with_the_most_used_settings():
    flags = [line.split()[0] for line in say("fit", "--help").splitlines() if line[:4] == "  --"]
    assert flags[:4] == ["--config", "--run", "--elastic", "--until"]
    assert {"--data.source", "--data.batch_size", "--model.network", "--model.learning_rate"} <= {
        *flags
    }
    assert flags[-3:] == ["--trainer.max_epochs", "--trainer.devices", "--trainer.precision"]
    assert "--model.num_classes" not in flags  # it is set from the data


def test_the_engines_flags_are_listed():
    said = " ".join(say("fit", "--help").split())  # wherever the lines break
    assert "also --data." in said and ".global_batch_size, .loader, .workers" in said
    assert "also --model." in said and ".compile, .channels_last" in said


def test_a_new_setting_of_the_project_is_in_the_help(changed):
    source = changed(
        "classifier.py",
        "pretrained: bool | str = ",
        "depth: int = 12,\n        pretrained: bool | str = ",
    )
    path = source / PACKAGE / "classifier.py"
    path.write_text(
        path.read_text().replace(
            "        pretrained: true for",
            "        depth: how deep it is.\n        pretrained: true for",
        )
    )
    said = say("fit", "--help", source=source)
    assert re.search(r"--model\.depth 12 +how deep it is\n", said)


def test_settings_beyond_one_screen_are_listed_by_name(changed):
    many = "".join(f"setting_{i}: int = {i},\n        " for i in range(30))
    source = changed("classifier.py", "label_smoothing: float = 0.0,", f"{many}last: int = 3,")
    said = say("fit", "--help", source=source)
    assert "--model.network" in said and " .last" in said
    assert len(said.splitlines()) <= 40


@pytest.mark.parametrize(
    "old, new",
    [
        ("class ImageClassifier(Task):", "class ImageClassifier(Task)"),  # a syntax error
        ("class ImageClassifier(Task):", "class Other(Task):"),
    ],
)
def test_code_that_cannot_be_read_leaves_the_rest_of_the_help(changed, old, new):
    said = say("fit", "--help", source=changed("classifier.py", old, new))
    assert "--model.…: only --help-all can list these" in said
    assert "--data.batch_size" in said


def test_a_class_of_another_name_and_file_is_found(changed):
    source = changed("__main__.py", ".classifier:ImageClassifier", ".tasks.mine:Mine")
    (source / PACKAGE / "tasks").mkdir()
    (source / PACKAGE / "tasks" / "mine.py").write_text(
        "from ..classifier import ImageClassifier\n\n\n"
        "class Mine(ImageClassifier):\n"
        "    def __init__(self, *, heads: int = 8, **settings):\n"
        "        super().__init__(**settings)\n"
    )
    said = say("fit", "--help", source=source)
    assert "--model.heads 8" in said and "--model.network small_cnn" in said


class Given:
    """A class that is passed itself, not by its name.

    Args:
        width (int): of a layer,
            in neurons.
        name: what it is called.
    """

    def __init__(self, width, name: str = "", *, layers=(1, 2), scale=2**3) -> None: ...


def test_the_settings_of_a_class_are_read_from_its_source():
    assert settings_of(Given, PACKAGE) == [
        ("width", None, "of a layer, in neurons"),
        ("name", "''", "what it is called"),
        ("layers", "(1, 2)", ""),
        ("scale", "2 ** 3", ""),
    ]


def test_classes_that_derive_from_each_other_do_not_hang(tmp_path):
    (tmp_path / "odd.py").write_text("class A(B): ...\n\n\nclass B(A): ...\n")
    with pytest.raises((Unreadable, RecursionError)):
        read_settings(tmp_path / "odd.py", "A")


@pytest.mark.parametrize(
    "word, meant",
    [("fti", "fit"), ("train", "fit"), ("evaluate", "test"), ("benchcheck", "bench-check")],
)
def test_an_unknown_verb_suggests_the_closest(word, meant):
    said = say(word, status=2)
    assert said.startswith(f"error: unknown verb '{word}'. Did you mean {meant}? Verbs: fit, ")
    assert "\n" not in said


def test_an_unknown_option_is_reported_in_one_line():
    said = say("serve", "--prot", "8001", status=2)
    assert (
        said == f"error: unrecognized arguments: --prot 8001. All options: {PROGRAM} serve --help"
    )


def test_a_wrong_value_is_reported_in_one_line():
    said = say("serve", "--port", "web", status=2)
    expected = f"--port is 'web'; expected a whole number. All options: {PROGRAM} serve --help"
    assert said == f"error: {expected}"


def test_all_flags_are_listed_under_the_programs_name(call, capsys):
    assert call("fit", "--help-all") == 0
    said = capsys.readouterr().out
    assert said.startswith(f"usage: {PROGRAM} [options] fit ")
    assert "--trainer.gradient_clip_val" in said and "--data.workers" in said


@pytest.mark.parametrize("named", [".classifier:ImageClassifier", ".data:ImageData"])
def test_help_finds_the_settings_that_the_parser_finds(named):
    module, _, name = named.partition(":")
    parser = ArgumentParser()
    parser.add_class_arguments(getattr(import_module(module, PACKAGE), name))
    found = {setting.name for setting in settings_of(named, PACKAGE)}
    assert found == set(vars(parser.get_defaults()))


def test_torchmetrics_is_imported_when_more_than_lightning_needs_is_used():
    """In a process of its own: here it may be imported already."""
    code = f"""
        import sys
        from {PACKAGE}.engine.cli.later_imports import Later, import_later
        import_later()
        from lightning.pytorch.core.module import Metric
        import torchmetrics
        assert type(torchmetrics) is Later and "torchmetrics.functional" not in sys.modules
        assert torchmetrics.Metric is Metric and not hasattr(torchmetrics, "__wrapped__")
        assert torchmetrics.__version__[0].isdigit() and not hasattr(torchmetrics, "of_nobody")
        assert type(torchmetrics) is Later
        assert issubclass(torchmetrics.MeanMetric, Metric) and type(torchmetrics) is not Later
        import_later()
        assert torchmetrics is sys.modules["torchmetrics"] and torchmetrics.functional.accuracy
        from torchmetrics.classification import BinaryAccuracy
        assert torchmetrics.Accuracy(task="binary").__class__ is BinaryAccuracy
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


def test_a_run_imports_scikit_learn_only_if_its_source_uses_it():
    code = (
        f"import sys; from {PACKAGE}.engine.cli.later_imports import import_later; import_later();"
        f" import {PACKAGE}.engine.cli.command, {PACKAGE}.data; print(*sys.modules)"
    )
    command, surroundings = [sys.executable, "-c", code], os.environ | {"PYTHONPATH": str(SOURCE)}
    modules = set(subprocess.check_output(command, env=surroundings, text=True).split())
    assert (
        f"{PACKAGE}.data" in modules
        and not {"sklearn", "scipy", "torchmetrics.functional"} & modules
    )
