"""What is said when the GPU's memory does not suffice: who holds it, and what keeps the training.

The page is written while everything still lies on the GPU, and goes with the exception as a note.
"""

from pathlib import Path

import lightning as L
import torch

from ..nvml import gpu_state, other_users

GIB = 2**30


def out_of_memory(error: BaseException | None) -> BaseException | None:
    """Return the lack of GPU memory that is at the bottom of an exception, if it is one."""
    while error is not None:
        if isinstance(error, torch.OutOfMemoryError) or "CUBLAS_STATUS_ALLOC_FAILED" in str(error):
            return error
        error = error.__cause__ or error.__context__
    return None


class OutOfMemory(L.Callback):
    """Adds the page to the exception, and saves the allocator's summary as memory.txt."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_exception(self, trainer, pl_module, exception) -> None:
        cause = out_of_memory(exception)
        if cause is None:
            return
        data, world_size = trainer.datamodule, trainer.world_size
        advice = advise(
            batch_size=data.batch_size,
            steps_batch_size=data.batch_size * world_size * trainer.accumulate_grad_batches,
            world_size=world_size,
            eval_batch_size=data.eval_batch_size if trainer.evaluating else None,
            precision=str(trainer.precision),
            checkpointing=bool(pl_module.hparams.get("activation_checkpointing")),
        )
        rank = trainer.global_rank
        file = self.folder / (f"memory.rank-{rank}.txt" if rank else "memory.txt")
        device = trainer.strategy.root_device
        on_gpu = device.type == "cuda"
        page = _page(cause, _held(trainer, device) if on_gpu else {}, advice, file)
        summary = torch.cuda.memory_summary(device) if on_gpu else "The device is no GPU.\n"
        file.write_text(f"{page}\n\n{summary}")
        exception.add_note(page)


def advise(
    batch_size: int,
    steps_batch_size: int,
    world_size: int,
    eval_batch_size: int | None,
    precision: str,
    checkpointing: bool,
) -> dict[str, str]:
    """Return the flags that make a run take less memory, each with what it does, the best first.

    `steps_batch_size`, the images of an optimizer step over all `world_size` processes, is kept.
    `eval_batch_size` is given if evaluation is what did not fit, and `checkpointing` says whether
    activations are already recomputed.
    """
    advice = {}
    if eval_batch_size is not None:
        advice[f"--data.eval_batch_size {max(eval_batch_size // 2, 1)}"] = "evaluate fewer at once"
    per_device = steps_batch_size // world_size
    fitting = [size for size in range(1, batch_size // 2 + 1) if per_device % size == 0]
    if eval_batch_size is None and fitting:
        parts = per_device // fitting[-1]
        advice[f"--data.batch_size {fitting[-1]} --data.global_batch_size {steps_batch_size}"] = (
            f"the same step from {parts} smaller parts per device; halve again if need be"
        )
    if precision.startswith("32"):
        advice["--trainer.precision bf16-mixed"] = "activations take half as much"
    if eval_batch_size is None and not checkpointing:
        advice["--model.activation_checkpointing true"] = "recomputes activations: a quarter slower"
    advice["PYTORCH_ALLOC_CONF=expandable_segments:True"] = (
        "a variable, set before the command: helps where much is reserved and not used"
    )
    return advice


def _held(trainer: L.Trainer, device: torch.device) -> dict[str, float]:
    """Return who holds how much of a GPU's memory, in GiB."""
    weights = list(trainer.lightning_module.parameters())
    states = [state for optimizer in trainer.optimizers for state in optimizer.state.values()]
    loaders = [trainer.train_dataloader, trainer.val_dataloaders]
    kinds: dict[str, list] = {
        "weights": weights,
        "gradients": [weight.grad for weight in weights],
        "the optimizer's state": [value for state in states for value in state.values()],
        "images kept on the GPU": [getattr(loader, "pixels", None) for loader in loaders],
    }
    held = {
        name: sum(t.nbytes for t in tensors if isinstance(t, torch.Tensor) and t.is_cuda) / GIB
        for name, tensors in kinds.items()
    }
    allocated = torch.cuda.memory_allocated(device) / GIB
    held["activations and the rest"] = allocated - sum(held.values())
    held["reserved, not used"] = torch.cuda.memory_reserved(device) / GIB - allocated
    gpu = gpu_state(str(torch.cuda.get_device_properties(device).uuid))
    if gpu is not None:
        others = other_users(gpu, own_bytes=torch.cuda.memory_reserved(device))
        held |= {name: memory / GIB for name, memory in others.items()}
    return held


def _page(cause: BaseException, held: dict[str, float], advice: dict[str, str], file: Path) -> str:
    sentences = str(cause).split(". ")
    lines = [f"out of GPU memory: {'. '.join(sentences[1:3] or sentences)}."]
    lines += [f"  {gib:8.2f} GiB  {name}" for name, gib in held.items()]
    lines += ['What helps, best first (with make: ARGS="..."):']
    width = max(map(len, advice))
    lines += [f"  {flags:<{width}}  {what}" for flags, what in advice.items()]
    return "\n".join([*lines, f"The allocator's own account: {file}"])
