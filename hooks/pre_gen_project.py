"""Refuse answers that cannot work, all at once and before a file is written.

`checked_answers.py` asks `report` while cookiecutter is still collecting answers. Cookiecutter runs
this file just before it writes, which also covers a replay file that was edited by hand.
"""

import json
import keyword
import re
import sys
from collections.abc import Iterable, Iterator
from unicodedata import category

# {% raw %} this file is a template too, and what follows has braces of its own
GOOD = {
    "project_name": "Bird Classifier",
    "project_slug": "bird-classifier",
    "description": "Tells 200 kinds of birds apart",
    "author_name": "Ada Lovelace",
    "universal_image": "ghcr.io/org/torch-universal, registry.example.com:5000/team/torch:1.2",
}
LONGEST = {"project_name": 100, "description": 300, "author_name": 100}
DEVICES = {"con", "prn", "aux", "nul"} | {f"{d}{n}" for d in ("com", "lpt") for n in range(1, 10)}
# What the project and its notebooks import; then its own folders and those that git ignores.
LIBRARIES = """
    albumentations cookiecutter cruft cv2 datasets huggingface_hub ipykernel ipython ipywidgets
    jsonargparse jupyter jupyterlab lightning lightning_fabric lightning_utilities matplotlib mypy
    nbstripout notebook numpy nvidia onnx onnxruntime packaging pandas pil pillow pip pre_commit
    pynvml pytest pytorch_lightning rich ruff safetensors scipy setuptools sklearn tensorboard test
    timm torch torchaudio torchmetrics torchvision tqdm transformers triton typing_extensions uv
    wandb wheel yaml
""".split()  # noqa: SIM905
FOLDERS = """
    build checkpoints cluster configs data dist docs env lib lib64 lightning_logs mlruns notebooks
    outputs runs site src target tests tmp tools var venv
""".split()  # noqa: SIM905

# An image reference as the registries' own grammar has it, with sha256 as the only digest.
LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
HOST = rf"(?:(?:localhost|{LABEL}(?:\.{LABEL})+|\[[\da-fA-F:]+\])(?::\d+)?|{LABEL}:\d+)"
PART = r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*"
DIGEST = r"@sha256:[0-9a-f]{64}"
REFERENCE = rf"(?:{HOST}/)?{PART}(?:/{PART})*(?::\w[\w.-]{{0,127}})?(?:{DIGEST})?"


def problems_of_text(text: str, longest: int) -> Iterator[str]:
    if not text:
        yield "it is empty"
    if len(text) > longest:
        yield f"it has {len(text)} characters, and at most {longest} fit"
    if any(category(c) in ("Cc", "Cs", "Zl", "Zp") or c in "\ufffe\uffff" for c in text):
        yield "it holds a line break or another control character"
    if re.search(r"\{[{%#]", text):
        yield "it holds {{, {% or {#, which the next update would run as a template"
    if text != text.strip():
        yield "it begins or ends with a space"


def problems_of_slug(slug: str, package: str, taken: set[str]) -> Iterator[str]:
    if len(slug) > 50:
        yield f"it has {len(slug)} characters, and at most 50 fit"
    if slug.split(".")[0].rstrip().lower() in DEVICES:
        yield "it names a device on Windows, where no folder can have that name"
    if wrong := "".join(sorted(set(re.sub(r"[a-z0-9._-]", "", slug)))):
        yield f"it holds {wrong!r}: folders, packages and images can share only a-z, 0-9, - _ and ."
    elif not re.fullmatch(r"[a-z0-9]+([._-][a-z0-9]+)*", slug):
        yield "it must begin and end with a letter or digit, with one - _ or . at a time between"
    elif not (package.isascii() and package.isidentifier()) or keyword.iskeyword(package):
        yield f"Python cannot import a package named {package!r}"
    elif package.lower() in {name.lower() for name in sys.stdlib_module_names}:
        yield f"a package named {package!r} would hide Python's own module of that name"
    elif package.lower() in taken.union(LIBRARIES):
        yield f"a package named {package!r} would hide the library of that name"
    elif package.lower() in FOLDERS:
        yield f"{package!r} is one of the project's own folders, or one that git ignores"


def problems_of_image(image: str) -> Iterator[str]:
    if not image:
        yield "it is empty"
    elif len(image) > 400:
        yield f"it has {len(image)} characters, and at most 400 fit"
    elif re.fullmatch(REFERENCE, image, re.ASCII):
        return
    elif "://" in image:
        yield "an image reference begins with its host or name, not with a scheme such as http://"
    elif re.search(r"\s", image):
        yield "it holds a space"
    elif "@" in image and not re.search(rf"{DIGEST}$", image):
        yield "its digest is not @sha256: and 64 hexadecimal digits"
    elif re.fullmatch(REFERENCE, image.lower(), re.ASCII):
        yield "the repository's name must be in lower case"
    else:
        yield "it is no image reference: [host[:port]/]name[/name][:tag][@sha256:digest]"


def problems(answers: dict, taken: set[str]) -> Iterator[tuple[str, list[str]]]:
    """Every question whose answer cannot work, with the reasons."""
    slug, image = str(answers["project_slug"]), str(answers["universal_image"])
    found = {name: problems_of_text(str(answers[name]), most) for name, most in LONGEST.items()}
    found["project_slug"] = problems_of_slug(slug, str(answers["__package_name"]), taken)
    found["universal_image"] = problems_of_image(str(answers["__image"]) if image else "")
    for name, reasons in found.items():
        if reasons := list(reasons):
            yield name, reasons


def report(answers: dict, taken: Iterable[str] = ()) -> str:
    """What to print before stopping; empty when all works. `taken`: more packages not to hide."""
    lines = []
    for name, reasons in problems(answers, set(taken)):
        lines += [f"\n{name} is {str(answers[name])[:60]!r}"]
        lines += [f"  - {line}" for line in (*reasons, f"good: {GOOD[name]}")]
    return "\n".join(["Nothing was made. These answers cannot work:", *lines]) if lines else ""


# {% endraw %}
if __name__ == "__main__":
    # tojson writes ASCII, never three " in a row: this stays one literal, whatever the answers.
    sys.exit(report(json.loads(r"""{{ cookiecutter | tojson }}""")) or 0)
