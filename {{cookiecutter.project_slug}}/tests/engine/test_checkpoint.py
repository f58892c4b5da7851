"""Checkpoints of runs that are interrupted, killed or moved, or that fill the disk."""

import fcntl
import json
import os
import resource
import shutil
import signal
import threading
import time
import zipfile
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
import torch
from PIL import Image

import {{ cookiecutter.__package_name }} as package
from {{ cookiecutter.__package_name }}.classifier import ImageClassifier
from {{ cookiecutter.__package_name }}.data import ImageData
from {{ cookiecutter.__package_name }}.engine.cli import training
from {{ cookiecutter.__package_name }}.engine.cli.project import Project
from {{ cookiecutter.__package_name }}.engine.contract import Facts
from {{ cookiecutter.__package_name }}.engine.decisions import applied
from {{ cookiecutter.__package_name }}.engine.errors import UserError
from {{ cookiecutter.__package_name }}.engine.run.checkpoint import RunCheckpoint
from {{ cookiecutter.__package_name }}.engine.run.checkpoint_files import (
    VerifiedIO,
    find_checkpoint,
    is_intact,
    write_checkpoint,
)
from {{ cookiecutter.__package_name }}.engine.run.digests import (
    digest,
    read_digests,
)
from {{ cookiecutter.__package_name }}.engine.run.interruption import Interruption
from {{ cookiecutter.__package_name }}.engine.run.metrics import read_metrics
from {{ cookiecutter.__package_name }}.engine.run.resume_checks import (
    check_data,
    check_resume,
)
from {{ cookiecutter.__package_name }}.engine.tools.trained import load_trained

THREE = ("--config", "configs/digits.yaml", "--trainer.max_epochs", "3")
HALVES = ("--trainer.val_check_interval", "0.5")
ACCUMULATING = ("--data.batch_size", "32", "--data.global_batch_size", "64")


def read(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_text())


def content(folder: Path, name: str = "last") -> dict:
    return torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)


def interrupt(monkeypatch, hook: str, step: int) -> None:
    """Send Ctrl-C to this process when a hook is first called after so many steps."""
    original, sent = getattr(ImageClassifier, hook), []

    def armed(model: ImageClassifier, *arguments):
        if model.global_step == step and not sent:
            sent.append(step)
            signal.raise_signal(signal.SIGINT)
        return original(model, *arguments)

    monkeypatch.setattr(ImageClassifier, hook, armed)


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    """Draw nothing: it takes a third of each run, and these tests compare other files."""
    monkeypatch.setattr(training, "draw_pictures", lambda *_: [])


@pytest.fixture(scope="module")
def whole(call, tmp_path_factory):
    """Return a function that gives the folder of an uninterrupted run with these flags."""
    known: dict[tuple, Path] = {}

    def run(flags: tuple) -> Path:
        if flags not in known:
            known[flags] = tmp_path_factory.mktemp("whole")
            assert call("fit", *THREE, *flags, folder=known[flags]) == 0
        return known[flags]

    return run


@pytest.mark.parametrize(
    ("hook", "step", "saved", "flags"),
    [
        ("training_step", 21, 22, ()),
        ("training_step", 31, 32, ()),
        ("validation_step", 32, 32, ()),
        ("validation_step", 40, 40, HALVES),
        ("training_step", 39, 40, HALVES),
        ("training_step", 21, 22, ACCUMULATING),
        ("validation_step", 22, 23, (*ACCUMULATING, "--trainer.val_check_interval", "13")),
        ("training_step", 31, 32, ("--trainer.check_val_every_n_epoch", "3")),
    ],
    ids=[
        "within an epoch",
        "on its last batch",
        "in its validation",
        "in a validation within it",
        "before a validation within it",
        "between two parts of a step",
        "in a validation between two parts of a step",
        "on a last batch that no validation follows",
    ],
)
def test_a_run_interrupted_by_ctrl_c_resumes_to_the_same_result(
    hook, step, saved, flags, whole, call, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        interrupt(patch, hook, step)
        assert call("fit", *THREE, *flags, folder=tmp_path / "run") == 130
    record = read(tmp_path / "run")
    assert (record["state"], record["reason"]) == ("interrupted", "SIGINT")
    assert content(tmp_path / "run")["global_step"] == saved
    moved = (tmp_path / "run").rename(tmp_path / "moved")
    assert call("fit", "--run", str(moved)) == 0
    alone = whole(flags)
    assert read_digests(moved) == read_digests(alone)
    assert (moved / "metrics.csv").read_text() == (alone / "metrics.csv").read_text()
    assert read(moved)["resumes"][0]["from_step"] == saved
    for key in ("val/loss", "best val/accuracy", "steps"):
        assert read(moved)["results"][key] == read(alone)["results"][key]
    best, expected = content(moved, "best"), content(alone, "best")
    assert best["global_step"] == expected["global_step"]
    assert digest(best["state_dict"]) == digest(expected["state_dict"])


@pytest.mark.parametrize("processes", [1, 2])
def test_sigterm_finishes_the_step_saves_and_exits_143(processes, call, tmp_path, capfd):
    ended, deadline = threading.Event(), time.monotonic() + 120

    def stop() -> None:
        while len(read_metrics(tmp_path / "metrics.csv")) < 30 and time.monotonic() < deadline:
            if ended.wait(0.05):
                return
        os.kill(os.getpid(), signal.SIGTERM)

    flags = (*THREE[:2], "--trainer.max_epochs", "500", "--trainer.log_every_n_steps", "1")
    flags += ("--trainer.devices", str(processes), "--trainer.accelerator", "cpu")
    before = signal.signal(signal.SIGTERM, lambda *_: None)  # ignore a late signal
    stopping = threading.Thread(target=stop)
    stopping.start()
    try:
        status = call("fit", *flags, folder=tmp_path)
    finally:
        ended.set()
        stopping.join()
        signal.signal(signal.SIGTERM, before)
    error = capfd.readouterr().err
    assert status == 143, error
    assert "Checkpoint saved. Resume with: make resume" in error
    assert read(tmp_path)["state"] == "interrupted"
    rows = read_metrics(tmp_path / "metrics.csv")
    assert content(tmp_path)["global_step"] == rows[-1]["step"] + 1 == len(rows)


def test_a_run_that_keeps_only_the_best_is_scored_by_its_name_and_never_resumed(
    call, tmp_path, capsys, monkeypatch
):
    run = tmp_path / "runs" / "digits" / "first"
    said = ("--checkpoints.keep", "best", "--name", "wide", "--note", "a note")
    assert call("fit", *THREE[:3], "1", *said, folder=run) == 0
    found = read(run)
    assert (found["name"], found["note"], found["best"]["mode"]) == ("wide", "a note", "max")
    assert [path.name for path in run.glob("checkpoints/*.ckpt")] == ["best.ckpt"]
    shutil.copytree("configs", tmp_path / "configs")
    monkeypatch.setattr(training, "project_root", lambda: tmp_path)
    assert call("test", "--run", "wide") == 0
    for longer in ((), ("--trainer.max_epochs", "9")):
        assert call("fit", "--run", "wide", *longer) == 2
        assert "has only its best weights (checkpoints.keep)" in capsys.readouterr().err


def test_a_second_ctrl_c_ends_a_run_at_once():
    interruption = Interruption()
    before = signal.getsignal(signal.SIGINT)
    with interruption.listening():
        interruption.waits = True
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)  # repeated by torchrun
        interruption.received_at -= 5
        with pytest.raises(BaseException, match="SIGINT"):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_damaged_checkpoint_is_replaced_by_the_previous_one(whole, call, capsys, tmp_path):
    flags = (*THREE, "--checkpoints.seconds", "0", "--until", "30")
    assert call("fit", *flags, folder=tmp_path) == 0
    last = tmp_path / "checkpoints" / "last.ckpt"
    whole_bytes = last.read_bytes()
    middle = len(whole_bytes) // 2
    flipped = bytes([whole_bytes[middle] ^ 1])
    last.write_bytes(whole_bytes[:middle] + flipped + whole_bytes[middle + 1 :])
    assert call("fit", "--run", str(tmp_path)) == 0
    assert "last.ckpt is damaged; using previous.ckpt instead" in capsys.readouterr().out
    assert read(tmp_path)["resumes"][0]["from_step"] == 29
    assert read_digests(tmp_path) == read_digests(whole(()))


def test_a_run_without_intact_checkpoint_is_refused(trained, call, capsys, tmp_path):
    broken = Path(shutil.copytree(trained, tmp_path / "broken"))
    last = broken / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:-1000])
    assert call("fit", "--run", str(broken), "--trainer.max_epochs", "5") == 2
    assert "last.ckpt: damaged" in capsys.readouterr().err


def test_a_full_disk_is_reported_and_the_last_good_checkpoint_kept(
    whole, call, capsys, tmp_path, monkeypatch
):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(model: ImageClassifier, *_) -> None:
        if model.global_step == 25:  # from here on no file grows beyond 100 kB
            model.trainer.strategy.checkpoint_io.wait()
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))

    try:
        with monkeypatch.context() as patch:
            patch.setattr(ImageClassifier, "on_train_batch_start", fill)
            assert call("fit", *THREE, "--checkpoints.seconds", "0", folder=tmp_path) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "No checkpoint could be written" in capsys.readouterr().err
    assert read(tmp_path)["state"] == "failed"
    assert not list((tmp_path / "checkpoints").glob(".*"))
    assert content(tmp_path)["global_step"] == 25
    assert call("fit", "--run", str(tmp_path)) == 0
    assert read_digests(tmp_path) == read_digests(whole(()))


def test_a_full_disk_with_only_the_best_weights_promises_no_more_than_these(
    call, capsys, tmp_path, monkeypatch
):
    run = tmp_path / "runs" / "digits" / "first"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_500_000, limits[1]))  # last.ckpt is larger
    try:
        assert call("fit", *THREE[:3], "1", folder=run) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    said = capsys.readouterr().err
    assert ": File too large: the disk or quota is full (" in said and " MB free)" in said
    assert f"Only the best weights are kept: make evaluate RUN={run}." in said
    assert "make resume" not in said and "make train" in said
    shutil.copytree("configs", tmp_path / "configs")
    monkeypatch.setattr(training, "project_root", lambda: tmp_path)
    monkeypatch.delenv("RUN_FOLDER", raising=False)
    assert call("test", folder=tmp_path / "none") == 0  # that of the newest run
    assert f"evaluated {run}" in capsys.readouterr().out
    assert call("fit", "--run", "latest", folder=tmp_path / "none") == 2
    said = capsys.readouterr().err
    assert "only its best weights (last.ckpt was not written, or is deleted)" in said


def test_a_full_disk_without_a_checkpoint_promises_none(tmp_path):
    (tmp_path / ".last.ckpt.new").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"No space left .* No earlier one is there.* make train$"):
        write_checkpoint({"weight": torch.zeros(9)}, tmp_path / "last.ckpt")


def test_a_run_that_still_trains_is_not_resumed_before_its_first_checkpoint(
    trained, call, capsys, tmp_path
):
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    shutil.rmtree(run / "checkpoints")
    with (run / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert call("fit", "--run", str(run)) == 2
        assert "is being trained by another process" in capsys.readouterr().err
    assert call("fit", "--run", str(run), "--trainer.max_epochs", "9") == 2
    assert "has no checkpoint" in capsys.readouterr().err


def test_training_continues_while_a_checkpoint_is_written(whole, call, tmp_path, monkeypatch):
    last, step, begun, seen, save = 25, 0, threading.Condition(), [], torch.save

    def note(model: ImageClassifier, *_) -> None:
        nonlocal step
        with begun:
            step = model.global_step
            begun.notify_all()

    def slowly(content: dict, file: BinaryIO) -> None:
        saved = min(content["global_step"], last - 1)  # nothing follows the last
        with begun:  # the step that follows the saved one begins before the file is written
            seen.append(begun.wait_for(lambda: step >= saved, 60))
        save(content, file)

    with monkeypatch.context() as patch:
        patch.setattr(ImageClassifier, "on_train_batch_start", note)
        patch.setattr(torch, "save", slowly)
        interrupt(patch, "training_step", last)
        assert call("fit", *THREE, "--checkpoints.seconds", "0", folder=tmp_path) == 130
    assert len(seen) >= last and all(seen), seen
    (tmp_path / "checkpoints" / "last.ckpt").unlink()
    assert content(tmp_path, "previous")["global_step"] == last
    assert call("fit", "--run", str(tmp_path)) == 0
    assert read_digests(tmp_path) == read_digests(whole(()))


def test_a_failed_write_is_raised_but_does_not_hide_the_error_that_ends_the_run(tmp_path):
    (tmp_path / "file").touch()
    writer = VerifiedIO()
    writer.save_checkpoint({}, tmp_path / "file" / "last.ckpt")
    with pytest.raises(UserError, match="No checkpoint could be written"):
        writer.wait()
    writer.save_checkpoint({}, tmp_path / "file" / "last.ckpt")
    writer.settle()


def test_a_folder_that_can_not_be_written_to_is_reported(tmp_path):
    (tmp_path / "checkpoints").touch()
    with pytest.raises(UserError, match=r"No checkpoint could be written to .*: File exists"):
        write_checkpoint({}, tmp_path / "checkpoints" / "last.ckpt")


def test_a_failed_write_of_one_process_is_reported_in_one_line_by_each(call, tmp_path, capfd):
    (tmp_path / "checkpoints").touch()
    flags = (*THREE, "--checkpoints.seconds", "0", "--trainer.devices", "2")
    assert call("fit", *flags, "--trainer.accelerator", "cpu", folder=tmp_path) == 2
    error = capfd.readouterr().err
    assert "No checkpoint could be written" in error and "Traceback" not in error
    assert read(tmp_path)["state"] == "failed"


def test_every_changed_bit_of_a_checkpoint_is_detected(tmp_path):
    path = tmp_path / "last.ckpt"
    write_checkpoint({"state_dict": {"a": torch.arange(5)}}, path)
    whole_bytes = path.read_bytes()
    for place in range(0, len(whole_bytes), 7):
        changed = bytearray(whole_bytes)
        changed[place] ^= 1 << (place % 8)
        path.write_bytes(changed)
        assert not is_intact(path)
    path.write_bytes(whole_bytes)
    assert is_intact(path)


def test_the_two_newest_checkpoints_are_kept_with_their_digests(tmp_path):
    folder = tmp_path / "checkpoints"
    for step in range(6):
        write_checkpoint({"step": step}, folder / "last.ckpt")
        if step == 1:
            write_checkpoint({"step": step}, folder / "best.ckpt")
    known = {path.name: torch.load(path)["step"] for path in folder.glob("*.ckpt")}
    assert known == {"last.ckpt": 5, "previous.ckpt": 4, "best.ckpt": 1}
    assert all(is_intact(path) for path in folder.glob("*.ckpt"))
    assert len((folder / "digests.txt").read_text().splitlines()) == 4
    assert find_checkpoint(tmp_path, "last", "previous").name == "last.ckpt"


@pytest.mark.parametrize(
    ("took", "asked", "seconds"),
    [(0.01, None, 20.0), (1.0, None, 50.0), (60.0, None, 600.0), (1.0, 5.0, 5.0)],
)
def test_writing_takes_two_percent_of_the_time(took, asked, seconds, tmp_path):
    checkpoint = RunCheckpoint(tmp_path, Interruption(), asked)
    checkpoint.io.took = took
    assert checkpoint._seconds_between() == seconds


def test_an_elastic_resume_gives_each_step_the_same_images(call, tmp_path, monkeypatch):
    shown: dict[str, dict[int, set[int]]] = {"whole": {}, "elastic": {}}

    def look(at: dict[int, set[int]]):
        def hook(model: ImageClassifier, batch, *_) -> None:
            at.setdefault(model.global_step, set()).update(batch.row.tolist())

        return hook

    flags = (*THREE, "--data.batch_size", "64")
    with monkeypatch.context() as patch:
        patch.setattr(ImageClassifier, "on_train_batch_start", look(shown["whole"]))
        assert call("fit", *flags, folder=tmp_path / "whole") == 0
    broken = tmp_path / "broken"
    with monkeypatch.context() as patch:
        patch.setattr(ImageClassifier, "on_train_batch_start", look(shown["elastic"]))
        assert call("fit", *flags, "--until", "20", folder=broken) == 0
        smaller = ("--run", str(broken), "--data.batch_size", "16")
        assert call("fit", *smaller) == 2
        assert call("fit", *smaller, "--elastic") == 0
    assert shown["elastic"] == shown["whole"]
    assert len(shown["whole"]) == 48 and {len(each) for each in shown["whole"].values()} == {64}
    rows = [read_metrics(tmp_path / name / "metrics.csv") for name in ("whole", "broken")]
    assert [r["step"] for r in rows[0]] == [r["step"] for r in rows[1]]
    decided = read(broken)["resumes"][0]["decisions"]
    assert decided["trainer.accumulate_grad_batches"]["value"] == 4


def test_another_number_of_devices_is_refused_unless_elastic(trained):
    was = applied(read(trained))
    now = json.loads(json.dumps(was))
    now["trainer"]["devices"], now["data"]["batch_size"] = 2, 32
    with pytest.raises(UserError, match=r"the number of devices was 1, is 2.* add --elastic"):
        check_resume(now, was, elastic=False)
    check_resume(now, was, elastic=True)
    for key, value in (("learning_rate", 0.5), ("momentum", 0.5), ("schedule", "cosine")):
        model = {**was["model"], key: value}
        with pytest.raises(UserError, match=f"model.{key} was .*, is {value}"):
            check_resume({**was, "model": model}, was, elastic=True)
    now["data"]["global_batch_size"] = 128
    with pytest.raises(UserError, match="global_batch_size was 64, is 128"):
        check_resume(now, was, elastic=True)


def test_settings_that_do_not_affect_the_result_may_change_on_a_resume(trained):
    was = applied(read(trained))
    for part, key, value in (
        *(("data", "workers", 3), ("data", "eval_batch_size", 7), ("data", "options", {"a": 1})),
        *(("model", "pretrained", True), ("model", "compile", "default")),
        *(("trainer", "max_epochs", 99), ("trainer", "log_every_n_steps", 1)),
    ):
        may_change = {"model": ImageClassifier.may_change, "data": ImageData.may_change}
        check_resume({**was, part: {**was[part], key: value}}, was, False, may_change)


def test_a_run_with_random_crops_is_not_resumed_without_them():
    def facts(loader: str) -> Facts:
        return Facts("folder", {"train": 9}, "same", nbytes=None, extra={"loader": loader})

    with pytest.raises(UserError, match=r"data\.loader was streaming, is mapped"):
        check_data(facts("streaming"), facts("mapped"), resuming=True)
    check_data(facts("resident"), facts("mapped"), resuming=True)
    check_data(facts("streaming"), facts("mapped"), resuming=False)


def test_a_checkpoint_with_weights_only_is_not_resumed(trained, call, capsys, tmp_path):
    best = trained / "checkpoints" / "best.ckpt"
    assert call("fit", *THREE, "--ckpt_path", str(best), folder=tmp_path) == 2
    assert "holds weights only" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fit", "--until", "soon"), "--until is 'soon'"),
        (("test", "--elastic"), "--allow-nan, --name and --note work only with fit"),
    ],
)
def test_wrong_uses_of_until_and_elastic_are_refused(arguments, message, call, capsys):
    assert call(*arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [
        ("ReLU", lambda inplace: torch.nn.GELU(), "ReLU(inplace=True) in it and "),
        ("Dropout", lambda p: torch.nn.Identity(), "Dropout(p=0.1"),
        ("BatchNorm2d", torch.nn.InstanceNorm2d, "(32,) in it and not here (and 29 more)"),
    ],
    ids=["another activation", "no dropout", "other weights"],
)
def test_a_changed_network_is_refused(
    attribute, value, message, trained, call, capsys, monkeypatch
):
    monkeypatch.setattr(torch.nn, attribute, value)
    assert call("fit", "--run", str(trained), "--trainer.max_epochs", "5") == 2
    error = capsys.readouterr().err
    assert "The checkpoint is of another network" in error
    assert message in error and error.count("\n") == 1


def test_source_files_that_changed_since_the_start_are_listed(trained, call, capsys, tmp_path):
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    archive = run / "source.zip"
    with zipfile.ZipFile(archive, "a") as pack:
        pack.writestr("src/removed.py", "since then")
        pack.writestr("README.txt", "since then")
    assert call("fit", "--run", str(run), "--trainer.max_epochs", "5") == 0
    said = capsys.readouterr().out
    assert "warning: changed since the run started: src/removed.py. Training uses" in said


@pytest.mark.parametrize(
    "verb", [("validate",), ("test",), ("predict",), ("predict", "--input", "x.png", "--out", "-")]
)
def test_an_evaluation_lists_source_files_that_changed_since_the_training(
    verb, trained, call, capsys, tmp_path, monkeypatch
):
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save("x.png")
    assert call(*verb, "--run", str(run)) == 0
    assert "changed since" not in capsys.readouterr().err
    with zipfile.ZipFile(run / "source.zip", "a") as pack:
        pack.writestr("src/removed.py", "since then")
        pack.writestr("README.txt", "since then")
    assert call(*verb, "--run", str(run)) == 0
    out, err = capsys.readouterr()
    said = "warning: changed since the run was trained: src/removed.py. The weights are from before"
    assert err.count(said) == 1 and "changed" not in out


def test_a_prediction_compares_the_source_with_that_of_the_last_resume(trained, capsys, tmp_path):
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    shutil.copyfile(run / "source.zip", run / "source.resume-1.zip")
    project = Project(package.__name__, ImageClassifier, ImageData)
    record = read(run)
    record["resumes"] = [{"source": {"zip": "source.resume-1.zip"}}]
    (run / "run.json").write_text(json.dumps(record))
    with zipfile.ZipFile(run / "source.zip", "a") as pack:
        pack.writestr("src/removed.py", "before the resume")
    load_trained(project, run)
    assert "changed" not in capsys.readouterr().err
    with zipfile.ZipFile(run / "source.resume-1.zip", "a") as pack:
        for i in range(12):
            pack.writestr(f"src/{i:02}.py", "since then")
    load_trained(project, run)
    assert "src/09.py and 2 more. The weights are" in capsys.readouterr().err
