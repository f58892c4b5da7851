"""What is decided for machines that nobody has to own."""

import math
from dataclasses import replace

import pytest

from {{ cookiecutter.__package_name }}.engine import hardware
from {{ cookiecutter.__package_name }}.engine.errors import UserError

V100 = hardware.Machine("Linux", "x86_64", 20, (hardware.Gpu("V100", (7, 0), 16),))
A100 = hardware.Machine("Linux", "x86_64", 64, (hardware.Gpu("A100", (8, 0), 80),) * 8)
H200 = hardware.Machine("Linux", "x86_64", 16, (hardware.Gpu("H200", (9, 0), 139),))
MIXED = hardware.Machine("Linux", "x86_64", 32, (*A100.gpus[:1], *V100.gpus))
LAPTOP = hardware.Machine("Linux", "x86_64", 8, compiler=False)
APPLE = hardware.Machine("Darwin", "arm64", 10, mps=True)
CONTAINER = hardware.Machine("Linux", "x86_64", hardware.usable_cores(128, 64, 2.5))


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
    assert hardware.accelerator(machine) == accelerator
    assert hardware.precision(machine, accelerator)[0] == precision


def test_a_run_too_short_to_pay_for_compiling_is_not_compiled():
    mode, why = hardware.compile_mode(H200, "cuda", 1, 480)
    assert mode is None
    assert "480 steps" in why


def test_compile_mode_follows_the_hardware():
    assert hardware.compile_mode(H200, "cuda", 1, 20_000)[0] == "reduce-overhead"
    assert hardware.compile_mode(A100, "cuda", 8, 20_000)[0] == "default"
    assert hardware.compile_mode(H200, "cuda", 8, 20_000, True)[0] == "default"
    assert hardware.compile_mode(LAPTOP, "cpu", 1, 20_000)[0] is None
    assert hardware.compile_mode(APPLE, "mps", 1, 20_000)[0] is None


def test_jpegs_are_decoded_by_the_gpu_where_it_has_engines_and_few_cores_for_them():
    many = replace(H200, cores=32)
    assert hardware.decoder(H200, "cuda", 1) == "gpu"  # 16 cores
    assert hardware.decoder(many, "cuda", 1) == "cpu"
    assert hardware.decoder(A100, "cuda", 8) == "gpu"  # 64 cores for 8
    assert hardware.decoder(A100, "cuda", 2) == "cpu"
    assert hardware.decoder(replace(V100, cores=4), "cuda", 1) == "cpu"
    assert hardware.decoder(H200, "cpu", 1) == "cpu"


def test_images_stay_on_the_device_if_training_still_fits_beside_them():
    assert hardware.fits_on_device(LAPTOP, 2**40)
    assert hardware.fits_on_device(V100, 6 * 2**30)
    assert not hardware.fits_on_device(V100, 7 * 2**30)


def test_a_machine_without_a_compiler_says_what_to_install():
    bare = hardware.Machine("Linux", "x86_64", 16, H200.gpus, compiler=False)
    mode, why = hardware.compile_mode(bare, "cuda", 1, math.inf)
    assert mode is None
    assert "python3-dev" in why


def test_workers_follow_the_cores_that_are_really_there():
    assert hardware.workers(H200, 1) == 15  # one core for the training process
    assert hardware.workers(A100, 8) == 7
    assert hardware.workers(A100, 1) == 16
    assert hardware.workers(CONTAINER, 1) == 1  # 128 cores, of which the quota leaves 2.5
    assert hardware.workers(hardware.Machine("Linux", "x86_64", 1), 1) == 0


def test_the_flag_wins_over_the_hardware():
    assert hardware.compile_mode(H200, "cuda", 1, math.inf, False)[0] is None
    assert hardware.compile_mode(LAPTOP, "cpu", 1, 2, True)[0] == "default"
    assert hardware.compile_mode(H200, "cuda", 1, 2, "max-autotune")[0] == "max-autotune"


def test_devices_are_one_unless_asked():
    assert hardware.devices(A100, "auto", "cuda") == 1
    assert hardware.devices(A100, -1, "cuda") == 8
    assert hardware.devices(A100, 4, "cuda") == 4
    assert hardware.devices(LAPTOP, -1, "cpu") == 2
    assert hardware.devices(LAPTOP, 3, "cpu") == 3


@pytest.mark.parametrize("requested", [2, 0, "0,1", [0]])
def test_devices_that_are_not_there_are_refused(requested):
    with pytest.raises(UserError, match="devices"):
        hardware.devices(H200, requested, "cuda")


@pytest.mark.parametrize(
    ("logical", "affinity", "quota", "cores"),
    [(128, 64, 2.5, 2), (128, 64, None, 64), (8, None, None, 8), (8, 8, 0.5, 1), (4, 4, 16.0, 4)],
)
def test_cores_are_those_that_are_really_there(logical, affinity, quota, cores):
    assert hardware.usable_cores(logical, affinity, quota) == cores


def test_quota_of_a_container():
    assert hardware.parse_cpu_max("250000 100000\n") == 2.5
    assert hardware.parse_cpu_max("max 100000\n") is None


def test_processes_share_the_cores():
    assert hardware.threads_per_process(H200, 4) == 4
    assert hardware.threads_per_process(CONTAINER, 4) == 1


def test_this_machine_can_be_looked_at():
    machine = hardware.this_machine()
    assert machine.cores >= 1
    assert hardware.accelerator(machine) in ("cuda", "mps", "cpu")
