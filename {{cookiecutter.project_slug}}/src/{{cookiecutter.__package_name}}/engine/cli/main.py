"""python -m <package> fit|validate|test|predict --config configs/NAME.yaml

`--run FOLDER` (or `--run latest`) goes on with a run: fit resumes it, the others load its best
checkpoint. `--elastic` resumes on other devices, `--until STEP` ends early. Every key of the
configuration is a flag as well: --trainer.max_epochs 3.
"""

import os
import sys
from contextlib import nullcontext
from dataclasses import asdict
from functools import partialmethod
from pathlib import Path
from typing import Any

import lightning as L
import torch
import yaml
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger

from ...classifier import ImageClassifier
from .. import hardware
from ..errors import UserError
from ..fast.compile_messages import Compiling
from ..fast.step_graph import StepGraph
from ..images.module import ImageData
from ..model.checks import check_checkpoint, read_checkpoint
from ..monitor import quiet_lightning, summary
from ..monitor.gpu import GpuUsage, OutOfMemory
from ..monitor.progress import Progress, Throughput
from ..monitor.trackers import Tracking, decide_tracking, followers
from ..nvml import prefer_idle_gpus
from ..run import resume_checks as continuity
from ..run.checkpoint import RunCheckpoint
from ..run.digests import write_digests
from ..run.folder import project_root
from ..run.interruption import Interrupted, Interruption
from ..run.metrics import MetricsCSV
from ..run.numerics import StepSeed, numerics, prefer_determinism
from ..run.record import RunRecord
from . import arguments as resolve
from .errors import Parser, explain
from .launch import is_launched, is_rank_zero, launch


class Training(LightningCLI):
    """LightningCLI with what is unset decided by the hardware, and a record of every run."""

    def __init__(self, arguments: list[str], root: Path, interruption: Interruption) -> None:
        self.root, self.interruption = root, interruption
        self.arguments, self.resumed = resolve.expand_run(arguments, root)
        rest, self.until, self.elastic = resolve.take_end_and_elastic(self.arguments)
        every = self.subcommands()  # only the flags of the one that is called are prepared
        called = {name: every[name] for name in arguments[:1] if name in every} or every
        self.subcommands = lambda: called  # type: ignore[method-assign]
        base = {"default_config_files": [str(root / "configs" / "base.yaml")]}
        super().__init__(
            ImageClassifier,
            ImageData,
            args=rest,
            parser_class=Parser,
            parser_kwargs={name: dict(base) for name in called},
            save_config_callback=None,
            seed_everything_default=0,
            auto_configure_optimizers=False,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.link_arguments("data.num_classes", "model.num_classes", apply_on="instantiate")
        parser.add_class_arguments(Tracking, "tracking")
        ours = {"folder", "interruption", "until"}
        parser.add_class_arguments(RunCheckpoint, "checkpoints", skip=ours, instantiate=False)

    def _parse_ckpt_path(self) -> None:
        """Leave the model as configured: Lightning would let a checkpoint overrule every flag."""

    def before_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        resuming, path = self.subcommand == "fit", config.ckpt_path
        self.from_step = read_checkpoint(path, resuming)["global_step"] if path else 0
        machine = hardware.this_machine()
        self.decisions, self.hardware = resolve.decide(config.trainer, machine), asdict(machine)
        folder = resolve.choose_folder(str(self.subcommand), config, self.root, self.resumed)
        resolve.complete_data(config, machine, is_new=not (self.resumed or self.elastic))
        if self.resumed and resuming:
            before = RunRecord(self.resumed).newest_start()["config"]
            now = yaml.safe_load(self._parser("fit").dump(config, skip_unset=False))
            continuity.check_resume(now, before, self.elastic)
        threads = hardware.threads_per_process(machine, config.trainer.devices)
        if config.trainer.devices > 1 and not is_launched():
            sys.exit(launch(config.trainer.devices, threads, self.arguments, folder))
        if "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(threads)
        config.trainer.default_root_dir = str(folder)
        prefer_determinism(config.trainer.deterministic)
        self.trainer_defaults["callbacks"] = [  # a recipe's list would replace a file's
            *([Progress()] if config.trainer.enable_progress_bar is not False else []),
            Throughput(),
            GpuUsage(folder),
            OutOfMemory(),
            StepSeed(config.seed_everything),
            Compiling(),
            *([StepGraph()] if config.model.compile == "step-graph" else []),
            RunCheckpoint(folder, self.interruption, config.checkpoints.seconds, self.until),
        ]
        self.run_folder, self.record = folder, None
        if resuming and is_rank_zero() and not (folder / "run.json").exists():
            self.record = self._start_record()

    def _start_record(self) -> RunRecord:
        config = self.config[self.subcommand]
        self.decisions |= decide_tracking(config.tracking, self.root)
        return RunRecord.start(
            self.run_folder,
            self.root,
            resolve.recipe_of(config),
            self._parser(self.subcommand).dump(config, skip_unset=False),
            command=["python", "-m", str(__package__).split(".")[0], *self.arguments],
            seed=config.seed_everything,
            decisions=self.decisions,
            hardware=self.hardware,
            from_step=self.from_step,
        )

    def instantiate_classes(self) -> None:
        """Build all; refuse data and checkpoint that do not fit before a resume is recorded."""
        with self.record.watch() if self.record else nullcontext():
            super().instantiate_classes()
            resuming, path = self.subcommand == "fit", self.config[self.subcommand].ckpt_path
            self.data = self.datamodule.describe()
            if (self.run_folder / "run.json").exists():
                continuity.check_data(RunRecord(self.run_folder).content, self.data, resuming)
            if path:
                saved, classes = read_checkpoint(path, resuming), self.datamodule.splits.classes
                check_checkpoint(saved, self.model, classes, resuming)

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        self.metrics = MetricsCSV(self.run_folder)
        ours = [self.metrics] if self.subcommand == "fit" else []
        theirs = self._get(self.config_init, "trainer")["logger"]  # null, a bool, one or a list
        theirs = theirs if isinstance(theirs, list) else [theirs]
        loggers = [*ours, *(logger for logger in theirs if isinstance(logger, Logger))]
        kwargs |= {"logger": loggers or False, "enable_progress_bar": False}  # the bar is Progress
        return super().instantiate_trainer(**kwargs)

    def fit(self, model: ImageClassifier, **kwargs: Any) -> None:
        if not is_rank_zero():
            return self.trainer.fit(model, **kwargs)
        with (record := self.record or self._start_record()).watch():
            record.update(data=self.data, numerics=numerics())
            self.metrics.followers = followers(self.config.fit.tracking, record)
            continuity.warn_of_changed_source(record)
            summary.say_start(record.content, self.decisions)
            with record.timed("fit"):
                self.trainer.fit(model, **kwargs)
            results = write_digests(self.run_folder, model, self.trainer.optimizers[0])
            compiled = dict(zip(("mode", "why"), model.compiled_with, strict=True))
            record.update(compile=compiled, results=summary.results_of(self.trainer) | results)
            summary.draw_pictures(self.run_folder, model, self.datamodule)
        record.end("finished")
        summary.say_fit(self.run_folder, record.content)

    def predict(self, **kwargs: Any) -> None:
        """Write what the network says of every test image to predictions.csv."""
        batches = self.trainer.predict(**{**kwargs, "return_predictions": True})
        summary.say_predictions(batches, self.datamodule.splits.classes, self.run_folder)

    def _score(self, stage: str, **kwargs: Any) -> None:
        scores = getattr(self.trainer, stage)(**{**kwargs, "verbose": False})[0]
        RunRecord(self.run_folder).update(results=scores)
        summary.say_scores(self.run_folder, scores)

    validate, test = partialmethod(_score, "validate"), partialmethod(_score, "test")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status: 0, 2 for a mistake in it, 130, 143."""
    quiet_lightning()
    prefer_idle_gpus()
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "32")  # see gpu_decode.py
    interruption = Interruption()
    try:
        with interruption.heard():
            Training(sys.argv[1:] if arguments is None else arguments, project_root(), interruption)
        return 0
    except UserError as error:
        said, status = f"error: {error}", 2
    except Interrupted as end:
        go_on = " It is saved and goes on with: make resume" if end.saved else ""
        said, status = f"\nEnded by {end.reason}.{go_on}", end.status
    except BaseException as error:
        if (page := explain(error)) is None:
            raise
        print(f"error: {page}", file=sys.stderr)  # from whichever process it happened in
        return 2
    if is_rank_zero():
        print(said, file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
