"""GLUE's tasks and MRPC, read from files in their published layouts."""

from collections.abc import Callable
from pathlib import Path

import by_scikit_learn
import pytest
import torch
from killed import Job, log_of, start, wait
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import f1_score, matthews_corrcoef

import {{ cookiecutter.__package_name }} as package
from {{ cookiecutter.__package_name }}.classifier import TextClassifier
from {{ cookiecutter.__package_name }}.data import TextData
from {{ cookiecutter.__package_name }}.engine.artifacts import artifacts_of
from {{ cookiecutter.__package_name }}.engine.cli.project import (
    Project,
    data_with_flags,
)
from {{ cookiecutter.__package_name }}.engine.errors import UserError
from {{ cookiecutter.__package_name }}.engine.run.metrics import read_metrics
from {{ cookiecutter.__package_name }}.engine.text.glue import TASKS, glue
from {{ cookiecutter.__package_name }}.engine.tools.trained import load_trained

PROJECT = Project(package.__name__, TextClassifier, TextData)

# The columns of train and dev, and those of test; "" is any cell, {} the number of a row.
STS = "index genre filename year old_index source1 source2 sentence1 sentence2"
PARSES = "sentence1_binary_parse sentence2_binary_parse sentence1_parse sentence2_parse"
NLI = f"index promptID pairID genre {PARSES} sentence1 sentence2"
HEADERS = {
    "cola": (None, "index sentence"),
    "sst2": ("sentence label", "index sentence"),
    "mrpc": ("Quality|#1 ID|#2 ID|#1 String|#2 String", "index|#1 ID|#2 ID|#1 String|#2 String"),
    "stsb": (f"{STS} score", STS),
    "qqp": ("id qid1 qid2 question1 question2 is_duplicate", "id question1 question2"),
    "mnli": (f"{NLI} label1 gold_label", NLI),
    "mnli_mismatched": (f"{NLI} label1 gold_label", NLI),
    "qnli": ("index question sentence label", "index question sentence"),
    "rte": ("index sentence1 sentence2 label", "index sentence1 sentence2"),
    "wnli": ("index sentence1 sentence2 label", "index sentence1 sentence2"),
}
LABELS = {
    "mnli": ("contradiction", "entailment", "neutral"),
    "mnli_mismatched": ("contradiction", "entailment", "neutral"),
    "qnli": ("entailment", "not_entailment"),
    "rte": ("entailment", "not_entailment"),
}


def columns_of(header: str) -> list[str]:
    return header.split("|") if "|" in header else header.split()


def write(folder: Path, task: str) -> None:
    """Write a task's files with rows whose texts have quotes, as the published ones do."""
    described, (header, of_test) = TASKS[task], HEADERS[task]
    place = folder / described.folder
    place.mkdir()
    labels = LABELS.get(task, ("0", "1"))
    for split, name in described.files.items():
        names = columns_of(of_test if split == "test" else header or "source label mark sentence")
        lines = [] if header is None and split != "test" else ["\t".join(names)]
        for i in range(24):
            label = f"{i % 6 * 0.75:.3f}" if task == "stsb" else labels[i % len(labels)]
            cells = {described.label: label, described.text: f'"{split} one {i}'}
            cells |= {} if described.second is None else {described.second: f'two "{i}'}
            lines.append("\t".join(cells.get(name, "x") for name in names))
        (place / name).write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("task", list(TASKS))
def test_each_task_is_read_as_it_is_published(task, tmp_path):
    write(tmp_path, task)
    splits = glue(task, str(tmp_path))
    assert splits.rows == {"train": 24, "val": 24, "test": 0}
    assert splits.train.first[7] == '"train one 7'
    assert (splits.train.second is None) == (task in ("cola", "sst2"))
    if splits.train.second is not None:
        assert splits.train.second[7] == 'two "7'
    expected = () if task == "stsb" else LABELS.get(task, ("0", "1"))
    assert splits.classes == expected and splits.metrics == TASKS[task].metrics
    first = splits.train.labels[7]
    assert first == (0.75 if task == "stsb" else expected[7 % len(expected)])
    test = tmp_path / TASKS[task].folder / TASKS[task].files["test"]
    said = f"the 24 test texts have no labels ({test}:2): they are not used"
    assert splits.remarks == (said,)
    assert glue(task, str(tmp_path / TASKS[task].folder)) == splits


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("task", ["cola", "mrpc", "stsb"])
def test_scores_are_those_of_scikit_learn_and_scipy(task, processes, tmp_path):
    """The last batch is padded, and with two processes each has a part of every batch."""
    write(tmp_path, task)
    settings = {"source": "glue", "options": {"task": task, "path": str(tmp_path)}}
    settings |= {"vocabulary": 200, "eval_batch_size": 5}
    flags = [f"--data.{name}={value}" for name, value in settings.items()]
    flags += ["--data.batch_size=4", "--trainer.max_epochs=1"]
    flags += [f"--trainer.devices={processes}", "--trainer.accelerator=cpu"]
    job = Job(["fit", *flags], tmp_path / "run", processes)
    job.folder.mkdir()
    assert wait(start(job)) == 0, log_of(job.folder)
    (row,) = [row for row in read_metrics(job.folder / "metrics.csv") if "val/loss" in row]
    found = {name[4:]: value for name, value in row.items() if name.startswith("val/")}

    data = data_with_flags(TextData)(**settings)
    with artifacts_of(job.folder):
        trained = load_trained(PROJECT, job.folder).task.eval()
    assert data.splits.rows["val"] % (5 * processes)
    batches = list(data.val_dataloader())
    with torch.inference_mode():
        answers = [trained.predict(trained(batch))[batch.row >= 0] for batch in batches]
    targets = [trained.target(batch)[batch.row >= 0] for batch in batches]
    said, known = (torch.cat(parts).double().numpy() for parts in (answers, targets))
    if task == "stsb":
        learned = data.train_numbers.double().numpy()
        scores, _ = by_scikit_learn.of_numbers(said, known, learned)
        scores["pearson"] = pearsonr(said, known).statistic
        scores["spearman"] = spearmanr(said, known).statistic
    else:
        scores, _ = by_scikit_learn.of_classes(said, known)
        scores["f1"] = f1_score(known, said.argmax(1))
        scores["matthews"] = matthews_corrcoef(known, said.argmax(1))
    assert {"loss", *TASKS[task].metrics} <= found.keys()
    assert found == pytest.approx({name: scores[name] for name in found}, abs=1e-6)


def paraphrases(n: int) -> str:
    lines = ["Quality\t#1 ID\t#2 ID\t#1 String\t#2 String"]
    lines += [f'{i % 2}\t{i}\t{i + n}\t"He said {i}\tHe said "{i}".' for i in range(n)]
    return "\ufeff" + "\r\n".join(lines) + "\r\n"


@pytest.fixture
def mrpc(tmp_path: Path) -> Path:
    """MRPC as Microsoft publishes it."""
    (tmp_path / "MRPC").mkdir()
    for split, n in (("train", 50), ("test", 20)):
        file = tmp_path / "MRPC" / f"msr_paraphrase_{split}.txt"
        file.write_text(paraphrases(n + (split == "test")), newline="")
    return tmp_path


def test_mrpc_is_read_as_microsoft_publishes_it(mrpc):
    splits = glue("mrpc", str(mrpc))
    assert splits.rows == {"train": 46, "val": 4, "test": 21}
    pair = splits.train.first[0], splits.train.second[0]
    assert pair == ('"He said 0', 'He said "0".')
    assert splits.classes == ("0", "1") and splits.metrics == ("accuracy", "f1")
    assert "no validation split is given: 10% of train is used for it" in splits.remarks


def test_mrpcs_own_test_file_gives_the_labels_that_glues_lacks(mrpc):
    (mrpc / "other").mkdir()
    write(mrpc / "other", "mrpc")
    for file in (mrpc / "other" / "MRPC").iterdir():
        file.rename(mrpc / "MRPC" / file.name)
    splits = glue("MRPC", str(mrpc))
    assert splits.rows == {"train": 24, "val": 24, "test": 21} and not splits.remarks


def break_rows(folder: Path, n: int, broken: list[str]) -> Path:
    file = folder / "QQP" / "train.tsv"
    rows = [f"{i}\t{i}\t{i}\tone {i}\ttwo {i}\t{i % 2}\n" for i in range(n)]
    head = HEADERS["qqp"][0].replace(" ", "\t") + "\n"
    file.write_text("".join([head, *rows, *broken]))
    return file


def test_rows_with_another_number_of_tabs_are_left_out_and_named(tmp_path):
    write(tmp_path, "qqp")
    broken = ["7\t8\t9\thalf of a\n", "question\tand its end?\t0\n"]
    file = break_rows(tmp_path, 300, broken)
    splits = glue("qqp", str(tmp_path))
    assert splits.rows["train"] == 300
    assert splits.remarks[1].startswith("2 of 326 rows left out:\n")
    assert f"{file}:302 has 4 cells; expected 6" in splits.remarks[1]
    break_rows(tmp_path, 20, broken)
    with pytest.raises(UserError, match=r"2 of 46 rows can't be used:\n(.*\n)+Put the published"):
        glue("qqp", str(tmp_path))


@pytest.mark.parametrize(
    ("spoil", "task", "message"),
    [
        (lambda folder: None, "snli", r"task is 'snli', which is unknown. Known: cola, sst2, mrpc"),
        (lambda folder: (folder / "dev.tsv").unlink(), "rte", "has no train.tsv and dev.tsv, the"),
        (
            lambda folder: (folder / "dev.tsv").write_text("index\tsentence1\tsentence2\n"),
            "rte",
            "has the columns index, sentence1, sentence2; expected label, with the labels",
        ),
        (
            lambda folder: (folder / "dev.tsv").write_text("no\theader\n"),
            "rte",
            "has the columns 'no', 'header'; expected 'sentence1'",
        ),
    ],
)
def test_files_that_are_not_as_published_are_named(
    spoil: Callable[[Path], None], task: str, message: str, tmp_path: Path
):
    write(tmp_path, "rte")
    spoil(tmp_path / "RTE")
    with pytest.raises(UserError, match=message):
        glue(task, str(tmp_path))


def test_a_data_set_brings_its_objective_and_metrics(tmp_path):
    write(tmp_path, "stsb")
    data = TextData("glue", {"task": "stsb", "path": str(tmp_path)}, batch_size=8)
    assert (data.objective, data.num_classes) == ("numbers", 1)
    assert data.metrics == ("pearson", "spearman")
    batch = next(iter(data.train_dataloader()))
    assert str(batch.labels.dtype) == "torch.float32" and batch.segments is not None
