"""On a GPU: a CUDA graph for each length of a batch, and starts of short runs."""

import os
import subprocess
import sys

import pytest
import torch
from torch._dynamo.utils import counters

from {{ cookiecutter.__package_name }}.classifier import TextClassifier
from {{ cookiecutter.__package_name }}.engine.fast import step_graph

KNOWN = 20  # by this step, each length has its graph
ROWS = (
    "--data.options={rows: 4096, vocabulary: 500, mean: 40, spread: 20, shortest: 4, longest: 96}"
)
STEPS = ("--data.batch_size=16", "--trainer.max_epochs=3", "--trainer.max_steps=600")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("mode", ["step-graph", "eager-graph"])
@pytest.mark.parametrize("network", ["tiny_encoder", "bert"])
def test_every_length_has_its_graph_early_and_nothing_is_compiled_or_recorded_after(
    network, mode, call, monkeypatch
):
    monkeypatch.setattr(step_graph, "SECONDS_THAT_PAY", 0)
    graphs, compiled, lengths = list[int](), list[int](), set[int]()

    def count(model, batch, batch_idx) -> None:
        if model.global_step == 0:
            lengths.update(each.tokens.shape[1] for each in loader_of(model).of_each_length())
        if model.global_step == KNOWN:
            torch.compiler.set_stance("fail_on_recompile")
        graphs.append(len(model.step_graph.graphs))
        compiled.append(counters["stats"]["unique_graphs"])

    def loader_of(model):
        return model.trainer.train_dataloader

    monkeypatch.setattr(TextClassifier, "on_train_batch_start", count, raising=False)
    flags = (ROWS, *STEPS, f"--model.network={network}", f"--model.compile={mode}")
    flags += ("--trainer.limit_val_batches=0",)  # validation compiles the network when it is due
    try:
        assert call("fit", "--config", "configs/synthetic.yaml", *flags) == 0
    finally:
        torch.compiler.set_stance("default")
    assert len(graphs) == 600 and len(lengths) > 1
    assert set(graphs[KNOWN:]) == {len(lengths)}
    assert len(set(compiled[KNOWN:])) == 1


@pytest.mark.gpu
@needs_gpu
def test_starts_that_soon_need_the_gpu_end_well(tmp_path):
    """Their first step comes so early that the GPU's first use is still going on."""
    fit = (sys.executable, "-m", TextClassifier.__module__.partition(".")[0], "fit")
    flags = ("--config=configs/synthetic.yaml", "--model.network=tiny_encoder")
    flags += ("--trainer.max_steps=1", "--model.compile=false")
    for trial in range(3):
        folders = [tmp_path / f"{trial} {i}" for i in range(6)]
        starts, outputs = list[subprocess.Popen](), [folder / "output.txt" for folder in folders]
        for folder, output in zip(folders, outputs, strict=True):
            folder.mkdir()
            settings = os.environ | {"RUN_FOLDER": str(folder / "run")}
            with output.open("w") as file:
                starts.append(
                    subprocess.Popen([*fit, *flags], env=settings, stdout=file, stderr=file)
                )
        failed = [start.wait() for start in starts]
        said = "".join(output.read_text() for output in outputs)
        assert not any(failed), said
        assert "UserWarning" not in said
