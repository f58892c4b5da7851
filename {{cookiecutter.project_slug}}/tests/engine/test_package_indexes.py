"""pip and uv ask the same package indexes, whichever of them these are configured for."""

import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from {{ cookiecutter.__package_name }}.engine.tools import indexes

SHOW = "import json, os; print(json.dumps(dict(os.environ)))"
MAIN, MORE = "http://mirror.invalid/simple", "http://more.invalid/simple"


@pytest.fixture
def surroundings(tmp_path: Path) -> dict[str, str]:
    """Variables of a user with an empty home, who has set nothing for pip, uv or a proxy."""
    ours = ("PIP_", "UV_", "XDG_")
    kept = {
        k: v for k, v in os.environ.items() if not k.startswith(ours) and "PROXY" not in k.upper()
    }
    kept.pop("SSL_CERT_FILE", None)
    return kept | {"HOME": str(tmp_path), "XDG_CONFIG_DIRS": str(tmp_path / "etc")}


def seen(surroundings: dict[str, str]) -> dict[str, str]:
    """Return the variables that a command gets."""
    command = [sys.executable, indexes.__file__, sys.executable, "-c", SHOW]
    done = subprocess.run(command, env=surroundings, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize("file", [".config/pip/pip.conf", ".pip/pip.conf", "etc/pip/pip.conf"])
def test_uv_gets_what_a_file_of_pip_says(file, surroundings, tmp_path):
    config = tmp_path / file
    config.parent.mkdir(parents=True)
    config.write_text(
        f"[global]\nindex-url = http://old.invalid\ntrusted-host =\n  a.invalid\n  b.invalid:8080\n"
        f"extra-index-url = {MORE}\n  file:///shared\nproxy = proxy.invalid:3128\n"
        f"[install]\nindex-url = {MAIN}\n"
    )
    found = seen(surroundings)
    assert found["UV_DEFAULT_INDEX"] == MAIN
    assert found["UV_INDEX"] == f"{MORE} file:///shared"
    assert found["UV_INDEX_STRATEGY"] == "unsafe-best-match"
    assert found["UV_INSECURE_HOST"] == "a.invalid b.invalid:8080"
    assert found["ALL_PROXY"] == "http://proxy.invalid:3128"


def test_variables_come_before_files_and_uvs_own_before_pips(surroundings, tmp_path):
    (tmp_path / "pip.conf").write_text("[global]\nindex-url = http://old.invalid\n")
    surroundings |= {"PIP_CONFIG_FILE": str(tmp_path / "pip.conf"), "PIP_INDEX_URL": MAIN}
    assert seen(surroundings)["UV_DEFAULT_INDEX"] == MAIN
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL"):
        found = seen(surroundings | {name: MORE})
        assert {found.get("UV_DEFAULT_INDEX", MORE), found[name]} == {MORE}


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"UV_INDEX_URL": MAIN}, {"PIP_INDEX_URL": MAIN}),
        ({"UV_DEFAULT_INDEX": f"lab={MAIN}"}, {"PIP_INDEX_URL": MAIN}),
        ({"UV_INDEX": f"lab={MORE} {MAIN}"}, {"PIP_EXTRA_INDEX_URL": f"{MORE} {MAIN}"}),
        ({"UV_EXTRA_INDEX_URL": f"{MORE}?a=b"}, {"PIP_EXTRA_INDEX_URL": f"{MORE}?a=b"}),
        ({"UV_INSECURE_HOST": "a b"}, {"PIP_TRUSTED_HOST": "a b"}),
        ({}, {}),
    ],
)
def test_pip_gets_what_is_set_for_uv(given, wanted):
    assert indexes.for_pip({}, given) == wanted
    assert (
        indexes.for_pip({"index-url": "1", "extra-index-url": "2", "trusted-host": "3"}, given)
        == {}
    )


@pytest.mark.parametrize(
    "text",
    [
        f'index-url = "{MAIN}"\nextra-index-url = ["{MORE}"]\n',
        f'[pip]\nindex-url = "{MAIN}"\nextra-index-url = ["{MORE}"]\n',
        f'[[index]]\nurl = "{MORE}"\n[[index]]\nname = "lab"\nurl = "{MAIN}"\ndefault = true\n',
    ],
    ids=["older", "of pip", "newer"],
)
def test_pip_gets_what_a_file_of_uv_says_and_uv_keeps_it(text, surroundings, tmp_path):
    (tmp_path / ".config" / "uv").mkdir(parents=True)
    (tmp_path / ".config" / "uv" / "uv.toml").write_text(text)
    surroundings |= {"PIP_CONFIG_FILE": os.devnull}
    found = seen(surroundings)
    assert (found["PIP_INDEX_URL"], found["PIP_EXTRA_INDEX_URL"]) == (MAIN, MORE)
    assert "UV_DEFAULT_INDEX" not in found and "UV_INDEX" not in found
    assert "UV_DEFAULT_INDEX" not in seen(surroundings | {"PIP_INDEX_URL": MORE})
    assert "PIP_INDEX_URL" not in seen(surroundings | {"UV_NO_CONFIG": "1"})
    (tmp_path / ".config" / "uv" / "uv.toml").write_text("no TOML")
    assert "PIP_INDEX_URL" not in seen(surroundings)


def test_without_settings_nothing_changes(surroundings):
    empty = surroundings | {"PIP_CONFIG_FILE": os.devnull}
    changed = {k for k, v in seen(empty).items() if empty.get(k) != v}
    assert not {name for name in changed if name.startswith(("UV_", "PIP_", "ALL_", "SSL_"))}


@pytest.fixture
def mirror() -> Iterator[tuple[str, set[str]]]:
    """The URL of an index that has nothing, and the programs that have asked it."""
    asked = set()

    class Nothing(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.add(self.headers["User-Agent"].partition("/")[0])
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Nothing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/simple", asked
        server.shutdown()


def test_uv_asks_the_mirror_of_pips_file(mirror, surroundings, tmp_path):
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if uv is None:
        pytest.skip("needs uv")
    url, asked = mirror
    (tmp_path / "pip.conf").write_text(f"[global]\nindex-url = {url}\n")
    surroundings |= {"PIP_CONFIG_FILE": str(tmp_path / "pip.conf"), "UV_NO_CONFIG": "1"}
    surroundings |= {"UV_CACHE_DIR": str(tmp_path / "cache")}
    command = f"{uv} pip install --dry-run --python {sys.executable} a-name-that-nobody-has"
    wrapped = [sys.executable, indexes.__file__, *command.split()]
    assert subprocess.run(wrapped, env=surroundings, capture_output=True).returncode != 0
    assert asked == {"uv"}
