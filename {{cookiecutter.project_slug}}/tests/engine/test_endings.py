"""How a run ends, and what its record says of it: time, signals, a full disk, broken numbers."""

import errno
import json
import math
import os
import shutil
import signal
from pathlib import Path
from typing import NoReturn

import pytest
from killed import by_python

from {{ cookiecutter.__package_name }}.classifier import ImageClassifier
from {{ cookiecutter.__package_name }}.engine.errors import UserError
from {{ cookiecutter.__package_name }}.engine.json_text import number, to_json
from {{ cookiecutter.__package_name }}.engine.run import record as record_module
from {{ cookiecutter.__package_name }}.engine.run.folder import (
    find_run,
    new_run_folder,
)
from {{ cookiecutter.__package_name }}.engine.run.interruption import (
    Interrupted,
    Interruption,
)
from {{ cookiecutter.__package_name }}.engine.run.metrics import read_metrics
from {{ cookiecutter.__package_name }}.engine.run.record import RunRecord
from {{ cookiecutter.__package_name }}.engine.tools import bench

DIGITS = ("--config", "configs/digits.yaml")
LONG = (*DIGITS, "--trainer.max_epochs", "500")


def read(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_text(), parse_constant=refuse)


def refuse(name: str) -> NoReturn:
    raise AssertionError(f"{name} is no JSON")


def test_numbers_that_json_lacks_are_named_and_read_back():
    text = to_json({"a": [math.nan, math.inf, (-math.inf, 0.5)], "nan": {"b": True}})
    content = json.loads(text, parse_constant=refuse)
    assert content == {"a": ["NaN", "Infinity", ["-Infinity", 0.5]], "nan": {"b": True}}
    assert math.isnan(number("NaN") or 0) and number("-Infinity") == -math.inf
    assert number(3) == 3 and number(None) is None


def test_every_json_of_a_run_without_finite_loss_is_valid(call, tmp_path):
    flags = (*DIGITS, "--trainer.max_epochs", "1", "--model.learning_rate", "1e30")
    assert call("fit", *flags, "--allow-nan", folder=tmp_path) == 0
    files = [*tmp_path.rglob("*.json")]
    for file in files:
        json.loads(file.read_text(), parse_constant=refuse)
    results = read(tmp_path)["results"]
    assert len(files) == 2 and not math.isfinite(number(results["val/loss"]))
    assert call("test", "--run", str(tmp_path)) == 0
    assert not math.isfinite(number(read(tmp_path)["results"]["test/loss"]))


def test_a_run_that_is_out_of_time_says_so_and_gets_the_time_again(call, tmp_path):
    assert call("fit", *LONG, "--trainer.max_time", "00:00:00:01", folder=tmp_path) == 0
    first = read(tmp_path)
    assert first["state"] == "interrupted" and first["reason"].startswith("max_time: ")
    assert first["results"]["steps"] > 0 and (tmp_path / "curves.png").exists()
    assert call("fit", "--run", str(tmp_path)) == 0
    again = read(tmp_path)
    assert again["results"]["steps"] > first["results"]["steps"]
    assert again["reason"].startswith("max_time: ")


def test_early_stopping_is_recorded(call, tmp_path):
    flags = ("--trainer.callbacks+=lightning.pytorch.callbacks.EarlyStopping",)
    flags += ("--trainer.callbacks.monitor=val/loss", "--trainer.callbacks.stopping_threshold=99")
    assert call("fit", *LONG, *flags, folder=tmp_path) == 0
    found = read(tmp_path)
    assert found["state"] == "finished" and found["results"]["steps"] == 16
    assert found["reason"].startswith("EarlyStopping after epoch 0: Stopping threshold reached")


def test_another_callback_that_stops_is_recorded_and_a_complete_run_has_no_reason(
    trained, call, tmp_path, monkeypatch
):
    def stop(model: ImageClassifier) -> None:
        model.trainer.should_stop = True

    monkeypatch.setattr(ImageClassifier, "on_train_epoch_end", stop)
    assert call("fit", *LONG, folder=tmp_path) == 0
    assert read(tmp_path)["reason"] == "a callback stopped the training after step 16"
    assert read(tmp_path)["state"] == "finished" and "reason" not in read(trained)


@pytest.mark.parametrize("name", ["SIGUSR1", "SIGUSR2", "SIGXCPU", "SIGHUP"])
def test_a_warning_of_the_cluster_saves_and_ends_the_run(name, call, tmp_path, monkeypatch, capfd):
    def warn(model: ImageClassifier, *_: object) -> None:
        if model.global_step == 3:
            signal.raise_signal(signal.Signals[name])

    with monkeypatch.context() as patch:
        patch.setattr(ImageClassifier, "on_train_batch_end", warn, raising=False)
        flags = (*DIGITS, "--trainer.max_steps", "6", "--trainer.log_every_n_steps", "1")
        assert call("fit", *flags, folder=tmp_path) == 128 + signal.Signals[name]
    found = read(tmp_path)
    assert (found["state"], found["reason"]) == ("interrupted", name)
    assert "Checkpoint saved. Resume with: make resume" in capfd.readouterr().err
    assert call("fit", "--run", str(tmp_path)) == 0
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.csv")] == [*range(6)]


def test_what_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interruption().listening():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGUSR1) is not signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


def test_output_to_a_terminal_that_was_closed_fails_no_more(tmp_path):
    done = by_python("""
import os
from {package}.engine.run.interruption import drop_closed_terminal
master, slave = os.openpty()
os.dup2(slave, 1)
os.close(slave)
os.close(master)
try:
    os.write(1, b"lost")
except OSError:
    drop_closed_terminal()
    os.write(1, b"nowhere")
    os._exit(7)
""")
    assert (done.returncode, done.stderr) == (7, "")


def test_a_signal_waits_for_the_end_of_what_must_be_completed():
    interruption, seen = Interruption(), []
    with interruption.listening(), pytest.raises(Interrupted, match="SIGTERM"):
        with interruption.undisturbed():
            with interruption.undisturbed():
                signal.raise_signal(signal.SIGTERM)
                seen.append("inner")
            seen.append("outer")
        seen.append("never")
    assert seen == ["inner", "outer"]


def at_the_record(patch: pytest.MonkeyPatch, act: object) -> None:
    patch.setattr(record_module, "commit", act)


def at_the_network(patch: pytest.MonkeyPatch, act: object) -> None:
    patch.setattr(ImageClassifier, "configure_model", act, raising=False)


@pytest.mark.parametrize("moment", [at_the_record, at_the_network])
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_an_interruption_before_the_first_step_leaves_no_run_that_seems_to_run(
    moment, name, call, tmp_path, monkeypatch, capsys
):
    def interrupt(*_: object) -> None:
        signal.raise_signal(signal.Signals[name])

    moment(monkeypatch, interrupt)
    assert call("fit", *LONG, folder=tmp_path) == 128 + signal.Signals[name]
    assert (read(tmp_path)["state"], read(tmp_path)["reason"]) == ("interrupted", name)
    said = capsys.readouterr().err.strip()
    assert said == f"Interrupted ({name})." and not (tmp_path / ".reserve").exists()


def test_ctrl_c_while_libraries_are_imported_ends_quietly():
    done = by_python("""
import os, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from {package}.engine.cli.main import ending_at_once
with ending_at_once():
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        pass  # as some libraries do
""")
    assert (done.returncode, done.stderr) == (130, "\nInterrupted (SIGINT).\n")


def test_ctrl_c_in_another_verb_is_one_line(call, monkeypatch, capsys):
    def interrupted(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(bench, "main", interrupted)
    assert call("bench", *DIGITS) == 130
    assert capsys.readouterr().err == "\nInterrupted (SIGINT).\n"


full_disk = pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")


@full_disk
@pytest.mark.parametrize("file", ["metrics.csv", "digests.json"])
def test_a_full_disk_is_one_line_and_a_failed_run(file, call, tmp_path, capsys):
    (tmp_path / (f".{file}.new" if file == "metrics.csv" else file)).symlink_to("/dev/full")
    status = call("fit", *DIGITS, "--trainer.max_epochs", "1", folder=tmp_path)
    said, found = capsys.readouterr().err, read(tmp_path)
    assert status == 2 and "the disk or quota is full. Free space" in said
    assert "Traceback" not in said and len(said.strip().splitlines()) == 1
    assert found["state"] == "failed" and "No space left" in found["reason"]


@full_disk
def test_an_evaluation_on_a_full_disk_is_repeated_not_resumed(trained, call, tmp_path, capsys):
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    for path in (*run.glob("predictions.csv"), *run.glob("test-*")):
        path.unlink()
    (run / ".predictions.csv.new").symlink_to("/dev/full")
    assert call("test", "--run", str(run)) == 2
    said = capsys.readouterr().err
    assert "is full. Free space, then run the same command again" in said
    assert "make resume" not in said


@full_disk
def test_the_end_is_recorded_although_the_disk_is_full(tmp_path):
    record = RunRecord.start(tmp_path, tmp_path, "one", "a: 1\n")
    assert (tmp_path / ".reserve").stat().st_size >= 1 << 16
    (tmp_path / ".run.json.new").symlink_to("/dev/full")
    record.end_by(ValueError("no"))
    assert read(tmp_path)["state"] == "failed" and read(tmp_path)["reason"] == "ValueError: no"
    assert sorted(path.name for path in tmp_path.glob(".r*")) == []


def test_a_record_is_overwritten_in_place_if_no_file_can_be_written(tmp_path, monkeypatch):
    def fail(*_: object) -> NoReturn:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    record = RunRecord.start(tmp_path, tmp_path, "one", "a: 1\n", text="x" * 4000)
    monkeypatch.setattr(os, "fsync", fail)
    before = (tmp_path / "run.json").stat()
    record.end_by(OSError(errno.EDQUOT, "Disk quota exceeded"))
    assert read(tmp_path)["state"] == "failed"
    assert (tmp_path / "run.json").stat().st_ino == before.st_ino


def run_in(folder: Path, trained: Path, started: str, **config: object) -> Path:
    """A copy of a run's record and best checkpoint that started then."""
    (folder / "checkpoints").mkdir(parents=True)
    shutil.copy(trained / "checkpoints" / "best.ckpt", folder / "checkpoints")
    record = read(trained)
    record["config"]["trainer"] |= config
    (folder / "run.json").write_text(json.dumps({**record, "started": started}))
    return folder


DAMAGED = [b"", b"{", b"\xff\xfe{}", b"[1, 2]", b"null", b'{"started": 3}', b"{}"]


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_record_hides_no_other_run(content, trained, tmp_path, capsys):
    run_in(tmp_path / "runs" / "digits" / "whole", trained, "2026-01-01")
    bad = run_in(tmp_path / "runs" / "digits" / "newer", trained, "2026-02-01")
    (bad / "run.json").write_bytes(content)
    assert find_run(tmp_path, "latest").name == "whole"
    said = capsys.readouterr().err
    assert said.startswith("note: ") and "newer is passed over: " in said
    shutil.rmtree(bad.with_name("whole"))
    with pytest.raises(UserError, match="No run in"):
        find_run(tmp_path, "latest")


@pytest.mark.parametrize("asked", [True, 1, 7])
def test_a_trial_is_never_the_latest_run(asked, trained, tmp_path):
    run_in(tmp_path / "runs" / "digits" / "real", trained, "2026-01-01", fast_dev_run=False)
    trial = run_in(
        tmp_path / "runs" / "digits" / "trial", trained, "2026-02-01", fast_dev_run=asked
    )
    assert find_run(tmp_path, "latest").name == "real"
    assert find_run(tmp_path, "latest", "digits").name == "real"
    assert find_run(tmp_path, str(trial)) == trial.resolve()


def test_a_trial_resumes_no_run(trained, call, capsys):
    before = read(trained)
    assert call("fit", "--run", str(trained), "--trainer.fast_dev_run", "true") == 2
    assert "Remove one of the two" in capsys.readouterr().err and read(trained) == before


def test_a_run_on_another_disk_is_found_again(trained, tmp_path, monkeypatch):
    root, there = tmp_path / "project", tmp_path / "other disk" / "run 1"
    older = run_in(root / "runs" / "digits" / "older", trained, "2026-01-01")
    monkeypatch.delenv("RUN_UNLISTED")
    monkeypatch.setenv("RUN_FOLDER", str(there))
    for _ in range(2):
        assert new_run_folder(root, "digits") == there
    assert {path.name for path in root.glob("runs/*/*")} == {"older", "run 1"}
    assert find_run(root, "latest") == older  # it has no checkpoint yet
    shutil.rmtree(there)
    run_in(there, trained, "2025-01-01")
    assert find_run(root, "latest") == there.resolve()  # the variable names it
    monkeypatch.delenv("RUN_FOLDER")
    assert find_run(root, "latest") == older
    (there / "run.json").write_text((there / "run.json").read_text().replace("2025-", "2027-"))
    assert find_run(root, "latest").resolve() == there.resolve()
    shutil.rmtree(there)
    assert find_run(root, "latest") == older


@pytest.mark.parametrize(("status", "said"), [(0, "run"), (130, "run, waits")])
def test_only_a_program_that_fails_waits_for_torchs_compilers(status, said):
    """They hold its output, so that by_python returns when they have ended."""
    done = by_python(
        f"status = {status}"
        + """
from {package}.engine.cli.quick_exit import QuickExit
end = QuickExit()
import torch._inductor.async_compile as compilers
compilers.config.compile_threads = 2
compilers.AsyncCompile.warm_pool()
process = compilers.AsyncCompile.process_pool().process
process.wait = lambda *_: print(", waits", end="")
print("run" if process.poll() is None else process.returncode, end="")
end(status)
"""
    )
    assert (done.returncode, done.stdout, done.stderr) == (status, said, "")
