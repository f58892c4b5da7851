"""The other targets: ssh, serve and devel."""

import subprocess

import pytest
from conftest import CUDA, IMAGE, container, execute, logs_with, output, python, run

KERNEL = """
import os
os.environ["TORCH_CUDA_ARCH_LIST"] = "8.0"
from torch.utils.cpp_extension import load_inline
kernel = '''
__global__ void add(float* x, int n) { int i = threadIdx.x; if (i < n) x[i] += 1; }
torch::Tensor plus_one(torch::Tensor x) {
  add<<<1, 32>>>(x.data_ptr<float>(), x.numel());
  return x;
}
'''
header = "torch::Tensor plus_one(torch::Tensor x);"
built = load_inline("plus_one", header, kernel, functions=["plus_one"])
print("built", built.plus_one.__name__)
"""


@pytest.fixture
def login(tmp_path):
    """`login(*options, user="dev", command="true")` runs real ssh, without prompts."""
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "key"], check=True
    )

    def login(*options, user="dev", command="true"):
        asked = ["-F", "none", "-p", "2222", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes"]
        asked += ["-o", "StrictHostKeyChecking=no", "-o", f"UserKnownHostsFile={tmp_path}/hosts"]
        return execute("ssh", *asked, *options, f"{user}@127.0.0.1", command)

    login.key = tmp_path / "key"
    return login


@pytest.fixture
def sshd(login):
    key = login.key.with_suffix(".pub").read_text().strip()
    options = ("--publish", "127.0.0.1:2222:2222", "--env", f"AUTHORIZED_KEYS={key}")
    with container(image=f"{IMAGE}-ssh", options=options) as name:
        logs_with("Server listening", name)
        yield name


def test_ssh_takes_a_key_and_gives_the_same_python(sshd, login):
    done = login(
        "-i", login.key, command="command -v python; echo $SHELL; python -c 'import torch'"
    )
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-2:] == ["/opt/venv/bin/python", "/usr/bin/zsh"]


def test_ssh_refuses_passwords_other_keys_and_root(sshd, login):
    without = login("-o", "PubkeyAuthentication=no", "-o", "PreferredAuthentications=password")
    assert without.returncode == 255 and "(publickey)" in without.stdout  # nothing else is offered
    other = login.key.with_name("other")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", other], check=True)
    assert "Permission denied (publickey)" in login("-i", other).stdout
    assert "Permission denied (publickey)" in login("-i", login.key, user="root").stdout


def test_ssh_needs_a_key_and_the_image_holds_none():
    done = run(image=f"{IMAGE}-ssh")
    assert done.returncode == 2 and done.stdout.startswith("There is no public key")
    keys = "find / -xdev ( -name ssh_host_* -o -name host_key* -o -name authorized_keys )"
    assert output(*keys.split(), image=f"{IMAGE}-ssh", options=("--user", "0")) == ""


def test_serve_has_torch_and_neither_compiler_nor_notebook():
    image = f"{IMAGE}-serve"
    assert python("import torch; print(torch.ones(2).sum().item())", image=image) == "2.0"
    there = run("bash", "-c", "command -v gcc cc g++ c++ jupyter ipython", image=image)
    assert there.stdout == "" and there.returncode
    assert output("pip", "check", image=image) == "No broken requirements found."


@pytest.mark.skipif(CUDA != "cu130", reason="nvcc is locked for cu130 only")
def test_devel_builds_a_cuda_extension():
    assert python(KERNEL, image=f"{IMAGE}-devel").splitlines()[-1] == "built plus_one"
