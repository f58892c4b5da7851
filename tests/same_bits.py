"""Do two revisions of the template train to the same bits?

`python tests/same_bits.py BASE [HEAD]`: each is a revision of git, or the folder of a generated
project; HEAD is the working tree if left out. Both train the same matrix of runs on this machine,
and every loss, weight, optimizer state, logged row and best score is compared. Nothing is stored:
no reference can go stale. The exit status is 1 if a run differs.

`--gpu` runs the part that needs a GPU, `--only WORD` the runs with that word in their names, and
`--python` names the interpreter of a generated project's environment.
"""

import argparse
import csv
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

TEMPLATE = Path(__file__).resolve().parents[1]
BAKED = TEMPLATE / "build" / "my-project"

# Tensors that a later revision calls otherwise: old name -> new name. There should be none.
RENAMED: dict[str, str] = {}

DIGITS = ("--config=configs/digits.yaml", "--trainer.max_epochs=2", "--trainer.log_every_n_steps=1")
FOLDER = (
    *("--data.source=folder", "--data.options.path=IMAGES", "--data.image_size=32"),
    *("--data.batch_size=8", "--data.flip=true", "--model.network=small_cnn"),
    *("--trainer.max_epochs=2", "--trainer.log_every_n_steps=1"),
)
FROZEN = (
    *(*DIGITS, "--model.network=shufflenet_v2_x0_5", "--model.freeze_backbone=true"),
    "--model.small_images=false",
)
SYNTHETIC = (
    *("--config=configs/synthetic.yaml", "--data.eval_batch_size=256"),
    "--data.options={image_size: 32, train: 5120, val: 512}",
    *("--trainer.max_epochs=2", "--trainer.log_every_n_steps=1"),
)


@dataclass(frozen=True)
class Case:
    """A run: its flags, then how it is interrupted and what is said to resume it.

    One that is `taken_over` begins with BASE on both sides, and is scored on the test rows too. In
    one that `repeats`, HEAD repeats BASE's decisions, so its steps have BASE's version
    (decisions.py).
    """

    name: str
    flags: tuple[str, ...]
    kill_after: int | None = None  # rows of metrics.csv
    until: int | None = None  # a step
    resume: tuple[str, ...] = ()
    taken_over: bool = False
    repeats: bool = False


CPU_CASES = [
    Case("digits", DIGITS),
    Case("two processes", (*DIGITS, "--trainer.devices=2"), repeats=True),
    Case("accumulation", (*DIGITS, "--data.batch_size=16", "--data.global_batch_size=64"),
         repeats=True),
    *(Case(f"killed after {rows} rows", DIGITS, kill_after=rows) for rows in (5, 17, 28)),
    Case("elastic", DIGITS, until=20, resume=("--elastic", "--data.batch_size=16"), repeats=True),
    Case("taken over", DIGITS, until=20, taken_over=True),
    Case("frozen, taken over", FROZEN, until=20, taken_over=True),
    Case("adamw and cosine", (*DIGITS, "--model.optimizer=adamw", "--model.schedule=cosine")),
    Case("frozen", FROZEN),
    Case("recomputed", (*DIGITS, "--model.network=mobilenet_v3_small", "--model.small_images=false",
                        "--model.activation_checkpointing=true")),
    Case("clipped and smoothed", (*DIGITS, "--trainer.gradient_clip_val=0.5",
                                  "--model.label_smoothing=0.1")),
    Case("mixed", (*DIGITS, "--data.mixup=0.2", "--data.cutmix=1", "--data.cutout=2")),
    Case("streaming, no worker", (*FOLDER, "--data.workers=0")),
    Case("streaming, 2 workers", (*FOLDER, "--data.workers=2", "--data.mixup=0.2")),
    Case("mapped", (*FOLDER, "--data.loader=mapped")),
    Case("resident", (*FOLDER, "--data.loader=resident")),
    Case("compiled", (*DIGITS, "--model.compile=default", "--trainer.limit_train_batches=4")),
]  # fmt: skip
GPU_CASES = [
    Case("float32", (*SYNTHETIC, "--trainer.precision=32-true", "--model.compile=false")),
    Case("bfloat16", (*SYNTHETIC, "--model.compile=false")),
    Case("compile default", (*SYNTHETIC, "--model.compile=default")),
    Case("reduce-overhead", (*SYNTHETIC, "--model.compile=reduce-overhead")),
    Case("accumulation, compiled",
         (*SYNTHETIC, "--model.compile=default", "--data.global_batch_size=512"), repeats=True),
    Case("step-graph", (*SYNTHETIC, "--model.compile=step-graph")),
    Case("mixed, step-graph", (*SYNTHETIC, "--model.compile=step-graph", "--data.mixup=0.2")),
    Case("GPU decoding", (*FOLDER, "--model.network=resnet18", "--data.decoder=gpu",
                          "--data.workers=2", "--model.compile=false")),
    Case("CPU decoding", (*FOLDER, "--model.network=resnet18", "--data.decoder=cpu",
                          "--data.workers=2", "--model.compile=reduce-overhead")),
]  # fmt: skip
TWO_GPU_CASES = [
    Case("two GPUs", (*SYNTHETIC, "--trainer.devices=2", "--model.compile=default"), repeats=True)
]

MAKE_IMAGES = """
import sys, numpy as np
from pathlib import Path
from PIL import Image
draw = np.random.default_rng(0)
for part, count in (("train", 48), ("val", 12), ("test", 12)):
    for shade, name in ((80, "dark"), (170, "light")):
        folder = Path(sys.argv[1], part, name)
        folder.mkdir(parents=True)
        for i in range(count):
            pixels = draw.normal(shade, 60, (60, 80, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}.jpg", quality=90)
"""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("base")
    parser.add_argument("head", nargs="?")
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--only", help="runs whose names hold this word")
    parser.add_argument("--python", default=str(BAKED / ".venv" / "bin" / "python"))
    parser.add_argument("--at-once", type=int, default=1, help="pairs of runs at a time")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        room = Path(name)
        projects = [
            project(room / side, revision)
            for side, revision in (("base", asked.base), ("head", asked.head))
        ]
        images = room / "images"
        subprocess.run([asked.python, "-c", MAKE_IMAGES, str(images)], check=True)
        cases = gpu_cases(asked.python) if asked.gpu else CPU_CASES
        cases = [case for case in cases if not asked.only or asked.only in case.name]

        def compare(case: Case) -> list[str]:
            folders = [
                room / "runs" / side / re.sub(r"\W+", "-", case.name) for side in ("base", "head")
            ]
            begins = [projects[0]] * 2 if case.taken_over else projects
            cases = [case, case]
            if case.repeats:  # after BASE, whose record says what was decided
                decided = f"--decisions={folders[0] / 'run.json'}"
                cases[1] = replace(case, flags=(*case.flags, decided))
            with ThreadPoolExecutor(1 if case.repeats else 2) as both:  # only bits count
                outcomes = list(both.map(train, cases, begins, projects, folders, [images] * 2,
                                         [asked.python] * 2))  # fmt: skip
            return list(differences(*outcomes))

        failed = 0
        with ThreadPoolExecutor(asked.at_once) as pool:
            for case, found in zip(cases, pool.map(compare, cases), strict=True):
                failed += bool(found)
                print(f"{case.name:24} {'the same bits' if not found else found[0]}", flush=True)
                for line in found[1:5]:
                    print(f"{'':24} {line}", flush=True)
    print(f"{len(cases) - failed} of {len(cases)} runs have the same bits")
    return int(failed > 0 or not cases)


def gpu_cases(python: str) -> list[Case]:
    count = "import torch; print(torch.cuda.device_count())"
    gpus = int(subprocess.run([python, "-c", count], capture_output=True, check=True).stdout)
    if not gpus:
        raise SystemExit("error: --gpu, but torch sees no GPU here")
    return GPU_CASES + (TWO_GPU_CASES if gpus > 1 else [])


def project(folder: Path, revision: str | None) -> Path:
    """Return the generated project of a revision, of a folder, or of the working tree."""
    if revision and (Path(revision) / "configs" / "base.yaml").is_file():
        return Path(revision).resolve()
    template = folder / "torch-gpu-template"
    if revision:
        template.mkdir(parents=True)
        archive = subprocess.run(
            ["git", "archive", revision], cwd=TEMPLATE, capture_output=True, check=True
        )
        subprocess.run(["tar", "-x", "-C", str(template)], input=archive.stdout, check=True)
    else:
        template = TEMPLATE
    command = [
        sys.executable,
        "-m",
        "cookiecutter",
        str(template),
        "--no-input",
        "--default-config",
    ]
    subprocess.run([*command, "--output-dir", str(folder)], check=True, stdout=subprocess.DEVNULL)
    return folder / "my-project"


def train(
    case: Case, begins: Path, source: Path, run: Path, images: Path, python: str
) -> dict[str, Any]:
    """Train a case with a project's source, of which another may begin it.

    Returns all that is compared.
    """
    run.mkdir(parents=True)
    settings = os.environ | {
        "RUN_FOLDER": str(run),
        "XDG_CACHE_HOME": str(run.parent / "cache" / run.name),
        "OMP_NUM_THREADS": "1",
        "TORCHINDUCTOR_VEC_ISA_OK": "0",  # to find out which vectors a CPU has takes 20 s
    }
    settings.pop("WANDB_API_KEY", None)

    def start(*arguments: str, verb: str = "fit", root: Path = source) -> subprocess.Popen:
        command = [python, "-m", "my_project", verb, *arguments]
        search = [str(root / "src"), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        own = settings | {"PYTHONPATH": os.pathsep.join(filter(None, search))}
        log = run.with_name(f"{run.name}.log").open("a")
        return subprocess.Popen(command, cwd=root, env=own, stdout=log, stderr=log)

    def finish(process: subprocess.Popen) -> None:
        if status := process.wait():
            said = run.with_name(f"{run.name}.log").read_text()[-2000:]
            raise SystemExit(f"error: {case.name} with {source} ended with {status}:\n{said}")

    flags = [flag.replace("IMAGES", str(images)) for flag in case.flags]
    if case.kill_after is not None:
        process = start(*flags, "--checkpoints.seconds=0")
        rows = run / "metrics.csv"
        while process.poll() is None:
            saved = (run / "checkpoints" / "last.ckpt").exists()
            if saved and rows.exists() and len(rows.read_text().splitlines()) > case.kill_after:
                process.kill()
            time.sleep(0.005)
        if process.wait() == 0:
            raise SystemExit(f"error: {case.name}: the run was over before it could be killed")
        finish(start("--run", str(run)))
    elif case.until is not None:
        finish(start(*flags, f"--until={case.until}", root=begins))
        finish(start("--run", str(run), *case.resume))
    else:
        finish(start(*flags))
    if case.taken_over:
        finish(start("--run", str(run), verb="test"))
    return outcome(run)


def outcome(run: Path) -> dict[str, Any]:
    """Return every loss, digest of a tensor, row and the best score of a run, by what it is."""
    found = json.loads((run / "digests.json").read_text())
    results = json.loads((run / "run.json").read_text())["results"]
    with (run / "metrics.csv").open(newline="") as file:
        rows = [{k: v for k, v in row.items() if v} for row in csv.DictReader(file)]
    flat = {
        f"{part} {RENAMED.get(name, name)}": value
        for part, values in found.items()
        for name, value in values.items()
    }
    flat |= {f"row {row['step']} {name}": value for row in rows for name, value in row.items()}
    scores = [name for name in results if name.startswith(("best ", "test/"))]
    flat |= {f"result {name}": results[name] for name in scores}
    shutil.rmtree(run / "checkpoints")
    return flat


def differences(base: dict[str, Any], head: dict[str, Any]) -> Iterator[str]:
    """Yield what differs. A metric that BASE does not measure is no difference."""
    measured = {name.split(" ", 2)[-1] for name in base}
    for name in base.keys() | head.keys():
        is_metric = name.startswith(("row ", "result "))
        if is_metric and name not in base and name.split(" ", 2)[-1] not in measured:
            continue
        if base.get(name) != head.get(name):
            yield f"{name}: {base.get(name)} and {head.get(name)}"


if __name__ == "__main__":
    sys.exit(main())
