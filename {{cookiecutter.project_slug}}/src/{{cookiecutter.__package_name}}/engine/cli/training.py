"""fit, validate, test and predict: LightningCLI, with a record of every run."""

import os
import shutil
import sys
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, replace
from functools import partialmethod
from importlib import import_module
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger

from .. import nvml
from ..artifacts import artifacts_of
from ..data.rows import with_size
from ..data.whole_steps import remark_on_left_out
from ..decisions import (
    AS_BEFORE,
    STEP_GRAPHS,
    Decision,
    Decisions,
    Layout,
    applied,
    check_sections,
    decide,
    decide_layout,
    device_name,
    filled_in,
    get,
    in_common,
)
from ..fast.data_parallel import DataParallel
from ..fast.first_use import use_soon
from ..fast.patches import left_on_device
from ..fast.settings import preserve_process_settings
from ..fast.sync_batch_norm import SynchronizeBatchNorm
from ..hardware import this_machine
from ..hashing import sha256
from ..model.checks import check_checkpoint, read_checkpoint
from ..monitor import summary
from ..monitor.predictions import draw_pictures
from ..monitor.trackers import Tracking, build_trackers, decide_wandb
from ..paths import project_root
from ..ranks import is_launched, is_rank_zero, of_every_rank, of_rank_zero
from ..run import resume_checks
from ..run.checkpoint import RunCheckpoint
from ..run.checkpoint_files import BEST
from ..run.digests import write_digests
from ..run.ending import ending
from ..run.environment import warn_of_other_versions
from ..run.interruption import Interruption
from ..run.metrics import MetricsCSV
from ..run.numerics import numerics, prefer_determinism
from ..run.record import RunRecord, facts_of, read_yaml
from ..task import Task, has_plain_step
from . import arguments as resolve
from .averaging import take_average
from .callbacks import callbacks_of, has_progress_bar
from .errors import Parser
from .launch import check_tasks, launch, launched, with_environment
from .plain_values import make_plain
from .project import Project, default_batch_size
from .refused import check_patience, check_trainer_settings
from .scoring import predict_test_split, score

BATCH_SIZE, AUTO = "data.batch_size", "auto"


class Training(LightningCLI):
    """LightningCLI that chooses unset settings for the hardware and records every run."""

    def __init__(
        self,
        project: Project,
        arguments: list[str],
        root: Path,
        interruption: Interruption,
        at_end: ExitStack,
    ) -> None:
        self.project, self.root, self.interruption = project, root, interruption
        self.at_end = at_end  # its callbacks get the exception that ends the program, if any
        arguments = resolve.find_recipes(arguments)
        resolve.take_fit_flags(arguments)  # reports wrong ones before a run is looked for
        self.arguments, self.resumed = resolve.expand_run(arguments, root)
        rest, self.flags = resolve.take_fit_flags(self.arguments)
        every = LightningCLI.subcommands()
        self.called = {name: every[name] for name in arguments[:1] if name in every} or every
        base = {"default_config_files": [str(root / "configs" / "base.yaml")]}
        super().__init__(
            project.task_class,
            project.data_class,
            args=rest,
            parser_class=Parser,
            parser_kwargs={"prog": f"python -m {project.package}"}
            | {name: dict(base) for name in self.called},
            save_config_callback=None,
            seed_everything_default=0,
            auto_configure_optimizers=False,
        )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """Return only the subcommand that is called, to save the time of parsing the others."""
        return self.called

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        self.called_parser = parser
        for source, target in self.project.links.items():
            parser.link_arguments(source, target, apply_on="instantiate")
        parser.add_class_arguments(Tracking, "tracking")
        parser.add_argument(
            "--best",
            type=str | None,
            help="The logged metric that selects the best weights, such as val/loss, or 'val/x min'"
            " if its name doesn't say whether high or low is best; unset: the task's own.",
        )
        parser.add_argument(
            "--patience",
            type=int | None,
            help="End the run after so many validations without a better one.",
        )
        ours = {"folder", "interruption", "until", "classes", "allow_nan", "patience"}
        parser.add_class_arguments(RunCheckpoint, "checkpoints", skip=ours, instantiate=False)

    def _parse_ckpt_path(self) -> None:
        """Do nothing: Lightning would let the checkpoint's hyperparameters override all flags."""

    def before_instantiate_classes(self) -> None:
        """Decide what has to be known before processes start and data are read."""
        check_tasks()
        config, stage = self.config[self.subcommand], str(self.subcommand)
        check_trainer_settings(config.trainer)
        decay = take_average(config)
        if decay is not None and stage == "fit" and is_rank_zero():
            print(f"note: EMAWeightAveraging is --model.ema {decay} here.", flush=True)
        check_patience(config.patience)
        make_plain(config)
        resuming, path = stage == "fit", config.ckpt_path
        self.from_step = read_checkpoint(path, resuming)["global_step"] if path else 0
        self.text = self.called_parser.dump(config, skip_unset=False)
        self.asked = read_yaml(self.text)
        check_sections(self.asked)
        if config.data.batch_size == AUTO:  # until it is measured
            config.data.batch_size = default_batch_size(self.project.data_class)
        self.length_was: dict[str, Any] = {}  # the Trainer's settings before a resume
        self.before = resolve.decided_before(self.resumed, stage, self.flags)
        resolve.check_same_settings(of_every_rank("settings", self.asked))
        self.machine = in_common(of_every_rank("machine", this_machine()))
        layout = decide_layout(self.asked, self.machine, self.before, launched())
        package = self.project.package
        folder = resolve.choose_folder(stage, config, self.root, self.resumed, package, layout)
        if self.resumed and resuming:
            self._check_resume(layout)
        if layout.devices.value > 1 and not is_launched():
            count, threads = layout.devices.value, layout.threads.value
            sys.exit(launch(package, count, threads, self.arguments, folder))
        if "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(layout.threads.value)
        if is_rank_zero():
            warn_of_other_versions(self.root)
            if not resuming:
                resume_checks.warn_of_newer_source(folder, self.root)
        prefer_determinism(config.trainer.deterministic)
        self.await_gpu = self._use_gpu_soon(layout)
        self.run_folder, self.record = folder, None
        is_new = resuming and not self.resumed
        self.at_end.enter_context(artifacts_of(None if is_new else folder))
        if resuming and is_rank_zero() and not (folder / "run.json").exists():
            self.record = self._start_record()

    def _use_gpu_soon(self, layout: Layout) -> Callable[[], None]:
        """Begin to use the GPU, if it is the first one and no process measures its memory first.

        Return what waits for it.
        """
        first = get(self.asked, "trainer.devices") in (None, "auto", 1)
        alone = layout.devices.value * layout.num_nodes.value == 1 and not is_launched()
        measures = get(self.asked, BATCH_SIZE) == AUTO
        if layout.accelerator.value == "cuda" and first and alone and not measures:
            return use_soon(torch.device("cuda", 0))
        return lambda: None

    def _check_resume(self, layout: Layout) -> None:
        record = RunRecord(self.resumed)  # type: ignore[arg-type]
        config = read_yaml(record.newest_config().read_text())  # with null settings
        self.length_was = config["trainer"]
        was = applied(record.newest_start() | {"config": config})
        now = filled_in(self.asked, self.before)
        now["trainer"]["devices"] = layout.devices.value
        now["trainer"]["num_nodes"] = layout.num_nodes.value
        task, data = self.project.task_class, self.project.data_class
        may_change = {"model": task.may_change, "data": data.may_change}
        resume_checks.check_resume(now, was, self.flags.elastic, may_change)

    def _start_record(self) -> RunRecord:
        """Record that the run starts; whatever ends this program is recorded from here on."""
        with self.interruption.undisturbed():
            record = RunRecord.start(
                self.run_folder,
                self.root,
                resolve.recipe_of(self.config[self.subcommand], self.project.package),
                self.text,
                command=["python", "-m", self.project.package, *self.arguments],
                seed=self.config[self.subcommand].seed_everything,
                decisions=dict(self.before.decisions) if self.before else {},
                hardware=asdict(self.machine),
                from_step=self.from_step,
            )
            self.at_end.push(self._record_end(record))
            said = {"name": self.flags.name, "note": self.flags.note}
            if given := {key: value for key, value in said.items() if value}:
                record.update(**given)
        return record

    def _record_end(self, record: RunRecord) -> Callable[..., None]:
        """Return a callback that records the exception that ended the program, if one did."""

        def at_end(kind: Any, error: BaseException | None, traceback: Any) -> None:
            if error is not None:
                with self.interruption.undisturbed():
                    record.end_by(error)

        return at_end

    def instantiate_classes(self) -> None:
        """Build everything; refuse wrong data or a wrong checkpoint before recording a resume."""
        with self.record.watch() if self.record else nullcontext():
            super().instantiate_classes()
            self.await_gpu()
            resuming, path = self.subcommand == "fit", self.config[self.subcommand].ckpt_path
            if (self.run_folder / "run.json").exists():
                content = RunRecord(self.run_folder).content
                if "data" in content:
                    resume_checks.check_data(facts_of(content["data"]), self.facts, resuming)
            if path:
                saved = read_checkpoint(path, resuming)
                check_checkpoint(saved, self.model, self.facts.classes, resuming)
                if resuming:
                    asked = self.asked["trainer"]
                    resume_checks.check_length(saved, asked, self.length_was, self.flags.until)

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """Make the remaining decisions, now that the data are known, and build the Trainer."""
        self.facts = with_size(self.datamodule.facts(), self.datamodule.splits)
        resolve.check_same_data(of_every_rank("data", self.facts.fingerprint))
        self.in_use = nvml.in_use() if is_rank_zero() else ""  # before the other ranks use any
        self.decisions = decided = of_rank_zero("decisions", self._decide)
        self.model.decisions = self.datamodule.decisions = decided
        if get(self.asked, BATCH_SIZE) == AUTO:
            self.datamodule.batch_size = decided.batch_size.value
        self.model.asked_best = self.config[self.subcommand].best
        loaded = {"loader": decided.loader.value, "decoder": decided.decoder.value}
        self.facts = replace(self.facts, extra=self.facts.extra | loaded)
        self.metrics = MetricsCSV(self.run_folder)
        ours = [self.metrics] if self.subcommand == "fit" else []
        trainer = self.config_init[self.subcommand]["trainer"]
        theirs = trainer["logger"]  # null, a bool, a logger or a list
        theirs = theirs if isinstance(theirs, list) else [theirs]
        loggers = [*ours, *(logger for logger in theirs if isinstance(logger, Logger))]
        kwargs |= {"default_root_dir": str(self.run_folder)} | self.decisions.trainer_arguments()
        if self.decisions.strategy.value == "data-parallel":
            kwargs["strategy"] = DataParallel()
        plugins = with_environment(trainer["plugins"] or [])
        if self.config[self.subcommand].trainer.sync_batchnorm:
            plugins.append(SynchronizeBatchNorm())
        kwargs |= {
            "plugins": plugins,
            "logger": loggers or False,
            "enable_progress_bar": self._has_their_bar(),
        }
        self.trainer_defaults["callbacks"] = self._callbacks()
        return super().instantiate_trainer(**kwargs)

    def _decide(self) -> Decisions:
        """Make the decisions for the run, and record them."""
        auto, before = get(self.asked, BATCH_SIZE) == AUTO, self.before
        known = before and BATCH_SIZE in before.decisions and get(before.config, BATCH_SIZE) == AUTO
        decided = self._decided(self._measured_batch_size() if auto and not known else None)
        if self.record:
            self.record.update_start(decisions=decided.as_json())
        return decided

    def _decided(self, measured: Decision | None) -> Decisions:
        fits = self.subcommand == "fit"
        return decide(
            self.asked,
            self.machine,
            self.facts,
            self.before,
            launched=launched(),
            decodes=self.datamodule.gpu_decoder,
            manual_optimization=not self.model.automatic_optimization,
            plain_step=has_plain_step(self.model),
            lengths=self.datamodule.batch_lengths,
            measured=measured,
            **({"wandb": decide_wandb(self.asked["tracking"]["wandb"])} if fits else {}),
        )

    def _measured_batch_size(self) -> Decision:
        """Return the batch size for `auto`: the largest that fits into the memory of each GPU.

        Without a GPU it is the data's default, or less if the data or a step have fewer rows.
        """
        if self.subcommand != "fit":  # an evaluation trains no batch
            recorded = RunRecord(self.run_folder).newest_start().get("decisions", {})
            return Decision(recorded.get(BATCH_SIZE, {"value": 1})["value"], AS_BEFORE)
        fitting = import_module("..tools.fitting", __package__)
        default = default_batch_size(self.project.data_class)
        first = self._decided(Decision(1, ""))
        step = get(self.asked, "data.global_batch_size")
        rows = self.facts.rows["train"] // first.processes
        sizes = fitting.candidates(rows, step and step // first.processes) or [1]
        usual = Decision(
            max(size for size in sizes if size <= default), "no GPU to fill: the default or less"
        )
        if first.accelerator.value != "cuda":
            return usual
        compiled = self._decided(usual).compile.value not in (False, "eager-graph")
        memory = min(gpu.memory_gib for gpu in self.machine.gpus)
        return fitting.measure(self.project.package, self.text, sizes, compiled, memory)

    def _callbacks(self) -> list[L.Callback]:
        """Return the callbacks of every run. In a file, a recipe's list would replace them."""
        config, flags = self.config[self.subcommand], self.flags
        asked = config.trainer.enable_progress_bar is not False
        self.checkpoint = RunCheckpoint(
            self.run_folder,
            self.interruption,
            config.checkpoints.seconds,
            flags.until,
            self.facts.classes,
            flags.allow_nan,
            config.checkpoints.keep,
            config.patience,
        )
        every = callbacks_of(
            self.decisions,
            self.run_folder,
            config.seed_everything,
            shows_progress=asked and not self._has_their_bar(),
            fits=self.subcommand == "fit",
            timeout=flags.stall_timeout,
        )
        return [*every, self.checkpoint]

    def _has_their_bar(self) -> bool:
        """Return whether the configuration adds a progress bar of Lightning."""
        return has_progress_bar(self.config_init[self.subcommand]["trainer"]["callbacks"])

    def fit(self, model: Task, **kwargs: Any) -> None:
        if not is_rank_zero():
            with left_on_device(self.trainer, model):
                return self.trainer.fit(model, **kwargs)
        with (record := self.record or self._start_record()).watch():
            record.update_start(decisions=self.decisions.as_json())
            record.update(data=asdict(self.facts), numerics=numerics(), best=model.best._asdict())
            record.update(artifacts=self._keep_artifacts())
            self.metrics.trackers = build_trackers(self.config.fit.tracking, record)
            resume_checks.warn_of_changed_source(record)
            kind = self.decisions.accelerator.value
            in_use = self.in_use if kind == "cuda" else ""
            device = device_name(self.machine, kind)
            facts = replace(self.facts, remarks=self.facts.remarks + self._left_out())
            summary.print_start(record.content, facts, self.decisions, device, in_use)
            model.when_initialized = lambda line: self._keep_line(line, record)
            try:
                with record.timed("fit"), left_on_device(self.trainer, model):
                    self.trainer.fit(model, **kwargs)
                self._record_compiling(model, record)
            finally:
                self._record_data(record)
            results = write_digests(self.run_folder, model, self.trainer.optimizers)
            record.update(results=summary.results_of(self.trainer) | results)
            record.update(best=self.model.best._asdict())
            draw = self.project.load(self.project.pictures)
            self.checkpoint.io.wait(BEST)
            drawn = draw_pictures(self.run_folder, model, self.datamodule, self.facts, draw)
            self.checkpoint.io.wait()
        state, reason = ending(self.trainer, self._out_of_patience())
        with self.interruption.undisturbed():
            record.end(state, reason)
            if state == "finished":
                self.checkpoint.drop_unneeded()
        best = model.best, self.checkpoint.best_so_far.epoch + 1
        summary.print_fit(self.run_folder, record.content, self.decisions, *best, self.facts, drawn)

    def _left_out(self) -> tuple[str, ...]:
        """Return a remark if each epoch leaves out many rows, and no setting limits or draws it."""
        data, decided, trainer = self.datamodule, self.decisions, self.asked["trainer"]
        limits = "fast_dev_run", "overfit_batches", "limit_train_batches"
        engine = str(__package__).rpartition(".")[0]
        own_loader = not type(data).train_dataloader.__module__.startswith(engine)
        if own_loader or data.sample_weights is not None or any(map(trainer.get, limits)):
            return ()
        size, step = decided.batch_size.value, decided.global_batch_size.value
        free = get(self.asked, "data.global_batch_size") is None
        n, unit = self.facts.rows["train"], self.facts.unit
        remark = remark_on_left_out(n, size, step // size, unit, free)
        return (remark,) if remark else ()

    def _out_of_patience(self) -> str | None:
        """Return why the run has ended, if it was out of patience."""
        best = self.checkpoint.best_so_far
        return best.reason(self.model.best.metric) if best.out_of_patience else None

    def _keep_line(self, line: str, record: RunRecord) -> None:
        """Print and record the line of the task's initialize()."""
        print(line, flush=True)
        record.update_start(initialized=line)

    def _record_data(self, record: RunRecord) -> None:
        """Record what the data found out about themselves while training."""
        facts = self.datamodule.facts()
        if facts.extra or facts.remarks != self.facts.remarks:
            extra = self.facts.extra | facts.extra
            record.update(data={"extra": extra, "remarks": facts.remarks})

    def _record_compiling(self, model: Task, record: RunRecord) -> None:
        """Record how the step was compiled, if this turned out only when training began."""
        found = model.compile_decision
        if self.decisions.compile.value in STEP_GRAPHS and found.value not in STEP_GRAPHS:
            self.decisions = replace(self.decisions, compile=found)
            record.update_start(decisions=self.decisions.as_json())

    def _keep_artifacts(self) -> dict[str, str]:
        """Copy the files that the weights depend on into the run's folder; return their SHA-256."""
        kept = {}
        files = {**self.datamodule.artifacts(), **self.model.artifacts()}
        for name, file in files.items():
            target = self.run_folder / "artifacts" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(file, bytes):
                target.write_bytes(file)
            elif file != target:  # a run that resumes has it already
                shutil.copyfile(file, target)
            kept[name] = sha256(target)
        return kept

    def predict(self, **kwargs: Any) -> None:
        kwargs.pop("return_predictions", None)
        columns = self.datamodule.test_columns()
        predict_test_split(self.trainer, self.facts, columns, self.run_folder, **kwargs)

    def _score(self, stage: str, **kwargs: Any) -> None:
        kwargs.pop("verbose", None)
        columns = self.datamodule.test_columns() if stage == "test" else {}
        score(stage, self.trainer, self.model, self.facts, columns, self.run_folder, **kwargs)

    validate, test = partialmethod(_score, "validate"), partialmethod(_score, "test")


def train(project: Project, arguments: list[str]) -> int:
    interruption = Interruption()
    with interruption.listening(), preserve_process_settings(), ExitStack() as at_end:
        Training(project, arguments, project_root(), interruption, at_end)
    return 0
