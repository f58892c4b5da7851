"""Errors that users see: one line or one page that explains what to do."""

import csv
import errno
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from {{ cookiecutter.__package_name }}.classifier import ImageClassifier
from {{ cookiecutter.__package_name }}.engine import nvml
from {{ cookiecutter.__package_name }}.engine.cli.errors import (
    explain,
    in_one_line,
)
from {{ cookiecutter.__package_name }}.engine.decisions import applied
from {{ cookiecutter.__package_name }}.engine.monitor.gpu import (
    advise,
    out_of_memory,
)
from {{ cookiecutter.__package_name }}.engine.run.interruption import (
    passing_on_sigterm,
)

DIGITS = ("--config", "configs/digits.yaml")
CPU = ("--trainer.accelerator", "cpu")
SHORT = (*DIGITS, "--trainer.max_epochs", "1")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ("--data.batch_sise", "3"),
            "unknown setting data.batch_sise. Did you mean data.batch_size? All settings: fit",
        ),
        (("--trainer.max_epoch=3",), "unknown setting trainer.max_epoch. Did you mean"),
        (
            ("--data.batch_size", "many"),
            "data.batch_size is 'many'; expected a whole number or 'auto'.",
        ),
        (("--model.optimizer", "adam"), "is 'adam'; expected one of 'sgd', 'adamw'."),
        (("--trainer.precision", "bf17"), "trainer.precision is 'bf17'; expected"),
        (("--model.num_classes", "7"), "model.num_classes comes from the data, as data.num_cl"),
        (("--model.compile", "maybe"), "expected true or false or one of 'default', 'reduce-"),
        (("--config", "configs/none.yaml"), "configs/none.yaml"),
        (("--model.network", "resnet81"), "Known: small_cnn"),
        (("--data.source", "digit"), "Known: digits"),
        (("--data.source", "folder", "--data.options.path=none"), "none does not exist. Create it"),
        (("--data.options.sise=3",), "it does not take sise. It takes: none."),
        (("--data.batch_size", "5000"), "Set --data.batch_size to 1077 or less"),
        (("--data.global_batch_size", "100"), "expected a multiple of 64"),
        (("--trainer.devices", "nine"), "CUDA_VISIBLE_DEVICES"),
        (("--model.warmup", "3"), "a share of the steps"),
        (("--data.smallest_crop", "2"), "expected a share above 0, at most 1"),
        (("--data.crop_padding", "-1"), "data.crop_padding is -1"),
        (("--data.global_batch_size", "-64"), "expected a multiple of 64"),
        (("--trainer.strategy", "foo"), "foo"),
        (("--seed_everything", "-1"), "-1 is not in bounds"),
        (("--model.pretrained", "configs"), "configs is a folder; expected a file."),
        (("--model.compile", "step-graph", *CPU), "step-graph, but it needs an NVIDIA GPU"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_wrong_setting_is_one_line_with_what_to_do(flags, message, call, capsys, tmp_path):
    assert call("fit", *DIGITS, *flags, folder=tmp_path) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ") and "\n" not in error
    assert message in error
    record = tmp_path / "run.json"
    assert not record.exists() or json.loads(record.read_text())["state"] == "failed"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "data:\n  batch_sizes: 3\n",
            "unknown setting data.batch_sizes. Did you mean data.batch_size?",
        ),
        ("data: [\n", "wrong.yaml: the recipe is not valid YAML: while parsing a flow node, did"),
        ("- 3\n", "wrong.yaml: the recipe is '- 3'; expected sections such as data, model"),
        ("", "wrong.yaml: the recipe is empty; expected sections such as data, model and trainer."),
        ("data:\n  batch_size: many\n", "wrong.yaml: data.batch_size is 'many'; expected"),
        ("trainer:\n  max_epochs: 1\ndata:\n", "The section 'data:' of the config"),
    ],
)
def test_a_wrong_setting_in_a_file_is_one_line(text, message, call, capsys, tmp_path):
    (tmp_path / "wrong.yaml").write_text(text)
    assert call("fit", "--config", str(tmp_path / "wrong.yaml"), folder=tmp_path / "run") == 2
    error = capsys.readouterr().err.strip()
    assert "\n" not in error and message in error


def test_other_messages_of_the_parser_are_put_in_one_line():
    assert in_one_line("one\n  two", []) == "one two"


def test_a_checkpoint_of_other_classes_is_refused_in_one_line(trained, call, capsys, tmp_path):
    last = str(trained / "checkpoints" / "last.ckpt")
    five = ("--data.source", "synthetic", "--data.options={image_size: 8, num_classes: 5}")
    assert call("fit", *DIGITS, *five, "--ckpt_path", last, folder=tmp_path) == 2
    error = capsys.readouterr().err.strip()
    assert "\n" not in error and "'class 0' is a class of the data, not of the run" in error


def test_smaller_batches_keep_the_global_batch(call, tmp_path):
    digests = {}
    for micro in ("32", "16"):
        flags = ("--data.global_batch_size", "32", "--data.batch_size", micro)
        assert call("fit", *SHORT, *flags, folder=tmp_path / micro) == 0
        record = json.loads((tmp_path / micro / "run.json").read_text())
        assert record["results"]["steps"] == 1077 // 32
        trained = applied(record)
        assert trained["trainer"]["accumulate_grad_batches"] == 32 // int(micro)
        assert trained["data"]["global_batch_size"] == 32
        digests[micro] = record["results"]["weights_sha256"]
    assert digests["32"] != digests["16"]  # normalization sees other batches


def test_accumulation_and_a_global_batch_must_agree(call, tmp_path, capsys):
    flags = ("--data.global_batch_size", "128", "--trainer.accumulate_grad_batches", "3")
    assert call("fit", *SHORT, *flags, folder=tmp_path) == 2
    assert "Remove one of the two settings" in capsys.readouterr().err


def test_advice_keeps_the_global_batch():
    advice = advise(96, 384, 2, None, "bf16-mixed", checkpointing=False)
    first = next(iter(advice))
    assert first == "--data.batch_size 48 --data.global_batch_size 384"
    assert "4 smaller batches" in advice[first]
    assert "--model.activation_checkpointing true" in advice
    assert not any("precision" in flags for flags in advice)
    alone = advise(1, 1, 1, None, "32-true", checkpointing=True)
    assert list(alone) == [
        "--trainer.precision bf16-mixed",
        "PYTORCH_ALLOC_CONF=expandable_segments:True",
    ]
    evaluating = advise(64, 64, 1, 512, "16-mixed", checkpointing=False)
    assert next(iter(evaluating)) == "--data.eval_batch_size 256"


def test_out_of_memory_is_found_below_the_compilers_exception():
    try:
        try:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
        except RuntimeError as error:
            raise ValueError("backend failed") from error
    except ValueError as error:
        assert isinstance(out_of_memory(error), torch.OutOfMemoryError)
    assert out_of_memory(ValueError("no")) is None


def test_out_of_memory_prints_advice_and_no_traceback(call, tmp_path, capsys, monkeypatch):
    def too_much(*_) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has.")

    monkeypatch.setattr(ImageClassifier, "training_step", too_much)
    assert call("fit", *SHORT, folder=tmp_path) == 2
    page = capsys.readouterr().err
    assert page.startswith("error: out of GPU memory: Tried to allocate 2.00 GiB.")
    assert "--data.batch_size 32 --data.global_batch_size 64" in page and "Traceback" not in page
    assert (tmp_path / "memory.txt").read_text().startswith("out of GPU memory")
    assert json.loads((tmp_path / "run.json").read_text())["state"] == "failed"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("choice", [0, 1, 2], ids=["micro-batch", "precision", "recomputation"])
def test_the_advice_for_a_full_gpu_works(choice, call, tmp_path, capsys):
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(3 * 2**30 / total)
    flags = ["--config", "configs/synthetic.yaml", "--trainer.max_steps", "2"]
    flags += ["--data.options={image_size: 32, train: 8192, val: 500}", "--model.compile=false"]
    flags += ["--data.batch_size=1024", "--trainer.precision=32-true"]
    try:
        for attempt in range(6):
            status = call("fit", *flags, folder=tmp_path / str(attempt))
            page = capsys.readouterr().err
            if status == 0:
                break
            assert status == 2 and "activations and the rest" in page and "Traceback" not in page
            account = (tmp_path / str(attempt) / "memory.txt").read_text()
            assert "CUDA memory summary" in account
            advice = [line.split("  ")[1] for line in page.splitlines() if line.startswith("  --")]
            flags += advice[min(choice, len(advice) - 1)].split()
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert status == 0 and attempt > 0
    record = json.loads((tmp_path / str(attempt) / "run.json").read_text())
    assert applied(record)["data"]["global_batch_size"] == 1024
    assert record["results"]["steps"] == 2


def test_a_killed_worker_is_explained(call, capsys, monkeypatch, tmp_path):
    def killed(*_) -> None:
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is poss")

    monkeypatch.setattr(ImageClassifier, "training_step", killed)
    assert call("fit", *SHORT, folder=tmp_path) == 2
    error = capsys.readouterr().err
    assert "worker (pid 7) is killed" in error and "--data.workers" in error


def test_several_seeds_print_mean_and_standard_deviation(call, tmp_path, capsys):
    recipe = Path(shutil.copy("configs/digits.yaml", tmp_path / f"{tmp_path.name}.yaml"))
    flags = (f"--config={recipe}", "--trainer.max_epochs", "1")
    assert call("seeds", "3,4", *flags) == 0
    said = capsys.readouterr().out
    table = Path(said.split("table: ")[1].strip())
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    runs = [table.parent / row["run"] for row in rows]
    records = [json.loads((run / "run.json").read_text()) for run in runs]
    assert [record["seed"] for record in records] == [3, 4]
    values = [record["results"]["best val/accuracy"] for record in records]
    assert [row["best val/accuracy"] for row in rows] == [str(np.float32(v)) for v in values]
    assert f"best val/accuracy {sum(values) / 2:.2%} ± " in said
    assert table.parent.name == recipe.stem
    assert call("seeds", "3", *flags) == 0
    said = capsys.readouterr().out
    assert f"best val/accuracy {values[0]:.2%} (1 seed)" in said and "deviation" not in said
    shutil.rmtree(table.parent)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("1 1",), 'expected different numbers: SEEDS="1 2 3"'),
        (("1 2", "--run", "latest"), "Several seeds need new runs"),
        (("1 2", "--seed_everything", "3"), "Each seed has its own run folder"),
    ],
    ids=["twice the same", "a resume", "one more seed"],
)
def test_wrong_seeds_are_refused(arguments, message, call, capsys):
    assert call("seeds", *arguments) == 2
    assert message in capsys.readouterr().err


def test_sigterm_also_ends_the_process_that_a_verb_started():
    before = signal.getsignal(signal.SIGTERM)
    with subprocess.Popen(["sleep", "60"]) as child, passing_on_sigterm(child):
        os.kill(os.getpid(), signal.SIGTERM)
        assert child.wait(10) == -signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_read_only_folder_is_one_line():
    error = OSError(errno.EROFS, os.strerror(errno.EROFS), "runs/digits/one/.lock")
    assert explain(error).startswith("runs/digits/one/.lock: Read-only file system. Change the")


def gpu(index: int, users=(), used: int = 0) -> nvml.GpuState:
    return nvml.GpuState(index, f"GPU-{index}", "H200", used, 0, 40, tuple(users))


def test_idle_gpus_come_first():
    states = [gpu(0, [(17, 5 << 30)], 5 << 30), gpu(1, used=3 << 30), gpu(2), gpu(3)]
    assert [state.index for state in nvml.idle_first(states)] == [2, 3, 1, 0]


def test_other_processes_on_a_gpu_are_listed_with_their_owner():
    with subprocess.Popen(["sleep", "60"]) as process:
        while b"60" not in Path(f"/proc/{process.pid}/cmdline").read_bytes():
            time.sleep(0.01)  # until it is sleep, and not yet Python's copy of itself
        state = gpu(0, [(process.pid, 5 << 30), (os.getpid(), 7 << 30), (2**22 + 1, 1 << 30)])
        try:
            users = nvml.other_users(state)
        finally:
            process.send_signal(signal.SIGTERM)
    assert list(users.values()) == [5 << 30, 1 << 30]
    mine, foreign = users
    assert mine.startswith(f"sleep (pid {process.pid}, ")
    assert foreign == f"a process (pid {2**22 + 1}, outside of this container)"


def test_in_a_container_this_process_is_recognized_by_its_memory():
    state = gpu(0, [(2**22 + 1, 9 << 30), (2**22 + 2, 30 << 30)])
    assert list(nvml.other_users(state, own_bytes=29 << 30).values()) == [9 << 30]
