"""The metric that selects the best weights: the task's own, or the one that --best names."""

from typing import Any, Literal

from ..contract import Best, Rows
from ..errors import UserError, hint
from .checks import evaluating, first_row

# The words of a metric's name that say which end is best.
LOW = frozenset({"loss", "error", "mae", "mse", "rmse", "perplexity"})
HIGH = frozenset({"accuracy", "top5", "f1", "precision", "recall", "auroc", "map", "iou", "r2"})
HIGH |= {"matthews", "pearson", "spearman"}


def chosen_best(asked: str, own: Best, logged: list[str] | None) -> Best:
    """Return the metric that --best asks for, such as "val/loss" or "val/cost min".

    Args:
        asked: the metric's name, and min or max if the name doesn't say which is best.
        own: the task's own metric.
        logged: what validation logs, if that is known.

    Raises UserError for another name, or if it is not known which end is best.
    """
    metric, _, mode = asked.strip().partition(" ")
    if logged is not None and metric not in logged:
        close = hint(metric, logged) or hint(f"val/{metric}", logged)
        raise UserError(f"--best is '{metric}', but validation logs {', '.join(logged)}.{close}")
    known = own.mode if metric == own.metric else _mode(metric)
    if (mode or known) not in ("min", "max"):
        found = f"'{mode}'" if mode else "not known"
        raise UserError(
            f"--best is '{asked}': whether high or low is best is {found}; expected min or max,"
            f" such as --best '{metric} max'."
        )
    best = Best(metric, mode or known)  # type: ignore[arg-type]
    if metric == own.metric:
        return best._replace(format=own.format)
    return best._replace(format=".2%") if metric.endswith("/accuracy") else best


def _mode(metric: str) -> Literal["min", "max"] | None:
    words = set(metric.replace("/", "_").split("_"))
    if words & LOW:
        return "min"
    return "max" if words & HIGH else None


def logged_metrics(task: Any, rows: Rows) -> list[str] | None:
    """Return what a task's validation logs, such as "val/loss", from one row; None if unknown.

    It is unknown if scores() can't be measured on one row.
    """
    with evaluating(task):
        batch = first_row(task, rows)
        outputs = task.forward(batch)
        names = [*task.totals(outputs, batch), *task.eval_totals(outputs, batch)]
        try:
            predictions, targets = (
                part if part is None else part.cpu()
                for part in (task.predict(outputs), task.target(batch))
            )
            names += task.scores(predictions, targets)
        except Exception:  # of a metric that needs several rows, or rows of several classes
            return None
    return [f"val/{name}" for name in names]
