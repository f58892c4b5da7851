"""Whole runs through the command line: record, metrics and end."""

import csv
import json
import math
import os
import re
import shutil
import signal
import zipfile
from pathlib import Path

import lightning as L
import matplotlib.image
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch._dynamo.utils import counters

import {{ cookiecutter.__package_name }}
from {{ cookiecutter.__package_name }}.classifier import ImageClassifier
from {{ cookiecutter.__package_name }}.data import ImageData, digits
from {{ cookiecutter.__package_name }}.engine.cli.arguments import expand_run
from {{ cookiecutter.__package_name }}.engine.contract import Facts
from {{ cookiecutter.__package_name }}.engine.decisions import KEYS
from {{ cookiecutter.__package_name }}.engine.errors import UserError
from {{ cookiecutter.__package_name }}.engine.fast import patches
from {{ cookiecutter.__package_name }}.engine.fast.pending import PendingValue
from {{ cookiecutter.__package_name }}.engine.monitor.progress import Throughput
from {{ cookiecutter.__package_name }}.engine.monitor.summary import (
    write_predictions,
)
from {{ cookiecutter.__package_name }}.engine.paths import (
    project_root,
    resolve_path,
    template_version,
)
from {{ cookiecutter.__package_name }}.engine.ranks import rank_zero_only
from {{ cookiecutter.__package_name }}.engine.run.digests import digest
from {{ cookiecutter.__package_name }}.engine.run.folder import (
    find_run,
    recipe_name,
)
from {{ cookiecutter.__package_name }}.engine.run.metrics import (
    MetricsCSV,
    read_metrics,
)
from {{ cookiecutter.__package_name }}.engine.run.record import _only_writer
from {{ cookiecutter.__package_name }}.engine.run.source import pack_source
from {{ cookiecutter.__package_name }}.networks import NETWORKS

PACKAGE = {{ cookiecutter.__package_name }}.__name__
DIGITS = ("--config", "configs/digits.yaml")
SHORT = (*DIGITS, "--trainer.max_epochs", "2")


def read(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_text())


def test_a_run_learns_and_writes_its_folder(trained):
    record = read(trained)
    assert record["state"] == "finished"
    assert record["results"]["best val/accuracy"] > 0.9
    assert record["results"]["rows_per_second"] > 0
    for picture in ("curves.png", "predictions.png"):
        pixels = matplotlib.image.imread(trained / picture)
        assert pixels.shape[0] > 300 and pixels.std() > 0.05
    assert {p.name for p in (trained / "checkpoints").glob("*.ckpt")} == {"best.ckpt", "last.ckpt"}


def test_the_record_has_what_reproducing_needs(trained):
    record, root = read(trained), project_root()
    assert record["command"][:4] == ["python", "-m", PACKAGE, "fit"]
    assert record["seed"] == record["config"]["seed_everything"] == 0
    assert record["config"]["trainer"]["max_epochs"] == 4
    assert 0 < record["seconds"]["fit"] <= record["seconds"]["total"]
    assert 0 < record["results"]["seconds_to_first_step"] <= record["seconds"]["fit"] + 0.1
    assert record["versions"]["torch"] == torch.__version__
    assert record["template"] == template_version()
    assert set(record["locks"]) == {path.name for path in root.glob("*.lock")}
    assert len(record["data"]["fingerprint"]) == 64
    assert set(record["decisions"]) == set(KEYS.values())
    assert all(d["value"] is not None and d["why"] for d in record["decisions"].values())
    assert "null" not in (trained / "run.json").read_text()
    assert record["hardware"]["cores"] >= 1
    assert (trained / "config.yaml").read_text().count("precision: ") == 1


def test_the_source_archive_is_complete_and_deterministic(trained, tmp_path):
    root = project_root()
    with zipfile.ZipFile(trained / "source.zip") as pack:
        names = set(pack.namelist())
        networks = next(name for name in names if name.endswith("/networks.py"))
        assert pack.read(networks) == (root / networks).read_bytes()
    assert {"pyproject.toml", "requirements.lock", "configs/digits.yaml"} <= names
    source = {path.relative_to(root).as_posix() for path in (root / "src").rglob("*.py")}
    assert source <= names
    assert not any(name.startswith((".git/", ".venv/", "runs/")) for name in names)
    again = pack_source(root, tmp_path / "source.zip")
    assert again["sha256"] == pack_source(root, tmp_path / "other.zip")["sha256"]


def test_the_metrics_have_every_logged_step_once(trained):
    rows = read_metrics(trained / "metrics.csv")
    steps = [row["step"] for row in rows]
    assert steps == sorted(set(steps))
    assert [row["step"] for row in rows if "val/loss" in row] == [15, 31, 47, 63]
    assert [row["step"] for row in rows if "train/loss" in row] == list(range(4, 64, 5))
    assert [row["epoch"] for row in rows if "val/loss" in row] == [0, 1, 2, 3]


def test_an_epoch_shorter_than_the_logging_interval_logs_its_loss(call, tmp_path):
    assert call("fit", *SHORT, "--trainer.log_every_n_steps", "500", folder=tmp_path) == 0
    rows = read_metrics(tmp_path / "metrics.csv")
    assert [row["step"] for row in rows if "train/loss" in row] == [15, 31]


def test_the_record_gets_the_test_scores(trained, call, capsys):
    assert call("test", "--run", str(trained)) == 0
    score = read(trained)["results"]["test/accuracy"]
    assert score > 0.9
    assert (score * 360) == pytest.approx(round(score * 360), abs=1e-3)
    assert f"{score:.2%}" in capsys.readouterr().out


def test_predictions_are_written_for_every_test_image(trained, call):
    written = trained / "predictions.csv"
    assert call("test", "--run", str(trained)) == 0
    of_evaluation = written.read_text()
    written.unlink()
    assert call("predict", "--run", str(trained)) == 0
    assert written.read_text() == of_evaluation
    lines = of_evaluation.splitlines()
    assert lines[0] == "index,label,prediction,probability"
    assert len(lines) == 361


def test_predictions_that_can_not_be_written_leave_the_old_table(tmp_path):
    facts = Facts("mine", {}, "", classes=("cat", "dog"))
    rows, shares = torch.arange(2000), torch.rand(2000, 2)
    written = write_predictions([(rows, rows % 2, shares)], facts, {}, tmp_path).read_bytes()
    with pytest.raises(IndexError):  # the last label is no class
        write_predictions([(rows, rows // 1999 * 2, shares)], facts, {}, tmp_path)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [written]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64])
def test_predicted_numbers_are_written_with_as_few_digits_as_give_them_again(dtype, tmp_path):
    numbers = torch.tensor([[8.43, 0.1, -3e-9], [1e20, 2.0, torch.nan]])
    numbers = (numbers.nan_to_num() % 100 if dtype == torch.int64 else numbers).to(dtype)
    rows = torch.arange(2)
    written = write_predictions([(rows, numbers, numbers)], Facts("mine", {}, ""), {}, tmp_path)
    lines = list(csv.DictReader(written.open(newline="")))
    for line, expected in zip(lines, numbers, strict=True):
        assert line["target"] == line["prediction"]
        again = torch.tensor([float(word) for word in json.loads(line["target"])]).to(dtype)
        torch.testing.assert_close(again, expected, rtol=0, atol=0, equal_nan=True)
    if dtype == torch.float32:
        assert lines[0]["target"] == "[8.43, 0.1, -3e-09]"
        assert lines[1]["target"] == '[1e+20, 2.0, "NaN"]'


def test_a_checkpoint_loads_without_the_command_line(trained):
    path = trained / "checkpoints" / "best.ckpt"
    state = torch.load(path, weights_only=True)["state_dict"]
    assert not any("_orig_mod" in name for name in state)
    model = ImageClassifier.load_from_checkpoint(path, weights_only=True)
    assert digest(model.state_dict()) == digest(state)


def test_the_python_of_the_docs_predicts_as_the_evaluation_does(trained, call, tmp_path):
    assert call("test", "--run", str(trained)) == 0
    rows = list(csv.DictReader((trained / "predictions.csv").open()))[:3]
    pixels = digits().test.images[:3].permute(0, 2, 3, 1).numpy()
    files = [tmp_path / f"{i}.png" for i in range(3)]
    for file, image in zip(files, pixels, strict=True):
        Image.fromarray(image).save(file)
    text = (project_root() / "docs" / "predict.md").read_text()
    code = text.partition("```python\n")[2].partition("```")[0]
    code = re.sub(r'Path\("runs/.*?"\)', f"Path({str(trained)!r})", code)
    named = {}
    exec(code.replace('[Path("image.jpg")]', f"map(Path, {[*map(str, files)]})"), named)
    sure, said = named["probabilities"].max(1)
    assert [digits().classes[i] for i in said] == [row["prediction"] for row in rows]
    known = torch.tensor([float(row["probability"]) for row in rows])
    assert torch.allclose(sure, known, atol=1e-5)


def test_only_the_same_seed_gives_the_same_weights(call, tmp_path):
    digests = {}
    for name, seed in (("a", "5"), ("b", "5"), ("c", "6")):
        flags = ("--trainer.max_epochs", "1", "--seed_everything", seed)
        assert call("fit", *DIGITS, *flags, folder=tmp_path / name) == 0
        digests[name] = read(tmp_path / name)["results"]["weights_sha256"]
    assert digests["a"] == digests["b"] != digests["c"]


def test_a_second_resume_keeps_the_settings_of_the_first(call, tmp_path, monkeypatch):
    assert call("fit", *SHORT, folder=tmp_path) == 0

    def interrupt(model: ImageClassifier) -> None:
        if model.current_epoch == 3:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(ImageClassifier, "on_train_epoch_end", interrupt)
        assert call("fit", "--run", str(tmp_path), "--trainer.max_epochs", "5") == 130
    assert call("fit", "--run", str(tmp_path)) == 0
    assert read(tmp_path)["results"]["steps"] == 5 * 16
    told = [entry["config"]["trainer"]["max_epochs"] for entry in read(tmp_path)["resumes"]]
    assert told == [5, 5]


def test_a_new_run_never_takes_the_folder_of_another(trained, call, capsys):
    before = read(trained)
    assert call("fit", *SHORT, "--seed_everything", "9", folder=trained) == 2
    assert "already holds a run" in capsys.readouterr().err
    assert read(trained) == before


def test_a_run_folder_that_is_a_file_is_refused(call, capsys, tmp_path):
    (tmp_path / "file").touch()
    assert call("fit", *SHORT, folder=tmp_path / "file") == 2
    assert "can't be created: File exists" in capsys.readouterr().err


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_a_run_folder_in_somebody_elses_folder_names_the_owner(call, capsys, tmp_path):
    (tmp_path / "file").touch()
    os.chown(tmp_path, 1234, 1234)
    assert call("fit", *SHORT, folder=tmp_path / "file" / "run") == 2
    said = capsys.readouterr().err
    assert f"{tmp_path} belongs to user 1234, and this is user 0. Start a container" in said


def test_the_progress_bar_does_not_change_the_record(call, tmp_path):
    flags = ("--trainer.log_every_n_steps", "50", "--trainer.enable_progress_bar")
    for shown in ("true", "false"):
        assert call("fit", *SHORT, *flags, shown, folder=tmp_path / shown) == 0
    rows = [read_metrics(tmp_path / shown / "metrics.csv") for shown in ("true", "false")]
    assert rows[0] == rows[1] and len([row for row in rows[0] if "train/loss" in row]) == 2


def test_the_progress_bar_can_be_disabled(call, capsys, tmp_path):
    flags = ("--trainer.max_steps", "2", "--trainer.enable_progress_bar")
    for shown in ("true", "false"):
        assert call("fit", *DIGITS, *flags, shown, folder=tmp_path / shown) == 0
        said = capsys.readouterr()
        assert (" images/s " in said.out + said.err) == (shown == "true")


def test_evaluation_on_several_devices_is_refused(trained, call, capsys):
    flags = ("--trainer.devices", "2", "--trainer.accelerator", "cpu")
    assert call("test", "--run", str(trained), *flags) == 2
    assert "runs on one device" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--data.batch_size", "32"), "data.batch_size was 64, is 32"),
        (("--data.global_batch_size", "128", "--data.batch_size", "128"), "was 64, is 128"),
        (("--seed_everything", "7"), "seed_everything was 0, is 7"),
        (("--data.source", "synthetic", "--data.options={image_size: 8}"), "The dataset has"),
        (("--model.label_smoothing", "0.1"), "model.label_smoothing was 0.0, is 0.1"),
        (("--data.flip", "true"), "data.flip was False, is True"),
        (("--data.mixup", "0.2"), "data.mixup was 0.0, is 0.2"),
        (("--model.schedule", "cosine"), "model.schedule was one_cycle, is cosine"),
        (("--trainer.gradient_clip_val", "1"), "trainer.gradient_clip_val was None, is 1"),
    ],
    ids=[
        "micro-batch",
        "global batch",
        "seed",
        "data",
        "loss",
        "flip",
        "mixup",
        "schedule",
        "clipping",
    ],
)
def test_a_refused_resume_leaves_the_run_as_it_was(flags, message, trained, call, capsys, tmp_path):
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    before = read(run)
    assert call("fit", "--run", str(run), "--trainer.max_epochs", "5", *flags) == 2
    assert message in capsys.readouterr().err
    assert read(run) == before and not list(run.glob("*.resume-*"))
    assert call("fit", "--run", str(run), "--trainer.max_epochs", "5") == 0


def test_a_recipe_that_is_no_yaml_is_one_line(call, capsys, tmp_path):
    (tmp_path / "mine.yaml").write_text("data:\n\tsource: digits\n")
    assert call("fit", "--config", str(tmp_path / "mine.yaml")) == 2
    error = capsys.readouterr().err
    assert "is not valid YAML" in error and "line 2, column 1: perhaps a tab" in error
    assert "unicode string" not in error and error.count("\n") == 1


def test_a_resume_that_would_end_before_the_run_leaves_it_finished(trained, call, capsys, tmp_path):
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    before = read(run)
    assert call("fit", "--run", str(run), "--trainer.max_epochs", "1") == 2
    assert "trainer.max_epochs is 1, but the run has trained for" in capsys.readouterr().err
    assert read(run) == before


def test_a_resume_that_would_end_where_the_run_is_leaves_it_interrupted(call, capsys, tmp_path):
    run, steps = tmp_path / "run", "--trainer.max_steps"
    assert call("fit", *SHORT, "--until", "20", folder=run) == 0
    before = read(run)
    assert before["state"] == "interrupted"
    for flag, number in ((steps, "10"), (steps, "20"), ("--until", "20")):
        assert call("fit", "--run", str(run), flag, number) == 2
        said = f"{flag.removeprefix('--t')} is {number}, but the run is at step 20 already. Set a"
        assert said.replace("rainer", "trainer") in capsys.readouterr().err
        assert read(run) == before and not list(run.glob("*.resume-*"))
    assert call("fit", "--run", str(run), steps, "22") == 0
    assert read(run)["results"]["steps"] == 22


def test_a_recipe_is_found_from_any_folder(call, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for words in (("--config", "configs/digits.yaml"), ("--config=configs/digits.yaml",)):
        assert call("fit", *words, "--print_config") == 0
        assert "source: digits" in capsys.readouterr().out
    assert call("look", *DIGITS, "--out", "rows.png") == 0
    assert Path("rows.png").is_file()
    Path("configs").mkdir()
    Path("configs/digits.yaml").write_text("data: {source: synthetic}")
    assert call("fit", *DIGITS, "--print_config") == 0
    assert "source: synthetic" in capsys.readouterr().out  # the one in the working folder first
    assert call("fit", "--config=configs/digit.yaml") == 2
    said = f"does not exist, neither in {tmp_path} nor in {project_root()}. Did you mean 'configs/d"
    assert said in capsys.readouterr().err


def test_resuming_a_finished_run_explains_how_to_train_longer(trained, call, capsys):
    assert call("fit", "--run", str(trained)) == 2
    assert "--trainer.max_epochs" in capsys.readouterr().err


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile on a CPU needs g++")
def test_compiling_changes_neither_the_keys_nor_the_loss(call, tmp_path, capsys, monkeypatch):
    # Few kernels, as each is compiled for a second; and compiled dropout draws its own numbers.
    def tiny(num_classes: int, small_images: bool) -> nn.Module:
        convolution = (nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        return nn.Sequential(*convolution, nn.Flatten(), nn.Linear(8 * 6 * 6, num_classes))

    monkeypatch.setitem(NETWORKS, "tiny", tiny)
    flags = (*DIGITS, "--trainer.max_epochs", "2", "--trainer.log_every_n_steps", "1")
    flags += ("--trainer.limit_train_batches", "2", "--model.network", "tiny")
    counters.clear()
    states, losses = {}, {}
    for compiled in ("false", "true"):
        folder = tmp_path / compiled
        assert call("fit", *flags, "--model.compile", compiled, folder=folder) == 0
        states[compiled] = torch.load(folder / "checkpoints" / "last.ckpt")["state_dict"]
        rows = read_metrics(folder / "metrics.csv")
        losses[compiled] = [row["train/loss"] for row in rows if "train/loss" in row]
    assert capsys.readouterr().out.count("first step compiles the network") == 1
    mode = "reduce-overhead" if torch.cuda.is_available() else "default"
    assert read(tmp_path / "true")["decisions"]["model.compile"]["value"] == mode
    assert counters["stats"]["unique_graphs"] == 2  # training and evaluation, for all batches
    assert states["true"].keys() == states["false"].keys()
    assert len(losses["true"]) == 4
    tolerance = 3e-2 if torch.cuda.is_available() else 1e-3  # bfloat16 there, float32 here
    assert losses["true"] == pytest.approx(losses["false"], rel=tolerance)


FEW_IMAGES = ("--data.options={image_size: 32, train: 64, val: 32}", "--data.eval_batch_size=32")
FEW_IMAGES += ("--data.batch_size=32",)


@pytest.mark.parametrize(("recipe", "flags"), [("digits", ()), ("synthetic", FEW_IMAGES)])
def test_a_recipe_trains_two_steps(recipe, flags, call, tmp_path):
    flags = ("--config", f"configs/{recipe}.yaml", "--trainer.max_steps", "2", *flags)
    assert call("fit", *flags, folder=tmp_path) == 0
    assert read(tmp_path)["results"]["steps"] == 2


def test_two_processes_train_one_network_and_score_it_as_one_would(call, tmp_path, capfd):
    cpu = ("--trainer.accelerator", "cpu")
    assert call("fit", *SHORT, "--trainer.devices", "2", *cpu, folder=tmp_path) == 0
    record = read(tmp_path)
    assert record["decisions"]["trainer.devices"]["value"] == 2
    assert record["results"]["steps"] == 16  # half of one process's: each step takes two batches
    assert capfd.readouterr().out.count("run folder") == 1
    together = record["results"]["val/accuracy"], record["results"]["val/loss"]
    last = str(tmp_path / "checkpoints" / "last.ckpt")
    assert call("validate", "--run", str(tmp_path), "--ckpt_path", last, *cpu) == 0
    alone = read(tmp_path)["results"]
    assert (alone["val/accuracy"], alone["val/loss"]) == pytest.approx(together, rel=1e-5)


def test_a_folder_is_trained_by_one_process_at_a_time(trained, call, capsys):
    with _only_writer(trained):
        assert call("fit", "--run=" + str(trained), "--trainer.max_epochs", "5") == 2
    assert "is being trained by another process" in capsys.readouterr().err


def test_the_latest_run_is_the_newest_with_a_checkpoint(trained, tmp_path):
    for name, start in (("older", "2026-01-01"), ("newer", "2026-02-01"), ("failed", "2026-03-01")):
        run = Path(shutil.copytree(trained, tmp_path / "runs" / "digits" / name))
        (run / "run.json").write_text(json.dumps({**read(run), "started": start}))
    shutil.rmtree(tmp_path / "runs" / "digits" / "failed" / "checkpoints")
    assert find_run(tmp_path, "latest").name == "newer"
    assert expand_run(["test"], tmp_path)[1].name == "newer"
    assert expand_run(["test", "--config=configs/digits.yaml"], tmp_path)[1] is None
    assert expand_run(["fit"], tmp_path)[1] is None
    with pytest.raises(UserError, match="No run of the recipe 'synthetic'"):
        find_run(tmp_path, "latest", "synthetic")


def test_a_recipe_has_the_name_of_its_file_or_of_its_run(trained):
    assert recipe_name(Path("configs/digits.yaml")) == "digits"
    for name in ("config.yaml", "config.resume-1.yaml"):
        assert recipe_name(trained / name) == trained.parent.name


def test_a_path_is_searched_in_the_working_directory_and_then_in_the_project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = project_root()
    assert root != tmp_path and resolve_path("configs") == root / "configs"
    (tmp_path / "configs").mkdir()
    assert resolve_path("configs") == tmp_path / "configs"
    assert resolve_path("new", must_exist=False) == root / "new"


def test_only_rank_zero_prints(monkeypatch):
    said: list[str] = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        rank_zero_only(said.append)(rank)
    assert said == ["0"]


def test_evaluating_a_folder_without_a_run_is_refused(call, capsys, tmp_path):
    assert call("test", "--run", str(tmp_path)) == 2
    assert "is not a run" in capsys.readouterr().err


def test_step_hooks_are_called_if_a_callback_defines_them(monkeypatch):
    seen: list[str] = []

    def note(what: str, of: type, hook: str) -> None:
        monkeypatch.setattr(of, hook, lambda *_: seen.append(what))

    def see_thread(loss: torch.Tensor) -> torch.Tensor:
        loss.register_hook(lambda grad: seen.append(str(torch._C._is_multithreading_enabled())))
        return loss

    step = ImageClassifier.training_step
    monkeypatch.setattr(ImageClassifier, "training_step", lambda *of: see_thread(step(*of)))
    note("before step", Throughput, "on_before_optimizer_step")
    model, data = ImageClassifier(num_classes=10, small_images=True), ImageData("digits")
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar"), False)
    for expected in (["False", "before step"], ["False", "after backward", "before step"]):
        trainer = L.Trainer(accelerator="cpu", max_steps=2, callbacks=[Throughput()], **quiet)
        trainer.fit(model, datamodule=data)
        assert seen == expected * 2
        seen.clear()
        note("after backward", ImageClassifier, "on_after_backward")  # between two fits


def test_metrics_survive_a_kill_in_the_middle_of_a_line(tmp_path):
    log = MetricsCSV(tmp_path)
    for step in range(3):
        log.log_metrics({"train/loss": 1.0 / (step + 1), "epoch": 0}, step)
    log.finalize("success")
    with log.path.open("a") as file:
        file.write("3,")
    resumed = MetricsCSV(tmp_path)
    resumed.resume_from(4)
    resumed.log_metrics({"train/loss": 0.25, "epoch": 1}, 3)
    resumed.finalize("success")
    expected = [(0, 1.0), (1, 0.5), (2, pytest.approx(1 / 3)), (3, 0.25)]
    assert [(row["step"], row["train/loss"]) for row in read_metrics(log.path)] == expected


class Copy:
    """A copy of a number from the GPU that finishes only when someone waits for it."""

    def __init__(self, number: Tensor) -> None:
        self.number, self.copy = number, torch.tensor(math.nan, dtype=torch.float64)

    def synchronize(self) -> None:
        self.copy.copy_(self.number)

    def query(self) -> bool:
        return bool(self.copy == self.number)


def test_numbers_that_come_late_from_the_gpu_are_waited_for(
    trained, call, monkeypatch, tmp_path, capsys
):
    def sent(metrics: dict) -> dict:
        copies = {k: Copy(v.clone()) for k, v in metrics.items() if isinstance(v, Tensor)}
        return metrics | {k: PendingValue(copy.copy, copy) for k, copy in copies.items()}

    monkeypatch.setattr(patches, "send", sent)
    assert call("fit", *DIGITS, "--trainer.max_epochs", "4", folder=tmp_path) == 0
    assert "  val " in (shown := capsys.readouterr().out) and "nan" not in shown
    expected = read_metrics(trained / "metrics.csv")
    assert read_metrics(tmp_path / "metrics.csv") == expected and len(expected) > 8


def test_a_row_with_pending_numbers_does_not_block_logging(tmp_path):
    log, copies = MetricsCSV(tmp_path), [Copy(torch.tensor(float(i))) for i in range(3)]
    for step, copy in enumerate(copies):
        log.log_metrics({"train/loss": PendingValue(copy.copy, copy)}, step)
    assert all(copy.copy.isnan() for copy in copies) and not log.path.exists()
    copies[0].synchronize()
    log.log_metrics({"train/loss": 3.0}, 3)
    assert [row["step"] for row in read_metrics(log.path)] == [0] and copies[1].copy.isnan()
    log.fsync()
    assert [row["train/loss"] for row in read_metrics(log.path)] == [0.0, 1.0, 2.0, 3.0]


def test_a_stop_between_two_logged_steps_logs_no_old_values(call, monkeypatch, tmp_path):
    def stop(model: ImageClassifier, *_: object) -> None:
        model.trainer.should_stop = model.trainer.global_step >= 7

    monkeypatch.setattr(ImageClassifier, "on_train_batch_end", stop, raising=False)
    assert call("fit", *SHORT, "--trainer.min_epochs=1", folder=tmp_path) == 0
    steps = [r["step"] for r in read_metrics(tmp_path / "metrics.csv") if "train/loss" in r]
    assert steps == [4, 9, 14]  # the first epoch's, and no second


def test_a_changing_global_batch_is_refused(call, capsys):
    scheduler = "lightning.pytorch.callbacks.GradientAccumulationScheduler"
    flags = (f"--trainer.callbacks+={scheduler}", "--trainer.callbacks.scheduling={1: 2}")
    assert call("fit", *SHORT, *flags) == 2
    assert "changes the global batch: remove it" in capsys.readouterr().err


def test_metrics_are_written_before_the_next_checkpoint(tmp_path):
    log = MetricsCSV(tmp_path)
    log.log_metrics({"train/loss": 0.5, "epoch": 0}, 7)
    log.fsync()
    assert [row["step"] for row in read_metrics(log.path)] == [7]
    log.log_metrics({"val/loss": 0.4, "epoch": 0}, 7)
    log.log_metrics({"train/loss": 0.3, "epoch": 0}, 8)
    log.finalize("success")
    assert read_metrics(log.path) == [
        {"step": 7, "epoch": 0, "train/loss": 0.5, "val/loss": 0.4},
        {"step": 8, "epoch": 0, "train/loss": 0.3},
    ]


def test_the_source_archive_has_no_pictures_secrets_or_runs(tmp_path):
    project = tmp_path / "project"
    names = ["src/a.py", ".env.local", "out/a.zip", "out/run.json", "big.txt", "venv/b.py"]
    for name in names:
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text("text")
    (project / "venv" / "pyvenv.cfg").touch()
    (project / "picture.png").write_bytes(b"\x89PNG\0")
    (project / "big.txt").write_text("x" * 1_000_001)
    packed = pack_source(project, tmp_path / "source.zip")
    with zipfile.ZipFile(tmp_path / "source.zip") as pack:
        assert pack.namelist() == ["src/a.py"]
    assert packed["left_out"] == ["big.txt", "picture.png"]


@pytest.mark.parametrize(
    "flags",
    [
        ("--trainer.log_every_n_steps", "0"),
        ("--trainer.limit_val_batches", "0"),
        ("--trainer.limit_train_batches", "0.5"),
        ("--trainer.check_val_every_n_epoch", "2"),
        ("--trainer.max_epochs", "-1", "--trainer.max_steps", "20"),
        ("--seed_everything", "true"),
    ],
    ids=" ".join,
)
def test_unusual_lengths_and_intervals_end_well(flags, call, tmp_path, capsys):
    assert call("fit", *SHORT, *flags, folder=tmp_path) == 0
    assert read(tmp_path)["state"] == "finished"
    assert (tmp_path / "curves.png").exists() and (tmp_path / "predictions.png").exists()
    assert "-" not in capsys.readouterr().out.partition(" images/s")[2].partition(" left")[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [("{ cut", "is not JSON"), ("[1]", "holds a list"), ("{}", "has no 'config'")],
)
def test_decisions_of_a_file_that_is_no_record_are_refused(
    content, message, call, tmp_path, capsys
):
    (tmp_path / "run.json").write_text(content)
    flags = ("--decisions", str(tmp_path / "run.json"))
    assert call("fit", *DIGITS, *flags, folder=tmp_path / "run") == 2
    assert message in capsys.readouterr().err
