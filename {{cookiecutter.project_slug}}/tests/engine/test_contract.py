"""The engine trains any task that contract.py allows: the toys pass every verb as they are."""

import ast
import csv
import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import lightning as L
import pytest
import torch
from killed import Job, Moment, log_of, outcome, start, wait
from sklearn.metrics import f1_score, roc_auc_score

import {{ cookiecutter.__package_name }} as package
from {{ cookiecutter.__package_name }}.engine import Data, Task, contract

ENGINE = Path(package.__path__[0]) / "engine"
ROOT = Path(__file__).parents[2]
EPOCHS = 3

# What each toy's reader takes, of a batch and a row's place in it; the same content as JSON.
REQUESTS: dict[str, Callable[[Any, int], Any]] = {
    "boxes": lambda batch, i: batch.image[i].tolist(),
    "gan": lambda batch, i: batch.noise[i].tolist(),
    "heads": lambda batch, i: batch.place[i].tolist(),
    "pairs": lambda batch, i: {
        "curve": batch.curve[i, 0].tolist(),
        "settings": batch.settings[i].tolist(),
    },
    "rare": lambda batch, i: batch.x[i].tolist(),
    "sequences": lambda batch, i: [token for token in batch.tokens[i].tolist() if token],
    "sine": lambda batch, i: batch.x[i, 0].item(),
}

MEASURED = {"gan", "pairs", "sequences"}  # by hand, from a loader, of several lengths


@dataclass
class Toy:
    """A project of one toy, whose verbs run as processes."""

    name: str
    root: Path

    @property
    def recipe(self) -> list[str]:
        return ["--config", str(self.root / "configs" / "toy.yaml")]

    @property
    def module(self) -> Any:
        """The toy, imported here: its data, and what its metrics are compared with."""
        return import_module(f"{self.name}.__main__")

    def own(self, base: type) -> Any:
        """Return the toy's own class of a kind: its task or its data."""
        classes = [c for c in vars(self.module).values() if isinstance(c, type)]
        mine = [c for c in classes if c.__module__ == self.module.__name__]
        return next(c for c in mine if issubclass(c, base))

    def start(self, *arguments: str, folder: Path | None = None) -> subprocess.Popen:
        environment = os.environ | {"PYTHONPATH": str(self.root / "src")}
        environment |= {"RUN_FOLDER": str(folder)} if folder else {}
        if arguments[0] == "bench":  # what compiling gains is another test's: it takes a minute
            environment["PATH"] = str(Path(sys.executable).parent)
        with (self.root / "log").open("w") as log:
            command = [sys.executable, "-m", self.name, *arguments]
            return subprocess.Popen(
                command, cwd=self.root, env=environment, stdout=log, stderr=subprocess.STDOUT
            )

    def run(self, *arguments: str, folder: Path | None = None) -> str:
        """Run a verb to its end and return what it said."""
        status = self.start(*arguments, folder=folder).wait(300)
        said = (self.root / "log").read_text()
        assert status == 0, said
        return said


@pytest.fixture(scope="session")
def toy(tmp_path_factory) -> Callable[[str], Toy]:
    """Return a function that makes a project of a toy: the toy, and a copy of the engine."""

    def make(name: str) -> Toy:
        root = tmp_path_factory.mktemp(name)
        source = root / "src" / name
        shutil.copytree(ROOT / "tests" / "engine" / "toys" / name, source)
        shutil.copytree(ENGINE, source / "engine", ignore=shutil.ignore_patterns("__pycache__"))
        (source / "__init__.py").touch()
        (root / "configs").mkdir()
        shutil.copy(ROOT / "configs" / "base.yaml", root / "configs")
        trainer = {"max_epochs": EPOCHS, "accelerator": "cpu", "log_every_n_steps": 1}
        (root / "configs" / "toy.yaml").write_text(json.dumps({"trainer": trainer}))
        sys.path.insert(0, str(root / "src"))
        return Toy(name, root)

    before, made = list(sys.path), {}
    yield lambda name: made.get(name) or made.setdefault(name, make(name))
    sys.path[:] = before


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def ask(address: str, content: Any) -> dict[str, Any]:
    body, kind = json.dumps(content).encode(), {"Content-Type": "application/json"}
    with urlopen(Request(address, body, kind)) as answer:
        return json.load(answer)


def test_the_toys_pass_the_check_of_types(tmp_path):
    """As the main program of a project, which is what README tells to make of one."""
    pytest.importorskip("mypy")
    package = tmp_path / "src" / ENGINE.parent.name
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "engine").symlink_to(ENGINE)
    for toy in (ROOT / "tests" / "engine" / "toys").glob("*/__main__.py"):
        shutil.copy(toy, package / f"{toy.parent.name}.py")
    told = [sys.executable, "-m", "mypy", "--config-file", ROOT / "pyproject.toml", "src"]
    done = subprocess.run(told, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", sorted(REQUESTS))
def test_every_verb_works_for_a_task_that_the_engine_does_not_know(name, toy):
    it = toy(name)
    run, killed = it.root / "runs" / "toy" / "one", it.root / "runs" / "toy" / "killed"
    it.run("fit", *it.recipe, folder=run)
    learned_something(it, run)
    resumes_to_the_same_bits(it, run, killed)
    scores_what_was_best(it, run)
    predictions = predicts_every_row(it, run)
    serves_what_it_predicts(it, run, predictions)
    if it.name in MEASURED:
        measures(it)
    said = it.run("reproduce", "--run", str(run))
    assert "identical" in said


def learned_something(it: Toy, run: Path) -> None:
    record = json.loads((run / "run.json").read_text())
    best = it.own(L.LightningModule).best
    found = [float(row[best.metric]) for row in rows_of(run / "metrics.csv") if row[best.metric]]
    kept = record["results"][f"best {best.metric}"]
    assert len(found) == EPOCHS
    assert kept == pytest.approx(max(found) if best.mode == "max" else min(found))
    losses = [float(row["train/loss"]) for row in rows_of(run / "metrics.csv")]
    assert it.name == "gan" or sum(losses[-5:]) < 0.9 * sum(losses[:5])
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")


def resumes_to_the_same_bits(it: Toy, run: Path, killed: Path) -> None:
    killed.mkdir()
    steps = json.loads((run / "run.json").read_text())["results"]["steps"]
    arguments = ["fit", *it.recipe, "--checkpoints.seconds=0"]
    surroundings = {"package": it.name, "search": [str(it.root / "src")]}
    job = Job(arguments, killed, moment=Moment("step", 2 * steps // 3), **surroundings)
    assert wait(start(job)) == -9, log_of(killed)
    job = Job(["fit", "--run", str(killed)], killed, **surroundings)
    assert wait(start(job)) == 0, log_of(killed)
    assert outcome(killed) == outcome(run)


def scores_what_was_best(it: Toy, run: Path) -> None:
    it.run("validate", "--run", str(run))
    it.run("test", "--run", str(run))
    results = json.loads((run / "run.json").read_text())["results"]
    (best,) = [name for name in results if name.startswith("best ")]
    metric = best.removeprefix("best ")
    assert results[metric] == pytest.approx(results[best], abs=1e-6)
    assert math.isfinite(results[metric.replace("val/", "test/")])


def predicts_every_row(it: Toy, run: Path) -> list[dict[str, str]]:
    it.run("predict", "--run", str(run))
    predictions = rows_of(run / "predictions.csv")
    expected = it.own(L.LightningDataModule)().splits.rows["test"]
    assert [int(row["index"]) for row in predictions] == list(range(expected))
    return predictions


def serves_what_it_predicts(it: Toy, run: Path, predictions: list[dict[str, str]]) -> None:
    data, rows = it.own(L.LightningDataModule)(), import_module(f"{it.name}.engine.data.rows")
    batch = rows.as_rows(data.splits.test).take(torch.arange(3), None, None)
    flags = ["--shorten"] if it.name == "sequences" else []
    with it.start("serve", "--run", str(run), "--port", "0", *flags) as service:
        try:
            address = listening(it, service)
            for i in range(3):
                answer = ask(address, REQUESTS[it.name](batch, i))
                if "class" in answer:
                    assert answer["class"] == predictions[i]["prediction"]
                    expected = float(predictions[i]["probability"])
                    assert answer["probability"] == pytest.approx(expected, abs=1e-5)
                else:
                    expected = torch.tensor(json.loads(predictions[i]["prediction"]))
                    torch.testing.assert_close(torch.tensor(answer["prediction"]), expected)
            if it.name == "pairs":  # whose reader says what is wrong with a request
                with pytest.raises(HTTPError, match="422"):
                    ask(address, {"curve": [1.0]})
            if flags:
                long = ask(address, [1] + REQUESTS[it.name](batch, 0) * 20)
                assert long["shortened"] and "shortened" not in answer
        finally:
            service.terminate()


def test_a_flag_of_the_reader_is_a_flag_of_the_service_and_of_nothing_else(toy):
    it = toy("sequences")
    assert "--shorten" in it.run("serve", "--help") and "--shorten" not in it.run("lock", "--help")
    assert toy("rare").start("serve", "--shorten").wait(60) == 2
    _, problems, notes = it.module.read([[1] * 50, [1, 2]], it.own(L.LightningDataModule)().facts())
    assert problems == {0: "has 50 numbers; at most 40 fit"} and not notes


def listening(it: Toy, service: subprocess.Popen) -> str:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and service.poll() is None:
        words = (it.root / "log").read_text().split()
        if address := next((word for word in words if word.startswith("http://")), None):
            return address
        time.sleep(0.02)
    raise AssertionError((it.root / "log").read_text())


def measures(it: Toy) -> None:
    bare = ["--seconds", "0.3"]
    it.run("bench", *it.recipe, *bare, "--rounds", "1", "--into", str(it.root / "bench"))
    bench = json.loads((it.root / "bench" / "bench.json").read_text())
    assert all(row["valid"] for row in bench["rows"]), bench["rows"]
    it.run("tune", *it.recipe, *bare, "--into", str(it.root / "tune"))
    tune = json.loads((it.root / "tune" / "tune.json").read_text())
    assert tune["chosen"]["batch_size"] in [row["batch_size"] for row in tune["batch_sizes"]]
    assert bool(tune["loader"]) == (it.name == "pairs")  # the rest are in memory
    assert bench["unit"] == tune["unit"] == it.own(L.LightningDataModule)().facts().unit


def test_the_engine_reads_nothing_of_a_task_or_its_data_but_what_the_contract_names(
    toy, tmp_path, monkeypatch
):
    it, read = toy("rare"), set()
    inside = str(it.root / "src" / "rare" / "engine")
    classes = it.own(L.LightningModule), it.own(L.LightningDataModule)
    for own in classes:
        monkeypatch.setattr(own, "__getattribute__", recorder(own.__getattribute__, inside, read))
    engine = import_module("rare.engine")
    monkeypatch.setenv("RUN_FOLDER", str(tmp_path / "run"))

    def find(place: Path, facts: Any, settings: Any) -> Any:
        assert place == tmp_path and settings["options"] == {"of": "mine"}
        rows = classes[1]().splits.test._replace(kind=None)  # without what only an evaluation has
        return engine.Inputs(rows, {"number": range(len(rows.row))}, {2: "is wrong"})

    new = ("--input", str(tmp_path), "--out", str(tmp_path / "new.csv"))
    for status, inputs, arguments in (
        (0, None, ("fit", *it.recipe)),
        *((0, None, (verb, "--run", "latest")) for verb in ("validate", "test", "predict")),
        (2, None, ("predict", *new)),
        (3, find, ("predict", *new, "--data.options.of", "mine")),
    ):
        monkeypatch.setattr(sys, "argv", ["rare", *arguments])
        parts = {"task": classes[0], "data": classes[1], "read": it.module.read}
        assert engine.main(**parts, inputs=inputs) == status
    predicted = rows_of(tmp_path / "new.csv")
    expected = rows_of(tmp_path / "run" / "predictions.csv")
    for i, (row, known) in enumerate(zip(predicted, expected, strict=True)):
        assert int(row["number"]) == i and (i == 2) == (row["error"] == "is wrong")
        assert i == 2 or row["class"] == known["prediction"]
        assert i == 2 or row["probability"] == known["probability"]
    assert {"loss", "totals", "scores", "splits", "facts", "sample_weights"} <= read
    allowed = {name for base in (Task, Data) for name in (*dir(base), *vars(base()))}
    allowed |= set(dir(contract.Task)) | set(contract.Task.__annotations__)
    allowed |= set(dir(contract.Data)) | set(contract.Data.__annotations__)
    assert read <= allowed


def recorder(original: Callable, inside: str, read: set[str]) -> Callable:
    """Return a __getattribute__ that notes what files inside a folder ask for."""

    def noting(self: Any, name: str) -> Any:
        if sys._getframe(1).f_code.co_filename.startswith(inside):
            read.add(name)
        return original(self, name)

    return noting


def test_a_run_that_resumes_is_evaluated_or_served_finds_its_artifacts(toy, tmp_path, monkeypatch):
    it, found = toy("sequences"), []
    engine = import_module("sequences.engine")
    base, data = it.own(L.LightningModule), it.own(L.LightningDataModule)

    def look(name: str) -> None:
        file = engine.artifact(name)
        found.append(file and file.read_text())

    class Task(base):
        def __init__(self, width: int = 32, learning_rate: float = 0.01) -> None:
            super().__init__(width, learning_rate)
            look("of/task.txt")

        def artifacts(self) -> dict[str, Path | bytes]:
            return {"of/task.txt": b"task"}

    class Data(data):
        def __init__(self, batch_size: int = 32) -> None:
            super().__init__(batch_size)
            look("data.txt")

        def artifacts(self) -> dict[str, Path | bytes]:
            kept = engine.artifact("data.txt") or tmp_path / "data.txt"
            return {"data.txt": kept}

    def read(requests: list, facts: Any) -> Any:
        look("data.txt")
        return it.module.read(requests, facts)

    def call(*arguments: str) -> list[str | None]:
        found.clear()
        monkeypatch.setattr(sys, "argv", ["sequences", *arguments])
        assert engine.main(task=Task, data=Data, read=read) == 0
        return found

    (tmp_path / "data.txt").write_text("data")
    run = tmp_path / "run"
    monkeypatch.setenv("RUN_FOLDER", str(run))
    assert call("fit", *it.recipe, "--until", "20") == [None, None]
    kept = json.loads((run / "run.json").read_text())["artifacts"]
    for name, digest in kept.items():
        assert sha256((run / "artifacts" / name).read_bytes()).hexdigest() == digest
    assert set(kept) == {"of/task.txt", "data.txt"}
    (tmp_path / "data.txt").unlink()
    for verb in ("fit", "validate"):
        assert sorted(call(verb, "--run", str(run))) == ["data", "task"]
    found.clear()
    serve = import_module("sequences.engine.tools.serve")
    project = import_module("sequences.engine.cli.project").Project("sequences", Task, Data, read)
    assert "class" in serve.ServedRun(project, run).answer([1, 2, 3]) and found == ["task", "data"]


def test_no_file_of_the_engine_names_what_a_row_holds():
    """A field of someone's batch would be an attribute; those of a kind are in its folder."""
    about = {"images", "labels", "tokens", "logits", "num_classes", "pixels"}
    for path in sorted(ENGINE.rglob("*.py")):
        if {"images", "text"} & set(path.relative_to(ENGINE).parts):
            continue
        tree = ast.walk(ast.parse(path.read_text()))
        found = {node.attr for node in tree if isinstance(node, ast.Attribute)}
        assert not found & about, path


def weights_of(folder: Path) -> torch.Tensor:
    saved = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    return torch.cat([value.flatten() for value in saved.values()])


@pytest.mark.parametrize("weighted", [True, False])
def test_a_loss_weighted_by_tokens_is_the_same_in_one_part_and_in_four(weighted, toy, tmp_path):
    """Without the weights it is not: so the comparison sees them."""
    it, found = toy("sequences"), {}
    search = [str(it.root / "src")]
    for parts in (1, 4):
        split = {"data.batch_size": 64 // parts, "trainer.accumulate_grad_batches": parts}
        flags = split | {"trainer.precision": "64-true", "trainer.max_epochs": 2}
        recipe = [*it.recipe, *(f"--{name}={value}" for name, value in flags.items())]
        job = Job(["fit", *recipe], tmp_path / str(parts), package=it.name, search=search)
        job.without = "" if weighted else "the weights of a loss"
        assert wait(start(job)) == 0, log_of(job.folder)
        found[parts] = weights_of(job.folder)
    assert found[1].dtype == torch.float64
    assert ((found[1] - found[4]).abs().max() < 1e-9) == weighted


@pytest.mark.parametrize("processes", [1, 2])
def test_scores_and_means_over_classes_are_those_of_all_rows(processes, toy, tmp_path):
    """The last batch is padded, and with two processes each has half of every batch."""
    it = toy("rare")
    flags = ["--trainer.max_epochs=1", f"--trainer.devices={processes}"]
    surroundings = {"package": "rare", "search": [str(it.root / "src")]}
    job = Job(["fit", *it.recipe, *flags], tmp_path / "run", processes, **surroundings)
    assert wait(start(job)) == 0, log_of(job.folder)
    (row,) = [row for row in rows_of(job.folder / "metrics.csv") if row["val/auroc"]]
    task, rows = it.own(L.LightningModule)(), it.own(L.LightningDataModule)().splits.val
    saved = torch.load(job.folder / "checkpoints" / "last.ckpt", weights_only=True)
    task.load_state_dict(saved["state_dict"])
    with torch.no_grad():
        shares = task.predict(task(rows))
    assert len(rows.row) % (96 * processes)
    f1 = f1_score(rows.kind, shares.argmax(1), average="macro")
    auroc = roc_auc_score(rows.kind, shares, multi_class="ovr")
    assert float(row["val/f1"]) == pytest.approx(f1, abs=1e-6)
    assert float(row["val/auroc"]) == pytest.approx(auroc, abs=1e-6)


def test_two_processes_exchange_the_gradients_of_what_is_unfrozen(toy, tmp_path):
    """What began to learn after the first epoch is the same as in one process."""
    it, found = toy("heads"), {}
    for processes in (1, 2):
        flags = [f"--trainer.devices={processes}", f"--data.batch_size={64 // processes}"]
        surroundings = {"package": "heads", "search": [str(it.root / "src")]}
        folder = tmp_path / str(processes)
        job = Job(["fit", *it.recipe, *flags], folder, processes, **surroundings)
        assert wait(start(job)) == 0, log_of(folder)
        found[processes] = weights_of(folder)
    torch.testing.assert_close(found[1], found[2], rtol=1e-4, atol=1e-5)
