"""Refuse invalid answers, all at once and before any file is written.

`checked_answers.py` calls `report` while cookiecutter is still collecting answers. Cookiecutter
runs this file just before it writes files, so that a replay file edited by hand is checked too.
"""

import json
import keyword
import re
import sys
from collections.abc import Iterable, Iterator
from unicodedata import category

# {% raw %} cookiecutter renders this file too, and the code below has its own braces
TASKS = ("images", "text")
GOOD = {
    "project_name": "Bird Classifier",
    "project_slug": "bird-classifier",
    "task": "images",
    "description": "Classifies 200 kinds of birds",
    "author_name": "Ada Lovelace",
    "universal_image": "ghcr.io/org/torch-universal, registry.example.com:5000/team/torch:1.2",
}
LONGEST = {"project_name": 100, "description": 300, "author_name": 100}
DEVICES = {"con", "prn", "aux", "nul"} | {f"{d}{n}" for d in ("com", "lpt") for n in range(1, 10)}
# Packages that the project and its notebooks import; then its folders and those that git ignores.
LIBRARIES = """
    accelerate albumentations babel cookiecutter cruft cv2 datasets huggingface_hub ipykernel
    ipython ipywidgets jsonargparse jupyter jupyterlab lightning lightning_fabric
    lightning_utilities matplotlib mypy nbstripout notebook numpy nvidia onnx onnxruntime packaging
    pandas peft pil pillow pip pre_commit pyarrow pynvml pytest pytorch_lightning rich ruff
    safetensors scipy setuptools sklearn tensorboard test timm tokenizers torch torchaudio
    torchmetrics torchvision tqdm transformers triton typing_extensions uv wandb wheel yaml
""".split()  # noqa: SIM905
FOLDERS = """
    build checkpoints cluster configs data dist docs env lib lib64 lightning_logs mlruns notebooks
    outputs runs site src target tests tmp tools var venv
""".split()  # noqa: SIM905

# An image reference in the grammar of the registries, with sha256 as the only digest.
LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
HOST = rf"(?:(?:localhost|{LABEL}(?:\.{LABEL})+|\[[\da-fA-F:]+\])(?::\d+)?|{LABEL}:\d+)"
PART = r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*"
DIGEST = r"@sha256:[0-9a-f]{64}"
REFERENCE = rf"(?:{HOST}/)?{PART}(?:/{PART})*(?::\w[\w.-]{{0,127}})?(?:{DIGEST})?"


def problems_of_text(text: str, longest: int) -> Iterator[str]:
    if not text:
        yield "it is empty"
    if len(text) > longest:
        yield f"it has {len(text)} characters, but may have at most {longest}"
    if any(category(c) in ("Cc", "Cs", "Zl", "Zp") or c in "\ufffe\uffff" for c in text):
        yield "it contains a line break or another control character"
    if re.search(r"\{[{%#]", text):
        yield "it contains {{, {% or {#: the next update would run it as a template"
    if text != text.strip():
        yield "it begins or ends with a space"


def problems_of_slug(slug: str, package: str, taken: set[str]) -> Iterator[str]:
    if len(slug) > 50:
        yield f"it has {len(slug)} characters, but may have at most 50"
    if slug.split(".")[0].rstrip().lower() in DEVICES:
        yield "it is the name of a device on Windows, so no folder can have it there"
    if wrong := "".join(sorted(set(re.sub(r"[a-z0-9._-]", "", slug)))):
        yield f"it contains {wrong!r}, but may contain only a-z, 0-9, - _ and ."
    elif not re.fullmatch(r"[a-z0-9]+([._-][a-z0-9]+)*", slug):
        yield "it must begin and end with a letter or digit, and - _ . must not follow each other"
    elif not (package.isascii() and package.isidentifier()) or keyword.iskeyword(package):
        yield f"Python cannot import a package named {package!r}"
    elif package.lower() in {name.lower() for name in sys.stdlib_module_names}:
        yield f"a package named {package!r} would hide Python's own module with that name"
    elif package.lower() in taken.union(LIBRARIES):
        yield f"a package named {package!r} would hide the library with that name"
    elif package.lower() in FOLDERS:
        yield f"{package!r} is one of the project's own folders, or a folder that git ignores"


def problems_of_image(image: str) -> Iterator[str]:
    if not image:
        yield "it is empty"
    elif len(image) > 400:
        yield f"it has {len(image)} characters, but may have at most 400"
    elif re.fullmatch(REFERENCE, image, re.ASCII):
        return
    elif "://" in image:
        yield "it must begin with a host or a name, not with a scheme such as http://"
    elif re.search(r"\s", image):
        yield "it contains a space"
    elif "@" in image and not re.search(rf"{DIGEST}$", image):
        yield "its digest must be @sha256: and 64 hexadecimal digits"
    elif re.fullmatch(REFERENCE, image.lower(), re.ASCII):
        yield "the repository's name must be in lower case"
    else:
        yield "it is not an image reference: [host[:port]/]name[/name][:tag][@sha256:digest]"


def problems_of_task(task: str) -> Iterator[str]:
    if task not in TASKS:
        yield f"it is not a task of this template, which has {' and '.join(TASKS)}"


def problems(answers: dict, taken: set[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield every question with an invalid answer, and the reasons."""
    slug, image = str(answers["project_slug"]), str(answers["universal_image"])
    found = {name: problems_of_text(str(answers[name]), most) for name, most in LONGEST.items()}
    found["project_slug"] = problems_of_slug(slug, str(answers["__package_name"]), taken)
    found["task"] = problems_of_task(str(answers.get("task", "images")))  # older projects
    found["universal_image"] = problems_of_image(str(answers["__image"]) if image else "")
    for name, reasons in found.items():
        if reasons := list(reasons):
            yield name, reasons


def report(answers: dict, taken: Iterable[str] = ()) -> str:
    """Return what to print before stopping, or "". `taken`: more package names not to hide."""
    lines = []
    for name, reasons in problems(answers, set(taken)):
        lines += [f"\n{name} is {str(answers[name])[:60]!r}"]
        lines += [f"  - {line}" for line in (*reasons, f"example: {GOOD[name]}")]
    return "\n".join(["No project was created. Invalid answers:", *lines]) if lines else ""


# {% endraw %}
if __name__ == "__main__":
    # tojson writes ASCII and never three " in a row, so this is one literal for any answers.
    sys.exit(report(json.loads(r"""{{ cookiecutter | tojson }}""")) or 0)
