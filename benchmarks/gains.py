"""How many times as fast ours is as the usual script, against the size of the network: `gains.py`.

compare.py measures both in turn, for five networks. The table and the plot are made from its
results, so `--rounds 0` draws them again. BERT needs a text project.

    make bench WORKLOAD=gains
    PYTHONPATH=PROJECT/src python3 benchmarks/gains.py --project PROJECT --text TEXT_PROJECT
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import report
from workload import Workload
from workloads import WORKLOADS, workload

HERE = Path(__file__).resolve().parent
BUILD = HERE.parent / "build"
USUAL = {
    "small-cnn-128": "usual-eager",
    "resnet18-128": "usual-eager",
    "resnet50-128": "usual-eager",
    "vit-b-128": "usual-eager",
    "bert-32": "usual",
}


@dataclass(frozen=True)
class Gain:
    """A network, its speeds (medians, rows per second), and the gain in each round."""

    network: str
    parameters: int
    unit: str
    usual: float
    ours: float
    rounds: list[float]

    @property
    def times(self) -> float:
        return self.ours / self.usual


def main() -> int:
    asked = arguments()
    asked.out.mkdir(parents=True, exist_ok=True)
    end, failed = time.monotonic() + asked.seconds, False
    for name in asked.networks if asked.rounds else ():
        failed |= bool(measure(name, asked, end - time.monotonic()))
    measured = {name: report.read(asked.out / f"{name}.jsonl") for name in USUAL}
    gains = [gain for name, results in measured.items() if (gain := gain_of(name, results))]
    if not gains:
        print(f"error: {asked.out} has no network with both rows.", file=sys.stderr)
        return 2
    results = [result for each in measured.values() for result in each]
    text, picture = table(gains, results), asked.out / "gains.png"
    if asked.readme:
        report.insert(asked.readme, "gains", text)
    (asked.out / "gains.md").write_text(text)
    plot(gains, results, picture)
    print(f"\n{text}\nplot: {picture}")
    return int(failed)


def measure(name: str, asked: argparse.Namespace, seconds: float) -> int:
    """Let compare.py measure a network in its project, and return its exit status."""
    project = asked.text if WORKLOADS[name].PACKAGE == "text" else asked.project
    own = project / ".venv" / "bin" / "python"
    command = [own if own.exists() else sys.executable, HERE / "compare.py", name]
    command += [f"--rows={USUAL[name]},ours", f"--rounds={asked.rounds}", f"--seconds={seconds}"]
    command += ["--project", project, "--out", asked.out, *(["--tiny"] if asked.tiny else [])]
    paths = [str(project.resolve() / "src"), os.environ.get("PYTHONPATH", "")]
    settings = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    return subprocess.Popen(list(map(str, command)), env=settings).wait()


def gain_of(name: str, results: list[report.Result]) -> Gain | None:
    """Return what ours gains; None if a row is missing or invalid."""
    work, rows = workload(name), {}
    for row in (USUAL[name], "ours"):
        rows[row] = {r["round"]: r for r in results if r["row"] == row and report.falls(r)}
    usual, ours = rows.values()
    if not usual.keys() & ours.keys():
        return None
    speeds = [statistics.median(r["inside"] for r in row.values()) for row in (usual, ours)]
    both = [ours[i]["inside"] / usual[i]["inside"] for i in sorted(usual.keys() & ours.keys())]
    count = next(iter(ours.values()))["parameters"]
    return Gain(network_of(work), count, work.UNIT, *speeds, both)


def network_of(work: Workload) -> str:
    return work.title.partition(",")[0]


def table(gains: list[Gain], results: list[report.Result]) -> str:
    """Return a line in Markdown for each network, and the machine below."""
    lines = ["| | parameters | the usual script | ours | times as fast |", "|---|--:|--:|--:|--:|"]
    for gain in gains:
        size = f"{gain.parameters / 1e6:.3g} million"
        speeds = [f"{speed:,.0f} {gain.unit}" for speed in (gain.usual, gain.ours)]
        lines.append(" | ".join([f"| {gain.network}", size, *speeds, f"{gain.times:.1f} |"]))
    lines += ["", f"{report.measured(results)}: `make bench WORKLOAD=gains`."]
    return "\n".join(lines) + "\n"


def plot(gains: list[Gain], results: list[report.Result], path: Path) -> None:
    """Draw the gains over the numbers of parameters; a line goes from the least to the most."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    for gain in gains:
        axes.plot(2 * [gain.parameters], [min(gain.rounds), max(gain.rounds)], color="#2a6fb0")
        axes.plot(gain.parameters, gain.times, "o", color="#2a6fb0")
        told = {"xytext": (0, 9), "textcoords": "offset points", "ha": "center", "fontsize": 9}
        axes.annotate(
            f"{gain.network}  {gain.times:.1f} times", (gain.parameters, gain.times), **told
        )
    axes.axhline(1, color="#555555", linewidth=0.8, linestyle=":")
    sizes = [gain.parameters for gain in gains]
    axes.set(xscale="log", xlim=(min(sizes) / 2.5, max(sizes) * 2.5))
    axes.set_ylim(0, 1.2 * max(max(gain.rounds) for gain in gains))
    axes.set(xlabel="parameters", ylabel="times as fast as the usual script")
    axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle("Training: ours against the usual script", fontsize=10, x=0.01, ha="left")
    axes.set_title(report.measured(results), fontsize=8, loc="left", color="#555555")
    figure.savefig(path, dpi=120)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=2, help="0: write only table and plot")
    parser.add_argument("--networks", nargs="+", choices=USUAL, default=list(USUAL))
    parser.add_argument(
        "--seconds", type=float, default=float("inf"), help="start no row that would end later"
    )
    parser.add_argument("--project", type=Path, default=BUILD / "my-project")
    parser.add_argument("--text", type=Path, default=BUILD / "text" / "my-project")
    parser.add_argument("--out", type=Path, default=BUILD / "bench" / "gains")
    parser.add_argument("--readme", type=Path, help="write the table between this file's markers")
    parser.add_argument("--tiny", action="store_true", help="a CPU's version, for tests")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
