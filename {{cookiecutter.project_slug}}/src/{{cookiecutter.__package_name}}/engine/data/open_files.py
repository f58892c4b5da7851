"""Open files: every worker of a loader needs some, and systems allow a process only so many."""

from ..errors import UserError
from ..plurals import counted, plural

PER_WORKER = 4  # pipes of a worker, in the training process
OTHERS = 64  # that libraries, logs and the data keep open
ENOUGH = 65536  # some systems have no hard limit, and refuse a larger number
FEW_OPEN_FILES = "Allow more (ulimit -n 4096, before the command), or set --data.workers lower."


def check_open_files(workers: int) -> None:
    """Raise UserError if this process may not open enough files for so many workers.

    First, the limit is raised as far as this process may. Without the check, some workers would
    start and others fail with pages of tracebacks.
    """
    allowed, needed = _raised_limit(), OTHERS + PER_WORKER * workers
    if workers and allowed is not None and needed > allowed:
        raise UserError(
            f"This process may have {allowed} open files, and {counted(workers, 'worker')}"
            f" {plural(workers, 'needs', 'need')} about {needed}. {FEW_OPEN_FILES}"
        )


def _raised_limit() -> int | None:
    """Raise this process's limit of open files to its hard limit; return it, None without one."""
    try:
        import resource
    except ImportError:  # not on this system
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = ENOUGH if hard == resource.RLIM_INFINITY else min(hard, ENOUGH)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return None if soft == resource.RLIM_INFINITY else soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):
        return soft
    return wanted
