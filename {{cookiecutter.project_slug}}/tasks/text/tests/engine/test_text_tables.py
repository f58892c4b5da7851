"""Tables of texts as people's programs write them: read as they were meant, or with a line."""

import csv
import inspect
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from {{ cookiecutter.__package_name }}.engine.errors import UserError
from {{ cookiecutter.__package_name }}.engine.paths import project_root
from {{ cookiecutter.__package_name }}.engine.text.splits import Texts, TextSplits
from {{ cookiecutter.__package_name }}.engine.text.table import table

Row = dict[str, object]


def rows(n: int = 60, start: int = 0) -> list[Row]:
    """Texts of two classes, each with a comma, a quote and a letter beyond ASCII."""
    return [
        {"text": f'Text {i}, "größer"', "label": "odd" if i % 2 else "even"}
        for i in range(start, start + n)
    ]


def as_csv(given: list[Row], separator: str = ",", quoting: Any = csv.QUOTE_MINIMAL) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(
        text, list(given[0]), delimiter=separator, lineterminator="\n", quoting=quoting
    )
    writer.writeheader()
    writer.writerows(given)
    return text.getvalue()


def as_tsv(given: list[Row]) -> str:
    """Without quoting, as GLUE publishes its files."""
    lines = [list(given[0]), *(row.values() for row in given)]
    return "".join("\t".join(map(str, cells)) + "\n" for cells in lines)


def as_json(given: list[Row]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in given)


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., TextSplits]:
    """Write content into a file and read it."""

    def write_and_read(content: str | bytes, name: str = "texts.csv", **options) -> TextSplits:
        file = tmp_path / name
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return table(str(file), **options)

    return write_and_read


def every(splits: TextSplits) -> dict[str, object]:
    """Return the label of each text of all splits."""
    parts = [part for part in (splits.train, splits.val, splits.test) if part is not None]
    return {
        text: label for part in parts for text, label in zip(part.first, part.labels, strict=True)
    }


EXPECTED = {row["text"]: row["label"] for row in rows()}


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (as_csv(rows()), "a.csv"),
        (as_csv(rows(), ";"), "a.csv"),
        (as_csv(rows(), "\t"), "a.txt"),
        (as_csv(rows(), quoting=csv.QUOTE_ALL), "a.csv"),
        (as_csv(rows(), ";", quoting=csv.QUOTE_ALL), "a.csv"),
        (as_tsv(rows()), "a.tsv"),
        (as_json(rows()), "a.jsonl"),
        (as_csv(rows()).encode("utf-8-sig"), "a.csv"),
        (as_csv(rows()).encode("utf-16"), "a.csv"),
        (as_csv(rows()).replace("\n", "\r\n"), "a.csv"),
        (as_tsv(rows()).replace("\n", "\r\n"), "a.tsv"),
        (as_json(rows()).encode("utf-8-sig"), "a.jsonl"),
    ],
)
def test_a_table_is_read_in_each_format(content, name, read):
    splits = read(content, name)
    assert every(splits) == EXPECTED
    assert splits.classes == ("even", "odd") and splits.train.second is None
    assert not splits.remarks


def test_parquet_is_read(tmp_path):
    import pyarrow
    from pyarrow.parquet import write_table

    columns = {name: [row[name] for row in rows()] for name in ("text", "label")}
    write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    assert every(table(str(tmp_path / "a.parquet"))) == EXPECTED
    (tmp_path / "a.parquet").write_bytes(b"PAR1, but no more")
    with pytest.raises(UserError, match=r"a\.parquet can't be read as Parquet"):
        table(str(tmp_path / "a.parquet"))


def test_a_cell_in_quotes_may_have_several_lines_and_errors_name_the_first(read):
    content = as_csv([{"text": "two\nlines", "label": "odd"}, *rows()])
    assert every(read(content))["two\nlines"] == "odd"
    with pytest.raises(UserError, match=r"texts\.csv:4 has 1 cell; expected 2: 'text', 'label'"):
        read(content.replace(',odd\n"Text 0', ',odd\nlost\n"Text 0', 1))


def test_quotes_are_letters_in_tsv_and_where_the_settings_say_so(read):
    content = as_tsv([{"text": '"One quote', "label": "odd"}, *rows()])
    assert every(read(content, "a.tsv"))['"One quote'] == "odd"
    with pytest.raises(UserError, match=r"a\.txt:2 can't be split into cells at '\\t'"):
        read(content, "a.txt")
    assert every(read(content, "a.txt", quotes=False))['"One quote'] == "odd"


def test_columns_are_named_by_options(read):
    given = [{"q": f"q {i}", "a": f"a {i}", "right": i % 2, "id": i} for i in range(40)]
    splits = read(as_csv(given), text="q", second="A", label="right")
    assert splits.classes == ("0", "1")
    assert splits.train.second == [text.replace("q", "a") for text in splits.train.first]
    assert splits.remarks == ("texts.csv: texts are read from 'q' and 'a'; columns not used: 'id'",)
    with pytest.raises(UserError, match="has the columns 'q', 'a', 'right', 'id'; expected one of"):
        read(as_csv(given))
    for option in ("text", "second", "label", "split"):
        names = {"text": "q", option: "nothing"}
        message = f"expected 'nothing'. Name the column with --data.options.{option}"
        with pytest.raises(UserError, match=message):
            read(as_csv(given), **names)


def test_a_column_has_one_meaning(read):
    with pytest.raises(UserError, match="the column 'label' would be both second and label"):
        read(as_csv(rows()), second="label")


def test_more_metrics_are_named_by_an_option(read):
    assert read(as_csv(rows()), metrics="matthews").metrics == ("matthews",)
    assert read(as_csv(rows()), metrics=["f1", "matthews"]).metrics == ("f1", "matthews")


def test_numbers_with_fractions_are_numbers_and_whole_ones_are_classes(read):
    scores = [{"text": f"t {i}", "score": i / 4} for i in range(40)]
    splits = read(as_csv(scores))
    assert splits.classes == () and sorted(every(splits).values()) == [i / 4 for i in range(40)]
    stars = [{"text": f"t {i}", "stars": i % 11} for i in range(80)]
    assert read(as_csv(stars), label="stars").classes == tuple(map(str, range(11)))
    assert read(as_csv(stars), label="stars", numbers=True).classes == ()
    assert read(as_json(stars), "a.jsonl", label="stars").classes == tuple(map(str, range(11)))
    with pytest.raises(UserError, match=r"texts.csv:2 has the label 'even'; expected a number"):
        read(as_csv(rows()), numbers=True)


SOME_OTHERS = {7: "NA", 30: "k.A.", 41: "2,43", 50: "nan"}


def rated(others: dict[int, str] = SOME_OTHERS) -> str:
    """A table of numbers with two digits after the point, except a few cells."""
    return as_csv([{"text": f"t {i}", "label": others.get(i, f"{i / 8:.2f}")} for i in range(60)])


def test_labels_of_which_most_are_numbers_with_fractions_are_no_classes(read):
    with pytest.raises(UserError, match=r"^\S*: 4 of 60 rows can't be used:\n") as error:
        read(rated())
    first, *_, advice = str(error.value).splitlines()[1:]
    assert first.endswith("texts.csv:9 has the label 'NA'; expected a number")
    assert "43 has the label '2,43'; expected a number with a decimal point" in str(error.value)
    assert advice.startswith("Fix or remove such rows, or leave them out with --data.options.skip")
    assert advice.endswith(
        "57 of 60 labels are numbers. If they are classes, set --data.options.numbers false."
    )
    with pytest.raises(UserError, match=r"texts.csv:9 has the label 'NA'; expected a number\. Fix"):
        read(rated({7: "NA"}))
    classes = [row | {"label": f"3.{i % 4}"} for i, row in enumerate(rows())]
    classes[0]["label"], classes[1]["label"] = "other", "other"
    assert read(as_csv(classes), numbers=False).classes == ("3.0", "3.1", "3.2", "3.3", "other")


def test_a_table_with_decimal_commas_is_no_table_of_classes(read):
    content = as_csv([{"text": f"t {i}", "label": f"{i % 9},5"} for i in range(60)])
    with pytest.raises(UserError, match="2 has the label '0,5'; expected a number with a decimal"):
        read(content)
    with pytest.raises(UserError, match=r"texts\.csv: no row can be used:\n"):
        read(content, skip_bad=True)


@pytest.mark.parametrize("numbers", [None, True])
def test_rows_whose_label_is_no_number_are_left_out_if_the_settings_say_so(numbers, read):
    splits = read(rated(), numbers=numbers, skip_bad=True)
    kept = [round(i / 8, 2) for i in range(60) if i not in SOME_OTHERS]
    assert splits.classes == () and sorted(every(splits).values()) == kept
    said, *lines = splits.remarks[0].splitlines()
    assert said == "4 of 60 rows left out:"
    assert [int(re.search(r":(\d+) has", line)[1]) - 2 for line in lines] == [*SOME_OTHERS]


def test_ratings_that_are_taken_for_classes_are_noted_with_the_flag_for_numbers(read):
    rating = [{"text": f"t {i}", "label": i % 7 + 1} for i in range(140)]
    (remark,) = read(as_csv(rating)).remarks
    assert remark == (
        "the labels are taken for classes, 7 of which are whole numbers, such as 1. To learn"
        " numbers instead, set --data.options.numbers true"
    )
    assert not read(as_csv(rating), numbers=False).remarks
    assert not read(as_csv([row | {"label": row["label"] % 5} for row in rating])).remarks
    rating[100]["label"] = "NA"
    noted, unmeasured = read(as_csv(rating)).remarks
    assert noted == remark
    assert unmeasured == (
        "the class 'NA' has no validation texts, so validation does not measure it"
    )


def test_the_documentation_lists_the_options_of_a_table_with_their_defaults():
    text = (project_root() / "docs" / "data.md").read_text()
    _, _, section = text.partition("\n## Options\n")
    found = dict(re.findall(r"^\| `(\w+)` \| (.+?) \|", section.split("\n## ")[0], re.MULTILINE))
    words = {inspect.Parameter.empty: "required", None: "unset", (): "none", False: "`false`"}
    parameters = inspect.signature(table).parameters.values()
    assert found == {p.name: words.get(p.default, f"`{p.default}`") for p in parameters}


def test_texts_are_divided_by_their_content_and_equal_texts_stay_together(read):
    splits = read(as_csv(rows(200)))
    assert splits.rows == {"train": 160, "val": 20, "test": 20}
    assert splits.val.labels.count("odd") == 10
    turned = read(as_csv(rows(200)[::-1]))
    assert sorted(turned.val.first) == sorted(splits.val.first)
    double = read(as_csv([*rows(200), *rows(200)]))
    assert sorted(double.test.first) == sorted(2 * splits.test.first)
    assert not double.remarks


def test_a_folder_has_a_file_for_each_split(tmp_path):
    (tmp_path / "train.tsv").write_text(as_tsv(rows(20)))
    (tmp_path / "validation.jsonl").write_text(as_json(rows(10, 20)))
    (tmp_path / "readme.txt").write_text("no table")
    splits = table(str(tmp_path))
    assert splits.rows == {"train": 20, "val": 10, "test": 0} and splits.test is None
    assert splits.val.places[0] == f"{tmp_path / 'validation.jsonl'}:1"
    (tmp_path / "train.csv").write_text(as_csv(rows(20)))
    with pytest.raises(UserError, match=r"has train.csv and train.tsv: keep one of them for train"):
        table(str(tmp_path))


def test_files_with_one_text_and_with_two_are_no_data_set(tmp_path):
    pairs = [row | {"text2": "more"} for row in rows(20)]
    (tmp_path / "train.csv").write_text(as_csv(pairs))
    (tmp_path / "val.csv").write_text(as_csv(rows(20)))
    with pytest.raises(UserError, match=r"val\.csv has one text a row, and the files before"):
        table(str(tmp_path))


def test_a_folder_of_parts_is_read_as_one(tmp_path):
    for part in range(2):
        file = tmp_path / f"train-0000{part}-of-00002.jsonl"
        file.write_text(as_json(rows(30, 30 * part)))
    assert every(table(str(tmp_path))) == EXPECTED


def test_a_folder_without_training_texts_is_refused(tmp_path):
    (tmp_path / "dev.tsv").write_text(as_tsv(rows()))
    with pytest.raises(UserError, match=r"has no training texts: expected a file train\.csv"):
        table(str(tmp_path))


def test_a_column_gives_the_split(read):
    names = ("train", "train", "train", "Dev", "hold-out")
    given = [row | {"split": names[i % 5]} for i, row in enumerate(rows(50))]
    assert read(as_csv(given)).rows == {"train": 30, "val": 10, "test": 10}
    given[7]["split"] = "later"
    with pytest.raises(UserError, match=r"texts\.csv:9 has the split 'later'; expected train, val"):
        read(as_csv(given))
    for row in given:
        row["split"] = row["split"] if row["split"] == "hold-out" else ""
    splits = read(as_csv(given))
    assert splits.rows["test"] == 10 and splits.rows["val"] == 4
    assert "40 of 50 texts have no split: they are taken for train" in splits.remarks
    assert "no validation split is given: 10% of train is used for it" in splits.remarks


@pytest.mark.parametrize("none", ["", "-1"])
def test_a_test_split_without_labels_is_not_used(none, tmp_path):
    (tmp_path / "train.csv").write_text(as_csv(rows(20)))
    (tmp_path / "test.csv").write_text(as_csv([row | {"label": none} for row in rows(9, 20)]))
    splits = table(str(tmp_path))
    assert splits.test is None
    said = f"the 9 test texts have no labels ({tmp_path / 'test.csv'}:2): they are not used"
    assert said in splits.remarks


def test_copies_in_two_splits_and_labels_that_contradict_are_named(tmp_path):
    (tmp_path / "train.csv").write_text(
        as_csv([*rows(20), {"text": rows(1)[0]["text"], "label": "odd"}])
    )
    (tmp_path / "val.csv").write_text(as_csv(rows(10, 18)))
    remarks = table(str(tmp_path)).remarks
    train, val = (tmp_path / name for name in ("train.csv", "val.csv"))
    assert remarks == (
        f"1 training text has another label than the same text elsewhere, such as {train}:22"
        f" ({train}:2)",
        f"2 of 10 validation texts are also training texts, such as {val}:2 ({train}:20):"
        " validation metrics are too good",
    )


def test_texts_without_any_label_can_still_be_masked(read):
    splits = read(as_csv([{"text": f"t {i}"} for i in range(30)]))
    assert isinstance(splits.train, Texts) and splits.train.labels is None


HEAD = b"text,label\n" + b"".join(b"text %d,%s\n" % (i, b"ab"[i % 2 :][:1]) for i in range(40))


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (HEAD + b"\xe9t\xe9,a\n", "a.csv", "a.csv:42 has the byte 0xE9, which is not UTF-8"),
        (HEAD + b" ,a\n", "a.csv", "a.csv:42 has ' ' and no text in the column 'text'"),
        (HEAD + b",a\n", "a.csv", "a.csv:42 has no text in the column 'text'"),
        (HEAD + b"one, two,a\n", "a.csv", "a.csv:42 has 3 cells; expected 2: 'text', 'label'"),
        (HEAD + b"text,\n", "a.csv", "a.csv:42 has no label. Fix or remove"),
        (HEAD + b'"open,a\n', "a.csv", "a.csv:42 can't be split into cells at ','"),
        (HEAD + b'"' + b"x" * 10**7 + b'",a\n', "a.csv", "a.csv:42 can't be split into cells"),
        (
            b"text\tlabel\n" + b"x" * 10**7 + b"\ta\n",
            "a.tsv",
            "a.tsv:2 has 10,000,002 characters; expected at most 1,000,000",
        ),
        (b"", "a.csv", "a.csv is empty: expected a line with the names of the columns"),
        (b"{]\n", "a.jsonl", "a.jsonl:1 is not JSON: Expecting property name"),
        (b'{"text": "a\tb"}\n', "a.jsonl", "JSON: Invalid control character at character 12;"),
        (b'{"text": "a\n', "a.jsonl", "is not JSON: Unterminated string starting at character 10;"),
        (b'{"text": "\\c"}\n', "a.jsonl", "a.jsonl:1 is not JSON: Invalid \\escape at character"),
        (
            b'{"text": "t", "label": ["a", "b"]}\n',
            "a.jsonl",
            """a.jsonl:1 has the label '["a", "b"]'; expected one word or number, as a text has""",
        ),
        (b'{"text": "t", "label": 1}\n[1]\n', "a.jsonl", "a.jsonl:2 is a list; expected a JSON"),
        (b'["t", 1]\n', "a.jsonl", "a.jsonl:1 is a list; expected one JSON object a line"),
        (b'{"text": 7, "label": 1}\n', "a.jsonl", "a.jsonl:1 has '7' and no text in the column"),
        (b"text,label\na,x\nb,x\n", "a.csv", "has only the label 'x' to train on"),
        (
            b"text,label\n" + b"".join(b"t%d,l%d\n" % (i, i) for i in range(40)),
            "a.csv",
            "has 40 different labels in 40 training rows, such as 'l0', 'l1', 'l10'",
        ),
        (b"x", "a.xlsx", "a.xlsx is not a table: expected a file that ends in .csv"),
    ],
)
def test_a_wrong_row_is_named_with_what_to_do(content, name, message, read):
    with pytest.raises(UserError, match=re.escape(message)):
        read(content, name)


def test_rows_that_cant_be_used_are_left_out_if_the_settings_say_so(read):
    content = HEAD + b"\xe9t\xe9,a\n,a\nno label,\n"
    with pytest.raises(
        UserError, match=r"texts\.csv: 3 of 43 rows can't be used:\n  .*:42 has the"
    ):
        read(content)
    splits = read(content, skip_bad=True)
    assert sum(splits.rows.values()) == 40
    assert splits.remarks[0].startswith("3 of 43 rows left out:\n")
    assert every(read(HEAD + b"\xe9t\xe9,a\n", encoding="cp1252"))["été"] == "a"
    several = as_json([*rows(), {"text": "of two", "label": ["odd", "even"]}])
    assert every(read(several, "a.jsonl", skip_bad=True)) == EXPECTED


def test_a_quote_that_is_not_closed_stops_everything(read):
    """Nobody knows where the next row begins."""
    with pytest.raises(UserError, match=r"texts\.csv:42 can't be split into cells at ','"):
        read(HEAD + b'"open,a\nmore,b\n', skip_bad=True)


def test_an_unknown_label_at_evaluation_is_named(tmp_path):
    (tmp_path / "train.csv").write_text(as_csv(rows(20)))
    (tmp_path / "val.csv").write_text(as_csv([*rows(9, 20), {"text": "new", "label": "prime"}]))
    message = (
        r"val\.csv:11 has the label 'prime', which no training row has. The classes are 'even'"
    )
    with pytest.raises(UserError, match=message):
        table(str(tmp_path))
