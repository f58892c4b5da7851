"""The texts that `predict` finds in a file of lines or a table."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..contract import Facts, Inputs
from ..data.rows import TensorRows
from ..errors import UserError
from ..plurals import counted
from .columns import Wanted, choose
from .module import SEQUENCES
from .names import find as position
from .names import join_names
from .read import MASKED, problem_of
from .table import texts_of
from .table_file import SUFFIXES, Layout, lines_of, open_table, problem_in
from .tokenizer import kept

Row = list[str] | str  # its text, or its two texts, or what is wrong with it


def find(place: Path, facts: Facts, settings: Mapping[str, Any]) -> Inputs:
    """Return the texts in a file, as tokens, cut to the length that the run was trained on.

    A .txt file has a text in each line. A table (.csv, .tsv, .jsonl, .parquet) has the columns of
    the training table, or those with the usual names, or those that data.options name.

    Raises UserError if the file has no texts, or lacks a column that the network needs, or if the
    network fills in masked tokens.
    """
    tokenizer, remarks, options = kept(), list[str](), settings.get("options") or {}
    if facts.extra.get("objective") == "masked":
        raise UserError(f"The run has no predictions for texts: it {MASKED}.")
    if tokenizer is None:
        raise UserError("This run was trained on tokens, without a tokenizer: it reads no texts.")
    if not place.is_file():
        raise UserError(f"{place} is not a file; expected one that ends in {', '.join(SUFFIXES)}.")
    width, longest = 1 + facts.extra["pair"], facts.extra["max_length"]
    in_lines = place.suffix.lower() == ".txt" and width == 1
    found = _lines(place, options)
    if not in_lines:
        found = _rows(place, options, _columns(options, facts), width, remarks)
    texts, problems = list[list[str]](), dict[int, str]()
    for i, row in enumerate(found):
        problem = row if isinstance(row, str) else next(filter(None, map(problem_of, row)), None)
        if problem is not None:
            problems[i] = problem
        texts.append([*row] if problem is None else [""] * width)
    if not texts:
        raise UserError(f"{place} holds no texts: add some.")
    first, *second = map(list, zip(*texts, strict=True))
    tokens = tokenizer.encode(first, second[0] if second else None, longest)
    cut = int((tokens.whole > tokens.lengths).sum())
    if cut:
        remarks.append(f"{cut:,} of {counted(tokens.n, 'text')} cut to {longest} tokens")
    batch = tokens.batch(tokenizer.padding_id)
    columns = {"row": range(1, tokens.n + 1), "text": first}
    columns |= {"second": second[0]} if second else {}
    rows = TensorRows(batch, batch.lengths, SEQUENCES)
    return Inputs(rows, columns, problems, tuple(remarks))


def _lines(place: Path, options: Mapping[str, Any]) -> Iterator[Row]:
    for line in lines_of(place, options.get("encoding") or "utf-8", quotes=False):
        yield problem_in(line) or [line.rstrip("\r\n")]


def _columns(options: Mapping[str, Any], facts: Facts) -> Wanted:
    """Return the columns to look for; those that only training named need not be there."""
    trained = tuple(facts.extra.get("columns", ()))
    text, second = options.get("text"), options.get("second")
    if text is not None and position(text, trained[:1]) is not None:
        text = None
    if second is not None and position(second, trained[1:]) is not None:
        second = None
    return Wanted(text, second, trained=trained)


def _rows(
    place: Path, options: Mapping[str, Any], wanted: Wanted, width: int, remarks: list[str]
) -> Iterator[Row]:
    """Yield the texts of each row of a table, `width` of them. Raises UserError."""
    layout = Layout(options.get("quotes"), options.get("encoding") or "utf-8")
    table = open_table(place, wanted.fits, layout)
    columns = choose(wanted, table.columns, place, remarks)
    if width == 2 and columns.second is None:
        raise UserError(
            f"{place} has one text a row, and the network was trained on pairs. Name the column of"
            " the second text with --data.options.second."
        )
    if width == 1 and columns.second is not None:
        name = table.columns[columns.second]
        remarks.append(f"{place.name}: {name!r} is not used: the network was trained on one text")
        columns = replace(columns, second=None)
    missing = [name for name in wanted.trained if position(name, table.columns) is None]
    if missing and wanted.text is None and wanted.second is None:
        used = " and ".join(map(repr, columns.of_texts(table.columns)))
        remarks.append(
            f"{place.name} has no column {join_names(missing)}, which training read: texts are read"
            f" from {used}"
        )
    for _, cells in table.rows():
        yield cells if isinstance(cells, str) else texts_of(cells, columns, table)
