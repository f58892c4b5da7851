"""python -m <package> fit|validate|test|predict --config configs/NAME.yaml

`--run FOLDER` (or `--run latest`) goes on with a run: fit resumes it, the others load its best
checkpoint. `--seeds "1 2 3"` trains one run a seed and says the spread. Every key of the
configuration is a flag as well: --trainer.max_epochs 3.
"""

import os
import signal
import sys
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning as L
import torch
import yaml
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger

from . import hardware
from .classifier import ImageClassifier
from .data.datamodule import ImageData
from .errors import UserError
from .model.checks import check_checkpoint_file
from .nvml import prefer_idle_gpus
from .run import continuity, quiet_lightning, resolve, summary
from .run.callbacks import Progress, StepSeed, Throughput
from .run.checkpoint import keep_checkpoints
from .run.faults import explain
from .run.folder import project_root
from .run.gpu_usage import GpuUsage
from .run.launch import is_launched, is_rank_zero, launch
from .run.memory import OutOfMemory
from .run.mistakes import Parser
from .run.record import RunRecord, digest, interrupted_by
from .run.seeds import take_seeds, train_seeds
from .run.trackers import Follower, Tracking, decide_tracking, followers
from .run.tracking import ContinueMetrics, MetricsCSV


class Training(LightningCLI):
    """LightningCLI with what is unset decided by the hardware, and a record of every run."""

    def __init__(self, arguments: list[str], root: Path) -> None:
        self.root = root
        self.record: RunRecord | None = None
        self.arguments, self.resumed = resolve.expand_run(arguments, root)
        defaults = {"default_config_files": [str(root / "configs" / "base.yaml")]}
        super().__init__(
            ImageClassifier,
            ImageData,
            args=self.arguments,
            parser_class=Parser,
            parser_kwargs={name: dict(defaults) for name in self.subcommands()},
            save_config_callback=None,
            seed_everything_default=0,
            auto_configure_optimizers=False,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.link_arguments("data.num_classes", "model.num_classes", apply_on="instantiate")
        parser.add_class_arguments(Tracking, "tracking")

    def _parse_ckpt_path(self) -> None:
        """Leave the model as configured: Lightning would let a checkpoint overrule every flag."""
        stage = self.config.subcommand
        config = self.config[stage]
        if config.ckpt_path:
            check_checkpoint_file(config.ckpt_path, config.model.as_dict(), stage == "fit")

    def before_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        machine = hardware.this_machine()
        self.decisions = resolve.decide(config.trainer, machine)
        folder = resolve.choose_folder(str(self.subcommand), config, self.root, self.resumed)
        threads = hardware.threads_per_process(machine, config.trainer.devices)
        if config.trainer.devices > 1 and not is_launched():
            sys.exit(launch(config.trainer.devices, threads, self.arguments, folder))
        if "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(threads)
        resolve.complete_data(config, machine, is_new=self.resumed is None)
        if self.resumed and self.subcommand == "fit":
            continuity.check_resume(config, RunRecord(self.resumed).content["config"])
        config.trainer.default_root_dir = str(folder)
        self.run_folder, self.checkpoints = folder, keep_checkpoints(folder)
        self.trainer_defaults["callbacks"] = [
            *([Progress()] if config.trainer.enable_progress_bar is not False else []),
            Throughput(),
            GpuUsage(folder),
            OutOfMemory(folder),
            StepSeed(config.seed_everything),
            ContinueMetrics(),
            self.checkpoints,
        ]
        self.followers: list[Follower] = []
        if self.subcommand == "fit" and is_rank_zero():
            self.decisions |= decide_tracking(config.tracking, self.root)
            resolved = self._parser(self.subcommand).dump(config, skip_unset=False)
            self.record = RunRecord.start(
                folder,
                self.root,
                resolve.recipe_of(config),
                command=["python", "-m", str(__package__), *self.arguments],
                seed=config.seed_everything,
                decisions=self.decisions,
                hardware=asdict(machine),
                config=yaml.safe_load(resolved),
            )
            self.record.newest_config().write_text(resolved)
            mode = self.decisions.get("wandb", "disabled").split(":")[0]
            self.followers = followers(config.tracking, mode, self.record, yaml.safe_load(resolved))

    def instantiate_classes(self) -> None:
        with self.record.watch() if self.record else nullcontext():
            super().instantiate_classes()

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        ours = [MetricsCSV(self.run_folder, self.followers)] if self.subcommand == "fit" else []
        theirs = self._get(self.config_init, "trainer")["logger"]  # null, a bool, one or a list
        theirs = theirs if isinstance(theirs, list) else [theirs]
        loggers = [*ours, *(logger for logger in theirs if isinstance(logger, Logger))]
        kwargs |= {"logger": loggers or False, "enable_progress_bar": False}  # the bar is Progress
        return super().instantiate_trainer(**kwargs)

    def fit(self, model: ImageClassifier, **kwargs: Any) -> None:
        if self.record is None:
            self.trainer.fit(model, **kwargs)
            return
        with self.record.watch():
            data = self.datamodule.describe()
            continuity.check_data(self.record.content, data, resuming=self.resumed is not None)
            self.record.update(data=data)
            summary.say_start(self.record.content, self.decisions)
            with self.record.timed("fit"):
                self.trainer.fit(model, **kwargs)
            mode, why = model.compiled_with
            results = summary.results_of(self.trainer)
            results["weights_sha256"] = digest(model.state_dict())
            self.record.update(compile={"mode": mode, "why": why}, results=results)
            if self.checkpoints.best_model_path:
                model.load_state_dict(torch.load(self.checkpoints.best_model_path)["state_dict"])
            summary.draw_pictures(self.run_folder, model, self.datamodule)
        self.record.finish()
        summary.say_fit(self.run_folder, self.record.content)

    def validate(self, **kwargs: Any) -> None:
        self._score("validate", **kwargs)

    def test(self, **kwargs: Any) -> None:
        self._score("test", **kwargs)

    def predict(self, **kwargs: Any) -> None:
        """Write what the network says of every test image to predictions.csv."""
        batches = self.trainer.predict(**{**kwargs, "return_predictions": True})
        summary.say_predictions(batches, self.datamodule.splits.classes, self.run_folder)

    def _score(self, stage: str, **kwargs: Any) -> None:
        scores = getattr(self.trainer, stage)(**{**kwargs, "verbose": False})[0]
        record = RunRecord(self.run_folder)
        continuity.check_data(record.content, self.datamodule.describe(), resuming=False)
        record.update(results=scores)
        summary.say_scores(self.run_folder, scores)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status: 0, 2 for a mistake in it, 130, 143."""
    quiet_lightning()
    prefer_idle_gpus()
    try:
        root = project_root()
        rest, seeds = take_seeds(sys.argv[1:] if arguments is None else arguments)
        if seeds:
            return train_seeds(rest, seeds, root)
        Training(rest, root)
    except UserError as error:
        return _say(f"error: {error}", 2)
    except BaseException as error:
        if page := explain(error):
            print(f"error: {page}", file=sys.stderr)  # from whichever process it happened in
            return 2
        name = interrupted_by(error)
        if name is None:
            raise
        message = f"\nInterrupted by {name}. A run goes on with: make resume"
        return _say(message, 128 + signal.Signals[name])
    return 0


def _say(message: str, status: int) -> int:
    if is_rank_zero():
        print(message, file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
