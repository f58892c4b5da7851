"""The only place that decides what the configuration leaves open, from machine and data.

`decide()` is pure: the same configuration, machine and facts give the same decisions, each with its
reason, for machines that nobody here owns too. They are printed, kept in run.json, and repeated
when the run is resumed or reproduced.
"""

import copy
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, NamedTuple

from .contract import Facts
from .errors import UserError
from .hardware import Gpu, Machine

LoaderName = Literal["resident", "mapped", "streaming"]
Config = Mapping[
    str, Any
]  # a configuration as plain mappings, such as config["trainer"]["devices"]

# On an H200 with a cold cache, compiling costs 10 to 15 s for ResNet-18 and 30 to 37 s for
# ResNet-50 and saves 3 and 16 ms a step: after about this many steps it has paid.
STEPS_THAT_PAY_FOR_COMPILING = 3000

JPEG_ENGINES = {(8, 0), (9, 0), (10, 0), (10, 3)}  # A100, H100, H200, the data centre's Blackwell
CORES_THAT_KEEP_UP = 24  # with ResNet-50 on an H200; 16 do in some epochs, 12 by seven tenths

AS_CONFIGURED = "as configured"
AS_BEFORE = "as when the run started"
UNSET = (None, "auto")


class Decision(NamedTuple):
    """A setting that is used, and the reason for it."""

    value: Any
    why: str


NOT_FOLLOWED = Decision("off", "not asked for")


@dataclass(frozen=True)
class Layout:
    """How many processes train on what: decided before they start, and before data are read."""

    accelerator: Decision  # Lightning's name: cuda, mps or cpu
    devices: Decision  # on each node
    num_nodes: Decision
    threads: Decision  # of the CPU, for each process

    @property
    def processes(self) -> int:
        return self.devices.value * self.num_nodes.value


@dataclass(frozen=True)
class Decisions(Layout):
    """Everything that is decided for a run. KEYS names the setting that overrides each."""

    strategy: Decision
    precision: Decision
    deterministic: Decision
    seed_everything: Decision
    batch_size: Decision  # rows on one device at once
    global_batch_size: Decision  # rows of one optimizer step, over all devices
    accumulate_grad_batches: Decision
    seed: Decision  # of the order of the rows and their augmentation
    loader: Decision
    workers: Decision  # processes per device
    prefetch: Decision  # batches that each worker reads ahead
    decoder: Decision  # cpu or gpu; "none" where the data are not decoded
    compile: Decision  # a mode of torch.compile, or False
    log_every_n_steps: Decision
    checkpoint_seconds: Decision  # from one to the next, or "adaptive"
    wandb: Decision  # online, offline or off

    def of_the_trainer(self) -> dict[str, Any]:
        """Return the arguments of Lightning's Trainer that were decided."""
        named = [key.partition(".") for key in KEYS.values() if key.startswith("trainer.")]
        found = {name: getattr(self, name).value for _, _, name in named}
        if self.strategy.why == AS_CONFIGURED:  # perhaps an object, which the configuration builds
            del found["strategy"]
        return found

    def as_json(self) -> dict[str, dict[str, Any]]:
        """Return what run.json holds: {"trainer.precision": {"value": …, "why": …}, …}."""
        found = {KEYS[each.name]: getattr(self, each.name) for each in fields(self)}
        return {key: dict(decision._asdict()) for key, decision in found.items()}


KEYS = {
    **dict.fromkeys(("accelerator", "devices", "num_nodes", "strategy", "precision"), "trainer"),
    **dict.fromkeys(("deterministic", "accumulate_grad_batches", "log_every_n_steps"), "trainer"),
    **dict.fromkeys(("batch_size", "global_batch_size", "seed", "loader", "workers"), "data"),
    **dict.fromkeys(("prefetch", "decoder"), "data"),
    "compile": "model",
}
KEYS = {name: f"{section}.{name}" for name, section in KEYS.items()} | {
    "seed_everything": "seed_everything",
    "checkpoint_seconds": "checkpoints.seconds",
    "wandb": "tracking.wandb",
    "threads": "OMP_NUM_THREADS",
}
# What a resume or an evaluation on another machine, or on more or fewer devices, decides anew.
OF_THE_DEVICES = {"accelerator", "devices", "num_nodes", "strategy", "threads", "compile"}
OF_THE_DEVICES |= {"accumulate_grad_batches", "log_every_n_steps"}
ALWAYS_ANEW = {"threads", "checkpoint_seconds", "wandb"}


@dataclass(frozen=True)
class Before:
    """What a run was asked for and what was decided when it started, as run.json holds it."""

    config: Config
    decisions: Mapping[str, Mapping[str, Any]]

    @classmethod
    def of(cls, start: Mapping[str, Any]) -> "Before":
        """Return that of a start in run.json, also as versions before 0.1.0 wrote it."""
        found = start.get("decisions", {})
        if all(isinstance(value, dict) for value in found.values()):
            return cls(start["config"], found)
        # Their configuration holds what was decided, but for these two.
        decided: dict[str, Any] = {}
        if "compile" in start:
            decided["model.compile"] = {"value": start["compile"]["mode"] or False}
        if "loader" in found:
            decided["data.loader"] = {"value": found["loader"].split(":")[0]}
        return cls(start["config"], decided)

    def without(self, names: Iterable[str]) -> "Before":
        """Return the same without some decisions, which then are made anew."""
        left_out = {KEYS[name] for name in names}
        kept = {key: value for key, value in self.decisions.items() if key not in left_out}
        return Before(self.config, kept)


@dataclass(frozen=True)
class _Asked:
    """What is asked for: by the configuration, or by what was decided for it before."""

    config: Config
    before: Before | None

    def __call__(self, name: str, default: Any = None) -> Decision | None:
        """Return a setting that is set, or was decided for the same configuration; else None."""
        key = KEYS[name]
        value = get(self.config, key, default)
        decided = self.before.decisions.get(key) if self.before else None
        if self.before and decided and name not in ALWAYS_ANEW:
            then = get(self.before.config, key, default)
            if then == value:
                return Decision(decided["value"], AS_BEFORE)
        return None if value in UNSET else Decision(value, AS_CONFIGURED)


def get(config: Config, key: str, default: Any = None) -> Any:
    """Return the value of a key such as "trainer.precision", or the default where it is not set."""
    found: Any = config
    for part in key.split("."):
        found = (found or {}).get(part)
    return default if found is None else found


def check_sections(config: Config) -> None:
    """Raise UserError if a section of the configuration is empty, as `data:` alone is in YAML."""
    for section in ("data", "model", "trainer"):
        if config.get(section) is None:
            raise UserError(f"The section '{section}:' of the configuration is empty.")


def filled_in(config: Config, before: Before | None) -> dict[str, Any]:
    """Return a configuration in which what was decided for the same settings is filled in."""
    filled = copy.deepcopy(dict(config))
    for key, decision in before.decisions.items() if before else ():
        section, _, name = key.partition(".")
        unchanged = before is not None and get(config, key) == get(before.config, key)
        if section in ("data", "model", "trainer") and unchanged and decision["value"] != "none":
            filled[section][name] = decision["value"]
    return filled


def applied(start: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of a start in run.json with what was decided filled in."""
    return filled_in(start["config"], Before.of(start))


def decide_layout(
    config: Config,
    machine: Machine,
    before: Before | None = None,
    launched: tuple[int, int] | None = None,
) -> Layout:
    """Return on what a run trains. `launched` are torchrun's processes on a node, and its nodes.

    Raises UserError if the machine has not what is asked for.
    """
    asked = _Asked(config, before)
    kind = asked("accelerator")
    if kind is None or kind.value == "gpu":
        kind = accelerator(machine)
    if kind.value == "cuda" and not machine.gpus:
        raise UserError("trainer.accelerator is cuda, but torch sees no GPU: try `nvidia-smi`.")
    nodes = asked("num_nodes", 1) or Decision(1, AS_CONFIGURED)
    if launched is not None:
        count, nodes = (Decision(number, "as torchrun started them") for number in launched)
    elif nodes.value > 1:
        raise UserError(
            f"trainer.num_nodes is {nodes.value}: start torchrun on each of them,"
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
    by_hand: bool = False,
    wandb: Decision = NOT_FOLLOWED,
) -> Decisions:
    """Return everything that is decided for a run, with reasons.

    Args:
        config: as parsed: what is null or "auto" is open.
        machine: with several hosts, what all of them have.
        facts: of the data, with `nbytes` where the rows are in memory.
        before: of the run that is resumed or reproduced: the same is decided for the same settings.
        launched: torchrun's processes on a node, and its nodes.
        decodes: the data have a setting that says where files are decoded.
        by_hand: the task optimizes by hand, so its step is not compiled.
        wandb: whether runs are followed there, and why.

    Raises UserError if what is asked for does not fit the machine or the data.
    """
    layout = decide_layout(config, machine, before, launched)
    asked, kind = _Asked(config, before), layout.accelerator.value
    parts = _parts_of_a_step(asked, layout.processes, is_new=before is None)
    batch_size, global_batch_size, accumulate = parts
    seed_everything = asked("seed_everything", 0) or Decision(0, AS_CONFIGURED)
    loading = decide_loading(facts, machine, asked, layout.devices.value)
    batches = facts.rows["train"] // global_batch_size.value * accumulate.value
    steps = optimizer_steps(config.get("trainer") or {}, batches, accumulate.value)
    compiled = Decision(False, "the task optimizes by hand")
    if not by_hand or get(config, "model.compile") == "step-graph":
        of_a_step = layout.processes * accumulate.value
        compiled = compile_mode(machine, kind, of_a_step, steps, asked("compile"))
    strategy = asked("strategy")
    if strategy is None:
        several = layout.processes > 1
        strategy = (
            Decision("ddp", "several processes") if several else Decision("auto", "one process")
        )
    elif not isinstance(strategy.value, str):
        strategy = Decision(str(strategy.value.get("class_path")), AS_CONFIGURED)
    seconds = asked("checkpoint_seconds")
    return Decisions(
        **{each.name: getattr(layout, each.name) for each in fields(layout)},
        strategy=strategy,
        precision=asked("precision") or precision(machine, kind),
        deterministic=asked("deterministic", False) or Decision(False, AS_CONFIGURED),
        seed_everything=seed_everything,
        batch_size=batch_size,
        global_batch_size=global_batch_size,
        accumulate_grad_batches=accumulate,
        seed=asked("seed") or Decision(seed_everything.value, "the run's seed"),
        **loading,
        decoder=_decoder(asked, machine, layout, decodes and facts.nbytes is None),
        compile=compiled,
        log_every_n_steps=_log_interval(asked, batches // accumulate.value),
        checkpoint_seconds=seconds or Decision("adaptive", "as often as 2% of the time allows"),
        wandb=wandb,
    )


def decide_loading(
    facts: Facts, machine: Machine, asked: Any, processes: int = 1
) -> dict[str, Decision]:
    """Return loader, workers and prefetch; `asked(name)` is what is asked for, or None.

    Raises UserError if rows in memory are to be streamed.
    """
    worker_count = asked("workers") or workers(machine, processes)
    loader = asked("loader")
    if loader and loader.value == "streaming" and facts.nbytes is not None:
        raise UserError(f"data.loader is streaming, but {facts.name} has no files: leave it unset.")
    if loader is None:
        some = f"{worker_count.value} worker{'' if worker_count.value == 1 else 's'}"
        loader = Decision("streaming", f"read by {some}")
        if facts.nbytes is not None:
            loader = Decision("mapped", "too large for the device: kept in the host's memory")
            if fits_on_device(machine, facts.nbytes):
                loader = Decision("resident", "kept in the device's memory")
    if loader.value != "streaming" and not asked("workers"):
        worker_count = Decision(0, "the rows are in memory")
    ahead = asked("prefetch", 2) or Decision(2, AS_CONFIGURED)
    return {"loader": loader, "workers": worker_count, "prefetch": ahead}


def optimizer_steps(trainer: Config, batches: int, accumulate: int) -> float:
    """Return how many steps a Trainer of these settings takes, an epoch having so many batches.

    A test holds it to Trainer.estimated_stepping_batches.
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
    asked: _Asked, processes: int, is_new: bool
) -> tuple[Decision, Decision, Decision]:
    """Return the batch size, the global batch size, and how many micro-batches are accumulated."""
    batch_size = asked("batch_size") or Decision(128, AS_CONFIGURED)
    whole = asked("global_batch_size")
    accumulate = asked("accumulate_grad_batches", 1) or Decision(1, AS_CONFIGURED)
    at_once = batch_size.value * processes
    if whole is None:
        why = "a batch on each device" + (", accumulated" if accumulate.value > 1 else "")
        return batch_size, Decision(at_once * accumulate.value, why), accumulate
    count, rest = divmod(whole.value, at_once)
    if rest or count < 1:
        raise UserError(
            f"data.global_batch_size is {whole.value}, no multiple of {at_once} ({batch_size.value}"
            f" on {processes} devices). Set --data.batch_size to what divides it."
        )
    if is_new and accumulate.value not in (1, count):
        raise UserError(
            f"trainer.accumulate_grad_batches is {accumulate.value}, but the global batch of"
            f" {whole.value} takes {count}. Leave one of the two out."
        )
    if count != accumulate.value:
        accumulate = Decision(count, f"a global batch of {whole.value} takes so many")
    return batch_size, whole, accumulate


def _decoder(asked: _Asked, machine: Machine, layout: Layout, decodes: bool) -> Decision:
    if not decodes:
        return Decision("none", "nothing is decoded")
    # Where a GPU's run is evaluated on a CPU, that decodes.
    if layout.accelerator.value != "cuda":
        return Decision("cpu", "no GPU")
    return asked("decoder") or decoder(machine, "cuda", layout.devices.value)


def _log_interval(asked: _Asked, steps_an_epoch: int) -> Decision:
    found = asked("log_every_n_steps", 50) or Decision(50, AS_CONFIGURED)
    if 0 < steps_an_epoch < found.value:
        return Decision(steps_an_epoch, "an epoch has no more steps")
    return found


def accelerator(machine: Machine) -> Decision:
    """Return Lightning's name of the device to train on."""
    if machine.gpus:
        return Decision("cuda", f"torch sees {machine.gpus[0].name}")
    return Decision("mps", "an Apple GPU") if machine.mps else Decision("cpu", "no GPU")


def devices(machine: Machine, requested: Decision | None, accelerator: str) -> Decision:
    """Return how many devices train together: unset one, -1 all (two processes on a CPU).

    Raises UserError if more GPUs are asked for than there are.
    """
    everything = {"cuda": len(machine.gpus), "mps": 1}.get(accelerator, 2)
    if requested is None:
        return Decision(1, "one unless asked")
    if requested.value in (-1, "-1"):
        return Decision(everything, "all of them")
    try:
        count = int(requested.value)
    except (TypeError, ValueError):
        raise UserError(
            f"trainer.devices is {requested.value!r}. Give a number, or -1 for all of them; choose"
            " which GPUs with the variable CUDA_VISIBLE_DEVICES=0,2."
        ) from None
    if count < 1 or (accelerator != "cpu" and count > everything):
        raise UserError(f"trainer.devices is {count}, but this machine has {everything}.")
    return Decision(count, requested.why)


def precision(machine: Machine, accelerator: str) -> Decision:
    """Return Lightning's precision flag."""
    if accelerator != "cuda":
        return Decision(
            "32-true", f"float32 on {'the CPU' if accelerator == 'cpu' else 'Apple MPS'}"
        )
    oldest = min(gpu.capability for gpu in machine.gpus)
    if oldest >= (8, 0):
        return Decision("bf16-mixed", "Ampere or newer computes in bfloat16")
    named = f"compute capability {oldest[0]}.{oldest[1]}"
    return Decision("16-mixed", f"{named} has float16 but no bfloat16")


def compile_mode(
    machine: Machine,
    accelerator: str,
    parts: int,
    steps: float,
    requested: Decision | None = None,
) -> Decision:
    """Return torch.compile's mode, or False.

    `parts` are a step's batches, on several devices or one after another; `steps` the optimizer's
    of the whole run. What is `requested` (true, false or a mode) is obeyed.
    """
    # CUDA graphs fail BatchNorm under DDP (pytorch issue 139207) and summed gradients (169545).
    best = "reduce-overhead" if accelerator == "cuda" and parts == 1 else "default"
    if requested is not None:
        return Decision(best if requested.value is True else requested.value, requested.why)
    if accelerator != "cuda":
        return Decision(False, "no GPU, and on a CPU it would take longer than it saves")
    if not machine.compiler:
        return Decision(
            False, "no C compiler or no Python headers (Debian: apt install gcc python3-dev)"
        )
    if steps < STEPS_THAT_PAY_FOR_COMPILING:
        enough = f"as {STEPS_THAT_PAY_FOR_COMPILING} would; --model.compile true compiles anyway"
        return Decision(False, f"{steps:.0f} steps are too few to pay for it, {enough}")
    why = "CUDA graphs take the launch cost away" if parts == 1 else "steps of several parts"
    return Decision(best, why)


def threads_per_process(machine: Machine, processes: int) -> int:
    """Return how many CPU threads each of several processes on this machine should use."""
    return max(machine.cores // max(processes, 1), 1)


def workers(machine: Machine, processes: int) -> Decision:
    """Return how many workers each of several training processes should have: a core each.

    The training process keeps one to itself; more than 16 would only hold more memory.
    """
    count = max(min(threads_per_process(machine, processes) - 1, 16), 0)
    share = f"{machine.cores} cores" + (f" for {processes} processes" if processes > 1 else "")
    return Decision(count, f"{share}, one of them for training itself")


def decoder(machine: Machine, accelerator: str, processes: int) -> Decision:
    """Return where a folder's JPEG files are decoded: on the 'gpu' where it can and cores lack."""
    able = accelerator == "cuda" and all(gpu.capability in JPEG_ENGINES for gpu in machine.gpus)
    cores = threads_per_process(machine, processes)
    if not able:
        return Decision("cpu", "no GPU that decodes JPEG files")
    if cores < CORES_THAT_KEEP_UP:
        return Decision("gpu", f"{cores} cores a GPU, where {CORES_THAT_KEEP_UP} keep up with it")
    return Decision("cpu", f"{cores} cores a GPU keep up with it")


def fits_on_device(machine: Machine, size: int) -> bool:
    """Return whether `size` bytes of rows leave enough of each GPU's memory for training."""
    return all(size <= 0.4 * gpu.memory_gib * 2**30 for gpu in machine.gpus)


def device_name(machine: Machine, accelerator: str) -> str:
    """Return what the device is called in tables and summaries."""
    if accelerator == "cuda":
        return machine.gpus[0].name
    return "Apple GPU" if accelerator == "mps" else f"CPU ({machine.cores} cores)"


def in_common(machines: list[Machine]) -> Machine:
    """Return what every one of several hosts has: a run decides for the weakest."""
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
