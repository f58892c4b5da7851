"""What a machine has: cores within quotas and affinity. And the first use of its GPU."""

import os
import shutil
import subprocess
import sys
import textwrap
from threading import Event

import pytest
import torch

import {{ cookiecutter.__package_name }} as package
from {{ cookiecutter.__package_name }}.engine import hardware
from {{ cookiecutter.__package_name }}.engine.cli.training import Training
from {{ cookiecutter.__package_name }}.engine.fast import first_use

PACKAGE = package.__name__


@pytest.mark.parametrize(
    ("logical", "affinity", "quota", "cores"),
    [(128, 64, 2.5, 2), (128, 64, None, 64), (8, None, None, 8), (8, 8, 0.5, 1), (4, 4, 16.0, 4)],
)
def test_cores_are_those_that_are_really_there(logical, affinity, quota, cores):
    assert hardware.usable_cores(logical, affinity, quota) == cores


def test_quota_of_a_container():
    assert hardware.parse_cpu_max("250000 100000\n") == 2.5
    assert hardware.parse_cpu_max("max 100000\n") is None


def test_a_process_looks_at_its_machine_once():
    machine = hardware.this_machine()
    assert machine.cores >= 1
    assert hardware.this_machine() is machine


@pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")
def test_the_driver_is_initialized_beside_python_with_its_settings(tmp_path):
    """With a driver that says what it was told, in a process of its own."""
    (tmp_path / "driver.c").write_text(
        textwrap.dedent("""
        #include <stdio.h>
        #include <stdlib.h>
        int cuInit(unsigned int flags) {
            printf("%u, %s queues", flags, getenv("CUDA_DEVICE_MAX_CONNECTIONS"));
            fflush(stdout);
            return 100;  /* no GPU: torch tells it */
        }
        """)
    )
    built = ["cc", "-shared", "-fPIC", "-o", "libcuda.so.1", "driver.c"]
    subprocess.run(built, cwd=tmp_path, check=True)
    code = f"""
        import threading
        from {PACKAGE}.engine.fast.first_use import start_driver
        start_driver()
        for thread in threading.enumerate()[1:]:
            thread.join()
    """
    settings = os.environ | {"LD_LIBRARY_PATH": str(tmp_path)}
    settings.pop("CUDA_DEVICE_MAX_CONNECTIONS", None)
    command = [sys.executable, "-c", textwrap.dedent(code)]
    said = subprocess.run(command, env=settings, check=True, capture_output=True, text=True)
    assert said.stdout == "0, 32 queues"


def test_the_driver_starts_before_torch_is_imported():
    """In a process of its own: torch is imported here."""
    code = f"""
        import sys
        from {PACKAGE}.engine import main
        from {PACKAGE}.engine.fast import first_use
        first_use.start_driver = lambda: print("torch" in sys.modules)
        __package__ = {PACKAGE!r}
        main(task=".none:None", data=".none:None", arguments=["fit", "--run", "of-nobody"])
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    said = subprocess.run(command, capture_output=True, text=True)
    assert said.stdout == "False\n" and "of-nobody" in said.stderr


def test_the_first_use_of_a_gpu_goes_on_beside_until_it_is_awaited(monkeypatch):
    begun, may_end, ended = Event(), Event(), Event()

    def use(device: torch.device) -> None:
        begun.set()
        may_end.wait()
        ended.set()

    monkeypatch.setattr(first_use, "_use", use)
    wait = first_use.use_soon(torch.device("cuda", 0))
    assert begun.wait(60) and not ended.is_set()
    may_end.set()
    wait()
    assert ended.is_set()


def test_the_first_use_computes_tritons_hash_which_torch_compile_asks_for():
    compat = pytest.importorskip("torch._inductor.runtime.triton_compat")
    key = pytest.importorskip("triton.runtime.cache").triton_key
    key.cache_clear()
    first_use._use(torch.device("cuda", 0))
    assert key.cache_info().misses == 1
    assert compat.triton_key() and key.cache_info().misses == 1


def test_a_run_waits_for_the_first_use_of_its_gpu_before_training(call, monkeypatch):
    order = []
    monkeypatch.setattr(Training, "_use_gpu_soon", lambda *_: lambda: order.append("is over"))
    monkeypatch.setattr(Training, "fit", lambda *_, **__: order.append("trains"))
    call("fit", "--config", "configs/synthetic.yaml", "--trainer.accelerator=cpu")
    assert order == ["is over", "trains"]


def test_the_driver_is_asked_why_there_is_no_gpu(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert hardware.why_no_gpu() == "there is no nvidia-smi, which comes with NVIDIA's driver"
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA H200 (UUID: 1)'\n")
    program.chmod(0o755)
    assert hardware.why_no_gpu() == (
        "nvidia-smi says 'GPU 0: NVIDIA H200 (UUID: 1)', and torch is built for CUDA 13.0"
    )
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert hardware.why_no_gpu() == "CUDA_VISIBLE_DEVICES is ''"
    monkeypatch.setattr(torch.version, "cuda", None)
    assert hardware.why_no_gpu() == f"torch {torch.__version__} is built without CUDA"
