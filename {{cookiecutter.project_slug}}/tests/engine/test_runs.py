"""make runs, compare and prune: from the records of runs, which are written here."""

import csv
import fcntl
import io
import json
import os
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from killed import Job, log_of, start, steps_done, wait

from {{ cookiecutter.__package_name }}.engine.cli.verbs import parse
from {{ cookiecutter.__package_name }}.engine.errors import UserError
from {{ cookiecutter.__package_name }}.engine.run.checkpoint_files import (
    find_checkpoint,
)
from {{ cookiecutter.__package_name }}.engine.run.folder import find_run
from {{ cookiecutter.__package_name }}.engine.run.runs import runs_in
from {{ cookiecutter.__package_name }}.engine.tools import compare, prune, runs

BEST = {"metric": "val/accuracy", "mode": "max", "format": ".2%"}
Write = Callable[..., Path]


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """The folder of a project without runs."""
    for tool in (compare, prune, runs):
        monkeypatch.setattr(tool, "project_root", lambda: tmp_path / "project")
    (tmp_path / "project" / "runs").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


@pytest.fixture
def write(root) -> Write:
    """Write the folder of a run: of a recipe, at a minute, with a score."""

    def run(
        at: int,
        score: float | str | None = 0.9,
        recipe: str = "digits",
        seed: int = 0,
        rate: float = 0.1,
        code: str = "x = 1\n",
        folder: Path | None = None,
        best: dict[str, str] = BEST,
        **entries: Any,
    ) -> Path:
        folder = folder or root / "runs" / recipe / f"2026-11-29_13-{at:02}-00"
        folder.mkdir(parents=True)
        with zipfile.ZipFile(folder / "source.zip", "w") as pack:
            pack.writestr("src/package/networks.py", code)
            pack.writestr("README.md", str(at))
        config = {
            "seed_everything": seed,
            "model": {"learning_rate": rate},
            "data": {"workers": at},
        }
        record = {
            **{"started": f"2026-11-29T13:{at:02}:00+00:00", "recipe": recipe, "seed": seed},
            **{
                "state": "finished",
                "resumes": [],
                "config": config,
                "best": best if "mode" in best else None,
            },
            "decisions": {"data.batch_size": {"value": 64, "why": ""}},
            "source": {"zip": "source.zip", "sha256": f"{code} {at}"},
            "data": {"fingerprint": "f", "rows": {"train": 100}},
            "versions": {"torch": "2.11.0"},
            "results": {} if score is None else {f"best {best['metric']}": score},
        }
        (folder / "run.json").write_text(json.dumps(record | entries))
        (folder / "weights").write_bytes(bytes(1_000_000))
        return folder

    return run


def ask(verb: str, *words: str) -> int:
    options, flags = parse(verb, "package", list(words), {})
    return {"compare": compare, "prune": prune, "runs": runs}[verb].main(None, options, flags)


def listed(capsys: pytest.CaptureFixture[str], *words: str) -> list[dict[str, str]]:
    assert ask("runs", "--csv", *words) == 0
    return list(csv.DictReader(io.StringIO(capsys.readouterr().out)))


def locked(folder: Path) -> Any:
    """Lock a run's folder as its training process does, until the result is closed."""
    lock = (folder / ".lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


def test_runs_are_listed_in_80_columns_with_name_note_state_score_date_and_size(
    write, capsys, monkeypatch
):
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    write(1, 0.8, name="wide", note="twice\nthe channels " * 9)
    write(2, None, folder=None, state="failed", reason="Diverged: train/loss is NaN")
    write(3, recipe="a-recipe-with-a-long-name", best=BEST | {"metric": "val/a-long-metric"})
    assert ask("runs") == 0
    said = capsys.readouterr().out.splitlines()
    assert max(map(len, said)) <= 80
    assert said[0] == "a-recipe-with-a-long-name: 1 run"
    assert said[4].split() == ["digits:", "2", "runs"]
    diverged, first = (next(s.split() for s in said if f"13-0{at}" in s) for at in (2, 1))
    assert diverged == ["2026-11-29_13-02-00", "diverged", "-", "11-29", "13:02", "0.001"]
    assert first == ["2026-11-29_13-01-00", "finished", "80.00%", "11-29", "13:01", "0.001"]
    assert said[-2].startswith("    wide: twice the channels twice") and said[-2].endswith("…")
    assert "    Diverged: train/loss is NaN" in said


def test_runs_with_several_metrics_say_which_and_are_sorted_by_each(write, capsys):
    loss = {"metric": "val/loss", "mode": "min", "format": ".4f"}
    scores = ((0.8, BEST), (0.3, loss), (0.9, BEST), (0.2, loss), (0.7, BEST), (None, loss))
    for at, (score, best) in enumerate(scores, 1):
        write(at, score, best=best, name="wide" if at == 1 else "")
    assert ask("runs", "--sort", "score") == 0
    said = capsys.readouterr().out.splitlines()
    assert said[1].split()[2] == "val/accuracy"
    scores = [line.split()[2] for line in said[2:] if "finished" in line]
    assert scores == ["90.00%", "80.00%", "70.00%", "0.2000", "0.3000", "-"]
    others = [line.strip() for line in said[2:] if line and "finished" not in line]
    assert others == ["wide", "(val/loss)", "(val/loss)"]


def test_a_run_whose_process_is_gone_was_killed_and_one_that_trains_shows_its_best_so_far(
    write, capsys
):
    for at in (1, 2):
        folder = write(at, None, state="running", name=f"run {at}")
        (folder / "metrics.csv").write_text("step,epoch,val/accuracy\n1,0,0.5\n2,0,\n3,1,0.7\n")
    with locked(folder):
        training, killed = listed(capsys)
    assert (training["state"], training["best"], training["name"]) == ("running", "0.7", "run 2")
    assert (killed["state"], killed["best"]) == ("killed", "0.7")


@pytest.mark.parametrize(
    ("best", "order"),
    [
        (BEST, [2, 3, 1]),
        ({"metric": "val/cost", "mode": "min", "format": ".4f"}, [1, 3, 2]),
        ({"metric": "val/accuracy"}, [2, 3, 1]),  # in an older version's record
        ({"metric": "val/loss"}, [1, 3, 2]),
    ],
)
def test_sorting_by_score_puts_the_best_first_and_runs_without_one_last(best, order, write, capsys):
    for at, score in ((1, 0.1), (2, 0.9), (3, 0.5), (4, "NaN"), (5, None)):
        write(at, score, best=best)
    assert [run["run"][-5:-3] for run in listed(capsys, "--sort", "score")][:3] == [
        f"0{at}" for at in order
    ]


def test_a_damaged_record_is_named_and_another_recipe_is_an_error(write, root, capsys):
    write(1)
    (write(2) / "run.json").write_text("{")
    assert [run["run"] for run in listed(capsys)] == ["runs/digits/2026-11-29_13-01-00"]
    assert ask("runs") == 0 and "13-02-00 is passed over" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"No run of the recipe 'birds'. Recipes with runs: digits"):
        ask("runs", "--recipe", "birds")


def test_a_run_is_found_by_its_name_the_newest_first(write, root):
    write(1, name="wide")
    newest = write(2, name="wide")
    write(3, name="narrow")
    assert find_run(root, "wide") == newest
    with pytest.raises(UserError, match=r"'deep' is not a run: .* make runs"):
        find_run(root, "deep")


def test_prune_lists_and_with_yes_deletes_all_but_the_newest_and_the_best(write, root, capsys):
    best = write(1, 0.99)
    old = [write(2, 0.5), write(3, None, state="failed", reason="")]
    old += [write(8, None, state="failed"), write(9, None, state="killed")]  # at their start
    new = [write(4, 0.7), write(5, 0.6)]
    trial = write(6, None, config={"trainer": {"fast_dev_run": True}})
    other = write(7, recipe="birds")
    everything = {*root.rglob("*")}
    assert ask("prune", "--keep", "2") == 0
    said = capsys.readouterr().out
    assert all(f"runs/digits/{folder.name}" in said for folder in (*old, trial))
    assert "5 of 9 runs would go and free 0.005 GB" in said
    assert "run the same command with YES=1" in said and "failed\n" in said
    assert max(map(len, said.splitlines())) <= 80 and {*root.rglob("*")} == everything
    assert ask("prune", "--keep", "2", "--yes") == 0
    assert "5 runs deleted, 0.005 GB freed" in capsys.readouterr().out
    assert not any(folder.exists() for folder in (*old, trial))
    assert all((folder / "weights").exists() for folder in (best, *new, other))
    assert ask("prune", "--keep", "2", "--yes") == 0 and "Nothing" in capsys.readouterr().out
    with pytest.raises(UserError, match="--keep is 0"):
        ask("prune", "--keep", "0")


def test_prune_keeps_runs_with_a_name_or_a_note(write):
    named, noted = write(1, 0.5, name="thesis"), write(2, 0.5, note="for the thesis")
    failed, old, new = write(3, None, state="failed", name="x"), write(4, 0.5), write(5, 0.9)
    assert ask("prune", "--keep", "1", "--yes") == 0
    kept = [folder.exists() for folder in (named, noted, failed, old, new)]
    assert kept == [True, True, False, False, True]


def test_prune_never_deletes_a_run_that_trains(write, capsys):
    training = write(1, state="running")
    elsewhere = write(2, state="running")  # on another computer: its lock is not seen here
    repeated = write(3)
    inside = write(4, folder=repeated / "reproduce" / "run", state="running")
    killed = write(5, state="running")
    for path in (killed, *killed.iterdir()):
        os.utime(path, (1e9, 1e9))
    write(6, 0.99)
    with locked(training), locked(inside):
        assert ask("prune", "--keep", "1", "--yes") == 0
    assert training.exists() and elsewhere.exists() and inside.exists() and not killed.exists()


def test_prune_beside_a_real_training_process_leaves_its_run(write, root, capsys):
    recipe = Path(__file__).parents[2] / "configs" / "digits.yaml"
    flags = ["fit", f"--config={recipe}", "--trainer.max_epochs=9999"]
    job = Job(flags, root / "runs" / "digits" / "2026-11-29_12-00-00")
    job.folder.mkdir(parents=True)
    for at in (1, 2):  # newer and better
        write(at, 1.1, started="2100-01-01T00:00:00+00:00")
    (process,) = start(job)
    deadline = time.monotonic() + 60
    while steps_done(job.folder) is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert ask("prune", "--keep", "1", "--yes") == 0
    process.terminate()
    assert wait([process]) == 143, log_of(job.folder)
    assert steps_done(job.folder) and "12-00-00" not in capsys.readouterr().out
    assert ask("prune", "--keep", "1", "--yes") == 0
    assert not job.folder.exists()


@pytest.mark.parametrize(
    ("metric", "mode", "best"), [("val/f1_macro", "max", 0.9), ("val/cost", "min", 0.1)]
)
def test_prune_keeps_the_best_by_each_metric(metric, mode, best, write):
    mine = {"metric": metric, "mode": mode, "format": ".4f"}
    by_mine = [write(at, score, best=mine) for at, score in enumerate((0.5, best, 0.5, best, 0.3))]
    by_accuracy = [write(10 + at, score) for at, score in enumerate((0.6, 0.8, 0.7))]
    newest = write(20, None)
    assert ask("prune", "--keep", "1", "--yes") == 0
    left = [folder for folder in (*by_mine, *by_accuracy) if folder.exists()]
    assert left == [by_mine[3], by_accuracy[1]] and newest.exists()  # of equal ones the newer


def test_a_run_that_begins_to_train_after_the_list_was_made_stays(write, root, capsys):
    folder = write(1)
    (old,) = runs_in(root)
    with locked(folder):
        assert not prune.delete(root, old)
    assert folder.exists() and "stays" in capsys.readouterr().out


def test_prune_deletes_nothing_outside_of_runs(write, root, tmp_path):
    """Links to runs, to recipes and to files in other places: these stay, whatever is deleted."""
    outside = [write(1, folder=tmp_path / "scratch" / "run")]
    outside.append(write(2, folder=tmp_path / "others" / "birds" / "run"))
    (root / "runs" / "digits").mkdir()
    (root / "runs" / "digits" / "linked").symlink_to(outside[0])
    (root / "runs" / "birds").symlink_to(tmp_path / "others" / "birds")
    old = write(3)
    (old / "data").symlink_to(outside[0])
    (old / "file").symlink_to(outside[1] / "weights")
    for at, recipe in ((4, "digits"), (5, "birds")):
        write(at, 0.99, recipe=recipe)
    assert ask("prune", "--keep", "1", "--yes") == 0
    assert not old.exists()
    assert all((folder / "weights").exists() for folder in outside)


def test_runs_in_a_linked_folder_are_deleted_there(write, root, tmp_path):
    (root / "runs").rmdir()
    (tmp_path / "disk").mkdir()
    (root / "runs").symlink_to(tmp_path / "disk")
    old = write(1, 0.1)
    write(2, 0.9)
    assert ask("prune", "--keep", "1", "--yes") == 0
    assert not old.exists() and len(list((tmp_path / "disk").glob("*/*"))) == 1


def compared(capsys: pytest.CaptureFixture[str], a: Path, b: Path, *words: str) -> str:
    assert ask("compare", str(a), str(b), *words) == 0
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 80
    return said


def test_compare_says_what_differs_in_code_settings_data_and_environment(write, capsys):
    a = write(1, 0.5, name="first")
    b = write(
        *(2, 0.6),
        rate=0.2,
        code="x = 1\ny = 2\n",
        data={"fingerprint": "g", "rows": {"train": 120}},
        versions={"torch": "2.12.0"},
        decisions={"data.batch_size": {"value": 96, "why": ""}},
    )
    said = compared(capsys, a, b)
    assert "code\n  src/package/networks.py  +1 -0\n" in said
    assert "settings\n  data.batch_size: 64 -> 96\n  model.learning_rate: 0.1 -> 0.2\n" in said
    assert "rows.train: 100 -> 120\n" in said and "environment\n  torch: 2.11.0 -> 2.12.0" in said
    assert "One run each can't tell" in said and "   first\n" in said
    assert "+y = 2" not in said and "\n+y = 2" in compared(capsys, a, b, "--diff")
    equal = compared(capsys, a, write(4, 0.5, rate=0.2))
    assert "The scores are equal." in equal and "nothing but the seed" not in equal
    same = compared(capsys, a, write(3, 0.5, seed=1))
    assert same.count(": the same") == 3 and "seed_everything: 0 -> 1" in same
    assert "differ in nothing but the seed" in same


def test_compare_names_the_run_that_is_not_given():
    with pytest.raises(UserError, match=r"expected also b, another run's folder or name\. All"):
        ask("compare", "runs/digits/a")


@pytest.mark.parametrize(
    ("a", "b", "said"),
    [
        ((0.90, 0.91, 0.92), (0.95, 0.96, 0.97), "b is better by 5.00% ± 2.27% (95%): more than"),
        ((0.90, 0.91, 0.92), (0.92, 0.92, 0.91), "b is better by 0.67% ± 1.85% (95%): no more"),
        ((0.90, 0.91, 0.92), (0.80,), "a is better by 11.00% ± 4.97% (95%): more than"),
        ((0.9,), (0.8,), "One run each can't tell"),
    ],
)
def test_scores_are_compared_by_the_spread_of_seeds(a, b, said, write, capsys):
    """The limits are those of Student's t-test with a pooled variance, computed by hand."""
    first, *_ = [write(at, score, seed=at) for at, score in enumerate(a)]
    second, *_ = [write(10 + at, score, seed=at, rate=0.2) for at, score in enumerate(b)]
    write(20, 0.1, seed=20, state="failed", reason="")  # not finished
    write(21, 0.1, seed=21, code="x = 2\n")
    write(22, 0.1, seed=22, data={"fingerprint": "g"})
    write(23, 0.1, seed=0)  # the same seed again is no other sample
    (write(24, 0.1, seed=24) / "source.zip").unlink()
    assert said in compared(capsys, first, second)


def test_a_run_that_kept_only_its_best_weights_says_so_when_it_is_resumed(root):
    (root / "checkpoints").mkdir()
    (root / "checkpoints" / "best.ckpt").touch()
    kept = {"config": {"checkpoints": {"keep": "best"}}, "state": "finished"}
    (root / "run.json").write_text(json.dumps(kept))
    with pytest.raises(UserError, match=r"only its best weights .* --model\.pretrained"):
        find_checkpoint(root, "last", "previous")
    assert find_checkpoint(root, "best", "last").name == "best.ckpt"
