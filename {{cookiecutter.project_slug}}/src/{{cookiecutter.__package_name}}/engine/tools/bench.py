"""Measure what AMP, channels last, torch.compile, CUDA graphs and the loader gain here.

Each row trains in its own process, on one batch that stays on the device. The last row trains with
the default settings and the project's loader. The rows are measured in turn, in several rounds.
Their medians are printed as a table and written to bench.json and bench.png in runs/bench/<time>/.
Other flags are those of fit; they apply to every row.
"""

import argparse
import statistics
import sys
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import lightning as L
import torch
from matplotlib.figure import Figure

from .. import decisions, nvml
from ..cli.project import Project
from ..errors import UserError
from ..hardware import Machine, this_machine
from ..json_text import to_json
from ..paths import project_root, resolve_path, shown
from .trials import WARMUP_STEPS, Process

PARTS = {"data": "#f58518", "forward": "#4c78a8", "backward": "#72b7b2", "optimizer": "#b279a2"}
COLOURS = PARTS | {"all-reduce": "#e45756"}  # with several devices
ORDER = ("data", "forward", "backward", "all-reduce", "optimizer")
EAGER = "GPU, eager, float32"  # the baseline of `saved`, the share of memory saved
MODES = {"+ compile": "default", "+ CUDA graphs": "reduce-overhead"}
MORE_MODES = {"or max-autotune": "max-autotune", "or one step graph": "step-graph"}


@dataclass(frozen=True)
class Row:
    """A row of the table: its name and its flags. The `shipped` row has the default settings."""

    name: str
    flags: tuple[str, ...] = ()
    one_batch: bool = True
    shipped: bool = False
    devices: int = 1


def rows_of_devices(count: int, machine: Machine) -> list[Row]:
    """Return the rows that show what more devices gain: with the loader and default settings."""
    one, several = ("1 GPU", "GPUs") if machine.gpus else ("1 process", "processes")
    ddp = ("--trainer.strategy=ddp",)
    return [
        Row(one, one_batch=False, shipped=True),
        Row(f"{count} {several}", one_batch=False, devices=count),
        Row(f"{count} {several}, ddp", ddp, one_batch=False, devices=count),
    ]


def rows_of(machine: Machine, all_modes: bool = False) -> tuple[list[Row], list[str]]:
    """Return the rows that this machine can measure, and the reasons why others are left out."""
    eager = ("--model.channels_last=false", "--model.compile=false", "--trainer.precision=32-true")
    cpu = ("--trainer.accelerator=cpu", *eager)
    last = "--model.channels_last=true"
    why = [] if machine.compiler else ["torch.compile: no C compiler or no Python headers here."]
    modes = {} if why else MODES | MORE_MODES if all_modes else MODES
    if not machine.gpus:
        why.insert(0, "GPU, AMP and CUDA graphs: torch finds no NVIDIA GPU here.")
        modes = {name: mode for name, mode in modes.items() if mode in ("default", "max-autotune")}
        return [
            Row("CPU, eager", cpu),
            Row("+ channels_last", (*cpu, last)),
            *(Row(name, (*cpu, last, *compiled_by(mode))) for name, mode in modes.items()),
            Row("loader, defaults", cpu[:1], one_batch=False, shipped=True),
        ], why
    amp = (*eager, f"--trainer.precision={decisions.precision(machine, 'cuda').value}")
    return [
        Row("CPU, batch of 16", (*cpu, "--data.batch_size=16", "--data.global_batch_size=null")),
        Row(EAGER, eager),
        Row("+ AMP", amp),
        Row("+ channels_last", (*amp, last)),
        *(Row(name, (*amp, last, *compiled_by(mode))) for name, mode in modes.items()),
        Row("+ loader, defaults", one_batch=False, shipped=True),
    ], why


def compiled_by(mode: str) -> list[str]:
    """Return the flags for a compile mode. Deterministic training would disable max-autotune."""
    exact = ["--trainer.deterministic=false"] if mode == "max-autotune" else []
    return [f"--model.compile={mode}", *exact]


def measure(
    package: str, rows: list[Row], config: Path, flags: list[str], seconds: float, rounds: int
) -> list[dict[str, Any]]:
    """Measure the rows in turn, in `rounds` trials each, and return each row's results.

    Raises UserError if no row could be measured.
    """
    found = [asdict(row) | {"trials": []} for row in rows]
    with ExitStack() as stack:
        processes = [
            stack.enter_context(
                Process(
                    package,
                    config,
                    [*flags, *row.flags],
                    row.one_batch,
                    cold=True,
                    devices=row.devices,
                )
            )
            for row in rows
        ]
        for trial in ("ready", "first", *range(rounds), "parts"):
            for row, process in zip(found, processes, strict=True):
                if "failed" in row:
                    continue
                try:
                    if trial == "ready":
                        row |= process.ready().about
                        continue
                    if trial == "first":
                        print(f"  {row['name']} …", file=sys.stderr, flush=True)
                    result = process.trial(seconds, parts=trial == "parts")
                    row |= {trial: result} if isinstance(trial, str) else {}
                    row["trials"] += [] if isinstance(trial, str) else [result]
                except UserError as error:
                    row["failed"] = str(error)
    if all("failed" in row for row in found):
        raise UserError(found[0]["failed"])
    return found


def summarize(row: dict[str, Any], eager_gib: float | None = None) -> dict[str, Any]:
    """Return a row of bench.json from the results of `measure`.

    `saved` is the share of memory that the row saves compared with `eager_gib`, the peak of the
    eager row. A row is `valid` if nothing failed and its loss fell from the first step to the mean
    of the last trial. The loss of a task with manual optimization need not fall.
    """
    kept = {name: row[name] for name in ("name", "flags", "shipped", "devices")}
    if "failed" in row:
        return kept | {"valid": False, "remark": row["failed"]}
    rates = [trial["rate"] for trial in row["trials"]]
    rate, first = statistics.median(rates), row["first"]
    remark = None
    if not row["manual_optimization"]:
        remark = _loss_remark(first["first_loss"], row["trials"][-1]["loss"])
    busy = [trial["busy"] for trial in row["trials"] if trial["busy"] is not None]
    step_seconds = row["batch_size"] * row["devices"] / rate
    compiling = first["first_seconds"] - WARMUP_STEPS * step_seconds
    peak = first["peak_gib"]
    return kept | {
        "valid": remark is None,
        "remark": remark,
        "rows_per_second": rate,
        "rates": rates,
        "epoch_seconds": row["rows"] / rate,
        "step_ms": row["parts"]["parts"],
        "gpu_busy_percent": statistics.mean(busy) if busy else None,
        "peak_gib": peak,
        "saved": 1 - peak / eager_gib if peak and eager_gib else None,
        "compile": row["compile"],
        "compile_seconds": max(compiling, 0.0) if row["compile"] else None,
        "precision": row["precision"],
        "loss": [first["first_loss"], row["trials"][-1]["loss"]],
    }


def _loss_remark(first: float | None, last: float | None) -> str | None:
    """Return why the losses make a row invalid, or None if the loss fell. NaN does not fall."""
    if first is None or last is None:
        return "its training step returns no loss"
    return None if last < first else f"its loss went from {first:.3g} to {last:.3g}; it must fall"


def bench(
    package: str, rows: list[Row], config: Path, flags: list[str], seconds: float, rounds: int
) -> dict[str, Any]:
    """Measure the rows for a recipe and return the content of bench.json.

    Raises UserError if no row could be measured.
    """
    machine = this_machine()
    found = measure(package, rows, config, flags, seconds, rounds)
    good = next(row for row in found if "failed" not in row)
    eager = next((row for row in found if row["name"] == EAGER and "failed" not in row), good)
    root = project_root()
    return {
        "made": datetime.now().isoformat(timespec="seconds"),
        "config": str(config.relative_to(root) if config.is_relative_to(root) else config),
        "arguments": flags,
        "seconds": seconds,
        "device": decisions.device_name(machine, decisions.accelerator(machine).value),
        "cpu": f"{machine.cpu}, {machine.cores} cores",
        "versions": versions(),
        "rows_an_epoch": good["rows"],
        "unit": good["unit"],
        "batch_size": next(row["batch_size"] for row in reversed(found) if "rows" in row),
        "settings": next((row["settings"] for row in found if row.get("shipped")), None),
        "rows": [summarize(row, eager["first"]["peak_gib"]) for row in found],
    }


def versions() -> dict[str, str | None]:
    """Return the versions that the numbers depend on."""
    return {
        "torch": torch.__version__,
        "lightning": L.__version__,
        "cuda": torch.version.cuda,
        "driver": nvml.driver_version(),
        "python": sys.version.split()[0],
    }


def is_valid(row: dict[str, Any]) -> bool:
    """Return whether a row of a bench.json is valid; older files call this `counts`."""
    return bool(row["valid"] if "valid" in row else row["counts"])


def table(result: dict[str, Any]) -> str:
    """Return the table as text, 98 characters wide at most."""
    named = "  ".join(f"{name} {value}" for name, value in result["versions"].items() if value)
    lines = [
        f"{result['config']} {' '.join(result['arguments'])}".rstrip()
        + f": {result['rows_an_epoch']:,} {result['unit']} per epoch, batch {result['batch_size']}",
        f"{result['device']}  ({result['cpu']})",
        named,
        "",
        f"{'':21}   epoch               -- ms per step ---          GPU   peak          comp.",
        f"{'':21}       s    rows/s   data  forw.  backw.  optim.  busy    GiB saved      s",
    ]
    for row in result["rows"]:
        if not is_valid(row):
            lines.append(f"{row['name']:<21}  invalid: {row['remark']}")
            continue
        ms, busy = row["step_ms"], row["gpu_busy_percent"]
        parts = [
            _number(ms.get(part), width) for part, width in zip(PARTS, (7, 7, 8, 8), strict=True)
        ]
        lines.append(
            f"{row['name']:<21}{_number(row['epoch_seconds'], 8)}{row['rows_per_second']:>10,.0f}"
            + "".join(parts)
            + (f"{busy:>5.0f}%" if busy is not None else f"{'-':>6}")
            + _number(row["peak_gib"], 7)
            + (f"{row['saved']:>6.0%}" if row["saved"] is not None else f"{'-':>6}")
            + _number(row["compile_seconds"], 7)
        )
    if any("--trainer.deterministic=false" in row["flags"] for row in result["rows"]):
        lines += ["max-autotune was measured with --trainer.deterministic=false, which it needs."]
    if any(is_valid(row) and "forward" not in row["step_ms"] for row in result["rows"]):
        lines += ["A step in one CUDA graph has no parts: all of its time is under optim."]
    return "\n".join(lines)


def devices_table(result: dict[str, Any]) -> str:
    """Return what more devices gain, and where a step's time goes, as text of 80 columns."""
    found = [row for row in result["rows"] if is_valid(row)]
    alone = next((row["rows_per_second"] for row in found if row["devices"] == 1), None)
    lines = [
        f"{result['config']}: {result['rows_an_epoch']:,} {result['unit']}, batch"
        f" {result['batch_size']} per device, {result['device']}",
        "",
        f"{'':16}             of     -------------- ms per step --------------",
        f"{'':16}   rows/s linear      data forward backward all-reduce optimizer",
    ]
    for row in result["rows"]:
        if not is_valid(row):
            lines.append(f"{row['name']:<16} invalid: {row['remark']}")
            continue
        share = row["rows_per_second"] / (alone * row["devices"]) if alone else None
        ms, widths = row["step_ms"], (10, 8, 9, 11, 10)
        lines.append(
            f"{row['name']:<16}{row['rows_per_second']:>9,.0f}"
            + (f"{share:>7.0%}" if share else f"{'-':>7}")
            + "".join(
                _number(ms.get(part), width) for part, width in zip(ORDER, widths, strict=True)
            )
        )
    return "\n".join(
        [
            *lines,
            "",
            "of linear: the share of N times the speed of one. all-reduce includes waiting",
            "for the slowest; ddp sends during backward instead.",
        ]
    )


def _number(value: float | None, width: int) -> str:
    """Return a number with about three digits, right-aligned; '-' for None."""
    if value is None:
        return f"{'-':>{width}}"
    return f"{value:>{width}.{2 if value < 10 else 1 if value < 100 else 0}f}"


def draw(result: dict[str, Any]) -> Figure:
    """Draw the rows per second and the parts of a step of all valid rows."""
    rows = [row for row in result["rows"] if is_valid(row)]
    names = [row["name"] for row in rows]
    figure = Figure(figsize=(11, 1.6 + 0.42 * len(rows)), layout="constrained")
    speed, step = figure.subplots(1, 2, sharey=True)
    rates = [row["rows_per_second"] for row in rows]
    bars = speed.barh(names, rates, color="#4c78a8")
    speed.bar_label(bars, [f" {rate:,.0f}" for rate in rates], fontsize=9)
    speed.set(xlabel=f"{result['unit']} per second", xlim=(0, 1.2 * max(rates, default=1)))
    speed.invert_yaxis()
    left = [0.0] * len(rows)
    parts = [part for part in ORDER if any(part in row["step_ms"] for row in rows)]
    for part in parts:
        widths = [row["step_ms"].get(part, 0.0) for row in rows]
        step.barh(names, widths, left=left, label=part, color=COLOURS[part])
        left = [a + b for a, b in zip(left, widths, strict=True)]
    on_gpu = [total for total, row in zip(left, rows, strict=True) if row["peak_gib"]]
    step.set(xlabel="ms per step", xlim=(0, 1.1 * max(on_gpu or left, default=1)))
    step.legend(frameon=False, fontsize=8, ncols=5, loc="lower center", bbox_to_anchor=(0.5, 1))
    for axes in (speed, step):
        axes.spines[["top", "right"]].set_visible(False)
    recipe = f"{result['config']}, batch {result['batch_size']}"
    where = f"{result['device']}, torch {result['versions']['torch']}"
    figure.suptitle(f"{recipe}, {where}", fontsize=10)
    return figure


def find_config(given: Path | None) -> Path:
    """Return the absolute path of the recipe. Raises UserError if there is none."""
    file = None if given is None else resolve_path(str(given), must_exist=False)
    if file is None or not file.is_file():
        found = "No recipe is given" if given is None else f"{given} does not exist"
        raise UserError(f"{found}. Set --config configs/NAME.yaml")
    return file.resolve()


def save(kind: str, folder: Path | None, result: dict[str, Any], figure: Figure) -> Path:
    """Write a result as JSON and PNG into the folder, or runs/<kind>/<time>/; return the folder."""
    now = f"{datetime.now():%Y-%m-%d_%H-%M-%S}"
    folder = folder or project_root() / "runs" / kind / now
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{kind}.json").write_text(to_json(result, indent=2) + "\n")
    figure.savefig(folder / f"{kind}.png", dpi=110)
    return folder


def main(project: Project, options: argparse.Namespace, flags: list[str]) -> int:
    machine = this_machine()
    several = options.devices > 1
    rows, left_out = rows_of(machine, options.all_modes)
    if several:
        rows, left_out = rows_of_devices(options.devices, machine), []
    seconds = options.seconds or (1.5 if machine.gpus else 1.0)
    config = find_config(options.config)
    result = bench(project.package, rows, config, flags, seconds, options.rounds)
    folder = save("bench", options.into, result | {"left_out": left_out}, draw(result))
    print(f"\n{(devices_table if several else table)(result)}\n")
    for reason in left_out:
        print(f"not measured: {reason}")
    print(f"written: {shown(folder / 'bench.json')} and bench.png\n")
    return 0
