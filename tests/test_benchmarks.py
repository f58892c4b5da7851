"""The benchmarks: every kind of row runs, small and on a CPU, and the table is correct."""

import json
import os
import shutil
import sys

import pytest
from conftest import ENVIRONMENT, TEMPLATE, execute

BENCHMARKS = TEMPLATE / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import report  # noqa: E402
from workloads import WORKLOADS, workload  # noqa: E402


@pytest.fixture(scope="module")
def compare(python, default_project, tmp_path_factory):
    """`compare(*arguments)` of the tiny version, in the project's environment, into compare.out."""
    folder = tmp_path_factory.mktemp("bench")

    def run(*arguments):
        places = ["--project", default_project.path, "--jpegs", folder / "jpegs", "--out", folder]
        # Detecting the CPU's vector instructions takes the compiler 20 s.
        quick = {"TORCHINDUCTOR_VEC_ISA_OK": "0"}
        source = {"PYTHONPATH": str(default_project.path / "src")}
        return python(BENCHMARKS / "compare.py", *arguments, *places, cwd=folder, **source, **quick)

    run.out = folder
    return run


def test_rows_that_read_files_learn_and_are_timed(compare):
    status, said = compare(
        "resnet50-jpeg", "--tiny", "--rounds=1", "--rows=torchvision,timm,ours,limit"
    )
    assert status == 0, said
    assert "timm's loading, fast loop is skipped: timm is not installed" in said
    results = {row["row"]: row for row in report.read(compare.out / "resnet50-jpeg.jsonl")}
    for name in ("torchvision", "ours", "limit"):
        assert results[name]["inside"] > 0 and results[name]["first_step"] > 0
        assert results[name]["last_loss"] < results[name]["first_loss"]
    assert results["ours"]["whole"] > 0
    assert 0 < results["ours"]["first_step_in_fit"] < results["ours"]["first_step"]
    assert " fit --config=" in results["ours"]["command"]
    assert results["limit"]["command"].startswith("python benchmarks/rows.py resnet50-jpeg limit")
    assert (compare.out / "resnet50-jpeg.png").stat().st_size > 5000
    table = (compare.out / "resnet50-jpeg.md").read_text()
    assert [line.split(" |")[0] for line in table.splitlines()[4:7]] == [
        "| torchvision's loading, fast loop",
        "| ours",
        "| the limit",
    ]


def test_what_was_measured_is_not_measured_again(compare):
    names = [row["row"] for row in report.read(compare.out / "resnet50-jpeg.jsonl")]
    status, said = compare(
        "resnet50-jpeg", "--tiny", "--rounds=2", "--rows=timm,ours", "--seconds=1"
    )
    assert status == 0, said
    assert said.startswith("No time left for ours, round 2")
    again = [row["row"] for row in report.read(compare.out / "resnet50-jpeg.jsonl")]
    assert again == names


def test_the_made_jpegs_are_as_photographs_are_kept(compare):
    files = sorted((compare.out / "jpegs").rglob("*.jpg"))
    assert len(files) == 360 and len({file.read_bytes() for file in files}) == 360
    assert 40_000 < sum(file.stat().st_size for file in files) / 360 < 60_000
    look = "import sys; from PIL import Image; i = Image.open(sys.argv[1]); print(i.size, i.layer)"
    seen = execute(ENVIRONMENT / "bin" / "python", "-c", look, files[0], cwd=compare.out).stdout
    assert seen.startswith("(500, 375) [(1, 2, 2,"), seen  # 4:2:0


def test_the_usual_ways_run_and_a_row_that_fails_stops_no_other(compare):
    rows = "--rows=ours-step-graph,usual-compiled,usual-lightning"
    status, said = compare("resnet18-128", "--tiny", "--rounds=1", rows)
    assert status == 1, said
    assert "ours, step graph failed (2): error: model.compile is step-graph" in said
    results = report.read(compare.out / "resnet18-128.jsonl")
    assert [row["row"] for row in results] == ["usual-compiled", "usual-lightning"]
    assert all(row["inside"] > 0 and report.falls(row) for row in results)
    assert results[1]["whole"] > 0


def test_rows_of_several_devices_stand_beside_one(compare):
    rows = "--rows=several,several-limit"
    status, said = compare("resnet18-128", "--tiny", "--rounds=1", "--devices=2", rows)
    assert status == 0, said
    results = report.read(compare.out / "resnet18-128-2gpus.jsonl")
    assert all(row["devices"] == 2 and report.falls(row) for row in results)
    assert all(row["peaks_gib"] == [None, None] for row in results)  # of each rank's GPU
    table = (compare.out / "resnet18-128-2gpus.md").read_text()
    assert "| ours, data-parallel on 2 GPUs | " in table and "| the limit of 2 GPUs | " in table
    assert table.endswith('`make bench WORKLOAD=resnet18-128 ARGS="--devices 2"`.\n')
    assert (compare.out / "resnet18-128-2gpus.png").stat().st_size > 5000


def test_several_devices_divide_the_batch_if_it_stays_the_same_in_all(compare):
    told = ["--tiny", "--rounds=1", "--devices=2", "--strong", "--rows=several,several-limit"]
    status, said = compare("resnet18-128", *told)
    assert status == 0, said
    results = report.read(compare.out / "resnet18-128-2gpus-strong.jsonl")
    assert "--data.batch_size=8 " in results[0]["command"]
    assert results[1]["command"].endswith(" --tiny --devices=2 --strong")
    table = (compare.out / "resnet18-128-2gpus-strong.md").read_text()
    assert table.startswith(
        "**ResNet-18, small stem, 50,000 images of 32 by 32 pixels, batch 128 in"
    )
    assert compare("resnet18-128", "--strong")[1].startswith("error: --strong divides the batch")


def test_an_all_reduce_of_each_size_is_a_row(compare, python):
    told = ["--cpu", "--devices=2", "--most=20000", "--out", compare.out]
    status, said = python(BENCHMARKS / "allreduce.py", *told, cwd=compare.out)
    assert status == 0, said
    rows = [line.strip("| ").split(" | ") for line in said.splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows] == ["bytes", "1,024", "4,096", "16,384"]
    assert all(float(row[1].replace(",", "")) > 0 for row in rows[1:])


def measured(row: str, round_: int, inside: float, whole: float | None = None, **more) -> dict:
    """Return a line of results as compare.py writes it."""
    line = {"workload": "resnet18-512", "row": row, "round": round_, "seconds": 30.0}
    line |= {"inside": inside, "whole": whole, "first_loss": 2.3, "last_loss": 0.1}
    line |= {"first_step": 20.0 if round_ == 0 else 9.0, "peak_gib": 1.25, "cores": 16}
    return line | {"gpu": "NVIDIA H200", "versions": {"torch": "2.11.0"}} | more


@pytest.fixture
def results() -> list[dict]:
    ours = [measured("ours", i, 70_000.0 + i, 65_000.0) for i in range(3)]
    limit = [measured("limit", i, rate) for i, rate in enumerate((100e3, 80e3, 90e3))]
    return [*limit, *ours]


def test_the_table_has_medians_spread_and_shares_of_the_limit(results):
    table = report.table(results).splitlines()
    assert table[4:6] == [
        "| ours | 70,001 | 70,000 to 70,002 | 78% | 0.714 | 65,000 | 72% | 20 / 9 | - | 1.2 |",
        "| the limit | 90,000 | 80,000 to 100,000 | 100% | 0.556 |  |  | 20 / 9 | - | 1.2 |",
    ]
    assert table[-1] == (
        "Medians of 3 interleaved rounds on NVIDIA H200, 16 cores, torch 2.11.0:"
        " `make bench WORKLOAD=resnet18-512`."
    )


def test_rows_of_several_devices_are_compared_with_the_limit_of_as_many(results):
    results += [measured("several", 0, 120e3), measured("several-limit", 0, 160e3)]
    table = report.table([line | {"devices": 2} for line in results])
    assert "| ours | 70,001 | 70,000 to 70,002 | 78% |" in table
    assert "| ours, data-parallel on 2 GPUs | 120,000 | 120,000 to 120,000 | 75% |" in table
    assert "on NVIDIA H200, 8 cores a GPU, torch" in table and "memory" not in table


def test_the_memory_of_the_ranks_that_differs_most_is_told(results):
    peaks = [[8.0, 8.0], [8.0, 7.8], [None, None], [4.0, 4.0, 3.9, 4.0], [9.0]]
    lines = [
        line | {"devices": 2, "peaks_gib": seen}
        for line, seen in zip(results[1:], peaks, strict=False)
    ]
    assert report.table(lines).endswith("\nThe ranks' peak memory differs by 2.5% at most.\n")


def test_each_of_several_gpus_has_as_many_cores_as_one(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(32)))
    rows = "ours", "several", "limit", "several-limit"
    for name, cores in {"resnet50-jpeg": [16, 32], "resnet50-jpeg-4cores": [4, 8]}.items():
        work = workload(name, devices=2)
        assert [work.cores_of(row) for row in rows] == [*cores, None, None]
    assert workload("resnet50-jpeg").cores_of("ours") is None


def test_rows_of_texts_are_compared_with_the_limit_that_is_as_deterministic():
    speeds = {"eager": 500, "ours": 3800, "ours-nondeterministic": 4500}
    speeds |= {"limit-deterministic": 4000, "limit": 5000}
    results = [measured(row, 0, speed, workload="bert-32") for row, speed in speeds.items()]
    table = report.table(results)
    assert "| | texts/s inside an epoch |" in table
    assert "| ours | 3,800 | 3,800 to 3,800 | 95% |" in table
    assert "| ours, nondeterministic | 4,500 | 4,500 to 4,500 | 90% |" in table
    assert "| the best eager loop | 500 | 500 to 500 | 10% |" in table


@pytest.mark.parametrize(("last_loss", "is_valid"), [(2.59, True), (2.61, False)])
def test_a_loss_that_has_nothing_to_learn_may_rise_a_little(last_loss, is_valid):
    assert (
        report.falls(measured("ours", 0, 1.0, workload="bert-32", last_loss=last_loss)) is is_valid
    )


def test_a_fine_tuning_is_compared_cold_and_warm():
    seconds = {"usual": (40.0, 30.0, 34.0), "ours": (20.0, 16.0, 16.0)}
    results = [
        measured(row, round_, 300.0, workload="bert-finetuning", seconds=took)
        for row, each in seconds.items()
        for round_, took in reversed(list(enumerate(each)))
    ]
    table = report.table(results)
    assert "| the usual loop | 40.0 / 32.0 | 300 | 1.00 / 1.00 |" in table
    assert "| ours | 20.0 / 16.0 | 300 | 2.00 / 2.00 |" in table


def test_the_table_has_the_utilization_that_was_measured(results):
    busy = [line | {"busy_percent": 97.6} for line in results if line["row"] == "ours"]
    assert "| 20 / 9 | 98% | 1.2 |" in report.table(busy)


def test_utilization_is_the_mean_within_the_timed_epochs(compare, python, default_project):
    states = "[(t, GpuState(0, '', '', 0, 90 + t, 0, (), 1900, 600.0)) for t in range(9)]"
    program = (
        "from measure import GpuState, usage\n"
        f"print(usage({states}, (2.5, 6.5)), usage({states}, None))"
    )
    source = {"PYTHONPATH": f"{default_project.path / 'src'}{os.pathsep}{BENCHMARKS}"}
    status, said = python("-c", program, cwd=compare.out, **source)
    assert status == 0, said
    assert said == "{'busy_percent': 95.0, 'sm_mhz': 1900, 'watts': 600.0} {}\n"


def test_a_kernel_of_attention_that_torch_refuses_is_named_below_the_table(compare):
    status, said = compare("vit-b-128", "--tiny", "--rounds=1", "--rows=flash,cudnn")
    assert status == 0, said
    results = {row["row"]: row for row in report.read(compare.out / "vit-b-128.jsonl")}
    assert results["flash"]["inside"] > 0 and results["flash"]["parameters"] > 200_000
    refused = "torch refuses the kernel cudnn for deterministic training: "
    assert results["cudnn"]["left_out"].startswith(refused)
    assert f"\n{refused}" in (compare.out / "vit-b-128.md").read_text()


def test_the_gain_is_drawn_from_networks_with_both_rows(compare, python, default_project):
    out = compare.out / "gains"
    told = ["--tiny", "--rounds=1", "--networks", "small-cnn-128", "--out", out]
    source = {"PYTHONPATH": str(default_project.path / "src"), "TORCHINDUCTOR_VEC_ISA_OK": "0"}
    told += ["--project", default_project.path]
    status, said = python(BENCHMARKS / "gains.py", *told, cwd=compare.out, **source)
    assert status == 0, said
    speeds = {row["row"]: row["inside"] for row in report.read(out / "small-cnn-128.jsonl")}
    gain = speeds["ours"] / speeds["usual-eager"]
    lines = (out / "gains.md").read_text().splitlines()
    assert lines[2].startswith("| small_cnn | 0.289 million | ")
    assert lines[2].endswith(f" | {gain:.1f} |") and lines[3] == ""
    assert (out / "gains.png").stat().st_size > 5000


def test_the_parts_of_a_run_add_up_to_its_time(compare, python, default_project):
    out = compare.out / "timeline"
    told = ["--tiny", "--seconds=1", "--cold", "--out", out, "--project", default_project.path]
    source = {"PYTHONPATH": str(default_project.path / "src"), "TORCHINDUCTOR_VEC_ISA_OK": "0"}
    status, said = python(BENCHMARKS / "timeline.py", *told, cwd=compare.out, **source)
    assert status == 0, said
    lines = (out / "timeline.md").read_text().splitlines()
    *parts, whole = [float(line.split(" | ")[1]) for line in lines[4:] if line.startswith("| ")]
    lost = [float(line.split(" | ")[3].rstrip(" |")) for line in lines[4:] if line[:2] == "| "]
    assert sum(lost[:-1]) == pytest.approx(lost[-1], abs=0.1)
    assert len(parts) == 9 and min(parts) >= 0
    assert sum(parts) == pytest.approx(whole, abs=0.1) and whole > 1
    of_loop = json.loads((out / "timeline.json").read_text())["start_of_limit"]
    assert of_loop > 0.1 and f"that of the limit's bare loop after {of_loop:.1f} s." in lines[-1]


def test_a_row_with_a_batch_size_of_its_own_says_so(results):
    peers = [measured("usual-compiled", 0, 2_000.0), measured("torchvision", 0, 6_000.0)]
    table = report.table([line | {"workload": "resnet50-jpeg"} for line in (*results, *peers)])
    assert "| the usual script, torch.compile, batch 128 | 2,000 |" in table
    assert "| torchvision's loading, fast loop | 6,000 |" in table


def test_each_patch_is_measured_beside_turns_with_all(compare, python, default_project):
    told = ["--tiny", "--seconds=0", "--patches", "log_without_waiting", "note_hooks_quickly"]
    source = {"PYTHONPATH": str(default_project.path / "src"), "OMP_NUM_THREADS": "1"}
    told += ["--project", default_project.path]
    status, said = python(BENCHMARKS / "patches.py", *told, cwd=compare.out, **source)
    assert status == 0, said
    rows = [line for line in said.splitlines() if line.endswith(", 1 turns")]
    names = [line.split()[0] for line in rows]
    assert names == ["log_without_waiting", "note_hooks_quickly", "off"]
    assert all(float(line.split()[1]) > 0 and float(line.split()[3]) > 0 for line in rows)


@pytest.mark.parametrize("last_loss", [2.4, float("nan"), None])
def test_a_row_whose_loss_does_not_fall_does_not_count(results, last_loss):
    results[1] |= {"last_loss": last_loss}
    table = report.table(results)
    assert "| the limit |" not in table and "78%" not in table
    assert f"the limit is invalid: its loss did not fall (2.3 to {last_loss})." in table


def test_what_chance_explains_is_not_called_a_difference():
    difference, chance = report.apart([0.90, 0.92, 0.94], [0.91, 0.92, 0.96])
    assert 0 < difference < chance
    difference, chance = report.apart([0.90, 0.91, 0.92], [0.86, 0.87, 0.88])
    assert difference == pytest.approx(-0.04) and abs(difference) > chance


def test_accuracies_are_compared_after_the_same_epochs(compare, python, default_project):
    told = ["--tasks", "digits", "--seeds=2", "--epochs=1", "--project", default_project.path]
    source = {"PYTHONPATH": str(default_project.path / "src")}
    status, said = python(BENCHMARKS / "accuracy.py", *told, cwd=compare.out, **source)
    row = said.splitlines()[-1]
    plain, ours = (float(cell.split("%")[0]) for cell in row.split(" | ")[1:3])
    assert row.startswith("| digits | ") and 30 < plain < 100 and 30 < ours < 100
    assert status in (0, 1)


def test_the_table_takes_its_place_in_a_readme(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("a\n<!-- benchmark: resnet18-512 -->\nold\n<!-- end -->\nb <!-- end -->\n")
    for table in ("first\n", "second\n"):
        report.insert(readme, "resnet18-512", table)
        text = f"a\n<!-- benchmark: resnet18-512 -->\n{table}<!-- end -->\nb <!-- end -->\n"
        assert readme.read_text() == text


@pytest.mark.parametrize("workload", WORKLOADS)
def test_the_tables_of_the_readme_are_of_rounds_that_were_measured(workload):
    results = report.read(TEMPLATE / "docs" / "benchmarks" / f"{workload}.jsonl")
    assert len({(r["row"], r["round"]) for r in results}) == len(results)
    assert all("H200" in r["gpu"] and r["workload"] == workload for r in results)
    table = report.table(results) if results else ""  # not measured yet
    told = f"<!-- benchmark: {workload} -->\n{table}<!-- end -->"
    assert told in (TEMPLATE / "README.md").read_text()


def test_rounds_that_are_not_whole_and_lines_that_are_broken_are_told(tmp_path):
    made = {"workload": "resnet18-128", "cores": 1, "versions": {"torch": "2"}}
    rounds = [made | {"row": row} for row in ("ours", "limit", "ours")]
    assert (
        report.measured(rounds) == "Medians of 1 to 2 interleaved rounds on CPU, 1 cores, torch 2"
    )
    (tmp_path / "cut.jsonl").write_text('{"row": "ours"}\n{"row": "li')
    with pytest.raises(SystemExit, match=r"cut\.jsonl, line 2 is not JSON .*Delete that line"):
        report.read(tmp_path / "cut.jsonl")


def test_without_a_gpu_make_says_so(template, tmp_path):
    fails = tmp_path / "nvidia-smi"
    fails.write_text("#!/bin/sh\nexit 9\n")
    fails.chmod(0o755)
    settings = os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    done = execute("make", "bench", "WORKLOAD=resnet18-128", cwd=template, env=settings)
    assert done.returncode == 2
    assert done.stdout.startswith("There is no NVIDIA GPU here: nvidia-smi fails.")


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="this machine has a GPU")
def test_without_a_gpu_nothing_is_compared(compare):
    status, said = compare("resnet18-128")
    assert status == 2
    assert said.startswith("error: There is no NVIDIA GPU here")
