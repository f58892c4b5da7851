"""Decide what the configuration leaves open, from the machine and the data.

This is the only place that does. `decide()` is pure: the same configuration, machine and facts give
the same decisions, each with its reason. They are printed, stored in run.json, and repeated when
the run is resumed or reproduced.
"""

import copy
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, NamedTuple

from .contract import Facts
from .errors import UserError
from .hardware import Gpu, Machine, why_no_gpu
from .plurals import counted

LoaderName = Literal["resident", "mapped", "streaming"]
# A configuration as plain mappings, such as config["trainer"]["devices"].
Config = Mapping[str, Any]

# On an H200 with a cold cache, compiling takes 10 to 15 s for ResNet-18 and 30 to 37 s for
# ResNet-50, and saves 3 and 16 ms per step. It pays off after about this many steps.
MIN_STEPS_TO_COMPILE = 3000

# There, compiling what changes images takes 15 s, or 5 s again later, and saves 0.3 s for each GB.
GB_TO_COMPILE_FOR = 30

# The whole step as one CUDA graph: compiled, or of the kernels that run without compiling.
STEP_GRAPHS = ("step-graph", "eager-graph")

JPEG_ENGINES = {(8, 0), (9, 0), (10, 0), (10, 3)}  # A100, H100, H200, data-center Blackwell
# ResNet-50 on an H200 needs so many cores per GPU; 16 suffice in some epochs, 12 reach 70%.
MIN_CORES_TO_DECODE = 24

# What a step of several micro-batches computes. 2: how many are on other devices does not matter.
# 1, until version 0.1.0: a micro-batch's rows were dealt to the devices in turn, dropout was seeded
# by rank, and each micro-batch updated the running statistics of batch normalization.
STEP_VERSION = 2

AS_CONFIGURED = "as configured"
AS_BEFORE = "as when the run started"
UNSET = (None, "auto")


class Decision(NamedTuple):
    """The value of a setting, and the reason for it."""

    value: Any
    why: str


WANDB_OFF = Decision("off", "not requested")


@dataclass(frozen=True)
class Layout:
    """The devices and processes: decided before processes start and data are read."""

    accelerator: Decision  # Lightning's name: cuda, mps or cpu
    devices: Decision  # on each node
    num_nodes: Decision
    threads: Decision  # CPU threads per process

    @property
    def processes(self) -> int:
        return self.devices.value * self.num_nodes.value


@dataclass(frozen=True)
class Decisions(Layout):
    """All decisions for a run. KEYS names the setting that overrides each."""

    strategy: Decision
    precision: Decision
    deterministic: Decision
    seed_everything: Decision
    batch_size: Decision  # rows per device and batch
    global_batch_size: Decision  # rows per optimizer step, over all devices
    accumulate_grad_batches: Decision
    seed: Decision  # of row order and augmentation
    loader: Decision
    workers: Decision  # loader processes per device
    prefetch: Decision  # batches that each worker reads ahead
    decoder: Decision  # cpu or gpu; "none" if the GPU could decode nothing
    compile: Decision  # a mode of torch.compile, or False
    compile_augmentation: Decision  # True, False, or "none" if the data have no such setting
    log_every_n_steps: Decision
    checkpoint_seconds: Decision  # between two checkpoints, or "adaptive"
    wandb: Decision  # online, offline or off
    step_version: Decision  # see STEP_VERSION

    def trainer_arguments(self) -> dict[str, Any]:
        """Return the decided arguments of Lightning's Trainer."""
        named = [key.partition(".") for key in KEYS.values() if key.startswith("trainer.")]
        found = {name: getattr(self, name).value for _, _, name in named}
        if self.strategy.why == AS_CONFIGURED:  # it may be an object that the configuration builds
            del found["strategy"]
        return found

    def as_json(self) -> dict[str, dict[str, Any]]:
        """Return run.json's entries: {"trainer.precision": {"value": …, "why": …}, …}."""
        found = {KEYS[each.name]: getattr(self, each.name) for each in fields(self)}
        return {key: dict(decision._asdict()) for key, decision in found.items()}


KEYS = {
    **dict.fromkeys(("accelerator", "devices", "num_nodes", "strategy", "precision"), "trainer"),
    **dict.fromkeys(("deterministic", "accumulate_grad_batches", "log_every_n_steps"), "trainer"),
    **dict.fromkeys(("batch_size", "global_batch_size", "seed", "loader", "workers"), "data"),
    **dict.fromkeys(("prefetch", "decoder", "compile_augmentation"), "data"),
    "compile": "model",
}
KEYS = {name: f"{section}.{name}" for name, section in KEYS.items()} | {
    "seed_everything": "seed_everything",
    "checkpoint_seconds": "checkpoints.seconds",
    "wandb": "tracking.wandb",
    "threads": "OMP_NUM_THREADS",
    "step_version": "step_version",
}
# These are decided again on another machine, or for another number of devices.
DEVICE_DECISIONS = {"accelerator", "devices", "num_nodes", "strategy", "threads", "compile"}
DEVICE_DECISIONS |= {"accumulate_grad_batches", "log_every_n_steps", "compile_augmentation"}
NEVER_REPEATED = {"threads", "checkpoint_seconds", "wandb"}


@dataclass(frozen=True)
class Before:
    """The configuration and the decisions of an earlier start, from run.json."""

    config: Config
    decisions: Mapping[str, Mapping[str, Any]]

    @classmethod
    def of(cls, start: Mapping[str, Any]) -> "Before":
        """Return those of a start in run.json; versions before 0.1.0 had another format."""
        found = start.get("decisions", {})
        if all(isinstance(value, dict) for value in found.values()):
            return cls(start["config"], found)
        # Their configuration has all decisions except these two.
        decided: dict[str, Any] = {}
        if "compile" in start:
            decided["model.compile"] = {"value": start["compile"]["mode"] or False}
        if "loader" in found:
            decided["data.loader"] = {"value": found["loader"].split(":")[0]}
        return cls(start["config"], decided)

    def without(self, names: Iterable[str]) -> "Before":
        """Return a copy without these decisions, so that they are made again."""
        left_out = {KEYS[name] for name in names}
        kept = {key: value for key, value in self.decisions.items() if key not in left_out}
        return Before(self.config, kept)


@dataclass(frozen=True)
class _Asked:
    """Looks up what is requested: a configured value, or an earlier decision."""

    config: Config
    before: Before | None

    def __call__(self, name: str, default: Any = None) -> Decision | None:
        """Return the earlier decision if the setting is unchanged, else the setting, or None."""
        key = KEYS[name]
        value = get(self.config, key, default)
        decided = self.before.decisions.get(key) if self.before else None
        if self.before and decided and name not in NEVER_REPEATED:
            then = get(self.before.config, key, default)
            if then == value:
                return Decision(decided["value"], AS_BEFORE)
        return None if value in UNSET else Decision(value, AS_CONFIGURED)


def get(config: Config, key: str, default: Any = None) -> Any:
    """Return the value of a key such as "trainer.precision", or the default if it is not set."""
    found: Any = config
    for part in key.split("."):
        found = (found or {}).get(part)
    return default if found is None else found


def check_sections(config: Config) -> None:
    """Raise UserError if a section is empty, for example a line `data:` with nothing below."""
    for section in ("data", "model", "trainer"):
        if config.get(section) is None:
            raise UserError(
                f"The section '{section}:' of the configuration is empty: fill or remove it."
            )


def filled_in(config: Config, before: Before | None) -> dict[str, Any]:
    """Return a configuration with earlier decisions filled in for unchanged settings."""
    filled = copy.deepcopy(dict(config))
    for key, decision in before.decisions.items() if before else ():
        section, _, name = key.partition(".")
        unchanged = before is not None and get(config, key) == get(before.config, key)
        if section in ("data", "model", "trainer") and unchanged and decision["value"] != "none":
            filled[section][name] = decision["value"]
    return filled


def applied(start: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of a start in run.json with its decisions filled in."""
    return filled_in(start["config"], Before.of(start))


def decide_layout(
    config: Config,
    machine: Machine,
    before: Before | None = None,
    launched: tuple[int, int] | None = None,
) -> Layout:
    """Return the devices and processes of a run.

    `launched` is torchrun's (processes per node, nodes). Raises UserError if the machine lacks what
    is requested.
    """
    asked = _Asked(config, before)
    kind = asked("accelerator") or accelerator(machine)
    name = kind.value
    if name == "gpu":  # Lightning's name for a GPU of any kind
        kind = accelerator(machine)
    if (name == "gpu" and kind.value == "cpu") or (name == "cuda" and not machine.gpus):
        raise UserError(
            f"trainer.accelerator is {name}, but torch finds no GPU: {why_no_gpu()}. Check"
            " `nvidia-smi`, or use the CPU with --trainer.accelerator cpu"
        )
    nodes = asked("num_nodes", 1) or Decision(1, AS_CONFIGURED)
    if launched is not None:
        count, nodes = (Decision(number, "set by torchrun") for number in launched)
    elif nodes.value > 1:
        raise UserError(
            f"trainer.num_nodes is {nodes.value}. Start torchrun on each node:"
            " torchrun --nnodes N --nproc-per-node GPUS --rdzv-id ID --rdzv-backend c10d"
            " --rdzv-endpoint HOST:29500 -m PACKAGE fit --config ..."
        )
    else:
        count = devices(machine, asked("devices"), kind.value)
    threads = threads_per_process(machine, count.value)
    share = "all cores" if count.value == 1 else f"an equal share of {machine.cores} cores"
    if machine.threads not in (None, threads):
        threads, share = machine.threads, "OMP_NUM_THREADS is set"
    return Layout(kind, count, nodes, Decision(threads, share))


def decide(
    config: Config,
    machine: Machine,
    facts: Facts,
    before: Before | None = None,
    *,
    launched: tuple[int, int] | None = None,
    decodes: bool = False,
    manual_optimization: bool = False,
    plain_step: bool = True,
    lengths: int = 1,
    wandb: Decision = WANDB_OFF,
    measured: Decision | None = None,
) -> Decisions:
    """Return all decisions for a run, with reasons.

    Args:
        config: as parsed; null and "auto" are decided here.
        machine: with several hosts, the hardware that all of them have.
        facts: about the data, with `nbytes` if the rows are in memory.
        before: the earlier start, if the run is resumed or reproduced. Its decisions are repeated
            for unchanged settings.
        launched: torchrun's (processes per node, nodes).
        decodes: the data have a setting that chooses where files are decoded.
        manual_optimization: the task uses it, so its step is not compiled.
        plain_step: the task leaves training_step() to the engine.
        lengths: the number of different lengths of a training batch.
        wandb: whether wandb logs the run, and why.
        measured: the batch size, if it is to be that which fits.

    Raises UserError if what is requested does not fit the machine or the data.
    """
    layout = decide_layout(config, machine, before, launched)
    asked, kind = _Asked(config, before), layout.accelerator.value
    parts = _parts_of_a_step(asked, layout.processes, before is None, measured)
    batch_size, global_batch_size, accumulate = parts
    seed_everything = asked("seed_everything", 0) or Decision(0, AS_CONFIGURED)
    loading = decide_loading(facts, machine, asked, layout.devices.value)
    batches = facts.rows["train"] // global_batch_size.value * accumulate.value
    version = _step_version(asked)
    strategy = _strategy(asked, layout, version)
    precision_ = asked("precision") or precision(machine, kind)
    compiled = Decision(False, "the task uses manual optimization")
    steps = optimizer_steps(config.get("trainer") or {}, batches, accumulate.value)
    if not manual_optimization or get(config, "model.compile") in STEP_GRAPHS:
        one_part = layout.processes * accumulate.value == 1
        buffered = version.value > 1 and plain_step and strategy.value in ("auto", "data-parallel")
        buffered = buffered and not get(config, "trainer.sync_batchnorm")
        graphs = one_part or buffered
        scaled = str(precision_.value).startswith("16")  # the loss: the host waits in each step
        whole = graphs and plain_step and not manual_optimization and not scaled
        compiled = compile_mode(machine, kind, graphs, steps, asked("compile"), whole, lengths)
    rows = steps * batch_size.value * accumulate.value  # that each device augments
    saving = Decision("adaptive", "saving takes at most 2% of the time")
    return Decisions(
        **{each.name: getattr(layout, each.name) for each in fields(layout)},
        strategy=strategy,
        precision=precision_,
        deterministic=asked("deterministic", False) or Decision(False, AS_CONFIGURED),
        seed_everything=seed_everything,
        batch_size=batch_size,
        global_batch_size=global_batch_size,
        accumulate_grad_batches=accumulate,
        seed=asked("seed") or Decision(seed_everything.value, "the run's seed"),
        **loading,
        decoder=_decoder(asked, machine, layout, decodes and facts.nbytes is None),
        compile=compiled,
        compile_augmentation=_compile_augmentation(
            asked, kind, loading["loader"], compiled, facts, rows
        ),
        log_every_n_steps=_log_interval(asked, batches // accumulate.value),
        checkpoint_seconds=asked("checkpoint_seconds") or saving,
        wandb=wandb,
        step_version=version,
    )


def decide_loading(
    facts: Facts, machine: Machine, asked: Any, processes: int = 1
) -> dict[str, Decision]:
    """Return loader, workers and prefetch; `asked(name)` returns what is requested, or None.

    Raises UserError if `streaming` is requested for rows in memory.
    """
    worker_count = asked("workers") or workers(machine, processes)
    loader = asked("loader")
    if loader and loader.value == "streaming" and facts.nbytes is not None:
        raise UserError(f"data.loader is streaming, but {facts.name} has no files. Leave it unset.")
    if loader is None:
        some = f"{worker_count.value} worker{'' if worker_count.value == 1 else 's'}"
        some = some if worker_count.value else "the training process"
        loader = Decision("streaming", f"read by {some}")
        if facts.nbytes is not None:
            loader = Decision("mapped", "too large for device memory: kept in host memory")
            if fits_on_device(machine, facts.nbytes):
                loader = Decision("resident", "kept in device memory")
    if loader.value != "streaming" and not asked("workers"):
        worker_count = Decision(0, "the rows are in memory")
    ahead = asked("prefetch", 2) or Decision(2, AS_CONFIGURED)
    return {"loader": loader, "workers": worker_count, "prefetch": ahead}


def optimizer_steps(trainer: Config, batches: int, accumulate: int) -> float:
    """Return how many optimizer steps a Trainer with these settings takes.

    `batches` is per epoch. A test compares this with Trainer.estimated_stepping_batches.
    """
    most = trainer.get("max_steps", -1)
    epochs = trainer.get("max_epochs")
    if trainer.get("fast_dev_run"):
        most, epochs = int(trainer["fast_dev_run"]), 1
    if epochs is None:
        epochs = 1000 if most == -1 and trainer.get("max_time") is None else -1
    if epochs == -1:
        return math.inf if most == -1 else most
    limit = trainer.get("overfit_batches") or trainer.get("limit_train_batches")
    if trainer.get("fast_dev_run") and not trainer.get("overfit_batches"):
        limit = int(trainer["fast_dev_run"])
    if isinstance(limit, float) and limit <= 1:
        batches = int(batches * limit)
    elif limit is not None:
        batches = min(batches, int(limit))
    steps = math.ceil(batches / accumulate) * max(epochs, 1)
    return steps if most == -1 else min(steps, most)


def _parts_of_a_step(
    asked: _Asked, processes: int, is_new: bool, measured: Decision | None = None
) -> tuple[Decision, Decision, Decision]:
    """Return the batch size, the global batch size, and how many micro-batches are accumulated."""
    batch_size = asked("batch_size") or measured or Decision(128, AS_CONFIGURED)
    global_batch = asked("global_batch_size")
    accumulate = asked("accumulate_grad_batches", 1) or Decision(1, AS_CONFIGURED)
    pass_rows = batch_size.value * processes
    if global_batch is None:
        why = "one batch per device" + (", accumulated" if accumulate.value > 1 else "")
        return batch_size, Decision(pass_rows * accumulate.value, why), accumulate
    count, rest = divmod(global_batch.value, pass_rows)
    if rest or count < 1:
        raise UserError(
            f"data.global_batch_size is {global_batch.value}; expected a multiple of {pass_rows}"
            f" (--data.batch_size {batch_size.value} x {processes} devices). Change one of the two."
        )
    if is_new and accumulate.value not in (1, count):
        raise UserError(
            f"trainer.accumulate_grad_batches is {accumulate.value}, but a global batch of"
            f" {global_batch.value} needs {count}. Remove one of the two settings."
        )
    if count != accumulate.value:
        accumulate = Decision(count, f"needed for a global batch of {global_batch.value}")
    return batch_size, global_batch, accumulate


def _step_version(asked: _Asked) -> Decision:
    if asked.before is None:
        return Decision(STEP_VERSION, "the newest")
    return asked("step_version") or Decision(1, AS_BEFORE)  # older runs do not record it


def _strategy(asked: _Asked, layout: Layout, version: Decision) -> Decision:
    configured = get(asked.config, "trainer.strategy")
    if configured not in UNSET:  # a name, or a class and its arguments
        named = isinstance(configured, str)
        return Decision(configured if named else str(configured["class_path"]), AS_CONFIGURED)
    if strategy := asked("strategy"):
        return strategy
    if layout.processes == 1:
        return Decision("auto", "one process")
    return Decision("ddp" if version.value == 1 else "data-parallel", "several processes")


def _decoder(asked: _Asked, machine: Machine, layout: Layout, decodes: bool) -> Decision:
    if not decodes:
        return Decision("none", "no files to decode to RGB")
    # A run from a GPU may be evaluated on a CPU, which then has to decode.
    if layout.accelerator.value != "cuda":
        return Decision("cpu", "no GPU")
    return asked("decoder") or decoder(machine, "cuda", layout.devices.value)


def _compile_augmentation(
    asked: _Asked,
    accelerator: str,
    loader: Decision,
    compiled: Decision,
    facts: Facts,
    rows: float,
) -> Decision:
    """Return whether compiled code augments this number of rows, whose values are bytes."""
    if "compile_augmentation" not in (asked.config.get("data") or {}):
        return Decision("none", "no such setting")
    if accelerator != "cuda":
        return Decision(False, "no GPU")
    # Other loaders augment in a thread. torch's settings for compiling are those of all threads:
    # the step, compiled at the same time, might get those of the augmentation.
    if loader.value != "resident":
        return Decision(False, f"a thread of the {loader.value} loader can't compile")
    if (found := asked("compile_augmentation")) is not None:
        return found
    if compiled.value in (False, "eager-graph"):
        return Decision(False, "the steps are not compiled")
    gigabytes = rows * sum(map(math.prod, facts.shapes.values())) / 1e9
    pays = gigabytes >= GB_TO_COMPILE_FOR
    few = f"{gigabytes:,.1f} GB of {facts.unit}; compiling pays off after {GB_TO_COMPILE_FOR}"
    return Decision(pays, f"{GB_TO_COMPILE_FOR} GB of {facts.unit} or more" if pays else few)


def _log_interval(asked: _Asked, steps_an_epoch: int) -> Decision:
    found = asked("log_every_n_steps", 50) or Decision(50, AS_CONFIGURED)
    if 0 < steps_an_epoch < found.value:
        return Decision(steps_an_epoch, "an epoch has no more steps")
    return found


def accelerator(machine: Machine) -> Decision:
    """Return Lightning's name for the device to train on."""
    if machine.gpus:
        return Decision("cuda", f"found {machine.gpus[0].name}")
    return Decision("mps", "found an Apple GPU") if machine.mps else Decision("cpu", "no GPU")


def devices(machine: Machine, requested: Decision | None, accelerator: str) -> Decision:
    """Return how many devices train together: by default one; -1 for all (on a CPU, 2 processes).

    Raises UserError if more GPUs are requested than there are.
    """
    everything = {"cuda": len(machine.gpus), "mps": 1}.get(accelerator, 2)
    if requested is None:
        return Decision(1, "the default")
    if requested.value in (-1, "-1"):
        return Decision(everything, "all devices")
    try:
        count = int(requested.value)
    except (TypeError, ValueError):
        raise UserError(
            f"trainer.devices is {requested.value!r}; expected a number, or -1 for all. To choose"
            " which GPUs are used, set the variable CUDA_VISIBLE_DEVICES=0,2."
        ) from None
    if count < 1 or (accelerator != "cpu" and count > everything):
        raise UserError(f"trainer.devices is {count}, but this machine has {everything}. Lower it.")
    return Decision(count, requested.why)


def precision(machine: Machine, accelerator: str) -> Decision:
    """Return Lightning's precision flag."""
    if accelerator != "cuda":
        return Decision(
            "32-true", f"float32 on {'the CPU' if accelerator == 'cpu' else 'Apple MPS'}"
        )
    oldest = min(gpu.capability for gpu in machine.gpus)
    if oldest >= (8, 0):
        return Decision("bf16-mixed", "the GPU supports bfloat16")
    named = f"compute capability {oldest[0]}.{oldest[1]}"
    return Decision("16-mixed", f"{named} supports float16, not bfloat16")


def compile_mode(
    machine: Machine,
    accelerator: str,
    graphs: bool,
    steps: float,
    requested: Decision | None = None,
    whole_step: bool = False,
    lengths: int = 1,
) -> Decision:
    """Return torch.compile's mode, step-graph, eager-graph, or False.

    `graphs` tells whether CUDA graphs are possible: a step has one batch, or its gradients are
    summed in a buffer; `whole_step`, whether a step can be one graph. `steps` is the number of
    optimizer steps of the run, `lengths` the number of different lengths of a batch: each compiles
    its own code. `requested` (true, false or a mode) takes precedence.
    """
    # CUDA graphs fail BatchNorm under DDP (pytorch issue 139207) and, without a buffer, summed
    # gradients (169545).
    best = ("step-graph" if whole_step else "reduce-overhead") if graphs else "default"
    best = best if accelerator == "cuda" else "default"
    if requested is not None:
        return Decision(best if requested.value is True else requested.value, requested.why)
    if accelerator != "cuda":
        return Decision(False, "no GPU; on a CPU, compiling takes longer than it saves")
    uncompiled = "eager-graph" if whole_step else False
    if not machine.compiler:
        return Decision(
            uncompiled, "no C compiler or no Python headers (Debian: apt install gcc python3-dev)"
        )
    enough = MIN_STEPS_TO_COMPILE * lengths
    if steps < enough:
        why = f"{steps:,.0f} steps; compiling pays off after {enough:,}"
        return Decision(uncompiled, why)
    if not graphs:
        return Decision(best, "no CUDA graphs: a step has several batches")
    launches = "one launch a step" if whole_step else "they remove launch overhead"
    return Decision(best, f"CUDA graphs: {launches}")


def threads_per_process(machine: Machine, processes: int) -> int:
    """Return how many CPU threads each process on this machine should use."""
    return max(machine.cores // max(processes, 1), 1)


def workers(machine: Machine, processes: int) -> Decision:
    """Return how many loader workers each training process should have: one per free core.

    The training process keeps one core. More than 16 workers would only use more memory.
    """
    count = max(min(threads_per_process(machine, processes) - 1, 16), 0)
    share = counted(machine.cores, "core")
    share += f" for {processes} processes" if processes > 1 else ""
    return Decision(count, f"{share}, one for the training process")


def decoder(machine: Machine, accelerator: str, processes: int) -> Decision:
    """Return where JPEG files are decoded: on the 'gpu' if it can and there are few cores."""
    able = accelerator == "cuda" and all(gpu.capability in JPEG_ENGINES for gpu in machine.gpus)
    cores = threads_per_process(machine, processes)
    if not able:
        return Decision("cpu", "no GPU with a JPEG decoder")
    if cores < MIN_CORES_TO_DECODE:
        few = f"{counted(cores, 'core')} per GPU"
        return Decision("gpu", f"{few}; the CPU needs {MIN_CORES_TO_DECODE}")
    return Decision("cpu", f"{cores} cores per GPU are enough")


def fits_on_device(machine: Machine, size: int) -> bool:
    """Return whether `size` bytes of rows leave enough memory for training on each GPU."""
    return all(size <= 0.4 * gpu.memory_gib * 2**30 for gpu in machine.gpus)


def device_name(machine: Machine, accelerator: str) -> str:
    """Return the device's name for tables and summaries."""
    if accelerator == "cuda":
        return machine.gpus[0].name
    return "Apple GPU" if accelerator == "mps" else f"CPU ({counted(machine.cores, 'core')})"


def in_common(machines: list[Machine]) -> Machine:
    """Return the hardware that all hosts have: decisions are made for the weakest."""
    first = machines[0]
    gpus = tuple(
        Gpu(some[0].name, min(g.capability for g in some), min(g.memory_gib for g in some))
        for some in zip(*(machine.gpus for machine in machines), strict=False)
    )
    return replace(
        first,
        cores=min(machine.cores for machine in machines),
        gpus=gpus,
        mps=all(machine.mps for machine in machines),
        compiler=all(machine.compiler for machine in machines),
    )
