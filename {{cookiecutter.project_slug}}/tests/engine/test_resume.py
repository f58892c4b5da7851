"""A run that is killed at any moment and resumed gives the same bits as an undisturbed run.

`make test-resume` kills training processes for real at 29 random moments. KILL_SEED repeats them;
KILLS=5 draws five of the 29.
"""

import os
import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from killed import Job, Moment, outcome, start, steps_done, wait
from PIL import Image

from {{ cookiecutter.__package_name }}.engine.run.metrics import read_metrics

pytestmark = pytest.mark.resume

SEED = int(os.environ.get("KILL_SEED", random.randrange(10**6)))
EPOCHS, STEPS = 4, 8
SAVING = ("half a file", "a file without its digest", "between two names")
DIGITS = ("--config", "configs/digits.yaml", "--data.batch_size", "128", "--data.crop_padding", "1")
TWICE = ("--trainer.devices", "2", "--trainer.accelerator", "cpu")
HALF_AN_EPOCH = "--trainer.val_check_interval=0.5"
VARIANTS = {
    "resident": (1, DIGITS),
    "streaming, no worker": (1, ("--data.workers", "0", "--data.sampler", "balanced")),
    "streaming, 2 workers": (1, ("--data.workers", "2")),
    "accumulating, validating twice an epoch": (
        1,
        (*DIGITS, "--data.batch_size=64", "--data.global_batch_size=128", HALF_AN_EPOCH),
    ),
    "two processes": (2, (*DIGITS, "--data.batch_size", "64", *TWICE)),
    "two processes, streaming": (2, ("--data.workers", "1", "--data.batch_size", "4", *TWICE)),
}
EACH = ("step", "save", "validation", "last batch")
KILLS = [(name, what) for name in list(VARIANTS)[:5] for what in EACH]
KILLS += [("resident", "from outside"), ("streaming, 2 workers", "from outside")]
KILLS += [("accumulating, validating twice an epoch", "save")]
KILLS += [("two processes", what) for what in ("from outside", "SIGTERM", "save")]
KILLS += [("two processes, streaming", what) for what in ("step", "last batch", "save")]
if "KILLS" in os.environ:
    KILLS = random.Random(SEED).sample(KILLS, int(os.environ["KILLS"]))


print(f"KILL_SEED={SEED}")


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Image files of two classes: 64 for training, so an epoch has 8 steps of 8."""
    folder, draw = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for part, count in (("train", 32), ("val", 10)):
        for shade, name in ((80, "dark"), (170, "light")):
            (folder / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = draw.normal(shade, 60, (20, 24, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / part / name / f"{i}.png")
    return folder


def arguments(name: str, images: Path) -> tuple[int, list[str]]:
    processes, flags = VARIANTS[name]
    if "streaming" in name:
        flags = ("--data.source=folder", f"--data.options.path={images}", *flags)
        flags = ("--data.image_size", "16", "--data.batch_size", "8", "--data.flip", "true", *flags)
        flags = ("--model.network", "small_cnn", "--model.small_images", "true", *flags)
    shared = ("--trainer.max_epochs", str(EPOCHS), "--trainer.log_every_n_steps", "1")
    return processes, ["fit", *flags, *shared]


@pytest.fixture(scope="session")
def left_alone(images, tmp_path_factory):
    """Return a function that gives the outcome of a variant's undisturbed run."""
    known: dict[str, dict] = {}

    def run(name: str) -> dict:
        if name not in known:
            folder = tmp_path_factory.mktemp("alone") / "run"
            folder.mkdir()
            processes, flags = arguments(name, images)
            assert wait(start(Job(flags, folder, processes))) == 0, said(folder)
            known[name] = outcome(folder)
            assert known[name]["steps"] == EPOCHS * STEPS
        return known[name]

    return run


def said(folder: Path) -> str:
    return folder.with_name(f"{folder.name}.log").read_text()[-3000:]


def choose(what: str, draw: random.Random) -> Moment:
    """Draw the step of a kill: in the second epoch or later, so that there is a checkpoint."""
    if what == "save":
        return Moment(draw.choice(SAVING), draw.randrange(STEPS + 1, EPOCHS * STEPS - 1))
    if what == "last batch":
        return Moment(what, STEPS * draw.randrange(2, EPOCHS + 1) - 1)
    if what == "validation":
        return Moment(what, STEPS * draw.randrange(2, EPOCHS + 1))
    last = EPOCHS * STEPS - 2 if what == "SIGTERM" else EPOCHS * STEPS  # ranks agree a step later
    return Moment(what, draw.randrange(STEPS, last))


def kill(job: Job, draw: random.Random) -> None:
    """Run the job until it is killed: by itself at its moment, or from outside at any time."""
    started = start(job)
    if job.moment.what == "from outside":
        deadline = time.monotonic() + 120
        while steps_done(job.folder) is None and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(draw.uniform(0.0, 0.5))
        for process in started:
            process.kill()
    expected = 143 if job.moment.what == "SIGTERM" else -9
    assert wait(started) == expected, said(job.folder)


def kill_and_resume(number: int, images: Path, folder: Path) -> tuple[str, dict]:
    """Kill a run, resume it, and return a line to print and its outcome."""
    name, what = KILLS[number]
    draw = random.Random(f"{SEED} {number}")
    processes, flags = arguments(name, images)
    moment, seconds = choose(what, draw), draw.choice((0.0, 0.03))
    job = Job([*flags, f"--checkpoints.seconds={seconds}"], folder, processes, moment)
    job.folder.mkdir()
    kill(job, draw)
    resumed = steps_done(job.folder)
    assert resumed is not None, f"no checkpoint yet at {moment}"
    resume = Job(["fit", "--run", str(job.folder)], job.folder, processes)
    assert wait(start(resume)) == 0, said(job.folder)
    where = f"{moment.what} {moment.step or ''}".strip()
    line = f"{number + 1:2}/{len(KILLS)} {name}: killed {where}, resumed from {resumed}"
    return line, outcome(job.folder)


@pytest.fixture(scope="session")
def resumed(request, images, left_alone, tmp_path_factory):
    """The result of each kill that a test needs; a few run at a time."""
    tests = (getattr(item, "callspec", None) for item in request.session.items)
    numbers = [test.params["number"] for test in tests if test and "number" in test.params]
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 4)) as pool:
        for run in [pool.submit(left_alone, name) for name in {KILLS[i][0] for i in numbers}]:
            run.exception()  # an error is raised in each test that needs it
        folder = tmp_path_factory.mktemp("killed")
        yield {i: pool.submit(kill_and_resume, i, images, folder / str(i)) for i in numbers}
        pool.shutdown(cancel_futures=True)  # after a Ctrl-C, or the first failure with -x


@pytest.mark.parametrize(
    ("number", "name"),
    [(i, name) for i, (name, _) in enumerate(KILLS)],
    ids=[f"{name}, {what}" for name, what in KILLS],
)
def test_a_killed_run_resumes_to_the_same_bits(number, name, resumed, left_alone):
    told, found = resumed[number].result()
    print(f"\n{told}", end=" ")
    assert found == left_alone(name)


@pytest.mark.parametrize(
    ("without", "flags"),
    [
        ("step seeding", ()),
        ("the order's resume", ()),
        ("the refusal of another seed", ("--seed_everything", "7")),
        ("the refusal of another seed", ("--data.seed", "7")),
        ("", ()),
    ],
    ids=["no step seeding", "no resume of the order", "another seed", "other data seed", "nothing"],
)
def test_the_comparison_detects_a_removed_safeguard(without, flags, images, tmp_path, left_alone):
    _, start_flags = arguments("resident", images)
    moment = Moment("step", 2 * STEPS + 3)
    job = Job([*start_flags, "--checkpoints.seconds=0"], tmp_path / "run", 1, moment, without)
    job.folder.mkdir()
    kill(job, random.Random(0))
    go_on = ["fit", "--run", str(job.folder), *flags]
    assert wait(start(Job(go_on, job.folder, without=without))) == 0, said(job.folder)
    expected, found = left_alone("resident"), outcome(job.folder)
    for part in ("weights", "optimizer"):
        assert (found[part] == expected[part]) == (without == ""), part


def test_sigterm_to_one_of_two_processes_saves_and_ends_both(images, tmp_path):
    processes, flags = arguments("two processes", images)
    flags = [*flags, "--checkpoints.seconds=0"]
    job = Job(flags, tmp_path / "run", processes, without="a fast disk")
    job.folder.mkdir()
    started, deadline = start(job), time.monotonic() + 60
    while steps_done(job.folder) is None and time.monotonic() < deadline:
        time.sleep(0.02)
    started[1].terminate()
    started[1].wait(60)
    saved = steps_done(job.folder)  # written by rank 0; torchrun would end it now
    assert wait(started) == 143, said(job.folder)
    assert [process.returncode for process in started] == [143, 143]
    rows = read_metrics(job.folder / "metrics.csv")
    assert saved == len(rows) == rows[-1]["step"] + 1 < EPOCHS * STEPS


def on_gpus(devices: int, mode: str) -> list[str]:
    """Compiled, in bfloat16, with CUDA graphs on one GPU."""
    flags = ["fit", *DIGITS, "--data.batch_size", str(128 // devices), "--model.compile", mode]
    flags += ["--trainer.max_epochs", str(EPOCHS), "--trainer.log_every_n_steps", "1"]
    return [*flags, "--trainer.devices", str(devices), "--trainer.accelerator", "cuda"]


@pytest.fixture(
    scope="session",
    params=[(1, "true"), (1, "step-graph"), (2, "true")],
    ids=["one GPU", "one GPU, step graph", "two GPUs"],
)
def twice_on_gpus(request, tmp_path_factory):
    """The number of GPUs, the flags, and the outcomes of two undisturbed runs."""
    (devices, mode), outcomes = request.param, []
    if torch.cuda.device_count() < devices:
        pytest.skip(f"needs {devices} GPUs")
    for _ in range(2):
        folder = tmp_path_factory.mktemp("gpu") / "run"
        folder.mkdir()
        assert wait(start(Job(on_gpus(devices, mode), folder, devices))) == 0, said(folder)
        outcomes.append(outcome(folder))
    return devices, on_gpus(devices, mode), *outcomes


@pytest.mark.gpu
def test_the_same_run_on_gpus_gives_the_same_bits_twice(twice_on_gpus):
    *_, once, again = twice_on_gpus
    assert once == again


@pytest.mark.gpu
@pytest.mark.parametrize("what", EACH)
def test_a_killed_run_on_gpus_resumes_to_the_same_bits(what, twice_on_gpus, tmp_path):
    devices, flags, expected, _ = twice_on_gpus
    draw = random.Random(f"{SEED} {what} {devices}")
    flags = [*flags, "--checkpoints.seconds=0"]
    job = Job(flags, tmp_path / "run", devices, choose(what, draw))
    job.folder.mkdir()
    kill(job, draw)
    resumed = steps_done(job.folder)
    resume = Job(["fit", "--run", str(job.folder)], job.folder, devices)
    assert wait(start(resume)) == 0, said(job.folder)
    where = f"{job.moment.what} {job.moment.step}"
    print(f"\n{devices} GPU: killed {where}, resumed from {resumed}", end=" ")
    assert outcome(job.folder) == expected
