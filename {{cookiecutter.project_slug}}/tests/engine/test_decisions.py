"""Decisions, for machines that need not be available."""

import math
from dataclasses import FrozenInstanceError, replace

import lightning as L
import pytest
import torch
from killed import by_two_ranks
from torch.utils.data import DataLoader

from {{ cookiecutter.__package_name }}.engine import decisions, hardware
from {{ cookiecutter.__package_name }}.engine.contract import Facts
from {{ cookiecutter.__package_name }}.engine.decisions import (
    Before,
    Decision,
    decide,
)
from {{ cookiecutter.__package_name }}.engine.errors import UserError
from {{ cookiecutter.__package_name }}.engine.hardware import Gpu, Machine

V100 = Machine("Linux", "x86_64", 20, (Gpu("V100", (7, 0), 16),))
A100 = Machine("Linux", "x86_64", 64, (Gpu("A100", (8, 0), 80),) * 8)
H200 = Machine("Linux", "x86_64", 16, (Gpu("H200", (9, 0), 139),))
MIXED = Machine("Linux", "x86_64", 32, (*A100.gpus[:1], *V100.gpus))
LAPTOP = Machine("Linux", "x86_64", 8, compiler=False)
APPLE = Machine("Darwin", "arm64", 10, mps=True)
CONTAINER = Machine("Linux", "x86_64", hardware.usable_cores(128, 64, 2.5))


@pytest.mark.parametrize(
    ("machine", "accelerator", "precision"),
    [
        (V100, "cuda", "16-mixed"),
        (A100, "cuda", "bf16-mixed"),
        (H200, "cuda", "bf16-mixed"),
        (MIXED, "cuda", "16-mixed"),
        (LAPTOP, "cpu", "32-true"),
        (APPLE, "mps", "32-true"),
        (CONTAINER, "cpu", "32-true"),
    ],
    ids=["V100", "A100", "H200", "A100 beside V100", "laptop", "Apple", "container"],
)
def test_accelerator_and_precision(machine, accelerator, precision):
    assert decisions.accelerator(machine).value == accelerator
    assert decisions.precision(machine, accelerator).value == precision


def test_a_gpu_that_is_asked_for_is_not_replaced_by_the_cpu():
    def layout(machine: Machine, name: str) -> str:
        config = {"trainer": {"accelerator": name}}
        return decisions.decide_layout(config, machine).accelerator.value

    for name in ("gpu", "cuda"):
        assert layout(A100, name) == "cuda"
        with pytest.raises(UserError, match=f"accelerator is {name}, but torch finds no GPU: "):
            layout(LAPTOP, name)
    assert layout(APPLE, "gpu") == "mps"


def test_a_run_too_short_to_pay_for_compiling_is_not_compiled():
    mode, why = decisions.compile_mode(H200, "cuda", True, 480)
    assert mode is False
    assert "480 steps" in why
    mode, why = decisions.compile_mode(H200, "cuda", True, 480, None, True)
    assert mode == "eager-graph" and why == "480 steps; compiling pays off after 3,000"
    mode, why = decisions.compile_mode(H200, "cuda", True, 4000, None, True, lengths=4)
    assert mode == "eager-graph" and "after 12,000" in why
    bare = replace(H200, compiler=False)
    assert decisions.compile_mode(bare, "cuda", True, 10**6, None, True).value == "eager-graph"


def test_compile_mode_follows_the_hardware():
    def mode(*arguments):
        return decisions.compile_mode(*arguments).value

    asked = Decision(True, "")
    assert mode(H200, "cuda", True, 20_000) == "reduce-overhead"
    assert mode(H200, "cuda", True, 20_000, None, True) == "step-graph"
    assert mode(H200, "cuda", True, 480, asked, True) == "step-graph"
    assert mode(LAPTOP, "cpu", True, 480, asked, True) == "default"
    assert mode(A100, "cuda", False, 20_000) == "default"
    assert mode(H200, "cuda", False, 20_000, asked) == "default"
    assert mode(LAPTOP, "cpu", True, 20_000) is False
    assert mode(APPLE, "mps", True, 20_000) is False


def test_a_gpu_with_jpeg_engines_decodes_if_there_are_few_cores():
    def place(*arguments):
        return decisions.decoder(*arguments).value

    assert place(H200, "cuda", 1) == "gpu"  # 16 cores
    assert place(replace(H200, cores=32), "cuda", 1) == "cpu"
    assert place(A100, "cuda", 8) == "gpu"  # 64 cores for 8
    assert place(A100, "cuda", 2) == "cpu"
    assert place(replace(V100, cores=4), "cuda", 1) == "cpu"
    assert place(H200, "cpu", 1) == "cpu"


def test_rows_stay_on_the_device_if_training_still_fits():
    assert decisions.fits_on_device(LAPTOP, 2**40)
    assert decisions.fits_on_device(V100, 6 * 2**30)
    assert not decisions.fits_on_device(V100, 7 * 2**30)


def test_without_a_compiler_the_reason_names_what_to_install():
    bare = Machine("Linux", "x86_64", 16, H200.gpus, compiler=False)
    mode, why = decisions.compile_mode(bare, "cuda", True, math.inf)
    assert mode is False
    assert "python3-dev" in why


def test_workers_follow_the_usable_cores():
    def count(*arguments):
        return decisions.workers(*arguments).value

    assert count(H200, 1) == 15  # one core for the training process
    assert count(A100, 8) == 7
    assert count(A100, 1) == 16
    assert count(CONTAINER, 1) == 1  # 128 cores, of which the quota leaves 2.5
    assert count(Machine("Linux", "x86_64", 1), 1) == 0


def test_the_flag_wins_over_the_hardware():
    def mode(*arguments, asked):
        return decisions.compile_mode(*arguments, Decision(asked, "as configured")).value

    assert mode(H200, "cuda", True, math.inf, asked=False) is False
    assert mode(LAPTOP, "cpu", True, 2, asked=True) == "default"
    assert mode(H200, "cuda", True, 2, asked="max-autotune") == "max-autotune"


def test_one_device_is_the_default():
    def count(machine, requested, accelerator):
        asked = None if requested is None else Decision(requested, "as configured")
        return decisions.devices(machine, asked, accelerator).value

    assert count(A100, None, "cuda") == 1
    assert count(A100, -1, "cuda") == 8
    assert count(A100, 4, "cuda") == 4
    assert count(LAPTOP, -1, "cpu") == 2
    assert count(LAPTOP, 3, "cpu") == 3


@pytest.mark.parametrize("requested", [2, 0, "0,1", [0]])
def test_missing_devices_are_refused(requested):
    with pytest.raises(UserError, match="devices"):
        decisions.devices(H200, Decision(requested, "as configured"), "cuda")


def test_processes_share_the_cores():
    assert decisions.threads_per_process(H200, 4) == 4
    assert decisions.threads_per_process(CONTAINER, 4) == 1


FILES = Facts("folder", {"train": 1_000_000, "val": 1000, "test": 1000}, "00", unit="images")
DIGITS = Facts("digits", {"train": 1077, "val": 360, "test": 360}, "00", nbytes=359_400)


def configured(**keys):
    """Return a configuration with open settings as null or auto; keys such as data__workers=3."""
    config = {
        "seed_everything": 0,
        "trainer": {"accelerator": "auto", "devices": "auto", "strategy": "auto", "max_epochs": 30},
        "data": {"batch_size": 256, "workers": None},
        "model": {"compile": None},
    }
    for key, value in keys.items():
        section, _, name = key.partition("__")
        config[section][name] = value
    return config


def values(decided):
    return {name: decision["value"] for name, decision in decided.as_json().items()}


def test_a_run_from_files_on_an_h200():
    assert values(decide(configured(), H200, FILES, decodes=True)) == {
        "seed_everything": 0,
        "trainer.accelerator": "cuda",
        "trainer.devices": 1,
        "trainer.num_nodes": 1,
        "trainer.strategy": "auto",
        "trainer.precision": "bf16-mixed",
        "trainer.deterministic": False,
        "trainer.accumulate_grad_batches": 1,
        "trainer.log_every_n_steps": 50,
        "OMP_NUM_THREADS": 16,
        "data.batch_size": 256,
        "data.global_batch_size": 256,
        "data.seed": 0,
        "data.loader": "streaming",
        "data.workers": 15,
        "data.prefetch": 2,
        "data.decoder": "gpu",
        "data.compile_augmentation": "none",
        "model.compile": "step-graph",
        "checkpoints.seconds": "adaptive",
        "tracking.wandb": "off",
        "step_version": 2,
    }


def test_eight_processes_of_torchrun_on_two_hosts_decide_for_the_weakest():
    weak = replace(A100, cores=32, gpus=(Gpu("A100", (8, 0), 40),) * 8, compiler=False)
    machine = decisions.in_common([A100, weak])
    found = values(decide(configured(), machine, FILES, launched=(8, 2), decodes=True))
    assert (found["trainer.devices"], found["trainer.num_nodes"]) == (8, 2)
    assert found["trainer.strategy"] == "data-parallel"
    assert found["data.global_batch_size"] == 256 * 16
    assert found["data.workers"] == 3
    assert found["model.compile"] == "eager-graph"
    assert decisions.in_common([H200, V100]).gpus[0].capability == (7, 0)


def test_threads_are_those_that_the_environment_sets():
    assert decide(configured(), replace(H200, threads=4), FILES).threads.value == 4


def test_a_laptop_keeps_small_data_in_memory_and_compiles_nothing():
    found = values(decide(configured(), LAPTOP, DIGITS, decodes=True))
    assert found["data.loader"] == "resident"
    assert found["data.workers"] == 0
    assert found["data.decoder"] == "none"
    assert found["model.compile"] is False
    assert found["trainer.log_every_n_steps"] == 4  # the steps of an epoch


@pytest.mark.parametrize(
    ("expected", "machine", "settings"),
    [
        (True, H200, {"trainer__max_epochs": 200}),
        (False, H200, {"trainer__max_epochs": 100}),
        (True, H200, {"trainer__max_epochs": -1}),
        (False, H200, {"trainer__max_epochs": 200, "model__compile": False}),
        (False, H200, {"trainer__max_epochs": 200, "model__compile": "eager-graph"}),
        (False, LAPTOP, {"trainer__max_epochs": 200}),
        (True, H200, {"data__compile_augmentation": True}),
        (False, LAPTOP, {"data__compile_augmentation": True}),
        (False, H200, {"data__compile_augmentation": True, "data__loader": "mapped"}),
        (False, H200, {"data__compile_augmentation": False, "trainer__max_epochs": 200}),
    ],
)
def test_augmentation_is_compiled_in_runs_that_this_makes_shorter(expected, machine, settings):
    images = {"unit": "images", "shapes": {"images": (3, 32, 32)}, "nbytes": 154_000_000}
    facts = Facts("cifar10", {"train": 50_000}, "", **images)
    config = configured(**{"data__compile_augmentation": None} | settings)
    assert decide(config, machine, facts).compile_augmentation.value is expected


def test_every_decision_has_a_value_and_a_reason():
    for machine in (V100, A100, H200, MIXED, LAPTOP, APPLE, CONTAINER):
        for facts in (FILES, DIGITS):
            found = decide(configured(), machine, facts).as_json()
            assert set(found) == set(decisions.KEYS.values())
            assert all(d["value"] is not None and d["why"] for d in found.values()), found


def test_decisions_do_not_look_at_the_machine_and_are_immutable(monkeypatch):
    decided = decide(configured(), H200, FILES)
    monkeypatch.setattr(hardware, "this_machine", lambda: pytest.fail("asked the machine"))
    assert decide(configured(), H200, FILES) == decided
    with pytest.raises(FrozenInstanceError):
        decided.loader = Decision("mapped", "")


def test_a_resume_repeats_the_decisions_on_any_machine():
    config = configured()
    start = {"config": config, "decisions": decide(config, H200, FILES, decodes=True).as_json()}
    many = replace(H200, cores=64, compiler=False)
    found = decide(config, many, FILES, Before.of(start), decodes=True)
    for name in ("workers", "decoder", "compile", "precision", "loader"):
        key = decisions.KEYS[name]
        assert getattr(found, name) == (start["decisions"][key]["value"], decisions.AS_BEFORE)


def test_a_setting_that_a_resume_changes_is_used():
    config = configured()
    start = {"config": config, "decisions": decide(config, H200, FILES).as_json()}
    changed = configured(data__workers=4, model__compile=False)
    found = decide(changed, H200, FILES, Before.of(start))
    assert found.workers == (4, "as configured")
    assert found.compile == (False, "as configured")


def test_an_elastic_resume_keeps_the_global_batch_on_fewer_devices():
    config = configured(trainer__devices=-1, data__batch_size=32)
    start = {"config": config, "decisions": decide(config, A100, FILES).as_json()}
    before = Before.of(start).without(decisions.DEVICE_DECISIONS)
    found = decide(configured(trainer__devices=2, data__batch_size=64), A100, FILES, before)
    assert found.global_batch_size.value == 8 * 32
    assert found.accumulate_grad_batches.value == 2


def test_a_run_of_an_older_engine_keeps_its_loader_and_compile_mode():
    start = {
        "config": configured(data__workers=7),
        "decisions": {"device": "NVIDIA H200", "loader": "mapped: too large for the device"},
        "compile": {"mode": None, "why": "480 steps are too few"},
    }
    found = decide(configured(data__workers=7), H200, FILES, Before.of(start))
    assert found.loader.value == "mapped"
    assert found.compile.value is False
    assert found.workers == (7, "as configured")
    assert decisions.applied(start)["data"]["loader"] == "mapped"


def test_a_step_of_an_older_run_keeps_its_version():
    many = configured(trainer__devices=8)
    old = decide(many, A100, FILES, Before(many, {}))
    assert (old.step_version.value, old.strategy.value, old.compile.value) == (1, "ddp", "default")
    new = decide(many, A100, FILES)
    assert (new.step_version.value, new.strategy.value) == (2, "data-parallel")
    assert new.compile.value == "step-graph"
    again = decide(many, A100, FILES, Before.of({"config": many, "decisions": new.as_json()}))
    assert values(again) == values(new)


def test_only_a_step_of_the_engine_is_one_cuda_graph():
    assert decide(configured(), H200, FILES).compile.value == "step-graph"
    assert decide(configured(), H200, FILES, plain_step=False).compile.value == "reduce-overhead"
    scaled = configured(trainer__precision="16-mixed")
    assert decide(scaled, H200, FILES).compile.value == "reduce-overhead"
    by_hand = decide(configured(), H200, FILES, plain_step=False, manual_optimization=True)
    assert by_hand.compile.value is False


def test_only_a_step_that_the_engine_sums_up_uses_cuda_graphs_in_several_parts():
    parts = configured(trainer__accumulate_grad_batches=4)
    assert decide(parts, H200, FILES).compile.value == "step-graph"
    assert decide(parts, H200, FILES, plain_step=False).compile.value == "default"
    wrapped = configured(trainer__devices=8, trainer__strategy="ddp")
    assert decide(wrapped, A100, FILES).compile.value == "default"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"data__global_batch_size": 300}, "expected a multiple of 256"),
        ({"data__global_batch_size": 1024, "trainer__accumulate_grad_batches": 2}, "needs 4"),
        ({"data__loader": "streaming"}, "has no files"),
        ({"trainer__num_nodes": 2}, "Start torchrun on each"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, said):
    with pytest.raises(UserError, match=said):
        decide(configured(**settings), LAPTOP, DIGITS)


LENGTHS = [
    {"max_epochs": 3},
    {"max_epochs": -1},
    {"max_epochs": -1, "max_steps": 7},
    {"max_steps": 7},
    {"max_epochs": 3, "max_steps": 7},
    {"max_epochs": 3, "max_steps": 1000},
    {"max_time": "00:00:01:00"},
    {},
    {"max_epochs": 3, "limit_train_batches": 0.3},
    {"max_epochs": 3, "limit_train_batches": 5},
    {"max_epochs": 3, "limit_train_batches": 500},
    {"max_epochs": 3, "limit_train_batches": 1.0},
    {"max_epochs": 3, "overfit_batches": 2},
    {"max_epochs": 3, "overfit_batches": 0.25},
    {"max_epochs": 3, "fast_dev_run": True},
    {"max_epochs": 3, "fast_dev_run": 2},
]


@pytest.mark.parametrize(
    ("length", "accumulate"), [*((length, 2) for length in LENGTHS), (LENGTHS[0], 1)], ids=str
)
def test_optimizer_steps_equals_lightnings_estimate(length, accumulate):
    data = TensorData(accumulate)
    trainer = L.Trainer(
        **length,
        accelerator="cpu",
        accumulate_grad_batches=accumulate,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    batches = 60 // (4 * accumulate) * accumulate
    with pytest.raises(Counted) as counted:
        trainer.fit(Counting(), datamodule=data)
    assert decisions.optimizer_steps(length, batches, accumulate) == counted.value.args[0]


class Counted(Exception):
    """Ends a fit at its start."""


class Counting(L.LightningModule):
    """Knows how many steps Lightning will take."""

    def configure_optimizers(self):
        return None

    def training_step(self, batch, batch_idx):
        return None

    def on_train_start(self):
        raise Counted(self.trainer.estimated_stepping_batches)


class TensorData(L.LightningDataModule):
    """Sixty rows in batches of four, without an incomplete step."""

    def __init__(self, accumulate):
        super().__init__()
        self.n = 60 // (4 * accumulate) * 4 * accumulate

    def train_dataloader(self):
        return DataLoader(torch.zeros(self.n, 1), batch_size=4)


RANKS = """
import os
from {package}.engine import ranks

rank = os.environ["RANK"]
shared = ranks.of_every_rank("m", rank), ranks.of_rank_zero("d", lambda: "by " + rank)
os.write(1, (str(shared) + "\\n").encode())  # at once: two processes write to one file
"""


def test_rank_zero_decides_for_all(tmp_path):
    assert by_two_ranks(tmp_path, RANKS).splitlines() == ["(['0', '1'], 'by 0')"] * 2
