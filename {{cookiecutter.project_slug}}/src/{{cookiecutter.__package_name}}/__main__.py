"""python -m <package> fit|validate|test|predict --config configs/NAME.yaml

`--run FOLDER` (or `--run latest`) goes on with a run: fit resumes it, the others load its best
checkpoint. `--elastic` resumes on other devices, `--until STEP` ends early. Every key of the
configuration is a flag as well: --trainer.max_epochs 3.
"""

import os
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
from .run.checkpoint import Checkpoints, RunCheckpoint
from .run.digests import write_digests
from .run.essential import essential_callbacks
from .run.faults import explain
from .run.folder import project_root
from .run.interruption import Interrupted, Interruption
from .run.launch import is_launched, is_rank_zero, launch
from .run.mistakes import Parser
from .run.numerics import numerics, prefer_determinism
from .run.record import RunRecord
from .run.trackers import Follower, Tracking, decide_tracking, followers
from .run.tracking import MetricsCSV


class Training(LightningCLI):
    """LightningCLI with what is unset decided by the hardware, and a record of every run."""

    def __init__(self, arguments: list[str], root: Path, interruption: Interruption) -> None:
        self.root, self.interruption = root, interruption
        self.record: RunRecord | None = None
        self.from_step = 0
        self.arguments, self.resumed = resolve.expand_run(arguments, root)
        rest, self.until, self.elastic = resolve.take_end_and_elastic(self.arguments)
        defaults = {"default_config_files": [str(root / "configs" / "base.yaml")]}
        super().__init__(
            ImageClassifier,
            ImageData,
            args=rest,
            parser_class=Parser,
            parser_kwargs={name: dict(defaults) for name in self.subcommands()},
            save_config_callback=None,
            seed_everything_default=0,
            auto_configure_optimizers=False,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.link_arguments("data.num_classes", "model.num_classes", apply_on="instantiate")
        parser.add_class_arguments(Tracking, "tracking")
        parser.add_class_arguments(Checkpoints, "checkpoints")

    def _parse_ckpt_path(self) -> None:
        """Leave the model as configured: Lightning would let a checkpoint overrule every flag."""
        stage = self.config.subcommand
        config = self.config[stage]
        if config.ckpt_path:
            settings = config.model.as_dict()
            self.from_step = check_checkpoint_file(config.ckpt_path, settings, stage == "fit")

    def before_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        machine = hardware.this_machine()
        self.decisions = resolve.decide(config.trainer, machine)
        folder = resolve.choose_folder(str(self.subcommand), config, self.root, self.resumed)
        resolve.complete_data(config, machine, is_new=not (self.resumed or self.elastic))
        if self.resumed and self.subcommand == "fit":
            before = RunRecord(self.resumed).newest_start()["config"]
            continuity.check_resume(config, before, self.elastic)
        threads = hardware.threads_per_process(machine, config.trainer.devices)
        if config.trainer.devices > 1 and not is_launched():
            sys.exit(launch(config.trainer.devices, threads, self.arguments, folder))
        if "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(threads)
        config.trainer.default_root_dir = str(folder)
        prefer_determinism(config.trainer.deterministic)
        self.run_folder, seconds = folder, config.checkpoints.seconds
        checkpoint = RunCheckpoint(folder, self.interruption, seconds, self.until)
        ours = essential_callbacks(config, folder, checkpoint, self._accept)
        self.trainer_defaults["callbacks"] = ours
        self.followers: list[Follower] = []
        if self.subcommand == "fit" and is_rank_zero():
            self.decisions |= decide_tracking(config.tracking, self.root)
            resolved = self._parser(self.subcommand).dump(config, skip_unset=False)
            self.record = RunRecord.start(
                folder,
                self.root,
                resolve.recipe_of(config),
                resolved,
                command=["python", "-m", str(__package__), *self.arguments],
                seed=config.seed_everything,
                decisions=self.decisions,
                hardware=asdict(machine),
                from_step=self.from_step,
            )
            mode = self.decisions.get("wandb", "disabled").split(":")[0]
            self.followers = followers(config.tracking, mode, self.record, yaml.safe_load(resolved))

    def _accept(self) -> None:
        """The run is what it was, if it is a resume: from now on a failure is its own."""
        if self.record:
            self.record.before = None

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
            continuity.check_data(self.record.content, data, self.record.before is not None)
            self.record.update(data=data, numerics=numerics())
            continuity.warn_of_changed_source(self.record)
            summary.say_start(self.record.content, self.decisions)
            with self.record.timed("fit"):
                self.trainer.fit(model, **kwargs)
            compiled = dict(zip(("mode", "why"), model.compiled_with, strict=True))
            results = summary.results_of(self.trainer)
            results |= write_digests(self.run_folder, model, self.trainer.optimizers[0])
            self.record.update(compile=compiled, results=results)
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
    interruption = Interruption()
    try:
        with interruption.heard():
            given = sys.argv[1:] if arguments is None else arguments
            Training(given, project_root(), interruption)
    except UserError as error:
        return _say(f"error: {error}", 2)
    except Interrupted as end:
        go_on = " It is saved and goes on with: make resume" if end.saved else ""
        return _say(f"\nEnded by {end.reason}.{go_on}", end.status)
    except BaseException as error:
        if (page := explain(error)) is None:
            raise
        print(f"error: {page}", file=sys.stderr)  # from whichever process it happened in
        return 2
    return 0


def _say(message: str, status: int) -> int:
    if is_rank_zero():
        print(message, file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
