"""fit, validate, test and predict: LightningCLI, with a record of every run."""

import os
import shutil
import sys
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import partialmethod
from pathlib import Path
from typing import Any

import lightning as L
import torch
import yaml
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger

from .. import hardware
from ..data.rows import with_size
from ..decisions import decide_loading
from ..fast.compile_messages import Compiling
from ..fast.step_graph import StepGraph
from ..model.checks import check_checkpoint, read_checkpoint
from ..monitor import summary
from ..monitor.gpu import GpuUsage, OutOfMemory
from ..monitor.predictions import draw_pictures
from ..monitor.progress import Progress, Throughput
from ..monitor.trackers import Tracking, decide_tracking, followers
from ..paths import project_root
from ..run import resume_checks
from ..run.checkpoint import RunCheckpoint
from ..run.checkpoint_files import sha256
from ..run.digests import write_digests
from ..run.interruption import Interruption
from ..run.metrics import MetricsCSV
from ..run.numerics import StepSeed, numerics, prefer_determinism
from ..run.record import RunRecord, facts_of
from ..task import Task
from . import arguments as resolve
from .errors import Parser
from .launch import is_launched, is_rank_zero, launch
from .project import Project


class Training(LightningCLI):
    """LightningCLI with what is unset decided by the hardware, and a record of every run."""

    def __init__(
        self, project: Project, arguments: list[str], root: Path, interruption: Interruption
    ) -> None:
        self.project, self.root, self.interruption = project, root, interruption
        self.arguments, self.resumed = resolve.expand_run(arguments, root)
        rest, self.until, self.elastic = resolve.take_end_and_elastic(self.arguments)
        every = self.subcommands()  # only the flags of the one that is called are prepared
        called = {name: every[name] for name in arguments[:1] if name in every} or every
        self.subcommands = lambda: called  # type: ignore[method-assign]
        base = {"default_config_files": [str(root / "configs" / "base.yaml")]}
        super().__init__(
            project.task_class,
            project.data_class,
            args=rest,
            parser_class=Parser,
            parser_kwargs={"prog": f"python -m {project.package}"}
            | {name: dict(base) for name in called},
            save_config_callback=None,
            seed_everything_default=0,
            auto_configure_optimizers=False,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        for source, target in self.project.links.items():
            parser.link_arguments(source, target, apply_on="instantiate")
        parser.add_class_arguments(Tracking, "tracking")
        ours = {"folder", "interruption", "until", "classes"}
        parser.add_class_arguments(RunCheckpoint, "checkpoints", skip=ours, instantiate=False)

    def _parse_ckpt_path(self) -> None:
        """Leave the model as configured: Lightning would let a checkpoint overrule every flag."""

    def before_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        resuming, path = self.subcommand == "fit", config.ckpt_path
        self.from_step = read_checkpoint(path, resuming)["global_step"] if path else 0
        self.machine = machine = hardware.this_machine()
        self.decisions, self.hardware = resolve.decide(config.trainer, machine), asdict(machine)
        package = self.project.package
        folder = resolve.choose_folder(
            str(self.subcommand), config, self.root, self.resumed, package
        )
        decodes = self.project.data_class.gpu_decoder
        resolve.complete_data(config, machine, not (self.resumed or self.elastic), decodes)
        if self.resumed and resuming:
            self._check_resume(config)
        devices = config.trainer.devices
        threads = hardware.threads_per_process(machine, devices)
        if devices > 1 and not is_launched():
            sys.exit(launch(package, devices, threads, self.arguments, folder))
        if "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(threads)
        config.trainer.default_root_dir = str(folder)
        prefer_determinism(config.trainer.deterministic)
        self.run_folder, self.record = folder, None
        if resuming and is_rank_zero() and not (folder / "run.json").exists():
            self.record = self._start_record()

    def _check_resume(self, config: Any) -> None:
        before = RunRecord(self.resumed).newest_start()["config"]  # type: ignore[arg-type]
        now = yaml.safe_load(self._parser("fit").dump(config, skip_unset=False))
        project = self.project
        may_change = {
            "model": project.task_class.may_change,
            "data": project.data_class.may_change,
        }
        resume_checks.check_resume(now, before, self.elastic, may_change)

    def _start_record(self) -> RunRecord:
        config = self.config[self.subcommand]
        self.decisions |= decide_tracking(config.tracking, self.root)
        return RunRecord.start(
            self.run_folder,
            self.root,
            resolve.recipe_of(config, self.project.package),
            self._parser(self.subcommand).dump(config, skip_unset=False),
            command=["python", "-m", self.project.package, *self.arguments],
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
            if (self.run_folder / "run.json").exists():
                content = RunRecord(self.run_folder).content
                if "data" in content:
                    resume_checks.check_data(facts_of(content["data"]), self.facts, resuming)
            if path:
                saved = read_checkpoint(path, resuming)
                check_checkpoint(saved, self.model, self.facts.classes, resuming)

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        self._decide_loading()
        self.metrics = MetricsCSV(self.run_folder)
        ours = [self.metrics] if self.subcommand == "fit" else []
        theirs = self._get(self.config_init, "trainer")["logger"]  # null, a bool, one or a list
        theirs = theirs if isinstance(theirs, list) else [theirs]
        loggers = [*ours, *(logger for logger in theirs if isinstance(logger, Logger))]
        kwargs |= {"logger": loggers or False, "enable_progress_bar": False}  # the bar is Progress
        self.trainer_defaults["callbacks"] = self._callbacks()
        return super().instantiate_trainer(**kwargs)

    def _decide_loading(self) -> None:
        """Decide how the data are loaded, and add it to what is recorded of them."""
        data, flags = self.datamodule, self.datamodule.flags
        facts = with_size(data.facts(), data.splits)
        asked = flags.loader, flags.workers, flags.prefetch, flags.seed
        data.decisions = decided = decide_loading(facts, self.machine, *asked)
        self.facts = replace(facts, extra=facts.extra | {"loader": decided.loader})
        self.decisions["loader"] = f"{decided.loader}: {decided.why}"

    def _callbacks(self) -> list[L.Callback]:
        """Return those of every run; they are added here, as a recipe's list replaces a file's."""
        config = self.config[self.subcommand]
        seconds, classes = config.checkpoints.seconds, self.facts.classes
        return [
            *([Progress()] if config.trainer.enable_progress_bar is not False else []),
            Throughput(),
            GpuUsage(self.run_folder),
            OutOfMemory(),
            StepSeed(config.seed_everything),
            Compiling(),
            *([StepGraph()] if config.model.compile == "step-graph" else []),
            RunCheckpoint(self.run_folder, self.interruption, seconds, self.until, classes),
        ]

    def fit(self, model: Task, **kwargs: Any) -> None:
        if not is_rank_zero():
            return self.trainer.fit(model, **kwargs)
        with (record := self.record or self._start_record()).watch():
            record.update(data=asdict(self.facts), decisions=self.decisions, numerics=numerics())
            record.update(artifacts=self._keep_artifacts())
            self.metrics.followers = followers(self.config.fit.tracking, record)
            resume_checks.warn_of_changed_source(record)
            summary.say_start(record.content, self.facts, self.decisions)
            with record.timed("fit"):
                self.trainer.fit(model, **kwargs)
            results = write_digests(self.run_folder, model, self.trainer.optimizers)
            compiled = model.compile_decision._asdict()
            record.update(compile=compiled, results=summary.results_of(self.trainer) | results)
            draw = self.project.load(self.project.pictures)
            drawn = draw_pictures(self.run_folder, model, self.datamodule, self.facts, draw)
        record.end("finished")
        summary.say_fit(self.run_folder, record.content, model.best, self.facts, drawn)

    def _keep_artifacts(self) -> dict[str, str]:
        """Copy the files that belong to the weights into the run's folder; return their SHA-256."""
        kept = {}
        for name, path in self.datamodule.artifacts().items():
            target = self.run_folder / "artifacts" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
            kept[name] = sha256(target)
        return kept

    def predict(self, **kwargs: Any) -> None:
        """Write the predictions for every row of the test split to predictions.csv."""
        batches = self.trainer.predict(**{**kwargs, "return_predictions": True})
        summary.say_predictions(batches, self.facts, self.run_folder)

    def _score(self, stage: str, **kwargs: Any) -> None:
        scores = getattr(self.trainer, stage)(**{**kwargs, "verbose": False})[0]
        RunRecord(self.run_folder).update(results=scores)
        summary.say_scores(self.run_folder, scores, self.model.best)

    validate, test = partialmethod(_score, "validate"), partialmethod(_score, "test")


def train(project: Project, arguments: list[str]) -> int:
    interruption = Interruption()
    with interruption.heard():
        Training(project, arguments, project_root(), interruption)
    return 0
