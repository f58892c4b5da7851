"""What the command line and the configuration leave open, filled in before anything is built."""

import argparse
import os
from pathlib import Path
from typing import Any

from .. import hardware, nvml
from ..errors import UserError
from ..paths import shown
from ..ranks import is_rank_zero
from ..run.checkpoint_files import find_checkpoint
from ..run.folder import find_run, new_run_folder, recipe_name
from ..run.record import RunRecord
from .launch import is_launched


def decide(trainer: Any, machine: hardware.Machine) -> dict[str, str]:
    """Fill in what the trainer's configuration leaves open; return what was decided, and why."""
    if trainer.accelerator in ("auto", "gpu"):
        trainer.accelerator = hardware.accelerator(machine)
    if trainer.accelerator == "cuda" and not machine.gpus:
        raise UserError("trainer.accelerator is cuda, but torch sees no GPU: try `nvidia-smi`.")
    if is_launched():
        trainer.devices = int(os.environ["LOCAL_WORLD_SIZE"])
        trainer.num_nodes = int(os.environ["GROUP_WORLD_SIZE"])
    elif trainer.num_nodes > 1:
        raise UserError(
            f"trainer.num_nodes is {trainer.num_nodes}: start torchrun on each of them,"
            " torchrun --nnodes N --nproc-per-node GPUS --rdzv-id ID --rdzv-backend c10d"
            " --rdzv-endpoint HOST:29500 -m PACKAGE fit --config ..."
        )
    else:
        trainer.devices = hardware.devices(machine, trainer.devices, trainer.accelerator)
    if trainer.strategy == "auto" and trainer.devices * trainer.num_nodes > 1:
        trainer.strategy = "ddp"
    why = "as configured"
    if trainer.precision is None:
        trainer.precision, why = hardware.precision(machine, trainer.accelerator)
    device = device_name(machine, trainer.accelerator)
    decisions = {
        "device": f"{trainer.devices} x {device}" if trainer.devices > 1 else device,
        "precision": f"{trainer.precision}: {why}",
    }
    if trainer.accelerator == "cuda" and is_rank_zero() and (in_use := nvml.in_use()):
        decisions["GPUs in use"] = in_use
    return decisions


def device_name(machine: hardware.Machine, accelerator: str) -> str:
    if accelerator == "cuda":
        return machine.gpus[0].name
    return "Apple GPU" if accelerator == "mps" else f"CPU ({machine.cores} cores)"


def complete_data(
    config: Any, machine: hardware.Machine, is_new: bool, decodes: bool = False
) -> None:
    """Fill in what the data's configuration leaves open: workers, seed, parts of the batch.

    `decodes`: they have a setting that says where they are decoded.
    """
    for section in ("data", "model", "trainer"):
        if config.get(section) is None:
            raise UserError(f"The section '{section}:' of the configuration is empty.")
    if config.data.workers is None:
        config.data.workers = hardware.workers(machine, config.trainer.devices)
    kind, devices = config.trainer.accelerator, config.trainer.devices
    # Where a GPU's run is evaluated on a CPU, that decodes.
    if decodes and (config.data.decoder is None or kind != "cuda"):
        config.data.decoder = hardware.decoder(machine, kind, devices)
    if config.data.seed is None:
        config.data.seed = config.seed_everything
    _divide_batch(config.data, config.trainer, is_new)


def _divide_batch(data: Any, trainer: Any, is_new: bool) -> None:
    """Fill in the global batch size, or from it the micro-batches that are accumulated."""
    devices = trainer.devices * trainer.num_nodes
    at_once = data.batch_size * devices
    if data.global_batch_size is None:
        data.global_batch_size = at_once * trainer.accumulate_grad_batches
        return
    accumulate, rest = divmod(data.global_batch_size, at_once)
    if rest or accumulate < 1:
        raise UserError(
            f"data.global_batch_size is {data.global_batch_size}, no multiple of {at_once}"
            f" ({data.batch_size} on {devices} devices). Set --data.batch_size to what divides it."
        )
    if is_new and trainer.accumulate_grad_batches not in (1, accumulate):
        raise UserError(
            f"trainer.accumulate_grad_batches is {trainer.accumulate_grad_batches}, but the global"
            f" batch of {data.global_batch_size} takes {accumulate}. Leave one of the two out."
        )
    trainer.accumulate_grad_batches = accumulate


def recipe_of(config: Any, package: str) -> str:
    """Return the recipe's name: that of the last configuration file, or else the package's."""
    files = config.get("config") or []
    return recipe_name(Path(str(files[-1]))) if files else package


def expand_run(arguments: list[str], root: Path) -> tuple[list[str], Path | None]:
    """Replace `--run FOLDER` by the run's configuration and checkpoint; return its folder too."""
    rest, name = take(arguments, "--run")
    if name is None:
        return rest, None
    run = find_run(root, name)
    fitting, record = rest[:1] == ["fit"], RunRecord(run)
    longer = any(flag.startswith("--trainer.max_") for flag in rest)
    if fitting and not longer and record.content["state"] == "finished":
        raise UserError(
            f"{shown(run)} has finished. Train it for longer with --trainer.max_epochs N"
            " (make resume ARGS=...), or start a new run."
        )
    names = ["last", "previous"] if fitting else ["best", "last", "previous"]
    inserted = [f"--config={record.newest_config()}"]
    if take(rest, "--ckpt_path")[1] is None:
        inserted.append(f"--ckpt_path={find_checkpoint(run, *names)}")
    if not fitting:  # what it decided for the machine it trained on is asked anew
        inserted += [f"--trainer.{key}=auto" for key in ("accelerator", "devices", "strategy")]
        inserted.append("--trainer.precision=null")
    elif "--elastic" in rest:
        inserted.append("--trainer.strategy=auto")
    return [*rest[:1], *inserted, *rest[1:]], run


def take_end_and_elastic(arguments: list[str]) -> tuple[list[str], int | None, bool]:
    """Take --until STEP and --elastic out of fit's arguments; return the rest and both."""
    rest, until = take(arguments, "--until")
    if until is not None and not until.isdecimal():
        raise UserError(f"--until is '{until}'; expected the number of a step, such as 500.")
    rest, elastic = [word for word in rest if word != "--elastic"], "--elastic" in rest
    if (elastic or until is not None) and rest[:1] != ["fit"]:
        raise UserError("--until and --elastic are for fit: they say how a training run goes on.")
    return rest, None if until is None else int(until), elastic


def take(arguments: list[str], *flags: str) -> tuple[list[str], str | None]:
    """Return the arguments without a flag, and its value: None without it, "" if none follows."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(*flags, dest="value", nargs="?", const="")
    found, rest = parser.parse_known_args(arguments)
    return rest, found.value


def choose_folder(stage: str, config: Any, root: Path, resumed: Path | None, package: str) -> Path:
    """Return the folder of the run that starts or goes on, or of the one that is evaluated.

    Evaluation without --run takes the run of its checkpoint, or else the recipe's newest and best.
    """
    if stage != "fit" and config.trainer.devices * config.trainer.num_nodes > 1:
        raise UserError(f"{stage} runs on one device: leave out --trainer.devices, and torchrun.")
    if resumed is not None:
        return resumed
    if stage == "fit":
        folder = new_run_folder(root, recipe_of(config, package))
        if is_rank_zero() and (folder / "run.json").exists() and not config.ckpt_path:
            raise UserError(
                f"{shown(folder)} holds a run already: go on with it by --run {shown(folder)}, or"
                " name another RUN_FOLDER (torchrun: another --rdzv-id)."
            )
        return folder
    if config.ckpt_path:
        return find_run(root, str(Path(config.ckpt_path).parent.parent))
    folder = find_run(root, "latest", recipe_of(config, package))
    config.ckpt_path = str(find_checkpoint(folder, "best", "last", "previous"))
    return folder
