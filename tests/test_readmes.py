"""Every command of the READMEs is run: here, by another test, or it stands in a list of exceptions.

A command that is new in a README fails here until somebody has decided which of the three it is.
The pages in a project's docs/ belong to its README.
"""

import re
import shlex
from itertools import chain
from pathlib import Path

import pytest
from conftest import TEMPLATE, BakedProject

PROGRAMS = "make python pip cookiecutter cruft curl docker devcontainer tensorboard wandb apt"
COMMAND = re.compile(rf"(?:{'|'.join(PROGRAMS.split())})(?: (?!was )[^`]+)?")

ONE_STEP = "--trainer.max_steps=1"
FEW = "'--data.options={image_size: 32, train: 64, val: 32}' --data.batch_size=32"
SMALL = "--data.image_size=32 --data.batch_size=8 --model.network=small_cnn --data.workers=0"

# Run below, in this order and in one project: a command, and what makes it quick.
HERE = {
    'make train ARGS="--model.network resnet18 --model.optimizer adamw'
    ' --model.learning_rate 0.002"': ONE_STEP,
    'make train ARGS="--best val/f1_macro --patience 10"': ONE_STEP,
    "make train CONFIG=configs/synthetic.yaml": f"{ONE_STEP} {FEW} --data.eval_batch_size=32",
    "make train CONFIG=configs/imagefolder.yaml": f"{ONE_STEP} {SMALL}",
    'make train CONFIG=configs/imagefolder.yaml ARGS="--data.options.path /data/birds.csv"': (
        f"{ONE_STEP} {SMALL} --data.options.path=birds.csv"
    ),
    'make train CONFIG=configs/imagefolder.yaml ARGS="--data.options.path data/ages.csv'
    ' --data.options.objective numbers --model.optimizer adamw --model.learning_rate 0.001"': (
        f"{ONE_STEP} {SMALL}"
    ),
    "python -c 'from torchvision import models; print(*models.list_models(models))'": "",
    "python -m my_project fit --config configs/digits.yaml": "--until=2",
    "make resume": "--until=4",
    'make resume ARGS="--elastic --trainer.devices 1"': "--until=6 --data.batch_size=32",
    'make resume ARGS="--trainer.max_epochs 60"': "--until=8",
    "python -m my_project fit --run latest": "--until=10",
    "python -m my_project test --run latest": "",
    "make predict INPUT=photos": "--input=data/images",
}

# Run by another test, of this folder or of the project's tests/engine/.
ELSEWHERE = {
    "test_project.py::test_make_alone_prints_every_target": ["make"],
    "test_project.py::test_setup_installs_what_the_locks_name": ["make setup"],
    "test_project.py::test_the_projects_own_tests_pass_in_half_a_minute_of_two_cores": [
        "make test"
    ],
    "test_project.py::test_a_fresh_project_passes_its_own_checks": ["make lint"],
    "engine/test_contract.py::test_every_verb_works_for_a_task_that_the_engine_does_not_know": [
        "make train CONFIG=configs/mine.yaml"
    ],
    "test_project.py::test_jupyterlab_starts_with_a_token": ["make notebook"],
    "test_demo.py::test_the_demo_trains_from_a_bare_clone_whatever_its_folder_is_called": [
        *("make demo", "make train", "make evaluate", "make reproduce")
    ],
    "test_demo.py::test_adding_a_package_leaves_torch_alone": [
        *("make add PKG=timm", "make add PKG=pyarrow")
    ],
    "test_engine.py::test_the_engines_tests_pass": ["make test-engine"],
    "test_resume.py::test_runs_that_are_killed_resume_to_the_same_bits": ["make test-resume"],
    "test_locks.py::test_the_committed_locks_resolve": ["make lock"],
    "test_readmes.py::test_clean_keeps_the_runs": ["make clean"],
    "test_update.py::test_update_keeps_edits_and_brings_all_else": ["make update"],
    "test_update.py::test_make_update_calls_it": ['make update ARGS="--checkout v0.1.0"'],
    "engine/test_cli.py::test_help_is_fast_and_fits_on_a_screen": [
        *("python -m my_project --help", "python -m my_project fit --help")
    ],
    "engine/test_run.py::test_a_second_resume_keeps_the_settings_of_the_first": [
        "make resume RUN=runs/digits/…"
    ],
    "engine/test_run.py::test_the_record_gets_the_test_scores": ["make evaluate RUN=runs/digits/…"],
    "engine/test_classes.py::test_balanced_finds_the_rare_class_that_the_default_misses": [
        'make test-engine ARGS="-n 0 -s -k balanced_finds"'
    ],
    "engine/test_classes.py::test_a_run_out_of_patience_ends_also_if_it_was_killed_as_it_ended": [
        'make resume ARGS="--patience 20"'
    ],
    "engine/test_faults.py::test_several_seeds_print_mean_and_standard_deviation": [
        'make train SEEDS="1 2 3"'
    ],
    "engine/test_makefile.py::test_make_passes_the_runs_name_note_and_choice_on_whole": [
        *('make train NAME=wide NOTE="twice the channels"', "make runs", "make prune"),
        *("make prune KEEP=5", "make prune KEEP=5 YES=1", "make runs SORT=score"),
        *("make compare", 'make compare RUNS="wide deep"', 'make compare RUNS="runs/… runs/…"'),
    ],
    "engine/test_run.py::test_two_processes_train_one_network_and_score_it_as_one_would": [
        *("make train-multi", "make train-multi GPUS=4")
    ],
    "engine/test_reproduce.py::test_a_copied_run_is_retrained_from_its_own_source": [
        "python -m my_project reproduce"
    ],
    "engine/test_look.py::test_the_picture_is_saved_where_look_says": ["make look"],
    "engine/test_serve.py::test_the_service_predicts_what_predict_writes": [
        *("make serve", "curl --data-binary @image.jpg http://127.0.0.1:8000/predict")
    ],
    "engine/test_bench.py::test_bench_writes_the_same_rows_to_a_table_a_json_and_a_picture": [
        "make bench"
    ],
    "engine/test_callbacks.py::test_the_averaged_weights_are_in_the_last_checkpoint": [
        'make evaluate ARGS="--ckpt_path …/last.ckpt"'
    ],
    "engine/test_bench.py::test_more_devices_are_measured_beside_one_and_beside_ddp": [
        "make bench GPUS=2"
    ],
    "engine/test_bench.py::test_bench_check_fails_only_if_training_is_slower": [
        *("make bench-check", "make bench-check BASELINE=runs/bench/…")
    ],
    "engine/test_bench.py::test_the_lines_of_tune_work_in_a_recipe": ["make tune"],
    "engine/test_run.py::test_predictions_are_written_for_every_test_image": ["make predict"],
}

# Run in a text project by test_text.py.
IN_A_TEXT_PROJECT = {
    "test_text.py::test_a_command_of_the_readme_runs": [
        'make train ARGS="--model.optimizer sgd --model.learning_rate 0.1 --model.dropout 0.05"',
        "make train CONFIG=configs/table.yaml",
        'make train CONFIG=configs/table.yaml ARGS="--data.options.path data/mine"',
        "make train CONFIG=configs/mlm.yaml",
        "make resume RUN=runs/languages/…",
        "make evaluate RUN=runs/languages/…",
        "python -m my_project fit --config configs/languages.yaml",
    ],
    "test_text.py::test_what_the_engine_has_for_texts_passes_its_tests": [
        "make predict INPUT=texts.csv"
    ],
    "test_text.py::test_a_text_project_trains_scores_and_answers": [
        'curl --data-binary "Deutsch; Schweiz; Arabische Schrift" http://127.0.0.1:8000/predict'
    ],
}

# Run by no test, and why.
EXCEPTIONS = {
    "needs a GPU": [
        *(
            f"make bench WORKLOAD={name}"
            for name in (
                *("accuracy", "resnet18-128", "resnet18-512", "resnet18-extras"),
                *("resnet50-jpeg", "resnet50-jpeg-4cores"),
                *("bert-32", "bert-128", "bert-512", "bert-finetuning"),
                *("vit-b-128", "gains", "timeline"),
            )
        ),
        *(
            f'make bench WORKLOAD={name} ARGS="--devices 2"'
            for name in ("allreduce", "resnet18-128")
        ),
        'make bench CONFIG=configs/synthetic.yaml ARGS="--all-modes --model.network resnet18"',
        'make bench CONFIG=configs/imagefolder.yaml ARGS="--all-modes --rounds 1 --model.network'
        ' resnet50 --data.batch_size 256 --data.options.path FOLDER"',
        "python -m pytest -m gpu -s tests/engine/test_decoding.py",
    ],
    "takes a quarter of an hour": ["make bench WORKLOAD=accuracy-text"],
    "needs the network": [
        "git clone https://github.com/org/torch-gpu-template",
        'pip install "cookiecutter>=2.7.1"',
        "cookiecutter gh:org/torch-gpu-template",
        "cookiecutter gh:org/torch-gpu-template task=text",
        *("make setup CUDA=cu126", "make train CONFIG=configs/mrpc.yaml"),
        'make train ARGS="--model.network bert-base-uncased --data.tokenizer bert-base-uncased"',
        *("apt install gcc python3-dev", "apt install fonts-noto-cjk"),
        "wandb sync",
    ],
    "needs Docker": [
        *("make image", "make test-image", "make bundle"),
        *(f"make {target} DOCKER=1" for target in ("train", "serve", "notebook", "shell")),
        *(f"make predict DOCKER=1 INPUT=data/{name}" for name in ("photos", "texts.csv")),
        "make setup WHEELS=dist/bundle/wheels",
        "docker load --input dist/bundle/image.tar",
        "docker compose",
        "export USER_ID=$(id -u) GROUP_ID=$(id -g)",
        "export COMPOSE_FILE=compose.yaml:compose.gpu.yaml",
        *("docker compose up -d train", "docker compose stop train", "docker compose up -d serve"),
        "docker compose up train",
        "devcontainer up",
    ],
    "waits for its user": ["make shell", "tensorboard --logdir runs"],
}


def commands(text: str) -> set[str]:
    """Return the commands of a README: those in its blocks of sh, and those in its sentences."""
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL))
    lines = [part for line in blocks.splitlines() for part in line.split("#")[0].split("&&")]
    sentences = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", sentences)]
    typed = [line.strip() for line in lines if line.strip() and not line.strip().startswith("cd ")]
    return set(typed) | {span for span in spans if COMMAND.fullmatch(span)}


def decided() -> set[str]:
    elsewhere = ELSEWHERE | IN_A_TEXT_PROJECT | EXCEPTIONS
    return {*HERE, *chain(*elsewhere.values())}


@pytest.fixture(scope="module")
def readmes(default_project, bake) -> dict[Path, str]:
    projects = default_project.path, bake({"task": "text"}).path
    pages = {folder: pages_of(folder) for folder in projects} | {TEMPLATE: [TEMPLATE / "README.md"]}
    return {folder: "\n".join(page.read_text() for page in of) for folder, of in pages.items()}


def pages_of(project: Path) -> list[Path]:
    return [project / "README.md", *sorted((project / "docs").glob("*.md"))]


def test_every_command_of_the_readmes_is_run_or_a_named_exception(readmes):
    found = set().union(*map(commands, readmes.values()))
    assert found - decided() == set(), "new in a README: run it, or name it as an exception"
    assert decided() - found == set(), "no README says this any more"


def test_a_command_is_found_in_a_block_and_in_a_sentence():
    text = "```sh\ncd x && make new   # comment\n```\nThen `make\nother A=1`, `data/` and `wandb/`."
    assert commands(text) == {"make new", "make other A=1"}


@pytest.mark.parametrize("task", ["images", "text"])
def test_every_link_of_a_projects_pages_leads_somewhere(task, bake):
    pages, found = pages_of(bake({"task": task}).path), 0
    for page in pages:
        text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)]+)\)", text):
            name, _, anchor = target.partition("#")
            if name.startswith("https://"):
                continue
            found, file = found + 1, page.parent / name if name else page
            assert file.exists(), f"{page.name}: {target}"
            if anchor:
                assert anchor in anchors(file.read_text()), f"{page.name}: {target}"
    assert found > 20 and len(pages) == 7


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("where", [*ELSEWHERE, *IN_A_TEXT_PROJECT])
def test_the_test_that_runs_a_command_exists(where):
    name, _, test = where.partition("::")
    engine = TEMPLATE / "{{cookiecutter.project_slug}}" / "tests"
    file = (engine if name.startswith("engine/") else TEMPLATE / "tests") / name
    assert f"\ndef {test}(" in file.read_text()


def test_make_knows_every_target_and_variable_of_the_readmes(readmes, default_project):
    """The template's README speaks of the project's commands too."""
    theirs = (default_project.path / "Makefile").read_text()
    for folder, text in readmes.items():
        makefiles = (folder / "Makefile").read_text() + theirs
        for command in filter(re.compile("make ").match, commands(text)):
            target, *settings = shlex.split(command)[1:]
            assert f"\n{target}:" in makefiles, command
            for name in (setting.partition("=")[0] for setting in settings):
                assert re.search(rf"\$\((value )?{name}\)", makefiles), command


def test_docker_commands_that_mount_a_folder_run_as_the_caller():
    text = (TEMPLATE / "image" / "README.md").read_text()
    mounting = [line for line in text.splitlines() if re.match(r"docker run .*-v ", line)]
    assert len(mounting) >= 3
    assert all(' --user "$(id -u):$(id -g)" ' in line for line in mounting)


@pytest.fixture(scope="module")
def project(bake) -> BakedProject:
    """A project with images of its owner's: in data/images, and in a table."""
    project = bake()
    rows = ["path,label,split"]
    for i in range(48):
        kind, split = ("jay", "wren")[i % 2], ("train", "train", "val", "test")[i // 2 % 4]
        file = project.path / "data" / "images" / split / kind / f"{i}.ppm"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"P6 16 16 255\n" + 256 * bytes([5 * i, 255 * (i % 2), 0]))
        rows.append(f"{file},{kind},{split}")
    (project.path / "birds.csv").write_text("\n".join(rows))
    ages = ["path,label,split"]
    for i, row in enumerate(rows[1:]):
        file, _, split = row.split(",")
        ages.append(f"{file},{20 + i},{split}")
    (project.path / "data" / "ages.csv").write_text("\n".join(ages))
    return project


@pytest.mark.parametrize("command", HERE)
def test_a_command_of_the_readme_runs(command, project, make, python):
    planned = command
    if command.startswith("make "):
        said = make("--dry-run", *shlex.split(command)[1:], project=project).stdout
        planned = said.splitlines()[-1]
    program, *arguments = shlex.split(planned)
    assert program == "python"
    source = {"PYTHONPATH": str(project.path / "src")}
    status, said = python(*arguments, *shlex.split(HERE[command]), cwd=project.path, **source)
    assert status == 0, said


def test_clean_keeps_the_runs(project, make):
    for name in (".ruff_cache", "build", "runs/digits"):
        (project.path / name).mkdir(parents=True, exist_ok=True)
    assert make("clean", project=project).returncode == 0
    assert (project.path / "runs" / "digits").is_dir()
    assert not list(project.path.glob("build")) + list(project.path.glob(".ruff_cache"))
