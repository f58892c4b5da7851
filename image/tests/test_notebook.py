"""JupyterLab needs a token, and cells show their output."""

import json
import urllib.error
import urllib.request

import pytest
from conftest import container, docker, logs_with, output, run

LAB = ("jupyter", "lab", "--port")
CELLS = [
    "import pandas as pd; pd.DataFrame({'loss': [3.0, 2.0, 1.0]}).plot()",
    "from tqdm.auto import tqdm\nfor _ in tqdm(range(3)): pass",
    "import sys; print(sys.executable)",
]
ASK_A_TERMINAL = """
import json, sys, urllib.request, websocket
base, token = f"127.0.0.1:{sys.argv[1]}", sys.argv[2]
asked = urllib.request.Request(f"http://{base}/api/terminals?token={token}", method="POST")
name = json.load(urllib.request.urlopen(asked))["name"]
url = f"ws://{base}/terminals/websocket/{name}?token={token}"
terminal = websocket.create_connection(url, timeout=30)
terminal.send(json.dumps(["stdin", "print shell=$ZSH_NAME python=$(command -v python)\\r"]))
seen = ""
while "python=/" not in seen:
    kind, *what = json.loads(terminal.recv())
    seen += what[0] if kind == "stdout" else ""
print(seen)
"""


def status(port: int, path: str) -> int:
    try:
        return urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10).status
    except urllib.error.HTTPError as refused:
        return refused.code


def published(port: int) -> tuple[str, str]:
    return "--publish", f"127.0.0.1:{port}:{port}"


def test_it_makes_a_token_prints_it_and_serves_nothing_without(port):
    with container(*LAB, str(port), options=published(port)) as name:
        token = logs_with(rf"127\.0\.0\.1:{port}/lab\?token=([0-9a-f]{{48}})", name)[1]
        assert status(port, "/api/contents") == 403
        assert status(port, "/api/contents?token=" + "0" * 48) == 403
        assert status(port, f"/api/contents?token={token}") == 200
        assert status(port, f"/lab?token={token}") == 200


def test_a_given_token_is_the_one_and_a_terminal_is_zsh_with_the_same_python(port):
    given = ("--env", "JUPYTER_TOKEN=mine", *published(port))
    with container(*LAB, str(port), options=given) as name:
        logs_with("is running at", name)
        assert status(port, "/api/contents?token=mine") == 200
        assert status(port, "/api/contents?token=other") == 403
        shown = docker("exec", name, "python", "-c", ASK_A_TERMINAL, str(port), "mine")
        assert "shell=zsh python=/opt/venv/bin/python" in shown


@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        (("--env", "JUPYTER_TOKEN="), ()),
        (("--env", "JUPYTER_TOKEN= "), ()),
        ((), ("--IdentityProvider.token=",)),
        ((), ("--ServerApp.token=",)),
    ],
)
def test_an_empty_token_is_refused(port, options, arguments):
    done = run("timeout", "30", *LAB, str(port), *arguments, options=options)
    assert done.returncode == 1 and "The token is empty" in done.stdout.splitlines()[-1]


def test_it_never_runs_as_root(port):
    root = ("--user", "0")
    done = run("timeout", "30", *LAB, str(port), "--allow-root", options=root)
    assert done.returncode == 1 and "does not run as root" in done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def outputs() -> list[list[dict]]:
    """The outputs of each of CELLS."""
    cells = [
        {"cell_type": "code", "id": str(i), "source": source, "metadata": {}, "outputs": []}
        for i, source in enumerate(CELLS)
    ]
    cells = [cell | {"execution_count": None} for cell in cells]
    notebook = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    command = "jupyter nbconvert --log-level ERROR --to notebook --execute --stdin --stdout"
    done = output(*command.split(), input=json.dumps(notebook))
    return [cell["outputs"] for cell in json.loads(done[done.index("{") :])["cells"]]


def test_a_data_frame_draws_without_a_warning(outputs):
    assert [shown for shown in outputs[0] if shown["output_type"] == "stream"] == []
    assert any("image/png" in shown.get("data", {}) for shown in outputs[0])


def test_tqdm_draws_its_bar(outputs):
    assert [shown for shown in outputs[1] if shown["output_type"] == "stream"] == []
    widget = "application/vnd.jupyter.widget-view+json"
    assert any(widget in shown.get("data", {}) for shown in outputs[1])


def test_a_kernels_python_is_the_containers(outputs):
    assert "".join(outputs[2][0]["text"]).strip() == output("sh", "-c", "command -v python")
