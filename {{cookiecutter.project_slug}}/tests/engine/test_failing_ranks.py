"""One of several processes fails: all end soon, with one line that says why."""

import csv
import json
import os
import signal
import socket
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from killed import Job, log_of, outcome, start, steps_done, wait
from warm import WarmPopen

from {{ cookiecutter.__package_name }}.engine.cli.arguments import (
    check_same_data,
    check_same_settings,
)
from {{ cookiecutter.__package_name }}.engine.errors import UserError
from {{ cookiecutter.__package_name }}.engine.run.heartbeat import Beat, Judge

DIGITS = ("--config", "configs/digits.yaml", "--trainer.accelerator", "cpu")
TWO_EPOCHS = ("fit", *DIGITS, "--trainer.devices", "2", "--trainer.max_epochs", "2")


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def beats(*ranks: dict) -> list[Beat]:
    """What ranks write that train: by default in step 8, on this host."""
    usual = {"beats": 1, "begun": 8, "finished": 7, "excused": False, "pid": 1, "host": "here"}
    return [Beat(**usual | rank) for rank in ranks]


@pytest.mark.parametrize(
    ("ranks", "expected"),
    [
        (({}, {}), None),
        (({}, {"pid": 2}), (1, "has died without a message")),
        (({"error": "ValueError: no"}, {}), (0, "failed: ValueError: no")),
        (({}, {"pid": 2, "ended": True}), None),
        (({}, {"pid": 2, "host": "there"}), None),
        (({}, {"beats": 0, "pid": 2}), None),
    ],
)
def test_a_rank_that_died_or_failed_is_found_at_once(ranks, expected):
    judge = Judge(600, "here")
    assert judge.verdict(beats(*ranks), 0.0, lambda pid: pid == 1) == expected


def test_a_silent_process_of_another_host_is_given_up():
    judge, there = Judge(600, "here"), {"host": "there"}
    for second in range(20):
        found = judge.verdict(beats({"beats": second + 1}, there), second, lambda pid: True)
        assert (found is not None) is (second > 8)
    assert found == (1, "has been silent for 19 s")


@pytest.mark.parametrize(
    ("waits", "hangs"),
    [
        ({"begun": 9}, {"begun": 8}),
        ({"waiting": True}, {}),
        ({}, {"beats": 1, "begun": 9, "excused": True}),  # stopped, with its threads
    ],
)
@pytest.mark.parametrize("slowest", [0, 1])
def test_the_rank_that_keeps_the_others_waiting_is_blamed(waits, hangs, slowest):
    judge = Judge(20, "here")
    for second in range(30):
        moving = [
            {"beats": second + 1} | each for each in ((hangs, waits), (waits, hangs))[slowest]
        ]
        found = judge.verdict(beats(*moving), second, lambda pid: True)
        if second <= 20:
            assert found is None
    assert found is not None and found[0] == slowest and "stalled" in found[1]


def test_a_stopped_process_is_found_while_the_other_validates():
    """It waits for the stopped one inside of NCCL, where nobody sees it wait."""
    judge = Judge(20, "here")
    for second in range(30):
        ranks = beats({"beats": second + 1, "excused": True}, {"beats": 1, "excused": True})
        found = judge.verdict(ranks, second, lambda pid: True)
        assert (found is not None) is (second > 20)
    assert found is not None and found[0] == 1 and "stopped 29 s ago" in found[1]


def test_what_may_take_long_is_no_stall():
    """One of two ranks saves for a minute, and then trains no more."""
    judge = Judge(20, "here")
    for second in range(85):
        both = {"beats": second + 1}
        found = judge.verdict(
            beats(both, both | {"excused": second < 60}), second, lambda pid: True
        )
        assert (found is not None) is (second >= 80)


def in_training(folder: Path, *flags: str) -> list[WarmPopen]:
    """Start two processes, and return when both train."""
    endless = ("--trainer.max_epochs", "10000", "--trainer.log_every_n_steps", "1")
    job = Job(["fit", *DIGITS, "--trainer.devices", "2", *endless, *flags], folder, 2)
    processes, deadline = start(job), time.monotonic() + 60
    while not (folder / "metrics.csv").exists() or len(rows_of(folder)) < 5:
        assert time.monotonic() < deadline and not any(p.poll() for p in processes), log_of(folder)
        time.sleep(0.1)
    return processes


def ends(processes: Sequence[WarmPopen], within: float) -> list[int]:
    """Return the exit statuses of all processes, which must end by then."""
    deadline = time.monotonic() + within
    try:
        return [process.wait(max(deadline - time.monotonic(), 0.1)) for process in processes]
    finally:
        for process in processes:
            process.kill()


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_killed_ends_all_within_ten_seconds(rank, tmp_path):
    processes = in_training(tmp_path / "run")
    os.kill(processes[rank].pid, signal.SIGKILL)
    statuses = ends(processes, within=10)
    assert statuses[rank] == -signal.SIGKILL and statuses[1 - rank] in (1, 2)
    said = log_of(tmp_path / "run")
    assert f"rank {rank} has died" in said or "another process of this run has ended" in said


def test_a_rank_that_raises_an_error_is_heard_and_all_end(tmp_path):
    flags = ("--trainer.devices", "2", "--trainer.max_epochs", "10000")
    job = Job(["fit", *DIGITS, *flags], tmp_path / "run", 2, without="a healthy rank 1")
    assert ends(start(job), within=40)[1] == 1
    said = log_of(tmp_path / "run")
    assert said.index("ValueError: it is broken") < said.index("error: ")  # the other's line


def test_a_rank_that_stands_still_is_named_and_all_end(tmp_path):
    processes = in_training(tmp_path / "run", "--stall-timeout", "4")
    os.kill(processes[1].pid, signal.SIGSTOP)
    assert ends(processes, within=20) == [1, -signal.SIGKILL]
    assert "error: rank 1 stalled" in log_of(tmp_path / "run")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["state"] == "failed" and record["reason"].startswith("rank 1 stalled")


@pytest.mark.parametrize("rank", [0, 1])
def test_sigterm_to_one_rank_saves_and_ends_all(rank, tmp_path):
    processes = in_training(tmp_path / "run")
    os.kill(processes[rank].pid, signal.SIGTERM)
    assert ends(processes, within=15) == [143, 143]
    said = log_of(tmp_path / "run")
    assert said.count("SIGTERM: saving, then exiting.") == 1 and "make resume" in said
    assert steps_done(tmp_path / "run") >= 5


def test_ranks_with_other_settings_or_data_are_refused():
    with pytest.raises(UserError, match=r"model\.seed is 0 on rank 0 and 1 on rank 1"):
        check_same_settings([{"model": {"seed": 0}}, {"model": {"seed": 1}}])
    with pytest.raises(UserError, match="of rank 0 and of rank 2 differ"):
        check_same_data(["a", "a", "b"])


def test_a_loss_that_is_nan_on_one_rank_ends_all_and_keeps_the_last_checkpoint(tmp_path):
    """Rank 1's loss is NaN after the resume, so the weights of all are from its first step on."""
    folder, often = tmp_path / "run", "--trainer.log_every_n_steps=1"
    begun = Job([*TWO_EPOCHS, often, "--until", "5"], folder, 2)
    assert wait(start(begun)) == 0, log_of(folder)
    resumed = Job(["fit", "--run", str(folder)], folder, 2, without="a finite loss on rank 1")
    assert ends(start(resumed), within=40)[0] == 4
    assert log_of(folder).count("error: train/loss is nan in step 7.") == 1
    record = json.loads((folder / "run.json").read_text())
    assert record["state"] == "failed" and "train/loss is nan" in record["reason"]
    assert steps_done(folder) == 5


def test_a_full_disk_ends_all_and_says_so(tmp_path):
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / ".last.ckpt.new").symlink_to("/dev/full")
    assert ends(start(Job([*TWO_EPOCHS], folder, 2)), within=60)[0] == 2
    said = log_of(folder)
    assert said.count("error: No checkpoint could be written to") == 1 and "make train" in said


def test_other_data_on_a_host_are_refused(tmp_path):
    job = Job([*TWO_EPOCHS], tmp_path / "run", 2, without="the same data on rank 1", nodes=True)
    assert ends(start(job), within=60) == [2, 2]
    assert log_of(tmp_path / "run").count("error: The data of rank 0 and of rank 1 differ.") == 1


def test_a_run_on_two_devices_is_not_resumed_on_one_by_accident(tmp_path):
    folder = tmp_path / "run"
    assert wait(start(Job([*TWO_EPOCHS, "--until", "3"], folder, 2))) == 0, log_of(folder)
    alone = ["fit", "--run", str(folder), "--trainer.devices", "1"]
    assert wait(start(Job(alone, folder))) == 2
    assert "the number of devices was 2, is 1. Set it back, or add --elastic" in log_of(folder)
    assert wait(start(Job([*alone, "--elastic"], folder))) == 0, log_of(folder)


def test_a_port_that_is_taken_is_named(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        first, second = start(Job([*TWO_EPOCHS], tmp_path / "run", 2, port=port))
        try:
            assert first.wait(60) == 2
        finally:
            second.kill()  # torchrun would
            second.wait()
    assert f"error: another program uses port {port}." in log_of(tmp_path / "run")


def test_seeds_in_the_environment_of_a_host_change_nothing(tmp_path):
    found = []
    for name in ("same", "other"):
        seeds = [{"PL_GLOBAL_SEED": rank, "PYTHONHASHSEED": rank} for rank in ("0", "1")]
        own = {"environments": seeds} if name == "other" else {}
        assert wait(start(Job([*TWO_EPOCHS], tmp_path / name, 2, **own))) == 0
        found.append(outcome(tmp_path / name))
    assert found[0] == found[1]
