"""Settings of torch and of the process that training changes and restores."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch


@contextmanager
def device_settings(device: torch.device) -> Iterator[None]:
    """On a GPU, use TF32 for float32 matrix products, and a stream other than the default.

    nvJPEG's streams would wait for all work on the default stream.
    """
    if device.type != "cuda":
        yield
        return
    precision, stream = torch.get_float32_matmul_precision(), torch.cuda.current_stream(device)
    torch.set_float32_matmul_precision("high")
    torch.cuda.set_stream(torch.cuda.Stream(device))
    try:
        yield
    finally:
        with suppress(RuntimeError):  # the device may have failed already
            torch.cuda.synchronize(device)  # later work on the other stream reads the weights
        torch.cuda.set_stream(stream)
        torch.set_float32_matmul_precision(precision)


@contextmanager
def preserve_process_settings() -> Iterator[None]:
    """Restore the environment, the filters of warnings and torch's switches at exit.

    Trainer(deterministic=True), for example, sets switches and never restores them.
    """
    environment = dict(os.environ)
    deterministic = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    fills = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    cudnn, benchmark = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    threads = torch.get_num_threads()
    try:
        with warnings.catch_warnings():
            yield
    finally:
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)
        torch.use_deterministic_algorithms(deterministic, warn_only=warns)
        torch.utils.deterministic.fill_uninitialized_memory = fills  # type: ignore[attr-defined]
        torch.backends.cudnn.deterministic = cudnn
        torch.backends.cudnn.benchmark = benchmark
        torch.set_num_threads(threads)
