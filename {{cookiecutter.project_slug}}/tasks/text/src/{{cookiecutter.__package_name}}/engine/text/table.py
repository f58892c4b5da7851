"""Your own texts: a table of them, or a folder with one for each split."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from .. import paths
from ..errors import UserError
from ..paths import resolve_path
from ..plurals import counted, plural
from .columns import Columns, Wanted, choose, missing_column
from .division import contents, divide, of_contradictions, of_copies
from .entries import Entries, Problems
from .labels import UNLABELLED, are_numbers, as_word, classes_of, problem_of_label
from .names import SPLITS, shown, split_of
from .splits import Label, Texts, TextSplits
from .table_file import SUFFIXES, Layout, TableFile, open_table


def table(
    path: str,
    text: str | None = None,
    second: str | None = None,
    label: str | None = None,
    split: str | None = None,
    val_share: float = 0.1,
    test_share: float = 0.1,
    numbers: bool | None = None,
    metrics: Sequence[str] | str = (),
    quotes: bool | None = None,
    encoding: str = "utf-8",
    skip_bad: bool = False,
) -> TextSplits:
    """Return the texts of a file, or of a folder with the files train, val and test.

    The files are .csv, .tsv, .jsonl or .parquet; the first line of .csv and .tsv names the columns.
    `text`, `second` (of pairs), `label` and `split` name the columns with other names than the
    usual ones. Without val, `val_share` of each class's training texts is used for validation.
    Without any split, `test_share` of them is used for the test too. Texts are chosen by their
    content: the choice depends neither on their order nor on a seed. Labels are classes, or
    `numbers`; unless that is set, they are numbers if most are, some with a fraction. `metrics`
    names more of them than the usual ones: see metrics.py. `quotes` enclose cells of .csv, and are
    letters in .tsv, unless set.

    Raises UserError if the texts can't be trained on. Rows that can't be used raise UserError too,
    unless `skip_bad` leaves them out.
    """
    place, remarks = resolve_path(path), list[str]()
    wanted, layout = Wanted(text, second, label, split), Layout(quotes, encoding)
    entries, problems = Entries(), Problems()
    for part, file in files_of(place):
        opened = open_table(file, wanted.fits, layout)
        columns = choose(wanted, opened.columns, file, remarks)
        if label is not None and columns.label is None and part != "test":
            raise missing_column("label", repr(label), opened.columns, file)
        add_rows(entries, problems, opened, columns, part)
    learns_numbers = check_labels(entries, problems, remarks, numbers)
    problems.settle(entries.n, place, skip_bad, remarks)
    names = [metrics] if isinstance(metrics, str) else metrics
    return from_entries(entries, place, val_share, test_share, learns_numbers, remarks, names)


def files_of(place: Path) -> list[tuple[str, Path]]:
    """Return the files of a data set with their splits; "" if their rows say it.

    In a folder, a file's name is that of a split, as in train.csv, or in
    train-00000-of-00002.parquet for a part of one.
    """
    if place.is_file():
        return [("", place)]
    found = list[tuple[str, Path]]()
    for file in sorted(place.iterdir()):
        name = re.sub(r"-\d+-of-\d+$", "", file.stem)
        part = split_of(name)
        if part is not None and file.suffix.lower() in SUFFIXES:
            found.append((part, file))
    kinds = {(part, file.suffix.lower()) for part, file in found}
    for part in SPLITS:
        same = [file.name for other, file in found if other == part]
        if len({suffix for other, suffix in kinds if other == part}) > 1:
            raise UserError(f"{place} has {' and '.join(same)}: keep one of them for {part}.")
    if "train" not in {part for part, _ in found}:
        raise UserError(
            f"{place} has no training texts: expected a file train.csv, .tsv, .jsonl or .parquet"
            " (and val and test), or the path of one file."
        )
    return found


def add_rows(
    entries: Entries, problems: Problems, file: TableFile, columns: Columns, part: str
) -> None:
    """Add the rows of a file, which are of the split `part`; "" if its rows say it."""
    path = paths.shown(file.path)
    pairs = columns.second is not None
    if entries.n and pairs != bool(entries.second):
        found, before = ("two texts", "one") if pairs else ("one text", "two")
        raise UserError(
            f"{path} has {found} a row, and the files before it {before}: expected the same columns"
            " in each file of a data set."
        )
    if part in ("train", ""):
        entries.columns = columns.of_texts(file.columns)
    for line, cells in file.rows():
        place = f"{path}:{line}"
        if isinstance(cells, str):
            problems.add(place, cells)
            continue
        chosen = part or _cell(cells, columns.split)
        named = part or split_of(chosen)
        texts = texts_of(cells, columns, file)
        if chosen and named is None:
            expected = ", ".join(SPLITS)
            problems.add(place, f"has the split {shown(chosen)}; expected {expected}")
        elif isinstance(texts, str):
            problems.add(place, texts)
        elif columns.label is not None and (several := problem_of_label(cells[columns.label])):
            problems.add(place, several)
        else:
            entries.add(texts, _cell(cells, columns.label), named or "", place)


def texts_of(cells: list[Any], columns: Columns, file: TableFile) -> list[str] | str:
    """Return the text of a row or its two texts, or what is wrong with them."""
    texts = []
    for column in (columns.text, columns.second):
        if column is None:
            continue
        text = cells[column]
        if not isinstance(text, str) or not text.strip():
            found = "no text" if text is None or text == "" else shown(str(text)) + " and no text"
            return f"has {found} in the column {file.columns[column]!r}"
        texts.append(text)
    return texts


def _cell(cells: list[Any], column: int | None) -> str:
    return "" if column is None else as_word(cells[column])


def from_entries(
    entries: Entries,
    place: Path,
    val_share: float,
    test_share: float,
    numbers: bool,
    remarks: list[str],
    metrics: Iterable[str] = (),
) -> TextSplits:
    """Return splits of the rows that were read and checked; `place` names them in errors."""
    if not 0 <= val_share < 1 or not 0 <= test_share < 1 or val_share + test_share >= 1:
        raise UserError(
            f"data.options: val_share is {val_share} and test_share {test_share}; expected shares,"
            " below 1 together."
        )
    digests = contents(entries)
    remarks += of_contradictions(entries, digests, entries.of("train") + entries.of(""))
    _complete(entries, digests, val_share, test_share, numbers, remarks)
    remarks += of_copies(entries, digests)
    if not entries.of("train"):
        raise UserError(f"{place} has no training texts: add some.")
    classes: tuple[str, ...] = ()
    labels: list[Label] | None = None
    if numbers:
        labels = [float(label) for label in entries.labels]
    elif any(entries.labels):
        classes, labels = classes_of(entries, place, remarks), list(entries.labels)
    if not entries.of("val"):
        raise UserError(
            f"{place} leaves no validation texts: add some, or set --data.options.val_share."
        )
    parts = (_part(entries, labels, split) for split in SPLITS)
    remarks = list(dict.fromkeys(remarks))
    return TextSplits(
        *parts,
        classes=classes,
        metrics=tuple(metrics),
        remarks=tuple(remarks),
        columns=entries.columns,
    )


def _part(entries: Entries, labels: list[Label] | None, split: str) -> Texts | None:
    """Return the texts of a split; None if it has none."""
    rows = entries.of(split)
    if not rows:
        return None
    first, places = ([column[i] for i in rows] for column in (entries.first, entries.places))
    second = [entries.second[i] for i in rows] if entries.second else None
    return Texts(first, second, None if labels is None else [labels[i] for i in rows], places)


def check_labels(
    entries: Entries, problems: Problems, remarks: list[str], numbers: bool | None
) -> bool:
    """Return whether the labels are numbers, as `numbers` says or, if it is None, as they look.

    Leaves out a test split without labels. If only some other rows have none, or one that is no
    number although labels are numbers, these are problems.
    """
    test = entries.of("test")
    if test and {entries.labels[i] for i in test} <= {"", UNLABELLED}:
        first = entries.places[test[0]]
        none = plural(len(test), "has no label", "have no labels")
        they = plural(len(test), "it is", "they are")
        remarks.append(f"the {counted(len(test), 'test text')} {none} ({first}): {they} not used")
        entries.remove(test)
    missing = [i for i, label in enumerate(entries.labels) if not label]
    if len(missing) == entries.n:
        return False  # tokens can be masked without labels
    for i in missing:
        problems.add(entries.places[i], "has no label")
    entries.remove(missing)
    return are_numbers(entries, problems, remarks, numbers)


def _complete(
    entries: Entries,
    digests: list[str],
    val_share: float,
    test_share: float,
    numbers: bool,
    remarks: list[str],
) -> None:
    """Give each row a split, and say how given splits are completed."""
    unassigned = entries.of("")
    for i in unassigned:
        entries.splits[i] = "train"
    shares = {"test": test_share if len(unassigned) == entries.n else 0.0}
    shares["val"] = 0.0 if entries.of("val") else val_share
    if len(unassigned) < entries.n:
        if unassigned:
            n = len(unassigned)
            remarks.append(
                f"{n:,} of {entries.n:,} texts {plural(n, 'has', 'have')} no split:"
                f" {plural(n, 'it is', 'they are')} taken for train"
            )
        if shares["val"]:
            share = f"{shares['val']:.0%}"
            remarks.append(f"no validation split is given: {share} of train is used for it")
    if any(shares.values()):
        divide(entries, digests, shares, by_label=not numbers)
