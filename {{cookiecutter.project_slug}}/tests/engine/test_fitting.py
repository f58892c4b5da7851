"""data.batch_size auto: the largest batch that fits, measured once in processes of their own."""

import json
from pathlib import Path

import pytest
import torch
import yaml

import {{ cookiecutter.__package_name }} as package
from {{ cookiecutter.__package_name }}.engine.cli.training import Training
from {{ cookiecutter.__package_name }}.engine.decisions import Decision
from {{ cookiecutter.__package_name }}.engine.errors import UserError
from {{ cookiecutter.__package_name }}.engine.ranks import alone
from {{ cookiecutter.__package_name }}.engine.tools.fitting import (
    candidates,
    largest,
    measure,
)
from {{ cookiecutter.__package_name }}.engine.tools.trials import _with_length

RECIPE = Path("configs/{{ cookiecutter.__recipe }}.yaml").resolve()
# A callback that runs out of memory as a GPU does, if a batch has more than 64 rows.
LIMITED = """
import lightning as L
import torch


class Limited(L.Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if len(batch.row) > 64:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB. 1 GiB free")
"""


def test_the_candidates_are_divisors_of_the_step_or_powers_of_two_and_these_times_1_5():
    assert candidates(1000, 96) == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 96]
    assert candidates(20, 96)[-1] == 16 and candidates(5, 7) == [1]
    assert candidates(100) == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96]
    assert candidates(1) == [1]


@pytest.mark.parametrize("fixed", [0.1, 5.0])
@pytest.mark.parametrize("per_row", [1e-9, 1e-3, 0.013, 0.2, 3.0])
@pytest.mark.parametrize("step", [None, 4096, 3 * 5 * 64])
@pytest.mark.parametrize("kind", ["linear", "more for large batches", "fails early"])
def test_the_largest_size_that_fits_is_found_in_few_trials(fixed, per_row, step, kind):
    sizes, limit, tried = candidates(50_000, step), 126.0, []

    def peak(size: int) -> float:
        extra = 0.05 * (size > 100) if kind == "more for large batches" else 0.0
        return fixed + per_row * size * (1 + extra)

    def probe(size: int) -> float | None:
        tried.append(size)
        found = peak(size)
        return None if found > (0.9 if kind == "fails early" else 1.1) * limit else found

    fitting = [size for size in sizes if (found := probe(size)) is not None and found <= limit]
    tried.clear()
    size, gib = largest(sizes, probe, limit)
    assert (size, gib) == (fitting[-1], peak(size))
    assert len(tried) <= 7 and len(set(tried)) == len(tried)


def test_a_network_that_fits_with_no_batch_is_an_error_with_what_to_do():
    with pytest.raises(UserError, match=r"Even a batch of 1 takes .*activation_checkpointing"):
        largest([1, 2, 4], lambda size: None, 9.0)


def test_a_process_trains_with_a_size_or_runs_out_of_memory(tmp_path, monkeypatch, capfd):
    (tmp_path / "limited.py").write_text(LIMITED)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("RANK", "0")  # it is none of this launch's ranks
    monkeypatch.setenv("WORLD_SIZE", "2")
    config = yaml.safe_load(RECIPE.read_text())
    config["trainer"] = {
        "max_time": "00:00:00:01",
        "callbacks": [{"class_path": "limited.Limited"}],
    }
    found = measure(package.__name__, yaml.safe_dump(config), [32, 128], False, 10.0)
    assert found == Decision(32, "the largest that fits, with 0.0 of 10 GiB")
    assert capfd.readouterr().err.count("trying a batch of") == 2


def test_a_rank_s_variables_are_left_out_and_others_kept():
    around = {"RANK": "1", "GROUP_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "x", "HOME": "/root"}
    assert alone(around) == {"HOME": "/root"}


def test_rows_that_differ_in_length_are_tried_with_the_longest():
    loader = [(torch.zeros(4, length), None) for length in (8, 16, 24, 16)]
    assert _with_length(loader, 24)[0].shape == (4, 24)
    assert _with_length(loader, 0)[0].shape == (4, 8)


def test_the_size_is_recorded_and_not_measured_again(call, tmp_path, monkeypatch, capsys):
    """By a resume, an evaluation and reproduce. A step keeps its global batch."""

    def found(folder: Path) -> dict[str, Decision]:
        start = json.loads((folder / "run.json").read_text())
        decided = (start["resumes"] or [start])[-1]["decisions"]
        return {key.partition(".")[2]: value["value"] for key, value in decided.items()}

    monkeypatch.setattr(Training, "_measured_batch_size", lambda _: Decision(24, "it fits"))
    auto = ("--data.batch_size", "auto", "--data.global_batch_size", "48")
    run = tmp_path / "run"
    first = ("fit", "--config", str(RECIPE), *auto, "--trainer.log_every_n_steps", "1")
    assert call(*first, "--until", "4", folder=run) == 0
    assert "batch size     24: it fits" in capsys.readouterr().out
    assert found(run)["batch_size"] == 24 and found(run)["accumulate_grad_batches"] == 2
    monkeypatch.setattr(Training, "_measured_batch_size", lambda _: pytest.fail("measured"))
    assert call("fit", "--run", str(run), "--until", "6") == 0
    assert found(run)["batch_size"] == 24 and found(run)["global_batch_size"] == 48
    assert call("reproduce", "--run", str(run), "--until", "4") == 0
    monkeypatch.undo()
    assert call("test", "--run", str(run)) == 0


def test_without_a_gpu_the_size_is_the_default_and_fits_the_step(call, tmp_path):
    flags = ("--data.batch_size", "auto", "--data.global_batch_size", "6", "--until", "1")
    assert call("fit", "--config", str(RECIPE), *flags, folder=tmp_path / "run") == 0
    decided = json.loads((tmp_path / "run" / "run.json").read_text())["decisions"]
    assert decided["data.batch_size"] == {"value": 6, "why": "no GPU to fill: the default or less"}
