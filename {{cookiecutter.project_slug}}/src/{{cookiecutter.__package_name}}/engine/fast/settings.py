"""Settings of torch and of the process that training changes: each is put back at its end."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch


@contextmanager
def device_settings(device: torch.device) -> Iterator[None]:
    """On a GPU: TF32 wherever float32 is left, and a stream that is not the default one.

    nvJPEG's own streams wait for whatever runs on the default one.
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
        with suppress(RuntimeError):  # of a device that has failed already
            torch.cuda.synchronize(device)  # what follows on the other stream sees the weights
        torch.cuda.set_stream(stream)
        torch.set_float32_matmul_precision(precision)


@contextmanager
def process_settings_kept() -> Iterator[None]:
    """Put back the environment, the warnings' filters and torch's switches, whoever changed them.

    Trainer(deterministic=True), for one, sets switches and never puts them back.
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
