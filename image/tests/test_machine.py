"""The system around Python: users, files, tools, size."""

import os
import re
import subprocess
import time
from pathlib import Path

import pytest
import zstandard
from conftest import ANYBODY, BIN, CUDA, FOLDER, IMAGE, docker, execute, output, python, run

BUDGET = 3.6e9  # bytes, compressed with zstd
SECONDS_TO_IMPORT_TORCH = 15  # about 3 on an idle machine
TOOLS = "bat curl eza exa fd g++ gcc git htop less make nano nvtop ps rg ssh tini zsh"
TRAIN = """
import torch
from torch.utils.data import DataLoader, TensorDataset
data = TensorDataset(torch.rand(64, 4), torch.rand(64, 1))
net = torch.nn.Linear(4, 1)
for x, y in DataLoader(data, batch_size=16, num_workers=2):
    torch.nn.functional.mse_loss(net(x), y).backward()
torch.save(net.state_dict(), "net.pt")
"""


@pytest.mark.parametrize("user", [(), ANYBODY], ids=["dev", "1234"])
def test_whoever_runs_it_may_write_where_work_is_done(user):
    folders = "/workspace /opt/venv /opt/venv/bin /home/dev /home/dev/.cache /home/dev/.history"
    script = f"for d in {folders} $(python -c 'import site; print(site.getsitepackages()[0])')"
    output("sh", "-ec", script + '; do touch "$d/mine" && rm "$d/mine"; done', options=user)
    output("uv", "pip", "install", "six==1.16.0", options=user)  # replaces files of the image


def test_a_new_volume_is_writable_for_a_changed_user():
    volume = f"image-test-{os.getpid()}"
    for folder in ("/home/dev/.cache", "/home/dev/.history", "/workspace"):
        docker("volume", "create", volume)
        try:
            mount = ("--volume", f"{volume}:{folder}")
            output("touch", f"{folder}/mine", options=(*ANYBODY, *mount))
        finally:
            docker("volume", "rm", volume)


def test_dev_has_no_way_to_roots_rights():
    everything = ("--user", "0")
    assert output("id", "--user") == "1000"
    assert run("sh", "-c", "command -v sudo").returncode
    assert output("find", "/", "-xdev", "-perm", "/6000", "-type", "f", options=everything) == ""
    shadow = output("cat", "/etc/shadow", options=everything)
    assert all(re.match(r"[\w-]+:[!*]", line) for line in shadow.splitlines()), shadow


def test_no_cache_list_or_documentation_is_left():
    waste = "/var/lib/apt/lists /var/cache/apt /var/log /root /tmp /home/dev/.cache /var/cache/uv"
    waste += " /usr/share/man /usr/share/doc /usr/share/info /usr/share/locale"
    script = f"find {waste} -type f -size +0 ! -name '.*' 2>/dev/null || true"
    assert output("sh", "-c", script, options=("--user", "0")) == ""


def test_every_tool_is_there():
    found = output("bash", "-c", f"command -v {TOOLS} || true").splitlines()
    assert [Path(path).name for path in found] == TOOLS.split()
    assert output("sh", "-c", "fd --version; bat --version; exa --version").count("\n") >= 2
    assert output("nl", "--version").startswith("nl (GNU coreutils)")


def test_the_prompt_shows_the_git_branch_and_keeps_history():
    script = "git init -q -b trunk . && precmd && print -P $PROMPT && print $HISTFILE"
    shown = output("zsh", "-ic", script)
    assert "(trunk)" in shown and shown.endswith("/home/dev/.history/zsh")


def test_the_environment_is_what_gpus_and_scripts_need():
    found = dict(line.split("=", 1) for line in output("env").splitlines())
    assert found["NVIDIA_VISIBLE_DEVICES"] == "all"
    assert found["NVIDIA_DRIVER_CAPABILITIES"] == "compute,utility"
    assert found["TORCHINDUCTOR_CACHE_DIR"].startswith("/home/dev/.cache/")
    assert "MPLBACKEND" not in found and output("pwd") == "/workspace"
    assert python("import matplotlib.pyplot as p; print(p.get_backend())") == "agg"


def test_a_stopped_container_ends_at_once_with_the_signals_status():
    name = docker("run", "--detach", IMAGE, "sleep", "60").splitlines()[-1]
    try:
        begun = time.monotonic()
        docker("stop", "--time", "30", name)
        assert time.monotonic() - begun < 10
        assert docker("inspect", "--format", "{{.State.ExitCode}}", name) == "143"
    finally:
        docker("rm", "--force", name)


def test_somebodys_own_training_script_runs_unchanged(own_folder):
    """The README's command, without `--gpus all`."""
    folder, options = own_folder
    (folder / "train.py").write_text(TRAIN)
    output("python", "train.py", options=("--shm-size", "1g", *options))
    assert (folder / "net.pt").stat().st_uid == folder.stat().st_uid


def test_torch_is_imported_soon_after_the_start():
    begun = time.monotonic()
    output("python", "-c", "import torch")
    seconds = time.monotonic() - begun
    print(f"start to torch imported: {seconds:.1f} s")
    assert seconds < SECONDS_TO_IMPORT_TORCH


def test_a_mirror_that_fails_is_done_without():
    """The first try uses the mirror's index, the second does not."""
    asked = 'echo "${UV_DEFAULT_INDEX:-the default}"; test -z "$UV_DEFAULT_INDEX"'
    script = ("sh", "-c", f"PACKAGE_MIRROR=$0 with-mirror sh -c '{asked}' 2>&1")
    for mirror, index in (("tuna", "tuna.tsinghua"), ("aliyun", "aliyun.com")):
        said = output(*script, mirror, options=("--user", "0")).splitlines()
        assert index in said[0] and said[1:] == [
            f"The mirror {mirror} failed. Trying without it",
            "the default",
        ]
    assert output(*script, "none") == "the default"
    refused = run(*script, "tunaa")
    assert refused.returncode == 2 and "is 'tunaa'" in refused.stdout


def test_the_size_is_within_the_budget():
    """The size of a pull: `docker save`, compressed with zstd's default level."""
    with subprocess.Popen(["docker", "save", IMAGE], stdout=subprocess.PIPE) as saved:
        total = 0
        compressor = zstandard.ZstdCompressor(threads=-1).compressobj()
        while block := saved.stdout.read(1 << 22):
            total += len(compressor.compress(block))
        total += len(compressor.flush())
    assert saved.returncode == 0
    print(f"compressed: {total / 1e9:.2f} GB")
    assert (1e8 if CUDA == "cpu" else 1e9) < total < BUDGET


def test_hadolint_and_shellcheck_have_nothing_to_say():
    scripts = [path for path in (FOLDER / "files").iterdir() if path.read_text().startswith("#!")]
    assert len(scripts) >= 4
    for command in ([BIN / "hadolint", "Dockerfile"], [BIN / "shellcheck", *scripts]):
        done = execute(*command, cwd=FOLDER)
        assert done.returncode == 0, done.stdout
