"""What each of the engine's patches gains: `patches.py`, in one command and one process.

It trains as shipped (ResNet-18, batch 128, images of 32 by 32 in the GPU's memory) and changes the
patches between two epochs, so that only seconds lie between a turn with a patch and one without:
the machine's own ups and downs are longer. A turn is an epoch; its time goes from the end of its
first steps to the end of its last. A patch's gain is the median, over the rounds, of the turn
without it against the mean of the turns with all before and after it.

    make bench WORKLOAD=patches
    PYTHONPATH=build/my-project/src python benchmarks/patches.py --seconds 420   # as make does
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import lightning as L
from measure import this_gpu
from my_project.engine.fast.patches import PATCHES, Patches
from my_project.engine.monitor.clock import now

HERE = Path(__file__).resolve().parent
ALL = "all on"
WARM_UP_TURNS = 3  # with everything: compiles, and fills the caches
APART = 5  # steps at the start of a turn, in which the loader starts


class Turns(L.Callback):
    """Trains an epoch with all patches, one without one of them, one with all, and so on.

    Args:
        path: where the milliseconds a step of each turn are written, as JSON.
        seconds: after which the last turn begins.
        without: the patches that are left out in turn, some together (one+another); `off` leaves
            out all.
    """

    def __init__(self, path: str, seconds: float, without: list[str]) -> None:
        self.path, self.seconds = Path(path), seconds
        self.without = [name for each in without for name in (ALL, each)]
        self.turn = -WARM_UP_TURNS
        self.found: list[tuple[str, float]] = []

    def on_train_start(self, trainer, pl_module) -> None:
        self.patches = next(each for each in trainer.callbacks if isinstance(each, Patches))
        self.end = time.monotonic() + self.seconds
        self.device = trainer.strategy.root_device

    def on_train_epoch_start(self, trainer, pl_module) -> None:
        self.left_out = self.without[self.turn % len(self.without)] if self.turn >= 0 else ALL
        out = PATCHES if self.left_out == "off" else self.left_out.split("+")
        left = [name for name in PATCHES if name not in out]
        self.patches.apply(trainer, left)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if batch_idx + 1 == APART:
            self.start = now(self.device)
        if batch_idx + 1 == trainer.num_training_batches:
            spent = 1e3 * (now(self.device) - self.start) / (batch_idx + 1 - APART)
            if self.turn >= 0:
                self.found.append((self.left_out, spent))
            self.turn += 1
            self._end_if_over(trainer)

    def _end_if_over(self, trainer) -> None:
        """Let all processes end after the same turn, one with all patches, a round at the least."""
        over = time.monotonic() > self.end and self.turn % 2 == 1
        over = over and self.turn > len(self.without)
        trainer.should_stop = trainer.strategy.reduce_boolean_decision(over, all=False)

    def on_train_end(self, trainer, pl_module) -> None:
        if trainer.is_global_zero:
            self.path.write_text(json.dumps(self.found))


def main() -> int:
    asked, gpu = arguments(), this_gpu()
    cpu = asked.tiny or gpu is None
    batch, steps = (16, 24) if cpu else (128, asked.steps)
    options = {"image_size": 32, "train": batch * steps * asked.devices, "val": batch}
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "found.json"
        flags = {
            "config": asked.project / "configs" / "synthetic.yaml",
            "data.options": json.dumps(options),
            "data.batch_size": batch,
            "model.network": "small_cnn" if cpu else "resnet18",
            "model.compile": "false" if cpu else asked.compile,
            "trainer.max_epochs": 10**6,
            "trainer.limit_val_batches": 0,
            "trainer.devices": asked.devices,
            "trainer.enable_progress_bar": "false",
            "checkpoints.seconds": 10**6,
            "trainer.callbacks+": "patches.Turns",
            "trainer.callbacks.path": found,
            "trainer.callbacks.seconds": asked.seconds,
            "trainer.callbacks.without": json.dumps([*(asked.patches or PATCHES), "off"]),
        }
        if cpu:
            flags["trainer.accelerator"] = "cpu"
        command = ["fit", *(f"--{name}={value}" for name, value in flags.items())]
        paths = [str(asked.project.resolve() / "src"), str(HERE), os.environ.get("PYTHONPATH", "")]
        settings = os.environ | {"RUN_FOLDER": f"{folder}/run"}
        settings |= {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
        settings.pop("WANDB_API_KEY", None)
        process = [sys.executable, "-m", "my_project", *command]
        status = subprocess.Popen(process, env=settings).wait()
        if found.is_file():
            print(table(json.loads(found.read_text()), "CPU" if cpu else gpu.name))
    return status


def table(found: list[tuple[str, float]], machine: str) -> str:
    """Return a line for each patch: ms a step with all and without it, its gain, its spread."""
    gains: dict[str, list[tuple[float, float]]] = {}
    for (_, before), (name, without), (_, after) in zip(
        found[::2], found[1::2], found[2::2], strict=False
    ):
        gains.setdefault(name, []).append(((before + after) / 2, without))
    wide = max(24, *(len(name) for name in gains))
    lines = [f"{'left out':{wide}} {'with':>8} {'without':>8} {'gain':>7}  half of all turns"]
    for name, pairs in gains.items():
        shares = [100 * (without / with_ - 1) for with_, without in pairs]
        with_, without = (statistics.median(part) for part in zip(*pairs, strict=True))
        low, _, high = statistics.quantiles(shares, n=4) if len(shares) > 1 else 3 * shares
        lines.append(
            f"{name:{wide}} {with_:5.3f} ms {without:5.3f} ms {statistics.median(shares):+6.1f}%"
            f"  {low:+.1f} to {high:+.1f}%, {len(shares)} turns"
        )
    return "\n".join([f"{machine}, ms a step: medians of turns that alternate", *lines])


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=420.0, help="that turns are taken")
    parser.add_argument("--steps", type=int, default=150, help="of a turn")
    parser.add_argument("--project", type=Path, default=HERE.parent / "build" / "my-project")
    parser.add_argument("--patches", nargs="+", help="only these; one+another: both at once")
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--compile", default="step-graph", help="how; also reduce-overhead")
    parser.add_argument("--tiny", action="store_true", help="a CPU's version, for tests")
    asked = parser.parse_args()
    if unknown := {name for each in asked.patches or () for name in each.split("+")} - set(PATCHES):
        parser.error(f"{', '.join(unknown)}: unknown. The patches are {', '.join(PATCHES)}.")
    return asked


if __name__ == "__main__":
    sys.exit(main())
