"""Where the time of a whole run goes, and its share of the limit: `timeline.py`.

It measures the limit, fills the cache of compiled code by a run until after its first validation,
and trains once more for about `--seconds`, as shipped (ResNet-18, batch 128, validation after each
epoch). The run's time counts from the start of its process to its exit. The limit is the mean of
two measurements, before and after the run, because the speed of a GPU varies.

    make bench WORKLOAD=timeline ARGS="--seconds 300"
    PYTHONPATH=PROJECT/src python3 benchmarks/timeline.py --project PROJECT
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from measure import HERE, command_of, environment, run, this_gpu
from workload import Workload
from workloads import workload

BUILD = HERE.parent / "build"
LIMITS = ("limit", "limit-validation")
CLOCK = "my_project.engine.tools.timing.ClockCallback"


def main() -> int:
    asked = arguments()
    asked.out.mkdir(parents=True, exist_ok=True)
    work = workload(asked.workload, asked.tiny)
    before = limits(asked, work, 0)
    if before is None:
        return 1
    steps = work.train // work.batch
    epochs = max(round(asked.seconds * before["limit"] / (steps * work.batch)), 2)
    if not asked.cold:
        train(asked, work, epochs, (f"--until={2 * steps}",))
    found = train(asked, work, epochs)
    if found is None:
        return 1
    after = limits(asked, work, 1)  # a long run is not lost if they fail
    found |= {row: statistics.mean((before[row], (after or before)[row])) for row in LIMITS}
    if started := before if asked.cold else after:  # as cold as the run
        found["start_of_limit"] = started["start"]
    lines = table(found, work)
    (asked.out / "timeline.json").write_text(json.dumps(found) + "\n")
    (asked.out / "timeline.md").write_text(lines)
    print(f"\n{lines}")
    return 0


def limits(asked: argparse.Namespace, work: Workload, round_: int) -> dict[str, float] | None:
    """Return how fast the GPU trains and validates at most, in rows/s; None if a limit failed.

    `start` is the seconds until the first step of the loop that measures training has ended.
    """
    found = {}
    for row in LIMITS:
        limit = run(asked, work, row, round_)
        if limit is None:
            return None
        found[row] = limit["inside"]
        found.setdefault("start", limit["first_step"])
    return found


def train(
    asked: argparse.Namespace, work: Workload, epochs: int, more: tuple[str, ...] = ()
) -> dict[str, Any] | None:
    """Train and return when each part began; None if the run failed."""
    with tempfile.TemporaryDirectory(dir=asked.out) as folder:
        marks = Path(folder) / "marks.json"
        command = [
            part.replace(CLOCK, "marks.Marks")
            for part in command_of(asked, work, "ours", marks)
            if not part.startswith("--model.compile")  # decided automatically, as for any run
        ]
        command += [f"--trainer.max_epochs={epochs}", *more]
        log = asked.out / "timeline.log"
        begun = time.time()
        with log.open("w") as output:
            process = subprocess.Popen(
                [sys.executable, *command],
                env=environment(asked, work, folder),
                stdout=output,
                stderr=output,
            )
            status = process.wait()
        ended = time.time()
        if status:
            print(f"the run failed ({status}): see {log}", file=sys.stderr)
        if status or not marks.is_file():  # not written if it ends early
            return None
        record = json.loads(Path(folder, "run", "run.json").read_text())
        saving = record["results"]["seconds_saving"]
        found = json.loads(marks.read_text())
        return found | {"begun": begun, "ended": ended, "saving": saving}


def parts_of(found: dict[str, Any]) -> dict[str, float]:
    """Return the seconds of each part of a run, in order; together they are the whole run."""
    epochs, at = found["epochs"], found
    begins = [epoch[0] for epoch in epochs[1:]] + [at["trained"]]
    train = sum(end - begin for begin, end, _, _ in epochs)
    return {
        "start: imports": at["imported"] - at["begun"],
        "start: settings, data, network": at["built"] - at["imported"],
        "start: setup of the Trainer": at["prepared"] - at["built"],
        "start: the first step, with its compiling": at["first_step"] - at["prepared"],
        "training": train - (at["first_step"] - epochs[0][0]),
        "validation": sum(over - end for _, end, over, _ in epochs),
        "between epochs: metrics, checkpoints": sum(
            begin - epoch[2] for begin, epoch in zip(begins, epochs, strict=True)
        ),
        "end: the last checkpoint, teardown": at["left"] - at["trained"],
        "end: digests, pictures, exit": at["ended"] - at["left"],
    }


def table(found: dict[str, Any], work: Workload) -> str:
    """Return a run's parts in Markdown: seconds, and points of the limit that each one costs.

    Training and validation cost what they take longer than the limit for the same rows; all else
    costs its time. The limit of training alone does not validate.
    """
    parts, count = parts_of(found), len(found["epochs"])
    rows, validated = sum(epoch[3] for epoch in found["epochs"]), work.val * count
    whole, start = found["ended"] - found["begun"], found["first_step"] - found["begun"]
    least = {"training": rows / found["limit"], "validation": validated / found["limit-validation"]}
    lines = ["| | s | at the limit | points lost |", "|---|--:|--:|--:|"]
    for name, seconds in parts.items():
        limit = least.get(name, 0.0)
        lost = 100 * (seconds - limit) / whole
        lines.append(f"| {name} | {seconds:.2f} | {limit:.2f} | {lost:.2f} |")
    lost = 100 - 100 * sum(least.values()) / whole
    lines.append(f"| the whole run | {whole:.2f} | {sum(least.values()):.2f} | {lost:.2f} |")
    gpu = this_gpu()
    on = gpu.name if gpu else "CPU"
    speeds = [f"{found[name]:,.0f} img/s" for name in ("limit", "limit-validation")]
    loop = found.get("start_of_limit")
    of_loop = f", that of the limit's bare loop after {loop:.1f} s" if loop else ""
    return "\n".join(
        [
            f"**{work.title}, on {on}: {count} epochs, from start to exit**",
            "",
            *lines,
            "",
            f"The whole run is at {100 - lost:.1f}% of the limit of training and validation"
            f" ({speeds[0]}, {speeds[1]}), and at {least['training'] / whole:.1%} of one that does"
            f" not validate. Training alone is at {least['training'] / parts['training']:.1%},"
            f" validation at {least['validation'] / parts['validation']:.1%}. The first step ended"
            f" after {start:.1f} s{of_loop}. Saving took {found['saving']:.2f} s of the training"
            " process.",
            "",
        ]
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workload", default="resnet18-128", choices=["resnet18-128"])
    parser.add_argument("--seconds", type=float, default=300.0, help="of training, about")
    parser.add_argument("--cold", action="store_true", help="do not fill the cache before")
    parser.add_argument("--project", type=Path, default=BUILD / "my-project")
    parser.add_argument("--jpegs", type=Path, default=BUILD / "jpegs")
    parser.add_argument("--out", type=Path, default=BUILD / "bench" / "timeline")
    parser.add_argument("--tiny", action="store_true", help="a CPU's version, for tests")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
