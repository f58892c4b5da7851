"""The tasks of GLUE, read from the folders in which they are published.

Wang et al., "GLUE: A Multi-Task Benchmark and Analysis Platform for Natural Language
Understanding", ICLR 2019. Its TSV files have no quoting: quotes are letters. A few published rows
have another number of tabs; they are left out, as others leave them out.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from ..paths import resolve_path
from .columns import Wanted, choose
from .entries import Entries, Problems
from .splits import TextSplits
from .table import add_rows, check_labels, from_entries
from .table_file import Layout, open_table

TSV = {"train": "train.tsv", "val": "dev.tsv", "test": "test.tsv"}
MATCHED = {"train": "train.tsv", "val": "dev_matched.tsv", "test": "test_matched.tsv"}
MISMATCHED = {"train": "train.tsv", "val": "dev_mismatched.tsv", "test": "test_mismatched.tsv"}
PARAPHRASES = {"train": "msr_paraphrase_train.txt", "test": "msr_paraphrase_test.txt"}
ADVICE = "Put the published files there again."
MOST_LEFT_OUT = 0.01  # share of the rows: with more, the files are not what they should be


@dataclass(frozen=True)
class Task:
    """How a task is published.

    `folder` is the name of its folder. `header` names the columns of train and dev if their files
    don't.
    """

    folder: str
    metrics: tuple[str, ...]
    text: str
    second: str | None
    label: str
    files: Mapping[str, str]
    header: tuple[str, ...] | None = None
    numbers: bool = False


COLA_COLUMNS = ("source", "label", "author's mark", "sentence")
BOTH = "sentence1", "sentence2"
MNLI = *BOTH, "gold_label"
MRPC = "#1 String", "#2 String", "Quality"
TASKS = {
    "cola": Task("CoLA", ("matthews",), "sentence", None, "label", TSV, COLA_COLUMNS),
    "sst2": Task("SST-2", ("accuracy",), "sentence", None, "label", TSV),
    "mrpc": Task("MRPC", ("accuracy", "f1"), *MRPC, TSV),
    "stsb": Task("STS-B", ("pearson", "spearman"), *BOTH, "score", TSV, numbers=True),
    "qqp": Task("QQP", ("accuracy", "f1"), "question1", "question2", "is_duplicate", TSV),
    "mnli": Task("MNLI", ("accuracy",), *MNLI, MATCHED),
    "mnli_mismatched": Task("MNLI", ("accuracy",), *MNLI, MISMATCHED),
    "qnli": Task("QNLI", ("accuracy",), "question", "sentence", "label", TSV),
    "rte": Task("RTE", ("accuracy",), *BOTH, "label", TSV),
    "wnli": Task("WNLI", ("accuracy",), *BOTH, "label", TSV),
}


def glue(task: str, path: str = "data", val_share: float = 0.1) -> TextSplits:
    """Return the texts of one of GLUE's tasks: cola, sst2, mrpc, stsb, qqp, mnli, qnli, rte, wnli.

    `path` is the task's folder, such as MRPC, or the one above it. mnli_mismatched validates on the
    other genres. For mrpc, Microsoft's own msr_paraphrase_train.txt and msr_paraphrase_test.txt
    will do: then `val_share` of the training pairs is used for validation. GLUE publishes no labels
    of its test sets, so that such a data set has no test split.

    Raises UserError if the task is unknown, or its files are missing or not as published.
    """
    name = "".join(letter for letter in task.lower() if letter.isalnum() or letter == "_")
    if name not in TASKS:
        raise UserError(
            f"data.options.task is '{task}', which is unknown. Known: {', '.join(TASKS)}."
        )
    described = TASKS[name]
    files = _files(described, path)
    entries, problems, remarks = Entries(), Problems(), list[str]()
    for split, file in files.items():
        _add(entries, problems, described, split, file)
    folder = files["train"].parent
    numbers = check_labels(entries, problems, remarks, described.numbers)
    skip_bad = problems.count <= MOST_LEFT_OUT * entries.n
    problems.settle(entries.n, folder, skip_bad, remarks, ADVICE)
    return from_entries(entries, folder, val_share, 0.0, numbers, remarks, described.metrics)


def _files(task: Task, path: str) -> dict[str, Path]:
    """Return the files of the splits. Raises UserError if one of train and val is missing."""
    layouts = [task.files]
    if task.folder == "MRPC":
        layouts.append(PARAPHRASES)
    above = resolve_path(path, must_exist=False)
    for folder in (above / task.folder, above):
        for layout in layouts:
            found = {split: folder / name for split, name in layout.items()}
            found = {split: file for split, file in found.items() if file.is_file()}
            if "train" in found and ("val" in found or layout is PARAPHRASES):
                own = folder / PARAPHRASES["test"]
                if layout is not PARAPHRASES and len(layouts) > 1 and own.is_file():
                    found["test"] = own  # the same pairs as test.tsv, with labels
                return found
    expected = " or ".join(
        " and ".join(layout[split] for split in ("train", "val") if split in layout)
        for layout in layouts
    )
    raise UserError(
        f"{above / task.folder} has no {expected}, the files in which {task.folder} is published."
        " Put them there, or set --data.options.path."
    )


def _add(entries: Entries, problems: Problems, task: Task, split: str, file: Path) -> None:
    """Add the rows of a file. Test files have a first line with names, and may have no labels."""
    header = None if split == "test" else task.header
    wanted = Wanted(task.text, task.second, task.label)
    layout = Layout(quotes=False, columns=header)
    opened = open_table(file, wanted.fits, layout)
    columns = choose(wanted, opened.columns, file, [])
    if columns.label is None and split != "test":
        raise UserError(
            f"{file} has the columns {', '.join(opened.columns)}; expected {task.label}, with the"
            f" labels, as {task.folder} is published."
        )
    add_rows(entries, problems, opened, columns, split)
