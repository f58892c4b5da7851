"""What went wrong outside of the code, and what to do about it: errors that have a known mend."""

import errno
import re

from lightning.fabric.utilities.exceptions import MisconfigurationException

from .memory import out_of_memory

# Of Lightning, about a seed and about a strategy.
OUTSIDE_OUR_CODE = ("is not in bounds", "You selected an invalid")


def explain(error: BaseException) -> str | None:
    """Return a page on an error that its reader can mend, or None: then it needs its traceback."""
    if cause := out_of_memory(error):
        notes = getattr(error, "__notes__", None) or [f"out of GPU memory: {cause}"]
        return "\n".join(notes)
    if isinstance(error, (MisconfigurationException, UnicodeDecodeError)):
        return " ".join(str(error).split())
    if isinstance(error, ValueError) and any(words in str(error) for words in OUTSIDE_OUR_CODE):
        return " ".join(str(error).split())
    if re.search("Connection (closed|reset) by peer", str(error)):  # gloo; NCCL waits for its end
        return "another process of this run has ended; it says why, unless the system ended it."
    if "does not have a deterministic implementation" in str(error):
        return (
            f"{str(error).split(' ')[0]} adds up in another order each time on a GPU. Train without"
            " the promise of the same bits: --trainer.deterministic warn"
        )
    if isinstance(error, OSError) and error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        mend = "Make it writable, or work on a copy of the folder."
        return f"{error.filename}: {error.strerror}. {mend}"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "the disk is full. Free space, then go on with: make resume"
    if "DataLoader worker" in str(error):
        return (
            f"{str(error).splitlines()[0]} It was ended by the system, mostly for want of memory:"
            " take fewer workers with --data.workers, or --data.prefetch 2, then: make resume"
        )
    return None
