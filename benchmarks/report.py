"""Make a workload's table and plot from its results, a file with one JSON object per line."""

import json
import math
import statistics
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workload import Workload
from workloads import workload

Result = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """The figures of a row over all rounds; `problem` is the reason if the row is invalid.

    `limit` is the name of the row that it is compared with. `seconds` are those of each round's
    process, the first one cold. `epoch` are the seconds of an epoch without validation, `busy` the
    GPU's utilization in percent, None if it was not measured.
    """

    name: str
    label: str
    limit: str
    inside: float | None
    least: float | None
    most: float | None
    whole: float | None
    first_steps: list[float]
    seconds: list[float]
    epoch: float | None
    busy: float | None
    peak_gib: float | None
    problem: str | None


def read(file: Path) -> list[Result]:
    results = []
    for number, line in enumerate(file.read_text().splitlines() if file.is_file() else [], 1):
        try:
            results.append(json.loads(line))
        except ValueError:
            raise SystemExit(
                f"error: {file}, line {number} is not JSON ({line[:40]!r}). Delete that line; the"
                " next run measures its row again."
            ) from None
    return results


def workload_of(results: list[Result]) -> Workload:
    one = results[0]
    return workload(one["workload"], devices=one.get("devices"), strong=one.get("strong", False))


def summarize(results: list[Result]) -> list[Row]:
    """Return the workload's rows in order, with medians over the rounds."""
    work = workload_of(results)
    rows = [(name, [r for r in results if r["row"] == name]) for name in work.rows]
    return [_row(work, name, rounds) for name, rounds in rows if rounds]


def _row(work: Workload, name: str, rounds: list[Result]) -> Row:
    label, batch = work.label(name), work.batch_of(name)
    named = name, label + (f", batch {batch}" if batch else ""), work.ROWS[name].limit
    rounds = sorted(rounds, key=lambda r: r["round"])
    if "left_out" in rounds[-1]:
        return Row(*named, *4 * [None], [], [], *3 * [None], rounds[-1]["left_out"])
    bad = next((r for r in rounds if not falls(r)), None)
    problem = None
    if bad:
        losses = f"{bad['first_loss']} to {bad['last_loss']}"
        how = "rose" if work.MOST_RISE else "did not fall"
        problem = f"{label} is invalid: its loss {how} ({losses})"
    inside = [r["inside"] for r in rounds]
    wholes, busy, peaks = (
        [r[key] for r in rounds if r.get(key) is not None]
        for key in ("whole", "busy_percent", "peak_gib")
    )
    return Row(
        *named,
        statistics.median(inside),
        min(inside),
        max(inside),
        median(wholes),
        [r["first_step"] for r in rounds],
        [r["seconds"] for r in rounds],
        statistics.median(seconds_an_epoch(work, r) for r in rounds),
        median(busy),
        median(peaks),
        problem,
    )


def seconds_an_epoch(work: Workload, result: Result) -> float:
    """Return the seconds of an epoch without validation, as the median of all but the first."""
    rates = result.get("rates") or [result["inside"]]
    return work.train / statistics.median(rates[1:] or rates)


def median(values: list[float]) -> float | None:
    return statistics.median(values) if values else None


def falls(result: Result) -> bool:
    """Return whether the loss fell, or rose no more than its workload allows.

    NaN or a missing loss gives False.
    """
    first, last = result["first_loss"], result["last_loss"]
    most_rise = workload_of([result]).MOST_RISE
    return first is not None and last is not None and last < first + most_rise


def apart(one: list[float], other: list[float]) -> tuple[float, float]:
    """Return by how much the second mean is higher, and twice the standard error of this."""
    squares = [statistics.stdev(values) ** 2 / len(values) for values in (one, other)]
    return statistics.mean(other) - statistics.mean(one), 2 * sum(squares) ** 0.5


def limit_of(rows: list[Row], name: str = "limit") -> float | None:
    """Return the speed of the limit of that name."""
    return next((row.inside for row in rows if row.name == name and not row.problem), None)


def table(results: list[Result]) -> str:
    """Return the workload's table in Markdown, with the machine below."""
    work, rows, newest = workload_of(results), summarize(results), results[-1]
    lines = [f"**{work.title}**", ""]
    valid = [row for row in rows if not row.problem]
    lines += processes(valid, work.UNIT) if work.whole_process else speeds(valid, work.UNIT)
    strong = " --strong" if newest.get("strong") else ""
    devices = f' ARGS="--devices {newest["devices"]}{strong}"' if "devices" in newest else ""
    lines += ["", f"{measured(results)}: `make bench WORKLOAD={newest['workload']}{devices}`."]
    lines += memory_of_ranks(results)
    lines += [f"{row.problem}." for row in rows if row.problem]
    return "\n".join(lines) + "\n"


def speeds(rows: list[Row], unit: str) -> list[str]:
    """Return a table's lines: speeds, and their shares of the limit."""
    lines = [
        f"| | {unit} inside an epoch | least to most | of the limit | s/epoch "
        f"| {unit} of a whole run | of the limit | s to the first step, cold / warm "
        "| GPU utilization | GiB |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        limit = limit_of(rows, row.limit)
        cells = [
            number(row.inside),
            f"{number(row.least)} to {number(row.most)}",
            share(row.inside, limit),
            digits(row.epoch),
            number(row.whole),
            share(row.whole, limit),
            joined(cold_and_warm(row.first_steps), ".0f"),
            utilization(row),
            f"{row.peak_gib:.1f}" if row.peak_gib else "",
        ]
        lines.append(" | ".join([f"| {row.label}", *cells]) + " |")
    return lines


def processes(rows: list[Row], unit: str) -> list[str]:
    """Return a table's lines: the seconds of whole processes, compared with the usual loop's."""
    lines = [
        f"| | s, cold / warm | {unit} | times as fast, cold / warm | s/epoch "
        "| s to the first step, cold / warm | GPU utilization | GiB |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    usual = next((cold_and_warm(row.seconds) for row in rows if row.name == "usual"), [])
    for row in rows:
        own = cold_and_warm(row.seconds)
        times = [theirs / ours for theirs, ours in zip(usual, own, strict=False)]
        cells = [
            joined(own, ".1f"),
            number(row.inside),
            joined(times, ".2f"),
            digits(row.epoch),
            joined(cold_and_warm(row.first_steps), ".0f"),
            utilization(row),
            f"{row.peak_gib:.1f}" if row.peak_gib else "",
        ]
        lines.append(" | ".join([f"| {row.label}", *cells]) + " |")
    return lines


def cold_and_warm(seconds: list[float]) -> list[float]:
    """Return the seconds of a row's first process, and the median of any others."""
    cold, *warm = seconds
    return [cold, statistics.median(warm)] if warm else [cold]


def joined(values: list[float], form: str) -> str:
    return " / ".join(f"{value:{form}}" for value in values)


def measured(results: list[Result]) -> str:
    newest = results[-1]
    each = Counter((r["workload"], r["row"]) for r in results if "left_out" not in r).values()
    rounds = " to ".join(map(str, sorted({min(each, default=0), max(each, default=0)})))
    devices = newest.get("devices")
    cores = str(newest.get("pinned") or newest["cores"] // (devices or 1))
    cores += " cores a GPU" if devices else " cores"
    on, torch = newest.get("gpu", "CPU"), newest["versions"]["torch"]
    of = "One round" if rounds == "1" else f"Medians of {rounds} interleaved rounds"
    return f"{of} on {on}, {cores}, torch {torch}"


def memory_of_ranks(results: list[Result]) -> list[str]:
    """Return a sentence on how much the ranks' peak memory differs, if that was measured."""
    peaks = [r["peaks_gib"] for r in results if len(r.get("peaks_gib", ())) > 1]
    apart = [1 - min(each) / max(each) for each in peaks if None not in each]
    return [f"The ranks' peak memory differs by {max(apart):.1%} at most."] if apart else []


def number(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:,.0f}"


def digits(value: float | None) -> str:
    """Return a number with three digits."""
    return "" if value is None or math.isnan(value) else f"{value:#.3g}".rstrip(".")


def utilization(row: Row) -> str:
    return "-" if row.busy is None else f"{row.busy:.0f}%"


def share(value: float | None, limit: float | None) -> str:
    return f"{value / limit:.0%}" if value and limit else ""


def plot(results: list[Result], path: Path) -> None:
    """Draw one bar per row, the whole run's inside the epoch's, and the limit as a line."""
    from matplotlib.figure import Figure

    work = workload_of(results)
    rows = [row for row in summarize(results) if not row.problem][::-1]
    limit = limit_of(rows)
    figure = Figure(figsize=(8, 0.6 + 0.45 * max(len(rows), 1)), layout="constrained")
    axes = figure.subplots()
    colours = ["#2a6fb0" if row.label.startswith("ours") else "#b9c2cc" for row in rows]
    labels = [row.label for row in rows]
    axes.barh(labels, [row.inside for row in rows], color=colours, height=0.7)
    axes.barh(labels, [row.whole or 0 for row in rows], color="#00000030", height=0.25)
    if limit:
        axes.axvline(limit, color="#555555", linewidth=0.8, linestyle=":")
    for place, row in enumerate(rows):
        own = limit_of(rows, row.limit)
        of_limit = f"  {share(row.inside, own)}" if own else ""
        text = f"{number(row.inside)}{of_limit}"
        white = {"facecolor": "white", "edgecolor": "none", "pad": 1}
        beside = {"xytext": (6, 0), "textcoords": "offset points", "va": "center", "bbox": white}
        axes.annotate(text, (row.inside, place), **beside)
    axes.set_xlim(0, max(row.inside for row in rows) * 1.25 if rows else 1)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    figure.suptitle(work.title, fontsize=10, x=0.01, ha="left")
    axes.set_title(measured(results), fontsize=8, loc="left", color="#555555")
    inside = "inside an epoch (thin bar: of a whole run)"
    when = "from start to exit" if work.whole_process else inside
    axes.set_xlabel(f"{work.THINGS} per second {when}")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


def insert(readme: Path, workload: str, table: str) -> None:
    """Replace the text between `<!-- benchmark: NAME -->` and `<!-- end -->` by the table."""
    start, end = f"<!-- benchmark: {workload} -->\n", "<!-- end -->"
    before, found, rest = readme.read_text().partition(start)
    if not found or end not in rest:
        raise SystemExit(f"error: {readme} has no {start.strip()} … {end}")
    readme.write_text(before + start + table + rest[rest.index(end) :])
