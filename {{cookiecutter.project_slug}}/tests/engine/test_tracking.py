"""wandb and TensorBoard show what metrics.csv holds, and never stand in the way of training."""

import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import wandb
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto import wandb_internal_pb2

from {{ cookiecutter.__package_name }}.classifier import ImageClassifier
from {{ cookiecutter.__package_name }}.engine.decisions import applied
from {{ cookiecutter.__package_name }}.engine.monitor.trackers import (
    Tracker,
    Wandb,
    wandb_mode,
)
from {{ cookiecutter.__package_name }}.engine.run.checkpoint import RunCheckpoint
from {{ cookiecutter.__package_name }}.engine.run.metrics import (
    MetricsCSV,
    read_metrics,
)

DIGITS = ("--config", "configs/digits.yaml", "--trainer.max_epochs")
KEY = "0123456789" * 4


def wandb_records(path: Path) -> Iterator[wandb_internal_pb2.Record]:
    """Read a .wandb file: LevelDB's log format (blocks of 32 KiB) after a header of 7 bytes."""
    content, at, whole = path.read_bytes(), 7, b""
    while at + 7 <= len(content):
        left = 32768 - at % 32768
        length, kind = struct.unpack_from("<HB", content, at + 4)
        if left < 7 or kind == 0:
            at += left
            continue
        whole += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a full record, or the last part of one
            yield wandb_internal_pb2.Record.FromString(whole)
            whole = b""


def wandb_rows(folder: Path) -> list[dict]:
    rows = []
    for record in wandb_records(next(folder.glob("*.wandb"))):
        if record.WhichOneof("record_type") == "history":
            items = {"/".join(item.nested_key) or item.key: item for item in record.history.item}
            row = {name: json.loads(item.value_json) for name, item in items.items()}
            assert row["step"] == record.history.step.num
            rows.append({name: value for name, value in row.items() if not name.startswith("_")})
    return rows


def wandb_run(folder: Path) -> wandb_internal_pb2.RunRecord:
    records = wandb_records(next(folder.glob("*.wandb")))
    return next(record.run for record in records if record.WhichOneof("record_type") == "run")


def offline_folders(run: Path) -> list[Path]:
    return sorted(run.glob("wandb/offline-run-*"))


@pytest.fixture(scope="module")
def resumed(call, tmp_path_factory) -> Path:
    """A run that crashed twice, each time some logged rows after a checkpoint."""
    folder = tmp_path_factory.mktemp("resumed")
    start = (*DIGITS, "4", "--tracking.wandb", "true", "--tracking.tensorboard", "true")
    start = (*start, "--checkpoints.seconds", "0")
    for step, arguments in ((31, start), (62, ("--run", str(folder)))):

        def crash(model: ImageClassifier, *_, step: int = step) -> None:
            if model.global_step == step - 12:
                callbacks = model.trainer.callbacks
                (checkpoint,) = (c for c in callbacks if isinstance(c, RunCheckpoint))
                checkpoint.due, checkpoint.seconds = True, float("inf")
            if model.global_step == step:
                raise RuntimeError("a crash")

        with pytest.MonkeyPatch.context() as patch, pytest.raises(RuntimeError, match="a crash"):
            patch.setattr(ImageClassifier, "on_train_batch_start", crash)
            call("fit", *arguments, folder=folder)
        saved = folder / "checkpoints" / "last.ckpt"
        assert torch.load(saved, weights_only=True)["global_step"] == step - 11
    assert call("fit", "--run", str(folder)) == 0
    return folder


def test_wandb_holds_every_row_of_a_resumed_run_once(resumed):
    rows = read_metrics(resumed / "metrics.csv")
    assert len(rows) == 16  # 12 of training, each fifth step, and 4 of validation
    (newest,) = offline_folders(resumed)
    assert wandb_rows(newest) == rows


def test_wandb_keeps_its_id_and_the_folders_of_earlier_starts(resumed):
    (newest,) = offline_folders(resumed)
    older = sorted(resumed.glob("wandb/older/offline-run-*"))
    assert len(older) == 2
    wanted = json.loads((resumed / "run.json").read_text())["wandb"]["id"]
    assert {wandb_run(folder).run_id for folder in (newest, *older)} == {wanted}


def test_wandb_gets_the_resolved_configuration(resumed):
    (newest,) = offline_folders(resumed)
    run = wandb_run(newest)
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    used = applied(json.loads((resumed / "run.json").read_text())["resumes"][-1])
    for section in ("trainer", "data", "model"):
        assert config[section].items() >= used[section].items()
    assert config["trainer"]["precision"] == "32-true"  # what was decided, not null
    assert run.project == Path.cwd().name


def test_tensorboard_holds_every_row_of_a_resumed_run_once(resumed):
    events = EventAccumulator(str(resumed / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    shown = [
        (event.step, name, event.value)
        for name in events.Tags()["scalars"]
        for event in events.Scalars(name)
    ]
    logged = [
        (row["step"], name, pytest.approx(row[name], rel=1e-6))
        for row in read_metrics(resumed / "metrics.csv")
        for name in row.keys() - {"step"}
    ]
    assert sorted(shown, key=str) == sorted(logged, key=lambda point: str(point[:2]))


def test_evaluating_a_run_is_not_tracked(resumed, call):
    before = sorted(path.name for path in resumed.glob("*/*"))
    assert call("test", "--run", str(resumed)) == 0
    assert sorted(path.name for path in resumed.glob("*/*")) == before


def test_an_offline_run_says_why_and_how_to_upload_it(call, tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    flags = ("--trainer.limit_train_batches", "2", "--tracking.wandb", "true")
    assert call("fit", *DIGITS, "1", *flags, folder=tmp_path) == 0
    out, err = capfd.readouterr()
    assert "offline: WANDB_MODE is offline" in out
    assert f"wandb sync {offline_folders(tmp_path)[0]}\n" in out
    assert "wandb" not in err


def test_without_a_key_and_a_flag_nothing_is_tracked(trained):
    assert not (trained / "wandb").exists() and not (trained / "tensorboard").exists()


def test_a_row_is_handed_on_once_and_only_when_its_step_is_over(tmp_path):
    class Listener(Tracker):
        def __init__(self) -> None:
            self.heard: list = []

        def start(self, rows: list[dict]) -> None:
            self.heard += [row["step"] for row in rows]

        def log(self, row: dict) -> None:
            self.heard.append((row["step"], sorted(row.keys() - {"step", "epoch"})))

        def finish(self, success: bool) -> None:
            self.heard.append(success)

    first, second = Listener(), Listener()
    log = MetricsCSV(tmp_path, [first])
    log.resume_from(0)
    for step in (1, 2, 3):
        log.log_metrics({"a": 0.5, "epoch": 0}, step)
        log.fsync()
        log.log_metrics({"b": 0.5, "epoch": 0}, step)
    log.finalize("failed")  # step 3 may have had more to say
    assert first.heard == [(1, ["a", "b"]), (2, ["a", "b"]), False]
    log = MetricsCSV(tmp_path, [second])
    log.resume_from(3)
    log.log_metrics({"c": 0.5, "epoch": 0}, 2)
    log.log_metrics({"a": 0.5, "epoch": 0}, 3)
    log.finalize("success")
    assert second.heard == [1, (2, ["a", "b", "c"]), (3, ["a"]), True]


def test_rows_that_the_server_has_are_not_sent_again(tmp_path):
    tracker, sent = Wandb(tmp_path, "online"), []
    tracker.run = SimpleNamespace(starting_step=3, log=lambda row, step: sent.append(step))
    for step in range(6):
        tracker.notify("log", {"step": step, "epoch": 0})
    assert sent == [3, 4, 5]


def test_training_goes_on_when_wandb_cannot_start(call, tmp_path, capsys):
    refused = ("--tracking.wandb", "true", "--tracking.project", "a/b")
    assert call("fit", *DIGITS, "2", *refused, folder=tmp_path) == 0
    assert capsys.readouterr().err.count("wandb stopped, training goes on: ") == 1
    assert len(read_metrics(tmp_path / "metrics.csv")) == 8


@pytest.mark.skipif(shutil.which("ps") is None, reason="finds wandb's process with ps")
def test_training_goes_on_when_wandb_dies(tmp_path, capsys):
    tracker = Wandb(tmp_path, "offline", id="dies", project="p")
    tracker.notify("start", [])
    listed = subprocess.check_output(["ps", "-axo", "pid=,ppid=,comm="], text=True)
    processes = [line.split(maxsplit=2) for line in listed.splitlines()]
    mine = [pid for pid, parent, name in processes if int(parent) == os.getpid()]
    (core,) = [pid for pid, _, name in processes if pid in mine and "wandb-core" in name]
    os.kill(int(core), signal.SIGKILL)
    for step in range(50):
        tracker.notify("log", {"step": step, "epoch": 0})
        time.sleep(0.01)
    tracker.notify("finish", True)
    assert capsys.readouterr().err.count("wandb stopped, training goes on: ") == 1
    with suppress(ConnectionError):
        wandb.teardown()


def test_a_logger_of_the_users_own_is_kept(call, tmp_path):
    flags = ("--trainer.logger", "CSVLogger", "--trainer.logger.save_dir", str(tmp_path / "own"))
    assert call("fit", *DIGITS, "1", *flags, folder=tmp_path / "run") == 0
    assert (tmp_path / "run" / "metrics.csv").exists()
    assert len(list((tmp_path / "own").rglob("metrics.csv"))) == 1


@contextmanager
def server(status: int, answer: object) -> Iterator[str]:
    """A web server that gives one answer to every question; yields its address."""

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *_) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as web:
        thread = threading.Thread(target=web.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{web.server_port}"
        web.shutdown()
        thread.join()


@contextmanager
def silent_server() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@contextmanager
def no_server() -> Iterator[str]:
    with silent_server() as address:
        pass
    yield address


@pytest.mark.parametrize(
    ("place", "mode", "why"),
    [
        (server(200, {"data": {"viewer": {"id": "me"}}}), "online", "accepts the key"),
        (server(200, {"data": {"viewer": None}}), "offline", "the key is unknown"),
        (server(401, {}), "offline", "the server refuses the key"),
        (server(500, {}), "offline", "no usable answer"),
        (silent_server(), "offline", "no answer within 2 s"),
        (no_server(), "offline", "no usable answer"),
    ],
    ids=["accepts", "unknown key", "wrong key", "broken", "silent", "closed"],
)
def test_wandb_is_online_only_where_the_server_accepts_the_key(place, mode, why, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    with place as address:
        monkeypatch.setenv("WANDB_BASE_URL", address)
        begun = time.monotonic()
        found = wandb_mode()
    assert time.monotonic() - begun < 10
    assert found[0] == mode and why in found[1] and KEY not in found[1]


def test_a_name_server_that_stays_silent_costs_two_seconds(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: time.sleep(30) or [])
    begun = time.monotonic()
    assert wandb_mode()[0] == "offline"
    assert time.monotonic() - begun < 10


def test_the_key_of_the_netrc_file_counts_for_its_host_alone(monkeypatch, tmp_path):
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with server(200, {"data": {"viewer": {"id": "me"}}}) as address:
        monkeypatch.setenv("WANDB_BASE_URL", address)
        for host, mode in (("elsewhere.org", "offline"), (address[7:], "online")):
            (tmp_path / "netrc").write_text(f"machine {host} login user password {KEY}\n")
            assert wandb_mode()[0] == mode


@pytest.mark.parametrize(
    ("wish", "mode"), [("offline", "offline"), ("disabled", "disabled"), ("online", "online")]
)
def test_the_mode_in_the_environment_is_obeyed(wish, mode, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", wish)
    if wish == "online":
        assert wandb_mode()[0] == "offline"  # without a key wandb would ask
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    with no_server() as address:
        monkeypatch.setenv("WANDB_BASE_URL", address)
        assert wandb_mode() == (mode, f"WANDB_MODE is {wish}")
