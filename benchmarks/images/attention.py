"""Attention with one of torch's kernels and no other, as a callback of our command line."""

import os
import sys

import lightning as L
import torch
from torch.backends import cuda
from torch.nn.functional import scaled_dot_product_attention
from workload import LEFT_OUT

SWITCHES = {
    "flash": cuda.enable_flash_sdp,
    "efficient": cuda.enable_mem_efficient_sdp,
    "math": cuda.enable_math_sdp,
    "cudnn": cuda.enable_cudnn_sdp,
}


class OnlyKernel(L.Callback):
    """Switches all kernels off but one. Ends the program if torch refuses that one.

    Args:
        kernel: flash, efficient, math or cudnn.
    """

    def __init__(self, kernel: str) -> None:
        self.kernel = kernel
        for name, switch in SWITCHES.items():
            switch(name == kernel)

    def setup(self, trainer, pl_module, stage) -> None:
        device = trainer.strategy.root_device
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        shape = 2, 12, 197, 64  # as in ViT-B/16: images, heads, patches, values
        queries = torch.randn(shape, device=device, dtype=dtype, requires_grad=True)
        try:
            scaled_dot_product_attention(queries, queries, queries).sum().backward()
        except RuntimeError as error:
            exact = torch.are_deterministic_algorithms_enabled()
            training = "deterministic training" if exact else "training"
            reason = str(error).splitlines()[0].rstrip(".")
            print(f"torch refuses the kernel {self.kernel} for {training}: {reason}")
            sys.stdout.flush()
            os._exit(LEFT_OUT)
