"""make bench, make tune and make bench-check: measurement, validity, choice and comparison."""

import json
import math
from itertools import pairwise
from pathlib import Path

import lightning as L
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

import {{ cookiecutter.__package_name }} as package
from {{ cookiecutter.__package_name }}.engine.errors import UserError
from {{ cookiecutter.__package_name }}.engine.hardware import (
    Gpu,
    Machine,
)
from {{ cookiecutter.__package_name }}.engine.monitor import clock
from {{ cookiecutter.__package_name }}.engine.tools import bench, bench_check, tune
from {{ cookiecutter.__package_name }}.engine.tools.timing import (
    Clock,
    ClockCallback,
)
from {{ cookiecutter.__package_name }}.engine.tools.tune import (
    Loading,
)

DIGITS = Path("configs/digits.yaml").resolve()
H200 = Machine("Linux", "Xeon", 16, gpus=(Gpu("NVIDIA H200", (9, 0), 140.0),))
LAPTOP = Machine("Linux", "Ryzen", 8)
SHORT = ["--seconds", "0.3"]
PACKAGE = package.__name__


@pytest.fixture(scope="module")
def measured(tmp_path_factory, call) -> Path:
    """The output folder of make bench on a machine without GPU and compiler."""
    folder = tmp_path_factory.mktemp("bench")
    bare = Machine("Linux", "CPU", 2, compiler=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench, "this_machine", lambda: bare)
        recipe = ["--config", str(DIGITS)]
        assert call("bench", *SHORT, *recipe, "--rounds", "2", "--into", str(folder)) == 0
    return folder


def read(folder: Path, name: str = "bench") -> dict:
    return json.loads((folder / f"{name}.json").read_text())


@pytest.mark.speed
def test_bench_writes_the_same_rows_to_a_table_a_json_and_a_picture(measured, capsys):
    result = read(measured)
    names = ["CPU, eager", "+ channels_last", "loader, defaults"]
    assert [row["name"] for row in result["rows"]] == names
    assert [row["shipped"] for row in result["rows"]] == [False, False, True]
    for row in result["rows"]:
        assert row["valid"] and row["loss"][1] < row["loss"][0]
        assert row["epoch_seconds"] == pytest.approx(1077 / row["rows_per_second"])
        step = 1e3 * result["batch_size"] / row["rows_per_second"]
        assert set(row["step_ms"]) == {"data", "forward", "backward", "optimizer"}
        assert step / 5 < sum(row["step_ms"].values()) < step * 5  # some steps may stall
    assert result["versions"]["torch"] == torch.__version__ and "CPU" in result["device"]
    assert len(result["left_out"]) == 2  # GPU and compiler
    table = bench.table(result)
    assert max(map(len, table.splitlines())) <= 100
    for row in result["rows"]:
        assert f"{row['rows_per_second']:,.0f}" in table
    assert (measured / "bench.png").read_bytes().startswith(b"\x89PNG")


def test_gpu_rows_add_one_feature_at_a_time_and_end_with_default_settings():
    rows, left_out = bench.rows_of(H200)
    settings = [{flag.partition("=")[::2] for flag in row.flags} for row in rows]
    new = [dict(sorted(after - before)) for before, after in pairwise(settings[1:-1])]
    assert new == [
        {"--trainer.precision": "bf16-mixed"},
        {"--model.channels_last": "true"},
        {"--model.compile": "default"},
        {"--model.compile": "reduce-overhead"},
    ]
    assert not left_out and rows[-1] == bench.Row(rows[-1].name, one_batch=False, shipped=True)
    without = Machine("Linux", "Xeon", 16, gpus=H200.gpus, compiler=False)
    fewer, why = bench.rows_of(without)
    assert len(fewer) == len(rows) - 2 and "compiler" in why[0]


@pytest.mark.parametrize(
    ("machine", "more"), [(H200, ["max-autotune", "step-graph"]), (LAPTOP, ["max-autotune"])]
)
def test_all_modes_adds_the_other_compile_modes_to_the_rows(machine, more):
    few, many = (bench.rows_of(machine, all_modes)[0] for all_modes in (False, True))
    others = [row.flags for row in many if row not in few]
    assert [row for row in many if row in few] == few and len(others) == len(more)
    before = few[-2].flags[:-1]
    assert others == [(*before, *bench.compiled_by(mode)) for mode in more]
    assert "--trainer.deterministic=false" in others[0]


FOUND = {
    **{"name": "row", "flags": (), "shipped": False, "rows": 1000, "batch_size": 10},
    "devices": 1,
    **{
        "compile": "default",
        "manual_optimization": False,
        "precision": "32-true",
        "parts": {"parts": {"data": 1.0}},
    },
    "first": {"first_loss": 2.0, "first_seconds": 8.3, "peak_gib": 1.0},
    "trials": [{"rate": rate, "loss": 1.0, "busy": 50.0} for rate in (90.0, 100.0, 130.0)],
}


def test_a_row_is_the_median_of_its_trials():
    row = bench.summarize(FOUND, eager_gib=4.0)
    assert row["valid"] and row["rows_per_second"] == 100 and row["epoch_seconds"] == 10
    assert row["saved"] == 0.75 and row["compile_seconds"] == pytest.approx(7.9)


@pytest.mark.speed
@pytest.mark.parametrize("loss", [2.5, 2.0, math.nan])
def test_a_row_whose_loss_does_not_fall_is_invalid(measured, loss):
    last = {**FOUND["trials"][-1], "loss": loss}
    row = bench.summarize(FOUND | {"trials": [*FOUND["trials"][:-1], last]})
    assert not row["valid"]
    table = bench.table(read(measured) | {"rows": [row]})
    assert "invalid: " in table and "100" not in table.splitlines()[-1].split("its loss")[0]


def test_a_row_whose_steps_return_no_loss_is_invalid():
    row = bench.summarize(FOUND | {"first": FOUND["first"] | {"first_loss": None}})
    assert not row["valid"] and row["remark"] == "its training step returns no loss"


@pytest.mark.speed
def test_a_diverging_row_is_invalid_and_the_others_are_valid(tmp_path):
    wild = bench.Row("wild", ("--model.learning_rate=30000",))
    tame = bench.Row("tame", shipped=True)
    result = bench.bench(PACKAGE, [wild, tame], DIGITS, [], seconds=0.2, rounds=1)
    assert [row["valid"] for row in result["rows"]] == [False, True]


def test_a_wrong_flag_is_reported_in_one_line(call, capsys):
    with pytest.raises(UserError, match=r"Did you mean data\.batch_size\?"):
        bench.bench(PACKAGE, [bench.Row("row")], DIGITS, ["--data.batch_sise=3"], 0.2, 1)
    for recipe in ([], ["--config", "configs/none.yaml"]):
        assert call("bench", *recipe) == 2
        assert "Set --config configs/NAME.yaml" in capsys.readouterr().err


@pytest.mark.speed
def test_bench_check_fails_only_if_training_is_slower(measured, call, monkeypatch, capsys):
    trial, asked = bench_check.Process.trial, []

    def noted(process, seconds):
        asked.append(seconds)
        return trial(process, seconds)

    monkeypatch.setattr(bench_check.Process, "trial", noted)
    for factor, status in ((20, 1), (1 / 20, 0)):  # far more than other processes change the speed
        baseline = read(measured)
        for row in baseline["rows"]:
            row["rates"] = [rate * factor for rate in row["rates"]]
        (measured / "other.json").write_text(json.dumps(baseline))
        assert call("bench-check", str(measured / "other.json"), "--slower", "0.5") == status
        assert set(asked) == {0.3}  # as long as the baseline's
        error = capsys.readouterr().err
        assert error.startswith("slower by") is bool(status) and error.count("\n") <= 1


@pytest.mark.speed
def test_more_devices_are_measured_beside_one_and_beside_ddp(call, tmp_path, capsys):
    short = ("--seconds", "0.5", "--rounds", "1", "--config", str(DIGITS))
    short += ("--model.learning_rate", "1")  # so that the loss falls in a few steps
    assert call("bench", *short, "--devices", "2", "--into", str(tmp_path)) == 0
    rows = read(tmp_path)["rows"]
    assert [row["devices"] for row in rows] == [1, 2, 2] and all(row["valid"] for row in rows)
    parts = {"data", "forward", "backward", "optimizer"}
    assert [set(row["step_ms"]) for row in rows] == [parts, *[parts | {"all-reduce"}] * 2]
    said = capsys.readouterr().out
    assert max(len(line) for line in said.splitlines() if "written:" not in line) <= 80
    assert "2 processes, ddp" in said


@pytest.mark.parametrize(
    ("before", "after", "is_slower"),
    [
        ([100, 101, 99], [100, 98, 97], False),  # as fast
        ([100, 101, 99], [92, 80, 91], True),  # a tenth slower
        ([100, 101, 99], [40, 99, 50], False),  # two trials were disturbed
        ([70, 80, 100], [85, 84, 83], False),  # the baseline is too noisy
    ],
)
def test_slower_means_by_more_than_the_noise(before, after, is_slower):
    assert (bench_check.slower_by(before, after) > bench_check.allowed(before)) is is_slower


@pytest.mark.speed
def test_bench_check_refuses_another_device_or_other_settings(measured, call, tmp_path, capsys):
    other = read(measured) | {"device": "NVIDIA H200"}
    (tmp_path / "bench.json").write_text(json.dumps(other))
    assert call("bench-check", str(tmp_path)) == 2
    assert "measured on NVIDIA H200" in capsys.readouterr().err
    changed = read(measured)
    changed["settings"]["model"]["network"] = "resnet18"
    with pytest.raises(UserError, match=r"model\.network was resnet18"):
        bench_check.check_same(changed, changed["device"], read(measured)["settings"])
    (tmp_path / "bench.json").write_text("{")
    assert call("bench-check", str(tmp_path)) == 2


@pytest.mark.parametrize("key", ["valid", "counts"])  # counts: in files of older versions
def test_only_a_valid_row_of_default_settings_is_a_baseline(key, tmp_path):
    for valid in (True, False):
        row = {"name": "loader", "shipped": True, key: valid}
        (tmp_path / "bench.json").write_text(json.dumps({"rows": [row]}))
        if valid:
            assert bench_check.read_baseline(tmp_path)[1] == row
    with pytest.raises(UserError, match="with a valid row of default settings"):
        bench_check.read_baseline(tmp_path)


def test_tune_keeps_the_batch_size_or_chooses_the_smallest_that_is_almost_fastest():
    rates = {64: 50.0, 128: 96.0, 256: 100.0}
    assert tune.choose_batch_size(rates, now=64) == 128
    assert [tune.choose_batch_size(rates, now=now) for now in (128, 256)] == [128, 256]
    assert tune.choose_batch_size({64: 85.0, 128: 100.0}, now=64, spread=0.2) == 64
    assert tune.batch_sizes(64, 200, None) == [32, 64, 128]
    assert tune.batch_sizes(64, 10_000, global_batch=192) == [32, 64]


CORES = {Loading(1, 4): 100.0, Loading(4, 4): 350.0, Loading(8, 4): 600.0}


def test_tune_chooses_the_fewest_workers_that_are_fast_enough():
    assert tune.choose_loading(CORES, training_rate=280) == (Loading(4, 4), True)
    assert tune.choose_loading(CORES, training_rate=300) == (Loading(8, 4), True)
    assert tune.choose_loading(CORES, training_rate=510) == (Loading(8, 4), False)
    on_gpu = CORES | {Loading(1, 4, "gpu"): 2000.0}
    assert tune.choose_loading(on_gpu, training_rate=300) == (Loading(8, 4), True)  # by CPU
    assert tune.choose_loading(on_gpu, training_rate=510) == (Loading(1, 4, "gpu"), True)
    kept = tune.choose_loading(CORES, training_rate=280, now=Loading(8, 4))
    assert kept == (Loading(8, 4), True)


@pytest.mark.speed
def test_tune_reports_that_resident_images_need_no_workers(tmp_path, capsys, call):
    flags = ["--into", str(tmp_path), "--data.batch_size", "300"]
    assert call("tune", *SHORT, "--config", str(DIGITS), *flags) == 0
    said = capsys.readouterr().out
    assert "no workers to tune" in said
    found = read(tmp_path, "tune")
    assert all(0 <= row["spread"] < 1 for row in found["batch_sizes"] if "failed" not in row)
    assert ("keep them." in said) == (found["chosen"]["batch_size"] == 300)
    assert (tmp_path / "tune.png").read_bytes().startswith(b"\x89PNG")
    assert read(tmp_path, "tune")["chosen"].keys() == {"batch_size"}


@pytest.mark.speed
def test_the_lines_of_tune_work_in_a_recipe(folder_of_images, tmp_path, call, capsys):
    result = tune.tune(PACKAGE, Path("configs/imagefolder.yaml").resolve(), folder_of_images, 0.3)
    assert {"batch_size", "workers", "prefetch"} <= result["chosen"].keys()
    (tmp_path / "tuned.yaml").write_text(tune.lines(result))
    recipe = ["--config", "configs/imagefolder.yaml", *folder_of_images[:3]]
    flags = ["--config", str(tmp_path / "tuned.yaml"), "--trainer.max_steps", "1"]
    run = tmp_path / "run"
    assert call("fit", *recipe, *flags, folder=run) == 0
    trained = json.loads((run / "run.json").read_text())["config"]["data"]
    assert {name: trained[name] for name in result["chosen"]} == result["chosen"]
    tune.draw(result).savefig(tmp_path / "tune.png")


def test_a_loader_that_is_too_slow_is_reported_with_both_numbers():
    result = {"config": "c", "device": "d", "batch_sizes": [], "loader": [], "recipe_batch_size": 8}
    result |= {"unit": "images", "changes": True}
    chosen = {"chosen": {"batch_size": 8}, "enough": False, "supply": 3100.0, "demand": 5400.0}
    said = tune.report(result | chosen)
    assert "3,100" in said and "5,400" in said and "more cores" in said


@pytest.fixture
def folder_of_images(tmp_path) -> list[str]:
    """Flags for 120 image files of two classes and a small network."""
    for label in range(2):
        (tmp_path / "images" / f"class {label}").mkdir(parents=True)
        for i in range(60):
            colour = (120 * label, i, 255 - i)
            path = tmp_path / "images" / f"class {label}" / f"{i}.png"
            Image.new("RGB", (40, 40), colour).save(path)
    small = ["--data.image_size=32", "--model.network=small_cnn", "--data.batch_size=48"]
    return [f"--data.options.path={tmp_path / 'images'}", *small]


class Work:
    """The seconds that a test's training takes on the clock: no machine's load changes them."""

    seconds = 0.0

    @classmethod
    def takes(cls, seconds: float) -> None:
        cls.seconds += seconds


@pytest.fixture
def by_work(monkeypatch) -> None:
    monkeypatch.setattr(clock, "now", lambda device: Work.seconds)


def test_the_clock_ignores_the_first_step_and_what_follows_the_last(by_work):
    timer = Clock(torch.device("cpu"))
    for _ in range(3):
        Work.takes(0.2)  # the first step compiles
        timer.step(10)
        for _ in range(4):
            Work.takes(0.01)
            timer.step(10)
        timer.end_epoch()
        Work.takes(0.1)
        timer.end_validation()
    assert timer.rates == pytest.approx([1000] * 3)
    assert timer.inside == pytest.approx(1000)
    assert timer.whole == pytest.approx(50 / 0.34)


class Plain(L.LightningModule):
    """A Lightning module that uses nothing of this project."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 2)

    def training_step(self, batch, batch_idx):
        Work.takes(0.01)
        return torch.nn.functional.cross_entropy(self.layer(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        Work.takes(0.05)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.5)


class SlowToStart(DataLoader):
    """A loader whose workers start slowly: this counts for the whole run, not inside an epoch."""

    def __iter__(self):
        Work.takes(0.05)
        return super().__iter__()


@pytest.mark.parametrize("validates", [True, False])
def test_the_clock_measures_any_trainer(tmp_path, validates, by_work):
    images = torch.randn(64, 4)
    batches = SlowToStart(TensorDataset(images, (images[:, 0] > 0).long()), batch_size=8)
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=4,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[ClockCallback(tmp_path / "clock.json")],
    )
    trainer.fit(Plain(), batches, batches if validates else None)
    found = json.loads((tmp_path / "clock.json").read_text())
    assert found["epochs"] == 4 and found["last_loss"] < found["first_loss"]
    assert found["inside"] == pytest.approx(8 / 0.01)
    validating = 8 * 0.05 + 0.05 if validates else 0.0  # its loader starts slowly, too
    assert found["whole"] == pytest.approx(64 / (8 * 0.01 + 0.05 + validating))
