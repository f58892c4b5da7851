"""What the service is sent becomes what evaluation shows to the network."""

import csv
import http.client
import json
import random
import re
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from predicted import predict_as_in_the_evaluation, rows_of
from some_words import WORDS

import {{ cookiecutter.__package_name }} as package
from {{ cookiecutter.__package_name }}.classifier import TextClassifier
from {{ cookiecutter.__package_name }}.data import TextData
from {{ cookiecutter.__package_name }}.engine.artifacts import artifacts_of
from {{ cookiecutter.__package_name }}.engine.cli.project import (
    Project,
    data_with_flags,
)
from {{ cookiecutter.__package_name }}.engine.paths import project_root
from {{ cookiecutter.__package_name }}.engine.run.record import facts_in
from {{ cookiecutter.__package_name }}.engine.text.read import read, several
from {{ cookiecutter.__package_name }}.engine.tools.serve import (
    BadRequest,
    ServedRun,
)

PROJECT = Project(package.__name__, TextClassifier, TextData, read, several=several)
LONGEST = 24
CLOSE = 0.02 if torch.cuda.is_available() else 1e-5
SIZES = ("--data.max_length", str(LONGEST), "--data.vocabulary", "200", "--data.batch_size", "16")


def sentence(draw: random.Random) -> str:
    return " ".join(draw.choice(WORDS) for _ in range(draw.randint(3, 9)))


def write_table(file: Path, pairs: bool) -> None:
    """Write 100 texts or pairs of two classes, some of them longer than LONGEST."""
    draw = random.Random(0)
    with file.open("w", newline="") as opened:
        table = csv.writer(opened)
        table.writerow(["Title", "Body", "label"] if pairs else ["text", "label"])
        for i in range(100):
            texts = [sentence(draw) for _ in range(2)] if pairs else [sentence(draw)]
            table.writerow([*texts, ("red", "blue")[i % 2]])
        long = [" ".join(WORDS * 2)] * (2 if pairs else 1)
        table.writerow([*long, "red"])


@pytest.fixture(scope="module")
def trained(call: Callable[..., int], tmp_path_factory) -> Callable[[str], Path]:
    """Return a function that trains for two steps on texts or on pairs, and returns the run."""
    made = dict[str, Path]()

    def train(kind: str) -> Path:
        if kind not in made:
            folder = tmp_path_factory.mktemp(kind)
            write_table(folder / "texts.csv", kind == "pairs")
            flags = "--config", "configs/table.yaml", "--data.options.path"
            flags = *flags, str(folder / "texts.csv"), *SIZES, "--trainer.max_steps", "2"
            if kind == "pairs":
                flags = *flags, "--data.options.text=title", "--data.options.second=body"
            if kind == "masked":
                flags = *flags, "--data.masking=0.15"
            assert call("fit", *flags, folder=folder / "run") == 0
            assert call("predict", "--run", str(folder / "run")) == 0
            made[kind] = folder / "run"
        return made[kind]

    return train


def reading(run: Path, *requests: Any, **flags: bool) -> Any:
    """Return what read() makes of requests to the service of a run."""
    with artifacts_of(run):
        rows, *rest = read(list(requests), facts_in(run), **flags)
    return rows.batch, *rest


def data_of(run: Path) -> Any:
    options = {"path": str(run.parent / "texts.csv")}
    if run.parent.name.startswith("pairs"):
        options |= {"text": "title", "second": "body"}
    sizes = {"max_length": LONGEST, "vocabulary": 200}
    return data_with_flags(TextData)(source="table", options=options, **sizes)


def test_the_python_of_the_docs_predicts_as_the_evaluation_does(trained):
    run = trained("texts")
    rows = rows_of(run / "predictions.csv")[:4]
    text = (project_root() / "docs" / "predict.md").read_text()
    code = text.partition("```python\n")[2].partition("```")[0]
    code = re.sub(r'Path\("runs/.*?"\)', f"Path({str(run)!r})", code)
    code = code.replace("best.ckpt", "last.ckpt")  # this run has not validated
    named = dict[str, Any]()
    exec(code.replace('["Deutsch", "Schweiz"]', repr([row["text"] for row in rows])), named)
    sure, said = named["probabilities"].max(1)
    assert [named["facts_in"](run).classes[i] for i in said] == [row["prediction"] for row in rows]
    known = torch.tensor([float(row["probability"]) for row in rows])
    assert torch.allclose(sure, known, atol=1e-5)


@pytest.mark.parametrize("kind", ["texts", "pairs"])
def test_service_and_predict_show_and_answer_what_evaluation_does(kind, trained, call):
    run = trained(kind)
    served = ServedRun(PROJECT, run, truncate=True)
    texts = {}
    for row in csv.DictReader((run.parent / "texts.csv").open()):
        row.pop("label")
        tokens = reading(run, row, truncate=True)[0].tokens
        texts[tuple(tokens[0].tolist())] = row
    split, asked = data_of(run).splits.test.batch, []
    lines = (run.parent / "texts.csv").read_text().splitlines()
    for row in csv.DictReader((run / "predictions.csv").open()):
        place = int(row["index"])
        length = int(split.lengths[place])
        padded = -(-length // 8) * 8
        request = texts[tuple(split.tokens[place, :padded].tolist())]
        batch, problems, _ = reading(run, request, truncate=True)
        assert not problems and batch.lengths.tolist() == [length]
        assert torch.equal(batch.tokens[0], split.tokens[place, :padded])
        if kind == "pairs":
            assert torch.equal(batch.segments[0], split.segments[place, :padded])
        said = served.answer(request)
        assert said["class"] == row["prediction"]
        first, second = (*request.values(), None)[:2]
        assert row["text"] == first and row.get("second") == second
        assert lines[int(row["place"].rpartition(":")[2]) - 1].startswith(first)
        assert said["probability"] == pytest.approx(float(row["probability"]), abs=1e-5)
        asked.append(request)
    assert len(asked) >= 10
    (run / "asked.jsonl").write_text("\n".join(map(json.dumps, asked)))
    predict_as_in_the_evaluation(call, run, run / "asked.jsonl")


def test_one_text_may_be_sent_in_several_ways(trained):
    run, text = trained("texts"), "the quick brown fox"
    ways = text, text.encode(), b"\xef\xbb\xbf" + text.encode() + b"\r\n", {"text": text}
    ways = *ways, {"sentence": text}, [text]
    batch, problems, notes = reading(run, *ways)
    assert not problems and not notes and len(batch.row) == len(ways)
    assert (batch.tokens == batch.tokens[0]).all() and batch.segments is None
    assert batch.labels is None and batch.tokens.dtype == torch.int32


def test_a_pair_may_be_sent_in_several_ways(trained):
    run, first, second = trained("pairs"), "the fox", "a lazy dog"
    ways: list[Any] = [{"first": first, "second": second}, [first, second]]
    ways += [{"sentence1": first, "sentence2": second}, {"question1": first, "question2": second}]
    ways += [{"Title": first, "Body": second, "label": "red"}, {"title": first, "body": second}]
    batch, problems, _ = reading(run, *ways)
    assert not problems and len(batch.row) == 6
    assert (batch.tokens == batch.tokens[0]).all()
    assert batch.segments[0].tolist() == [0] * 4 + [1] * 4


def test_requests_of_one_batch_have_the_length_of_the_longest(trained):
    batch, _, _ = reading(trained("texts"), "the", " ".join(WORDS[:12]), "fox dog")
    assert batch.tokens.shape == (3, 16) and batch.lengths.tolist() == [3, 14, 4]
    assert (batch.tokens[0, 3:] == 0).all()


BROKEN = {
    "empty": ("", "is empty"),
    "blank": ("  \n", "is empty"),
    "latin-1": ("caf\xe9".encode("latin-1"), "is not UTF-8: byte 3 is 0xe9"),
    "an image": (b"\x89PNG\r\n\x1a\n", "is not UTF-8: byte 0 is 0x89"),
    "10 MB": (b"word " * 2_000_000, r"has 10,000,000 characters; at most 1,000,000 are read"),
    "number": (3, "holds int; expected a text, or a pair of texts"),
    "null": (None, "holds NoneType; expected a text"),
    "no keys": ({}, 'has the keys none; expected "text", or "first" and "second"'),
    "other keys": ({"txt": "a"}, "has the keys 'txt'; expected \"text\""),
    "number inside": ({"text": 3}, "holds int; expected a text"),
    "three": (["a", "b", "c"], "holds str, str, str; expected a text"),
    "surrogate": (json.loads('"\\ud800"'), "has halves of characters"),
    "pair": (["a", "b"], r'is a pair; this network was trained on single texts: send {"text"'),
    "too long": (" ".join(WORDS * 4), f"has 62 tokens, and at most {LONGEST} fit: shorten"),
}


@pytest.mark.parametrize("what", list(BROKEN))
def test_what_can_not_be_shown_is_left_out_with_the_reason(what, trained):
    request, reason = BROKEN[what]
    batch, problems, _ = reading(trained("texts"), "a dog", request, "a fox")
    assert list(problems) == [1] and "\n" not in problems[1] and len(problems[1]) < 200
    assert problems[1].startswith(reason)
    assert len(batch.row) == 2


def test_what_is_no_pair_is_refused_by_a_network_of_pairs(trained):
    requests = "one text", ["a", " "], {"first": "a", "second": None}, {"headline": "a"}
    batch, problems, _ = reading(trained("pairs"), *requests)
    assert problems[0].startswith("is one text; this network was trained on pairs: send {")
    assert problems[1] == "has a problem in the second text: it is empty"
    assert problems[2].startswith("is one text") and batch.tokens.shape == (0, 8)
    assert problems[3].endswith('expected "Title" and "Body", or "text", or "first" and "second"')


SEVERAL = {  # a body, and how many requests a network of texts and one of pairs find in it
    "texts": ({"texts": ["a", "b", "c"]}, 3, 3),
    "pairs": ({"pairs": [["a", "b"], {"first": "c", "second": "d"}]}, 2, 2),
    "list": ([["a", "b"], ["c", "d"]], 2, 2),
    "list of two texts": (["a", "b"], 2, None),
    "list of one": (["a"], 1, 1),
    "nothing": ([], 0, 0),
    "one text": ("a", None, None),
    "one by its key": ({"text": "a"}, None, None),
    "a text in a column named texts": ({"texts": "a"}, None, None),
    "bytes": (b"[]", None, None),
}


@pytest.mark.parametrize("what", list(SEVERAL))
def test_a_body_may_hold_several_requests(what, trained):
    body, *expected = SEVERAL[what]
    for kind, number in zip(("texts", "pairs"), expected, strict=True):
        found = several(body, facts_in(trained(kind)))
        assert (None if found is None else len(found)) == number


def test_several_texts_are_answered_in_their_order_as_each_alone(trained, monkeypatch):
    served, shapes = ServedRun(PROJECT, trained("texts")), list[tuple[int, ...]]()
    whole = served.task.forward
    monkeypatch.setattr(
        served.task, "forward", lambda batch: shapes.append(batch.tokens.shape) or whole(batch)
    )
    texts = [" ".join(WORDS[: 1 + i % 12]) for i in range(70)]
    said = served.answer({"texts": texts})
    assert shapes == [(32, 8), (32, 16), (6, 16)]  # by length, padded only to their own longest
    assert said.keys() == {"predictions", "run", "weights_sha256"}
    for i in (0, 11, 40, 69):
        alone = served.answer(texts[i])
        found = said["predictions"][i]
        assert found["class"] == alone["class"] and found.keys() == alone.keys() - said.keys()
        assert found["probability"] == pytest.approx(alone["probability"], abs=CLOSE)
    assert any(a["probability"] != b["probability"] for a, b in pairwise(said["predictions"]))


def test_several_texts_of_which_one_can_not_be_read_are_refused_with_its_number(trained):
    served = ServedRun(PROJECT, trained("texts"))
    message = r"^has 3 texts, 2 of which can't be read: number 1 \(counted from 0\) is empty$"
    with pytest.raises(BadRequest, match=message):
        served.answer(["a dog", "", 3])
    with pytest.raises(BadRequest, match=r"^is empty$"):
        served.answer([""])
    for n in (0, 1025):
        with pytest.raises(BadRequest, match=f"^has {n:,} texts; expected 1 to 1,024$"):
            served.answer({"texts": ["a"] * n})


def test_a_text_that_is_too_long_is_cut_only_if_asked(trained):
    run, text = trained("texts"), " ".join(WORDS * 4)
    with pytest.raises(BadRequest, match="has 62 tokens, and at most 24 fit"):
        ServedRun(PROJECT, run).answer(text)
    served = ServedRun(PROJECT, run, truncate=True)
    said = served.answer(text)
    assert (said["truncated"], said["tokens"], said["of_tokens"]) == (True, 24, 62)
    assert said["class"] in ("red", "blue") and "truncated" not in served.answer("a dog")
    batch, _, notes = reading(run, "a dog", text, truncate=True)
    assert list(notes) == [1] and batch.tokens.shape == (2, 24)
    short, long = served.answer(["a dog", text])["predictions"]
    assert "truncated" not in short and long["of_tokens"] == 62


def test_a_run_on_bare_tokens_reads_no_texts(trained, tmp_path):
    _, problems, _ = read(["a dog"], facts_in(trained("texts")))  # no run, so no tokenizer
    assert problems[0].startswith("can't be tokenized: this run was trained on tokens")


def test_a_run_on_masked_tokens_classifies_no_texts(trained):
    _, problems, _ = reading(trained("masked"), "the quick fox")
    assert problems[0].startswith("can't be classified: this network learned to fill in masked")


def test_the_service_takes_json_and_plain_text_and_cuts_with_truncate(trained):
    command = [sys.executable, "-m", package.__name__, "serve", "--run", str(trained("pairs"))]
    command += ["--port", "0", "--truncate"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        address = re.search(r"http://(.+?)/predict", process.stdout.readline())[1]

        def ask(body: bytes, kind: str = "application/json") -> tuple[int, dict]:
            connection = http.client.HTTPConnection(address, timeout=60)
            connection.request("POST", "/predict", body, {"Content-Type": kind})
            response = connection.getresponse()
            return response.status, json.loads(response.read())

        try:
            pair = {"first": "the fox", "second": " ".join(WORDS * 3)}
            status, said = ask(json.dumps(pair).encode())
            assert status == 200 and said["truncated"] and said["tokens"] == LONGEST
            assert set(said["probabilities"]) == {"red", "blue"}
            status, said = ask(json.dumps([pair, {"Title": "a fox", "Body": "a dog"}]).encode())
            assert status == 200 and [len(each) for each in said["predictions"]] == [6, 3]
            status, said = ask(b"one text", "text/plain")
            assert status == 422 and "trained on pairs" in said["detail"]
            said = ask(json.dumps({"Title": "", "Body": ""}).encode())[1]
            assert said["detail"].endswith(" It was read as application/json.")
            assert ask(b"\xff", "text/plain")[0] == ask(b"{", "application/json")[0] == 422
        finally:
            process.terminate()


def test_texts_that_can_not_be_predicted_are_rows_with_a_reason(trained, call, tmp_path, capsys):
    run, out = trained("texts"), tmp_path / "table.csv"
    (tmp_path / "lines.txt").write_bytes(b'the quick fox\n\n\xff\nwords, and "more"\n')
    (tmp_path / "table.tsv").write_text("text\tsecond\none\ttwo\n\ttwo\nred\n")
    for file, texts, errors in (
        ("lines.txt", ["the quick fox", "", "", 'words, and "more"'], ["", "is empty", "0xFF", ""]),
        ("table.tsv", ["one", "", ""], ["", "has no text in the column 'text'", "has 1 cell;"]),
    ):
        flags = ("--run", str(run), "--input", str(tmp_path / file), "--out", str(out))
        assert call("predict", *flags) == 3
        rows = rows_of(out)
        assert [row["text"] for row in rows] == texts
        assert [row["row"] for row in rows] == [str(i + 1) for i in range(len(rows))]
        for row, error in zip(rows, errors, strict=True):
            assert error in row["error"] and bool(row["error"]) == bool(error)
            assert bool(row["class"]) == bool(not error)
    said = capsys.readouterr()
    assert (
        "2 of 4 texts have no prediction; the column error says why:\n  row 2 is empty" in said.err
    )
    assert "'second' is not used: the network was trained on one text" in said.out


@pytest.mark.parametrize(
    ("kind", "file", "content", "flags", "message"),
    [
        ("texts", "a.csv", "words\nred\n", (), "has the columns 'words'; expected one of text"),
        ("texts", "a.csv", "", (), "a.csv is empty"),
        ("texts", "a.txt", "", (), "a.txt holds no texts"),
        ("texts", "a.png", "red", (), "is not a table"),
        ("pairs", "a.txt", "text\nred\n", (), "Name the column"),
        ("masked", "a.txt", "red", (), "it learned to fill in masked tokens. Fine-tune"),
        (
            "texts",
            "a.txt",
            "red",
            ("--data.masking", "1"),
            "--data.masking is unknown with --input",
        ),
    ],
)
def test_an_input_that_holds_no_texts_is_refused(
    kind, file, content, flags, message, trained, call, tmp_path, capsys
):
    (tmp_path / file).write_text(content)
    named = ("--input", str(tmp_path / file), "--out", str(tmp_path / "out.csv"))
    assert call("predict", "--run", str(trained(kind)), *named, *flags) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ")
    assert [path.name for path in tmp_path.iterdir()] == [file]


def test_columns_may_be_named_and_parquet_is_written(trained, call, tmp_path):
    from pyarrow.parquet import read_table

    (tmp_path / "mine.csv").write_text("id;words\n7;the quick fox\n8;red\n")
    flags = ("--run", str(trained("texts")), "--input", str(tmp_path / "mine.csv"), "--all")
    flags = *flags, "--out", str(tmp_path / "new" / "out.parquet"), "--data.options.text=words"
    assert call("predict", *flags) == 0
    table = read_table(tmp_path / "new" / "out.parquet").to_pydict()
    assert table["row"] == [1, 2] and table["text"] == ["the quick fox", "red"]
    for i, name in enumerate(table["class"]):
        assert table["probability"][i] == table[f"p_{name}"][i] == table["top1_probability"][i]
        assert table["p_red"][i] + table["p_blue"][i] == pytest.approx(1)
    assert list(table)[2:8] == [
        "class",
        "probability",
        "top1",
        "top1_probability",
        "top2",
        "top2_probability",
    ]
    assert table["error"] == [None, None]


def test_a_table_without_the_columns_of_training_may_have_the_usual_ones(
    trained, call, tmp_path, capsys
):
    """The run's options name its columns; only those that are named now must be there."""
    table, out = tmp_path / "mine.csv", tmp_path / "out.csv"
    files = "--run", str(trained("pairs")), "--input", str(table), "--out", str(out)
    answers = []
    for content in (
        "Body,Title\na dog,the fox\n",
        "text,Title,Body\n1,the fox,a dog\n",
        "sentence1,sentence2,label\nthe fox,a dog,red\n",
    ):
        table.write_text(content)
        assert call("predict", *files) == 0
        answers += rows_of(out)
    assert answers[0]["text"] == "the fox" and answers[0]["second"] == "a dog"
    assert answers[1:] == answers[:1] * 2
    noted = "mine.csv has no column 'Title', 'Body', which training read: texts are read from"
    assert f"{noted} 'sentence1' and 'sentence2'" in capsys.readouterr().out
    for name, expected in (("headline", "'headline'"), ("null", "one of Title, text, sentence")):
        table.write_text("words,second\nthe fox,a dog\n")
        assert call("predict", *files, f"--data.options.text={name}") == 2
        assert f"'words', 'second'; expected {expected}" in capsys.readouterr().err


def test_numbers_are_predicted_in_one_column(call, tmp_path):
    write_table(tmp_path / "texts.csv", pairs=False)
    rows = list(csv.DictReader((tmp_path / "texts.csv").open()))
    lines = [f"{row['text']},{i / 10},{'test' if i > 80 else ''}" for i, row in enumerate(rows)]
    (tmp_path / "texts.csv").write_text("\n".join(["text,label,split", *lines]))
    (tmp_path / "new.jsonl").write_text("\n".join(json.dumps(row) for row in rows[81:]))
    run, flags = tmp_path / "run", ("--data.options.path", str(tmp_path / "texts.csv"), *SIZES)
    flags = "--config", "configs/table.yaml", *flags, "--trainer.max_steps", "1"
    assert call("fit", *flags, folder=run) == 0
    for more in ((), ("--input", str(tmp_path / "new.jsonl"), "--out", str(run / "new.csv"))):
        assert call("predict", "--run", str(run), *more) == 0
    found = [float(row["prediction"]) for row in rows_of(run / "new.csv")]
    expected = [json.loads(row["prediction"]) for row in rows_of(run / "predictions.csv")]
    assert len(found) == 20 and found == pytest.approx(expected, rel=1e-6)
    labels = [row["target"] for row in rows_of(run / "predictions.csv")]
    assert labels == [f"{i / 10}" for i in range(81, 101)]
