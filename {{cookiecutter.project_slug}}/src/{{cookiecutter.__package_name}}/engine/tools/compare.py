"""Say what differs between two runs, and whether their scores differ by more than seeds do.

Runs that differ only in the seed repeat one configuration: all of them in runs/ are taken for the
comparison of the scores.
"""

import argparse
import difflib
import math
import statistics
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from ..cli.project import Project
from ..cli.verbs import WIDTH
from ..errors import UserError
from ..paths import project_root, shown
from ..run.differences import IGNORED, changed_environment, flat
from ..run.folder import find_run
from ..run.runs import Run, is_trial, read_record, runs_in

SEEDS = {"seed_everything", "data.seed"}
MOST = 15  # lines of a part that are shown
# Student's t of 95% (two-sided) by degrees of freedom: Student, "The probable error of a mean",
# Biometrika 6, 1908. Between two entries, the larger one is used.
T95 = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 9: 2.26, 10: 2.23}
T95 |= {12: 2.18, 15: 2.13, 20: 2.09, 30: 2.04, 60: 2.00, 120: 1.98}


def main(project: Project, options: argparse.Namespace, flags: list[str]) -> int:
    root = project_root()
    folders = [find_run(root, name) for name in (options.a, options.b)]
    a, b = (Run(folder, read_record(folder / "run.json")) for folder in folders)
    for letter, run in (("a", a), ("b", b)):
        print(f"{letter}  {shown(run.folder)}")
        if run.label:
            print(_fit(f"   {run.label}"))
    settings = changed(settings_of(a), settings_of(b))
    environment = [
        (key, was, is_) for (_, key), was, is_ in changed_environment(a.record, b.record)
    ]
    parts = {
        "code": list(changed_code(a, b)),
        "settings": [f"{key}: {_short(was)} -> {_short(is_)}" for key, was, is_ in settings],
        "data": list(changed_data(a, b)),
        "environment": [f"{key}: {_short(was)} -> {_short(is_)}" for key, was, is_ in environment],
    }
    for name, lines in parts.items():
        print(f"\n{name}{'' if lines else ': the same'}")
        for line in lines[:MOST]:
            print(_fit(f"  {line}"))
        if len(lines) > MOST:
            print(f"  … and {len(lines) - MOST} more")
    print("\nscore")
    for line in compare_scores(a, b, list(runs_in(root))):
        print(f"  {line}")
    if options.diff:
        print("\n" + "\n".join(code_diff(a, b)))
    return 0


def _fit(line: str) -> str:
    return line if len(line) <= WIDTH else f"{line[: WIDTH - 1]}…"


def _short(value: Any) -> str:
    return "unset" if value is None else str(value)


def _start(run: Run) -> dict[str, Any]:
    """Return what was recorded when the run last started or resumed."""
    return (run.record.get("resumes") or [run.record])[-1]


def settings_of(run: Run) -> dict[str, Any]:
    """Return the settings of a run's newest start that affect its result, decided ones too."""
    start = _start(run)
    decided = {
        key: decision["value"]
        for key, decision in start.get("decisions", {}).items()
        if isinstance(decision, dict) and "value" in decision
    }
    found = dict(flat(start.get("config", {}))) | decided
    return {
        key: value
        for key, value in found.items()
        if not key.startswith((*IGNORED, "OMP_")) and value is not None
    }


def changed(a: dict[str, Any], b: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """Return (key, value in a, value in b) of what differs."""
    keys = sorted(a.keys() | b.keys())
    return [(key, a.get(key), b.get(key)) for key in keys if a.get(key) != b.get(key)]


def sources(run: Run) -> dict[str, str]:
    """Return the text of each file below src/ that a run used.

    Raises UserError if its archive is missing or damaged.
    """
    archive = run.folder / _start(run).get("source", {}).get("zip", "source.zip")
    try:
        with zipfile.ZipFile(archive) as pack:
            names = [name for name in pack.namelist() if name.startswith("src/")]
            return {name: pack.read(name).decode(errors="replace") for name in names}
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{shown(archive)} can't be read: {error}. Restore it.") from error


def same_code(a: Run, b: Run) -> bool:
    """Return whether two runs used the same files below src/."""
    digests = [_start(run).get("source", {}).get("sha256") for run in (a, b)]
    return (digests[0] is not None and digests[0] == digests[1]) or sources(a) == sources(b)


def changed_code(a: Run, b: Run) -> Iterator[str]:
    """Yield each file below src/ that differs, with the number of lines added and removed."""
    if same_code(a, b):
        return
    was, is_ = sources(a), sources(b)
    for name in sorted(was.keys() | is_.keys()):
        lines = list(_diff(name, was, is_))[2:]
        if lines:
            added, removed = (sum(line[0] == sign for line in lines) for sign in "+-")
            yield f"{name}  +{added} -{removed}"


def code_diff(a: Run, b: Run) -> Iterator[str]:
    """Yield the lines of the difference of all files below src/, as `diff -u` prints them."""
    was, is_ = sources(a), sources(b)
    for name in sorted(was.keys() | is_.keys()):
        yield from _diff(name, was, is_)


def _diff(name: str, was: dict[str, str], is_: dict[str, str]) -> Iterator[str]:
    old, new = (some.get(name, "").splitlines() for some in (was, is_))
    yield from difflib.unified_diff(old, new, f"a/{name}", f"b/{name}", lineterm="")


def changed_data(a: Run, b: Run) -> Iterator[str]:
    """Yield how the data differ: by their digest, and what is recorded about them."""
    was, is_ = (run.record.get("data", {}) for run in (a, b))
    if was.get("fingerprint") == is_.get("fingerprint"):
        return
    yield "the content differs (SHA-256)"
    for key in ("name", "rows"):
        for name, before, now in changed(
            *(dict(flat({key: some.get(key)})) for some in (was, is_))
        ):
            yield f"{name}: {_short(before)} -> {_short(now)}"


def repetitions(run: Run, runs: list[Run]) -> dict[Any, float]:
    """Return the score of each seed of a run's configuration: of it and the finished others."""
    scores: dict[Any, float] = {}
    for other in [run, *(other for other in runs if _repeats(run, other))]:
        seed = settings_of(other).get("seed_everything")
        if seed not in scores and other.score is not None and other.score.value is not None:
            scores[seed] = other.score.value
    return scores


def _repeats(run: Run, other: Run) -> bool:
    """Return whether another run has finished that differs from a run at most in the seed."""
    if other.state != "finished" or is_trial(other.record.get("config")):
        return False
    settings = changed(settings_of(run), settings_of(other))
    if any(key not in SEEDS for key, _, _ in settings) or list(changed_data(run, other)):
        return False
    with suppress(UserError):  # its source is missing
        return same_code(run, other)
    return False


def compare_scores(a: Run, b: Run, runs: list[Run]) -> Iterator[str]:
    """Yield lines that say how two runs' configurations score, and what seeds explain of it."""
    for letter, run in (("a", a), ("b", b)):
        if run.score is None or run.score.value is None:
            yield f"{letter} has no score: its state is {run.state}, and no validation is recorded."
            return
    assert a.score is not None and b.score is not None
    if a.score.metric != b.score.metric:
        yield f"a has {a.score.metric}, b has {b.score.metric}: these can't be compared."
        return
    found = {letter: repetitions(run, runs) for letter, run in (("a", a), ("b", b))}
    yield f"{'':3}{a.score.metric}"
    for letter, scores in found.items():
        values = list(scores.values())
        spread = f" ± {a.score.shown(statistics.stdev(values))}" if len(values) > 1 else ""
        of = f"mean and deviation of {len(values)} seeds" if spread else "one seed"
        yield f"{letter}  {a.score.shown(statistics.mean(values))}{spread}  ({of})"
    if found["a"] == found["b"]:
        seeds = {settings_of(run).get("seed_everything") for run in (a, b)}
        only_seed = len(seeds) == 2 and _repeats(a, b)
        yield "The two differ in nothing but the seed." if only_seed else "The scores are equal."
        return
    apart = statistics.mean(found["b"].values()) - statistics.mean(found["a"].values())
    if (most := by_seeds(*(list(scores.values()) for scores in found.values()))) is None:
        yield "One run each can't tell whether seeds alone explain the difference. Train both"
        yield 'with several seeds: make train SEEDS="1 2 3"'
        return
    better = "b" if (apart > 0) == (a.score.mode == "max") else "a"
    verdict = "more than seeds explain" if abs(apart) > most else "no more than seeds explain"
    yield (
        f"{better} is better by {a.score.shown(abs(apart))} ± {a.score.shown(most)} (95%):"
        f" {verdict}."
    )


def by_seeds(a: list[float], b: list[float]) -> float | None:
    """Return by how much the means of two samples may differ by chance, at 95%; None if unknown.

    By Student's t-test, which takes the spread of both samples to be the same: so one of them may
    have a single value.
    """
    freedom = len(a) + len(b) - 2
    if freedom < 1:
        return None
    squares = sum((x - statistics.mean(some)) ** 2 for some in (a, b) for x in some)
    error = math.sqrt(squares / freedom * (1 / len(a) + 1 / len(b)))
    return T95[max(known for known in T95 if known <= freedom)] * error
