"""Loading the task of a finished run with its best weights, without the data it was trained on."""

from pathlib import Path
from typing import Any, NamedTuple

from ..artifacts import artifacts_of
from ..cli.project import Project
from ..contract import Facts
from ..errors import UserError
from ..model.checks import differing, of_another_network, read_saved
from ..paths import project_root, shown
from ..ranks import is_rank_zero
from ..run.checkpoint_files import find_checkpoint
from ..run.record import facts_in
from ..run.resume_checks import warn_of_newer_source
from ..task import Task


class Trained(NamedTuple):
    """A task on the CPU, and the facts of the data and the classes that it was trained on."""

    task: Task
    facts: Facts
    classes: list[str]


def load_trained(project: Project, folder: Path) -> Trained:
    """Return the task of a run. Warn if the source has changed since it was trained.

    Raises UserError if the run has no intact checkpoint, its weights are not finite, or they do not
    fit the current source.
    """
    if is_rank_zero():
        warn_of_newer_source(folder, project_root())
    saved = read_saved(find_checkpoint(folder, "best", "last"), "--run")
    facts = facts_in(folder)
    with artifacts_of(folder):
        task = _task_of(project, saved, shown(folder))
    if not all(t.isfinite().all() for t in task.state_dict().values() if t.is_floating_point()):
        raise UserError(
            f"{shown(folder)} has NaN weights: its training diverged. Choose another run."
        )
    return Trained(task, facts, list(saved.get("classes") or facts.classes))


def _task_of(project: Project, saved: dict[str, Any], run: str) -> Task:
    settings = {k: v for k, v in saved.get("hyper_parameters", {}).items() if not k.startswith("_")}
    try:
        task = project.task_class(**settings)
        if differences := differing(saved["state_dict"], task.state_dict()):
            raise of_another_network(differences)
        task.load_state_dict(saved["state_dict"])
    except (TypeError, RuntimeError) as error:  # other arguments or other layers
        raise UserError(
            f"The weights of {run} do not fit this source: {' '.join(str(error).split())[:200]} …"
            " Choose a run of this source, or use the run's own: source.zip in its folder."
        ) from error
    return task
