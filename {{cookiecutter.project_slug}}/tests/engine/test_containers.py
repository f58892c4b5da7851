"""The project in containers: what its files promise, and, where Docker and the universal image are,
what the image really does."""

import json
import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

import {{ cookiecutter.__package_name }} as package

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
STAGES = re.findall(r"^FROM \S+ AS (\w+)$", DOCKERFILE, re.MULTILINE)
UNIVERSAL, SERVE = re.findall(r"^ARG \w+_IMAGE=(\S+)$", DOCKERFILE, re.MULTILINE)
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
DEVCONTAINERS = sorted((ROOT / ".devcontainer").rglob("devcontainer.json"))
STRANGER = 1234  # a user number that the image has no name for
PORT = "${NOTEBOOK_PORT:-8888}"


@pytest.fixture(params=DEVCONTAINERS, ids=lambda path: path.parent.name)
def devcontainer(request) -> tuple[Path, dict]:
    return request.param, json.loads(request.param.read_text())


def test_there_is_a_devcontainer_without_a_gpu():
    with_gpu, without = (
        json.loads((ROOT / ".devcontainer" / name).read_text())
        for name in ("devcontainer.json", "cpu/devcontainer.json")
    )
    assert not [flag for flag in without["runArgs"] if "gpu" in flag]
    for key in set(with_gpu) - {"name", "build", "initializeCommand", "runArgs"}:
        assert with_gpu[key] == without[key]


def test_a_devcontainer_builds_a_stage_that_exists(devcontainer):
    path, config = devcontainer
    build = config["build"]
    assert (path.parent / build["dockerfile"]).resolve() == ROOT / "Dockerfile"
    assert (path.parent / build["context"]).resolve() == ROOT
    assert build["target"] in STAGES
    assert build["args"]["UNIVERSAL_IMAGE"] in config["initializeCommand"]


def test_a_devcontainer_works_as_the_hosts_user_in_the_images_environment(devcontainer):
    _, config = devcontainer
    assert config["remoteUser"] == "dev" and config["updateRemoteUserUID"] is True
    settings = config["customizations"]["vscode"]["settings"]
    assert settings["python.defaultInterpreterPath"] == "/opt/venv/bin/python"
    assert not re.search(r"privileged|docker\.sock|--ipc|--network", json.dumps(config))


def test_a_devcontainer_opens_no_port_and_keeps_caches_and_history(devcontainer):
    _, config = devcontainer
    assert config["forwardPorts"] == [] and "appPort" not in config
    assert config["otherPortsAttributes"] == {"onAutoForward": "ignore"}
    volumes = {m.split("target=")[1].split(",")[0] for m in config["mounts"] if "volume" in m}
    assert volumes == {"/home/dev/.cache", "/home/dev/.history"}
    assert config["containerEnv"]["HISTFILE"].startswith("/home/dev/.history/")


def test_a_missing_image_is_explained_before_anything_is_built(devcontainer, tmp_path):
    """Without Docker no image is found: the message is the same."""
    _, config = devcontainer
    done = subprocess.run(
        ["/bin/sh", "-c", config["initializeCommand"]],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    image = config["build"]["args"]["UNIVERSAL_IMAGE"]
    assert re.search(rf"Build it.*: docker build --tag {re.escape(image)} .*#:image\n", done.stdout)


def test_compose_offers_training_notebook_and_service():
    assert set(COMPOSE["services"]) == {"train", "notebook", "serve"}
    for service in COMPOSE["services"].values():
        assert service["build"]["target"] in STAGES
        assert service["user"] == "${USER_ID:-1000}:${GROUP_ID:-1000}"
        assert service["init"] and service["shm_size"] and service["mem_limit"]
        assert service["stop_grace_period"] == "2m"
    assert COMPOSE["services"]["notebook"]["healthcheck"]
    for name, verb in (("train", "fit"), ("serve", "serve")):
        command = COMPOSE["services"][name]["command"].split()
        assert command[:4] == ["python", "-m", package.__name__, verb]


@pytest.mark.parametrize("name", ["my own", "it's", "a & b; (c)", "50$ off"])
def test_compose_passes_a_name_on_whole(name):
    for service, setting in (
        ("train", "${CONFIG:-configs/digits.yaml}"),
        ("serve", "${RUN:-latest}"),
    ):
        assert name in shlex.split(COMPOSE["services"][service]["command"].replace(setting, name))


def test_docker_creates_no_folder_for_root():
    mounts = [mount for service in COMPOSE["services"].values() for mount in service["volumes"]]
    folders = [mount for mount in mounts if isinstance(mount, dict)]
    assert {mount["target"] for mount in folders} == {"/workspace/data", "/workspace/runs"}
    assert not any(mount["bind"]["create_host_path"] for mount in folders)
    others = {mount.partition(":")[0] for mount in mounts if not isinstance(mount, dict)}
    assert others == {".", "cache", "history"}  # the project's folder, and volumes


def test_the_service_is_asked_whether_it_is_ready_and_changes_no_run():
    service = COMPOSE["services"]["serve"]
    assert "/readyz" in service["healthcheck"]["test"]
    (runs,) = service["volumes"]
    assert runs["target"] == "/workspace/runs" and runs["read_only"]
    assert service["profiles"] == ["serve"]  # `docker compose up` alone does not start it


def test_compose_opens_ports_on_this_machine_only():
    ports = [port for service in COMPOSE["services"].values() for port in service.get("ports", [])]
    assert ports and all(port.startswith("127.0.0.1:") for port in ports)


def test_compose_needs_neither_variables_nor_a_gpu():
    text = (ROOT / "compose.yaml").read_text()
    assert set(re.findall(r"\$\{\w+(..)", text)) == {":-"}
    assert "gpu" not in json.dumps(COMPOSE)


@pytest.mark.skipif(not (ROOT / "compose.gpu.yaml").exists(), reason="a project for CPUs")
def test_the_gpu_file_gives_gpus_to_every_service():
    gpu = yaml.safe_load((ROOT / "compose.gpu.yaml").read_text())
    assert set(gpu["services"]) == set(COMPOSE["services"])
    for service in gpu["services"].values():
        (device,) = service["deploy"]["resources"]["reservations"]["devices"]
        assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}


def test_mounted_folders_exist_in_a_fresh_clone():
    """Docker would make them, for root."""
    kept = ROOT / ".gitignore"
    for folder in ("data", "runs"):
        assert (ROOT / folder).is_dir()
        assert f"/{folder}/*" in kept.read_text() and "!.gitkeep" in kept.read_text()


def test_nothing_that_the_project_adds_is_torch():
    lock = (ROOT / "requirements.lock").read_text()
    names = set(re.findall(r"^([a-z0-9.-]+)==", lock, re.MULTILINE))
    assert not {"torch", "torchvision", "triton"} & names
    assert "--no-deps --require-hashes" in DOCKERFILE


# From here on with a real engine.


def docker(*arguments: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, **options)


@pytest.fixture(scope="session")
def image() -> Iterator[str]:
    """The project's image, built for the tests; skips where that can't be."""
    if shutil.which("docker") is None or docker("info").returncode:
        pytest.skip("no Docker here")
    if docker("image", "inspect", UNIVERSAL).returncode:
        pytest.skip(f"no {UNIVERSAL} here: make image says how to get it")
    yield build(ROOT, "as-it-is")
    docker("image", "rm", tagged("as-it-is"))


def tagged(name: str) -> str:
    return f"{package.__name__}-under-test:{name}"


def digest(image: str) -> str:
    return json.loads(docker("image", "inspect", image).stdout)[0]["Id"]


def build(folder: Path, name: str, stage: str = "train") -> str:
    below = f"--build-arg=UNIVERSAL_ID={digest(UNIVERSAL)}"
    where = (f"--target={stage}", f"--tag={tagged(name)}")
    done = docker("build", "--quiet", below, *where, str(folder))
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


Run = Callable[..., subprocess.CompletedProcess]


@pytest.fixture
def run(image: str) -> Run:
    """Run a command in the image as a stranger without network."""

    def command(*arguments: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess:
        where = (f"--user={STRANGER}:{STRANGER}", "--network=none", *options)
        return docker("run", "--rm", *where, image, *arguments)

    return command


@pytest.fixture
def start(image: str) -> Iterator[Callable[..., str]]:
    """Start a container as a stranger without network and return its id; removed at the end."""
    started: list[str] = []

    def command(*arguments: str, options: tuple[str, ...] = (), image: str = image) -> str:
        where = ("--detach", "--init", f"--user={STRANGER}", "--network=none", *options)
        done = docker("run", *where, image, *arguments)
        assert done.returncode == 0, done.stderr
        started.append(done.stdout.strip())
        return started[-1]

    yield command
    for container in started:
        docker("rm", "--force", container)


def until(condition: Callable[[], object], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.5)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    folder = tmp_path / "runs"
    folder.mkdir()
    folder.chmod(0o777)
    return folder


def test_the_projects_layers_hold_no_torch(image, run):
    library = "import torch, pathlib; print(torch.__version__, pathlib.Path(torch.__file__).stat())"
    below = docker("run", "--rm", UNIVERSAL, "python", "-c", library)
    above = run("python", "-c", library)

    def changed(done: subprocess.CompletedProcess) -> tuple[str, ...]:
        return re.search(r"^(\S+) .*st_mtime=(\d+), st_ctime=(\d+)", done.stdout).groups()

    assert changed(above) == changed(below)
    assert run("python", "-m", "pip", "check").returncode == 0


def test_setup_has_nothing_to_do_in_the_image(run):
    done = run("make", "setup")
    assert done.returncode == 0 and "Nothing to be done" in done.stdout, done.stderr


def test_an_edit_of_the_source_rebuilds_in_five_seconds(image, tmp_path):
    copy = tmp_path / "project"
    leave_out = shutil.ignore_patterns(".git", ".venv", "runs", "data", "dist", "build")
    shutil.copytree(ROOT, copy, ignore=leave_out)
    (copy / "src" / package.__name__ / "networks.py").open("a").write("# edited\n")
    began = time.perf_counter()
    edited = build(copy, "edited")
    assert time.perf_counter() - began < 5
    assert edited != image
    docker("image", "rm", tagged("edited"))


def test_a_stranger_trains_without_network_and_owns_what_it_made(run, runs):
    arguments = f"python -m {package.__name__} fit --config configs/digits.yaml"
    mount = f"--volume={runs}:/workspace/runs"
    done = run(*arguments.split(), "--trainer.max_epochs", "1", options=(mount,))
    assert done.returncode == 0, done.stderr
    made = list(runs.rglob("*"))
    assert {"run.json", "predictions.png"} <= {path.name for path in made}
    assert {path.stat().st_uid for path in made} == {STRANGER}
    (record,) = (path for path in made if path.name == "run.json")
    within = json.loads(record.read_text())["numerics"]["image"]
    assert within == {"built_from": UNIVERSAL, "digest": digest(UNIVERSAL)}


def test_a_stopped_training_is_saved_and_ends_with_143(start, runs):
    arguments = f"python -m {package.__name__} fit --config configs/digits.yaml"
    mount = f"--volume={runs}:/workspace/runs"
    container = start(*arguments.split(), "--trainer.max_epochs", "1000", options=(mount,))
    until(lambda: any(len(p.read_text().split()) > 9 for p in runs.rglob("metrics.csv")))
    assert docker("stop", "--time", "60", container).returncode == 0
    assert docker("wait", container).stdout.strip() == "143"
    (record,) = runs.rglob("run.json")
    assert json.loads(record.read_text())["state"] == "interrupted"
    assert (record.parent / "checkpoints" / "last.ckpt").is_file()


def test_jupyterlab_serves_only_with_the_token(start):
    notebook = COMPOSE["services"]["notebook"]
    container = start(*notebook["command"].replace(PORT, "8888").split())

    def status(query: str) -> str:
        code = "import http.client as h; c = h.HTTPConnection('127.0.0.1', 8888);"
        code += f" c.request('GET', '/api/contents?{query}'); print(c.getresponse().status)"
        return docker("exec", container, "python", "-c", code).stdout.strip()

    healthy = notebook["healthcheck"]["test"].replace(PORT, "8888")
    until(lambda: docker("exec", container, "sh", "-c", healthy).returncode == 0)
    token = re.search(r"token=[0-9a-f]{40,}", docker("logs", container).stderr)[0]
    assert [status(query) for query in ("", "token=", token)] == ["403", "403", "200"]


def test_the_service_answers_in_an_image_without_tools(start, runs, trained):
    if docker("image", "inspect", SERVE).returncode:
        pytest.skip(f"no {SERVE} here: make serve DOCKER=1 says how to get it")
    run = shutil.copytree(trained, runs / "digits" / "one")
    run.chmod(0o755)
    mount = f"--volume={runs}:/workspace/runs:ro"
    container = start(options=(mount,), image=build(ROOT, "serve", "serve"))

    def inside(code: str) -> subprocess.CompletedProcess:
        code = f"import io, urllib.request as u; from PIL import Image; file = io.BytesIO(); {code}"
        return docker("exec", container, "python", "-c", code)

    at = "http://127.0.0.1:8000"
    until(lambda: inside(f"u.urlopen('{at}/readyz')").returncode == 0)
    done = inside(
        "Image.new('RGB', (9, 9)).save(file, 'PNG');"
        f"print(u.urlopen('{at}/predict', file.getvalue()).read().decode())"
    )
    assert json.loads(done.stdout)["run"] == "runs/digits/one", done.stderr
    for tool in ("g++", "jupyter", "pytest"):
        assert docker("exec", container, "which", tool).returncode == 1
    docker("rm", "--force", container)
    docker("image", "rm", tagged("serve"))


def test_jupyterlab_refuses_an_empty_token(run):
    command = COMPOSE["services"]["notebook"]["command"].replace(PORT, "8888")
    done = run("timeout", "60", *command.split(), options=("--env=JUPYTER_TOKEN=",))
    assert done.returncode == 1 and "The token is empty" in done.stderr


def test_compose_accepts_its_files(image):
    both = [f"--file={path.name}" for path in sorted(ROOT.glob("compose*.yaml"), reverse=True)]
    for files in (both[:1], both):
        done = docker("compose", *files, "config", "--quiet", cwd=ROOT)
        assert done.returncode == 0, done.stderr


def test_make_says_how_to_get_a_missing_universal_image(image):
    missing = "localhost:1/nobody/torch-universal:0"
    environment = os.environ | {"UNIVERSAL_IMAGE": missing}
    done = subprocess.run(
        ["make", "image"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert f"docker build --tag {missing} " in done.stderr and ".git#:image" in done.stderr
