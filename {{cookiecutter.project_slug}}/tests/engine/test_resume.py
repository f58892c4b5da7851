"""A run that is killed at any moment and resumed gives the same bits as an undisturbed run.

`make test-resume` kills training processes for real at random moments, KILLS of variants.py.
KILL_SEED repeats them; KILLS=5 draws five.
"""

import os
import random
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from killed import Job, Moment, outcome, start, steps_done, wait
from variants import (
    EACH,
    EPOCHS,
    KILLS,
    PLAIN,
    SETTINGS,
    SIMPLE,
    STEPS,
    TWO_PROCESSES,
    arguments,
    on_gpus,
    write_data,
)

from {{ cookiecutter.__package_name }}.engine.run.metrics import read_metrics

pytestmark = pytest.mark.resume

SEED = int(os.environ.get("KILL_SEED", random.randrange(10**6)))
SAVING = ("half a file", "a file without its digest", "between two names")
if "KILLS" in os.environ:
    KILLS = random.Random(SEED).sample(KILLS, int(os.environ["KILLS"]))


print(f"KILL_SEED={SEED}")


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the files that the variants train on."""
    folder = tmp_path_factory.mktemp("data")
    write_data(folder)
    return folder


@pytest.fixture(scope="session")
def left_alone(data, tmp_path_factory):
    """Return a function that gives the outcome of a variant's undisturbed run."""
    known: dict[str, dict] = {}

    def run(name: str) -> dict:
        if name not in known:
            folder = tmp_path_factory.mktemp("alone") / "run"
            folder.mkdir()
            processes, flags = arguments(name, data)
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
    return Moment(what, draw.randrange(STEPS, EPOCHS * STEPS))


def kill(job: Job, draw: random.Random) -> None:
    """Run the job until it is killed: by itself at its moment, or from outside at any time.

    A kill from outside takes a while, and ranks look for another's signal every tenth of a second.
    A run that has ended before is run again, and killed sooner.
    """
    longest, what = 0.5, job.moment.what
    may_end = what == "from outside" or (what == "SIGTERM" and job.processes > 1)
    status = run_until_killed(job, draw.uniform(0.0, longest))
    while may_end and status == 0 and longest > 0.001:
        shutil.rmtree(job.folder)
        job.folder.mkdir()
        longest, job.moment.step = longest / 2, (job.moment.step + STEPS) // 2
        status = run_until_killed(job, draw.uniform(0.0, longest))
    assert status == (143 if what == "SIGTERM" else -9), said(job.folder)


def run_until_killed(job: Job, seconds: float) -> int:
    """Run the job and return its status. A kill from outside is so long after a checkpoint."""
    started = start(job)
    if job.moment.what == "from outside":
        deadline = time.monotonic() + 120
        while steps_done(job.folder) is None and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(seconds)
        for process in started:
            process.kill()
    return wait(started)


def kill_and_resume(number: int, data: Path, folder: Path) -> tuple[str, dict]:
    """Kill a run, resume it, and return a line to print and its outcome."""
    name, what = KILLS[number]
    draw = random.Random(f"{SEED} {number}")
    processes, flags = arguments(name, data)
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
def resumed(request, data, left_alone, tmp_path_factory):
    """The result of each kill that a test needs; a few run at a time."""
    tests = (getattr(item, "callspec", None) for item in request.session.items)
    numbers = [test.params["number"] for test in tests if test and "number" in test.params]
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 4)) as pool:
        for run in [pool.submit(left_alone, name) for name in {KILLS[i][0] for i in numbers}]:
            run.exception()  # an error is raised in each test that needs it
        folder = tmp_path_factory.mktemp("killed")
        yield {i: pool.submit(kill_and_resume, i, data, folder / str(i)) for i in numbers}
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
    if name in SETTINGS:  # without an effect, a setting would prove nothing
        assert found["weights"] != left_alone(PLAIN)["weights"]


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
def test_the_comparison_detects_a_removed_safeguard(without, flags, data, tmp_path, left_alone):
    _, start_flags = arguments(SIMPLE, data)
    moment = Moment("step", 2 * STEPS + 3)
    job = Job([*start_flags, "--checkpoints.seconds=0"], tmp_path / "run", 1, moment, without)
    job.folder.mkdir()
    kill(job, random.Random(0))
    go_on = ["fit", "--run", str(job.folder), *flags]
    assert wait(start(Job(go_on, job.folder, without=without))) == 0, said(job.folder)
    expected, found = left_alone(SIMPLE), outcome(job.folder)
    for part in ("weights", "optimizer"):
        assert (found[part] == expected[part]) == (without == ""), part


def test_sigterm_to_one_of_two_processes_saves_and_ends_both(data, tmp_path):
    processes, flags = arguments(TWO_PROCESSES, data)
    flags = [*flags, "--checkpoints.seconds=0", "--trainer.max_epochs=999"]
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
    assert saved == len(rows) == rows[-1]["step"] + 1 < 999 * STEPS


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
