"""Run the rows of texts, tiny and in one process: `benchmarks_of_text.py PROJECT FOLDER`."""

import json
import runpy
import sys
from argparse import Namespace
from pathlib import Path

import torch
from measure import command_of
from my_project.data import TextData
from text import limit, plain, rows, usual
from workloads import workload

PROJECT, FOLDER = map(Path, sys.argv[1:])
OUT = FOLDER / "found.json"
SOME = ("usual", "eager", "limit", "limit-uncompiled-deterministic", "trainer")
ASKED = Namespace(project=PROJECT, out=OUT, tiny=True)


def main() -> None:
    work, found = workload("bert-32", tiny=True), {"rows": {}}
    for name in SOME:
        torch.manual_seed(0)
        rows.train(work, name, ASKED)
        found["rows"][name] = json.loads(OUT.read_text())
    torch.use_deterministic_algorithms(False)
    rows.train(workload("bert-finetuning", tiny=True), "usual", ASKED)
    found["rows"]["bert-finetuning"] = json.loads(OUT.read_text())
    several = workload("bert-32", tiny=True, devices=2)
    rows.train(several, "several-limit", ASKED)
    found["rows"]["several-limit"] = json.loads(OUT.read_text())
    found["command of several"] = command_of(ASKED, several, "several", OUT)
    found |= lengths(work) | steps(work) | accuracies()
    found["rows"]["ours"] = ours(work)
    (FOLDER / "results.json").write_text(json.dumps(found))


def lengths(work) -> dict[str, list[int]]:
    """Return the lengths of the first epoch's batches, of the limit and of ours."""
    options = json.loads(work.flags("ours", ASKED)["data.options"])
    loader = TextData("synthetic", options, work.batch).train_dataloader()
    return {
        "lengths of an epoch of the limit": [length for length, _ in limit.OurLengths(work)],
        "lengths of an epoch of ours": [batch.tokens.shape[1] for batch in loader],
    }


def steps(work) -> dict[str, float]:
    """Return the loss of the same batch after two steps, of the usual step and of the best."""
    batch, cpu = next(iter(usual.batches(work, "val"))), torch.device("cpu")
    torch.manual_seed(0)
    usual_step = usual.usual_step(usual.bert(work), cpu)
    of_usual = [float(usual_step(*batch)) for _ in range(2)]
    torch.manual_seed(0)
    best_step = usual.best_step(usual.bert(work), cpu)
    of_best = [float(best_step(*batch)) for _ in range(2)]
    return {"usual step": of_usual[-1], "eager step": of_best[-1]}


def accuracies() -> dict[str, float]:
    task = plain.task("languages", ASKED)
    labels = ["bad", "good"] * 30
    lines = [f"a {label} film number {i},{label}\n" for i, label in enumerate(labels)]
    table = FOLDER / "texts.csv"
    table.write_text("".join(["text,label\n", *lines]))
    task.settings["data"] = {"source": "table", "options": {"path": str(table)}, "batch_size": 8}
    found = plain.train(task, 8, seed=0)
    return {"plain accuracy": found, "naive Bayes": plain.naive_bayes(pairs=True)}


def ours(work) -> dict:
    _, _, *sys.argv = command_of(ASKED, work, "ours", OUT)
    sys.argv.insert(0, "my_project")
    try:
        runpy.run_module("my_project", run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        assert not ended.code, ended.code
    return json.loads(OUT.read_text())


if __name__ == "__main__":
    main()
