"""Choose the batch size and, for rows in files, the loader's settings for this machine.

Training throughput is measured with default settings on one batch that stays on the device; loader
throughput is measured without training. Each is measured several times; what lies within the spread
of these measurements is no reason to change a recipe. The lines for the recipe are printed;
tune.json and tune.png are written to runs/tune/<time>/. Other flags are those of fit.
"""

import argparse
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from matplotlib.figure import Figure

from .. import decisions
from ..cli.project import Project
from ..errors import UserError
from ..hardware import Machine, this_machine
from ..paths import shown
from .bench import find_config, save, versions
from .trials import Process, of_batch

ENOUGH = 0.95  # of the best speed: more is not worth the memory of a larger batch
MARGIN = 1.2  # times the training throughput, because loader throughput varies
TRIALS = 4  # of each setting
WORKERS = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class Loading:
    """Loader settings: number of workers, batches that each reads ahead, and the decoder.

    The decoder is None if the data have no such setting.
    """

    workers: int
    prefetch: int
    decoder: str | None = None

    def __str__(self) -> str:
        place = self.decoder or "cpu"
        return f"loader, workers {self.workers:>2}, prefetch {self.prefetch}, on the {place}"

    def flags(self) -> list[str]:
        flags = [f"--data.workers={self.workers}", f"--data.prefetch={self.prefetch}"]
        return flags + ([f"--data.decoder={self.decoder}"] if self.decoder else [])


def batch_sizes(now: int, rows: int, global_batch: int | None) -> list[int]:
    """Return the batch sizes to try, around the recipe's. They divide the global batch, if set."""
    sizes = {max(now // 2, 1), now, now * 2, now * 4}
    return sorted(
        n for n in sizes if n == now or (n <= rows and not (global_batch and global_batch % n))
    )


def choose_batch_size(rates: Mapping[int, float], now: int, spread: float = 0.0) -> int:
    """Return the recipe's batch size `now` if it is almost as fast as the fastest.

    Otherwise return the smallest that is. `spread` is that of the measurements.
    """
    least = min(ENOUGH, 1 - spread) * max(rates.values())
    enough = [size for size, rate in rates.items() if rate >= least]
    return now if now in enough else min(enough)


def choose_loading(
    rates: Mapping[Loading, float], training_rate: float, now: Loading | None = None
) -> tuple[Loading, bool]:
    """Return the present settings `now` if they are fast enough, and True.

    Otherwise return those with the fewest workers that are. `training_rate` is in rows/s. The GPU
    decodes only if the CPU is too slow. If none is fast enough, return the fastest settings and
    False.
    """
    enough = [way for way, rate in rates.items() if rate >= MARGIN * training_rate]
    if not enough:
        return max(rates, key=lambda way: rates[way]), False
    if now in enough:
        return now, True
    return min(enough, key=lambda way: (way.decoder == "gpu", way.workers, way.prefetch)), True


def workers_to_try(most: int) -> list[int]:
    """Return the numbers of workers to try, up to `most`."""
    return sorted({n for n in WORKERS if n <= most} | {max(most, 1)})


def training_rates(
    package: str, config: Path, flags: Sequence[str], sizes: Sequence[int], seconds: float
) -> list[dict[str, Any]]:
    """Train on one batch of each size; return rows/s with their spread, and GiB.

    For a size that failed, return the reason as `failed`.
    """

    def train(process: Process) -> dict[str, Any]:
        process.trial(seconds)  # compiles
        found = [process.trial(seconds / TRIALS) for _ in range(TRIALS)]
        rate, spread = _median_and_spread([each["rate"] for each in found])
        return {"rows_per_second": rate, "spread": spread, "peak_gib": found[-1]["peak_gib"]}

    ways = {f"network, batch {size:>5}": [*flags, *of_batch(size)] for size in sizes}
    found = _each(package, config, ways, train, one_batch=True)
    return [{"batch_size": size} | row for size, row in zip(sizes, found, strict=True)]


def loader_rates(
    package: str, config: Path, flags: Sequence[str], ways: Sequence[Loading], seconds: float
) -> dict[Loading, float]:
    """Return the loader's rows/s without training, for each of these settings; 0 if it failed."""
    named = {str(way): [*flags, *way.flags()] for way in ways}

    def read(process: Process) -> dict[str, Any]:
        rates = [process.loader_rate(seconds / TRIALS) for _ in range(TRIALS)]
        return {"rate": _median_and_spread(rates)[0]}

    found = _each(package, config, named, read)
    for way, row in zip(ways, found, strict=True):
        if "failed" in row:
            print(f"  {way}: {row['failed']}", file=sys.stderr)
    return {way: row.get("rate", 0.0) for way, row in zip(ways, found, strict=True)}


def _median_and_spread(rates: Sequence[float]) -> tuple[float, float]:
    """Return the median, and half the distance from the least to the most as a share of it."""
    median = statistics.median(rates)
    return median, (max(rates) - min(rates)) / 2 / median


def _each(
    package: str,
    config: Path,
    ways: Mapping[str, list[str]],
    use: Callable[[Process], dict[str, Any]],
    one_batch: bool = False,
) -> list[dict[str, Any]]:
    """Start a process for each entry of `ways` and use them one by one; return their results.

    The result of one that ended is {"failed": its last error}.
    """
    results: list[dict[str, Any]] = [{} for _ in ways]
    with ExitStack() as stack:
        started = [
            stack.enter_context(Process(package, config, one, one_batch)) for one in ways.values()
        ]
        for process, result in zip(started, results, strict=True):
            try:
                process.ready()  # all processes, before the first is measured
            except UserError as error:
                result["failed"] = str(error)
        for name, process, result in zip(ways, started, results, strict=True):
            print(f"  {name} …", file=sys.stderr, flush=True)
            with process:  # ends the process once it is measured
                try:
                    result.update({} if result else use(process))
                except UserError as error:
                    result["failed"] = str(error)
    return results


def tune(package: str, config: Path, flags: list[str], seconds: float) -> dict[str, Any]:
    """Measure and choose; return the content of tune.json.

    Raises UserError if the recipe can't be trained with any batch size.
    """
    machine = this_machine()
    with Process(package, config, flags) as process:
        recipe = process.ready().about
    global_batch = _global_batch_size(config)
    sizes = batch_sizes(recipe["batch_size"], recipe["rows"], global_batch)
    measured = training_rates(package, config, flags, sizes, seconds)
    rates = {row["batch_size"]: row["rows_per_second"] for row in measured if "failed" not in row}
    if not rates:
        raise UserError(measured[0]["failed"])
    spread = max(row["spread"] for row in measured if "failed" not in row)
    size = choose_batch_size(rates, recipe["batch_size"], spread)
    result = {
        "made": datetime.now().isoformat(timespec="seconds"),
        "config": config.name,
        "arguments": flags,
        "device": decisions.device_name(machine, decisions.accelerator(machine).value),
        "versions": versions(),
        "unit": recipe["unit"],
        "recipe_batch_size": recipe["batch_size"],
        "batch_sizes": measured,
        "demand": rates[size],
        "loader": [],
        "enough": True,
        "chosen": {"batch_size": size},
        "changes": size != recipe["batch_size"],
    }
    if recipe["resident"]:
        return result
    at_size = [*flags, *of_batch(size)]
    loaded = try_loaders(package, config, at_size, recipe, machine, rates[size], seconds)
    present = {name: recipe["settings"]["data"].get(name) for name in ("workers", "prefetch")}
    place = recipe["settings"]["data"].get("decoder") if recipe["gpu_decoder"] else None
    now = Loading(**present, decoder=place)
    chosen, enough = choose_loading(loaded, rates[size], now)
    result["changes"] = size != recipe["batch_size"] or chosen != now
    keys = {name: value for name, value in asdict(chosen).items() if value is not None}
    return result | {
        "loader": [asdict(way) | {"rows_per_second": rate} for way, rate in loaded.items()],
        "enough": enough,
        "supply": loaded[chosen],
        "chosen": {"batch_size": size, **keys},
    }


def _global_batch_size(config: Path) -> int | None:
    """Return the global batch size that a recipe sets, or None."""
    data = (yaml.safe_load(config.read_text()) or {}).get("data") or {}
    return data.get("global_batch_size")


def try_loaders(
    package: str,
    config: Path,
    flags: list[str],
    recipe: dict[str, Any],
    machine: Machine,
    training_rate: float,
    seconds: float,
) -> dict[Loading, float]:
    """Return rows/s for numbers of workers and decoders, and for other prefetch of the best."""
    decoders: list[str | None] = [None]
    if recipe["gpu_decoder"]:
        decoders = ["cpu", "gpu"] if machine.gpus else ["cpu"]
    workers = workers_to_try(decisions.workers(machine, 1).value)
    ways = [
        Loading(n, recipe["settings"]["data"]["prefetch"], place)
        for place in decoders
        for n in workers
    ]
    rates = loader_rates(package, config, flags, ways, seconds)
    best, _ = choose_loading(rates, training_rate)
    others = [replace(best, prefetch=n) for n in (2, 8) if n != best.prefetch]
    return rates | loader_rates(package, config, flags, others, seconds)


def lines(result: dict[str, Any]) -> str:
    """Return the lines for the recipe: YAML."""
    return yaml.safe_dump({"data": result["chosen"]}, sort_keys=False)


def report(result: dict[str, Any]) -> str:
    """Return the measurements and the choice as text, with advice if the loader is too slow."""
    text = [f"{result['config']} on {result['device']}", ""]
    for row in result["batch_sizes"]:
        speed = row.get("failed") or (
            f"{row['rows_per_second']:>10,.0f} {result['unit']}/s ± {row['spread']:.0%}"
        )
        memory = f"  {row['peak_gib']:.2f} GiB" if row.get("peak_gib") else ""
        text.append(f"  network, batch {row['batch_size']:>5}  {speed}{memory}")
    for row in result["loader"]:
        speed = f"{row['rows_per_second']:>10,.0f} {result['unit']}/s"
        text.append(f"  {Loading(row['workers'], row['prefetch'], row['decoder'])}  {speed}")
    if not result["loader"]:
        text += ["", f"The {result['unit']} are in memory: there are no workers to tune."]
    if not result["enough"]:
        text += [
            "",
            f"The loader reaches {result['supply']:,.0f} {result['unit']}/s at most, and training"
            f" {result['demand']:,.0f}. Try smaller files (images whose longer side is a little"
            " above data.image_size), more cores, or a larger network.",
        ]
    now, size = result["recipe_batch_size"], result["chosen"]["batch_size"]
    if size != now:
        text += [
            "",
            f"A batch of {size} trains differently from the recipe's {now}. Start with"
            f" model.learning_rate x {size / now:g}, or keep {now}.",
        ]
    if not result["changes"]:
        keep = "The recipe's settings are as fast as the best, within the spread: keep them."
        return "\n".join([*text, "", keep, ""])
    return "\n".join([*text, "", "For the recipe:", "", lines(result)])


def draw(result: dict[str, Any]) -> Figure:
    """Draw training throughput by batch size, and loader throughput by number of workers."""
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    parts = figure.subplots(1, 2 if result["loader"] else 1, squeeze=False)[0]
    rows = [row for row in result["batch_sizes"] if "failed" not in row]
    sizes, rates = ([row[key] for row in rows] for key in ("batch_size", "rows_per_second"))
    chosen, circle = result["chosen"], {"markersize": 12, "mfc": "none", "color": "#f58518"}
    spreads = [row["rows_per_second"] * row["spread"] for row in rows]
    parts[0].errorbar(sizes, rates, spreads, marker="o", color="#4c78a8", capsize=3)
    parts[0].plot(chosen["batch_size"], result["demand"], "o", **circle)
    parts[0].set_xscale("log", base=2)
    parts[0].set_xticks(sizes, [str(size) for size in sizes])
    parts[0].set(xlabel="batch size", title=f"training throughput: {result['unit']}/s")
    for decoder in dict.fromkeys(row["decoder"] for row in result["loader"]):
        some = [row for row in result["loader"] if row["decoder"] == decoder]
        some = [row for row in some if row["prefetch"] == some[0]["prefetch"]]
        some = sorted(some, key=lambda row: row["workers"])
        x, y = ([row[key] for row in some] for key in ("workers", "rows_per_second"))
        parts[1].plot(x, y, marker="o", label=f"decoded on the {(decoder or 'cpu').upper()}")
    for axes in parts[1:]:
        training, enough = result["demand"], MARGIN * result["demand"]
        axes.axhline(training, color="#888", label="training throughput")
        axes.axhline(enough, color="#888", linestyle="--", label=f"{MARGIN} times that")
        label = f"chosen, with prefetch {chosen['prefetch']}"
        axes.plot(chosen["workers"], result["supply"], "o", label=label, **circle)
        axes.set_xticks(sorted({row["workers"] for row in result["loader"]}))
        axes.set(xlabel="workers", title=f"loader throughput: {result['unit']}/s")
        axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=2)
    for axes in figure.axes:
        axes.set_ylim(0, 1.1 * axes.get_ylim()[1])
        axes.grid(alpha=0.3)
    figure.suptitle(f"{result['config']}, {result['device']}", fontsize=10)
    return figure


def main(project: Project, options: argparse.Namespace, flags: list[str]) -> int:
    config = find_config(options.config)
    result = tune(project.package, config, flags, options.seconds)
    folder = save("tune", options.into, result, draw(result))
    print(f"\n{report(result)}\nwritten: {shown(folder / 'tune.json')} and tune.png\n")
    return 0
