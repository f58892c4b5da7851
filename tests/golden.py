"""What a run of the digits came to, held across commits: digits.json in tests/golden/.

It holds the losses of the first 20 steps and the final scores. They are compared on whatever CPU
the tests run, so each has a tolerance.

The losses are those of a run in float64. In float32 the last bits grow a hundredfold in five steps:
another number of threads moves the loss of step 19 by 1%. In float64 neither threads nor the
instruction sets of MKL and oneDNN move a loss by more than 1e-15. What is left is how the CPU draws
the initial weights, in their last bits: that moves the first losses by 1e-8, and the later ones by
up to 2e-3, once a number near 0 has another sign.

The scores are those of the whole run, in float32. After 480 steps another number of threads is as
another seed: an accuracy on 360 images moves by up to 0.011.

`make golden` trains both and writes the file. Do that where a commit is meant to change what is
trained, and say in its message why.
"""

import csv
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

GOLDEN = Path(__file__).parent / "golden" / "digits.json"
FIRST_STEPS = (
    *("fit", "--config=configs/digits.yaml", "--until=20"),
    *("--trainer.precision=64-true", "--trainer.log_every_n_steps=1"),
)
EXACT_STEPS = 12  # the first ones, which agree to EXACT; the others to LATER
EXACT, LATER = 1e-6, 1e-2  # of a loss
SCORE = 0.02  # of an accuracy


def losses_of(run: Path) -> list[float]:
    """Return the loss of each logged step of a run."""
    with (run / "metrics.csv").open(newline="") as file:
        return [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]


def scores_of(run: Path) -> dict[str, float]:
    """Return the final accuracies of a run that was evaluated."""
    results = json.loads((run / "run.json").read_text())["results"]
    return {name: value for name, value in results.items() if name.endswith("/accuracy")}


def changed_losses(golden: list[float], found: list[float]) -> Iterator[str]:
    """Yield which losses are not the golden ones."""
    if len(golden) != len(found):
        yield f"{len(found)} losses, expected {len(golden)}"
    for step, (then, now) in enumerate(zip(golden, found, strict=False)):
        if abs(now - then) > (EXACT if step < EXACT_STEPS else LATER) * then:
            yield f"the loss of step {step} is {now:.9f}, expected {then:.9f}"


def changed_scores(golden: dict[str, float], found: dict[str, float]) -> Iterator[str]:
    """Yield which scores are not the golden ones."""
    for name in golden.keys() | found.keys():
        then, now = golden.get(name), found.get(name)
        if then is None or now is None or abs(now - then) > SCORE:
            yield f"{name} is {now}, expected {then}"


def main(project: Path) -> None:
    """Write the file from a project's newest run of the digits, and from the first steps of one."""
    newest = max(project.glob("runs/digits/*/run.json")).parent
    with tempfile.TemporaryDirectory() as folder:
        command = [project / ".venv" / "bin" / "python", "-m", "my_project", *FIRST_STEPS]
        subprocess.run(command, cwd=project, env=os.environ | {"RUN_FOLDER": folder}, check=True)
        golden = {"losses": losses_of(Path(folder)), "scores": scores_of(newest)}
    GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
