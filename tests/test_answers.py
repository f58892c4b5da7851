"""Answers that work bake to a project whose files all parse; others are refused, with the reason,
before anything is written."""

import ast
import json
import runpy
import sys
import tomllib

import pytest
import yaml
from conftest import QUESTIONS, TEMPLATE, BakedProject

HOOKS = sorted((TEMPLATE / "hooks").glob("*.py"))
SHA256 = "@sha256:" + "0123456789abcdef" * 4

GOOD_SLUGS = ["x", "bird-classifier", "my.project", "my_project", "net2", "x" * 50]
BAD_SLUGS = {
    "": "must begin and end",
    "3d-net": "cannot import a package named '3d_net'",
    "class": "cannot import",
    "vögel": "contains 'ö'",
    "鸟": "contains '鸟'",
    "My-Project": "contains 'MP'",
    "two words": "contains ' '",
    "a/b": "contains '/'",
    "../up": "contains '/'",
    "a\\b": "contains",
    "what?": "contains '?'",
    "$(reboot)": "contains",
    "-x": "must begin and end",
    "x-": "must begin and end",
    "x.": "must begin and end",
    "..": "must begin and end",
    "a--b": "must begin and end",
    "con": "device on Windows",
    "nul.txt": "device on Windows",
    "com1": "device on Windows",
    "x" * 51: "at most 50",
    "x" * 300: "at most 50",
    "random": "Python's own module",
    "sys": "Python's own module",
    "tests": "own folders",
    "src": "own folders",
    "configs": "own folders",
    "runs": "own folders",
    "data": "own folders",
}
LIBRARIES = """
    torch torchvision lightning numpy sklearn scikit-learn matplotlib tqdm yaml pytest wandb pil
    tensorboard jsonargparse torchmetrics cv2 pandas rich pynvml pre-commit jinja2 filelock
    transformers tokenizers peft pyarrow accelerate
""".split()  # noqa: SIM905

GOOD_IMAGES = {
    "torch": "torch:{tag}",
    "ghcr.io/org/torch-universal": "ghcr.io/org/torch-universal:{tag}",
    "localhost/torch": "localhost/torch:{tag}",
    "registry:5000/team/torch": "registry:5000/team/torch:{tag}",
    "[::1]:5000/torch": "[::1]:5000/torch:{tag}",
    "europe-docker.pkg.dev/p/r/i": "europe-docker.pkg.dev/p/r/i:{tag}",
    "My.Registry.example/a__b/c.d-e": "My.Registry.example/a__b/c.d-e:{tag}",
    "torch:My_Tag.1": "torch:My_Tag.1",
    "host:5000/a/b:tag" + SHA256: "host:5000/a/b:tag" + SHA256,
    "ghcr.io/org/torch" + SHA256: "ghcr.io/org/torch" + SHA256,
    "123456789012.dkr.ecr.eu-west-1.amazonaws.com/team/torch:2.11.0-cu130": (
        "123456789012.dkr.ecr.eu-west-1.amazonaws.com/team/torch:2.11.0-cu130"
    ),
}
BAD_IMAGES = {
    "": "is empty",
    "https://ghcr.io/org/torch": "scheme",
    "ghcr.io/Org/torch": "lower case",
    "Torch": "lower case",
    "my torch": "a space",
    "torch\n": "a space",
    "torch@sha256:abc": "64 hexadecimal digits",
    "torch@md5:" + "0" * 64: "64 hexadecimal digits",
    "torch:": "not an image reference",
    "torch:a:b": "not an image reference",
    "/torch": "not an image reference",
    "org//torch": "not an image reference",
    "torch-": "not an image reference",
    "torch:" + "x" * 129: "not an image reference",
    "x" * 500: "at most 400",
    "$(reboot)": "not an image reference",
    "torch;reboot": "not an image reference",
}

FREE_TEXT = ("project_name", "description", "author_name")
HARMLESS = {
    "quotes": """Ann "the \\"net\\"" O'Neil ''' \"\"\" """.strip(),
    "backslashes": "C:\\new\\table\\u0041 \\",
    "emoji": "birds 🐦 👩‍🔬",
    "chinese": "识别两百种鸟",
    "html": "</script><b>&amp; <!-- x",
    "shell": "$(touch pwned) `touch pwned` ; touch pwned & ${HOME} %PATH% !x",
    "toml_and_yaml": "a = [1] # no: comment - x | > * & ? @",
    "closing_braces": "}} %} #} ${x}",
    "python": "__import__('os').system('touch pwned')",
    "as_long_as_it_may_be": "Zürich " * 14 + "x",
}
REFUSED = {
    "line_break": ("one\ntwo", "control character"),
    "carriage_return": ("one\rtwo", "control character"),
    "nul": ("a\0b", "control character"),
    "escape_sequence": ("a\x1b[31mb", "control character"),
    "unicode_line_separator": ("a\u2028b", "control character"),
    "half_a_surrogate_pair": ("a\udc80b", "control character"),
    "too_long": ("x" * 301, "301 characters"),
    "empty": ("", "is empty"),
    "space_at_the_end": ("Ann ", "a space"),
}


def parse(project: BakedProject) -> None:
    """Every file of a kind that has a parser goes through it."""
    parsers = {
        ".py": ast.parse,
        ".toml": tomllib.loads,
        ".json": json.loads,
        ".ipynb": json.loads,
        ".yaml": lambda text: list(yaml.safe_load_all(text)),
        ".yml": lambda text: list(yaml.safe_load_all(text)),
    }
    for name, content in project.files().items():
        suffix = "." + name.rpartition(".")[2]
        if suffix in parsers:
            parsers[suffix](content.decode())


def refusal(bake, tmp_path, **answers) -> str:
    """What the template says to these answers; nothing may be written."""
    with pytest.raises(SystemExit) as stop:
        bake(answers, tmp_path)
    assert not list(tmp_path.iterdir())
    return str(stop.value)


@pytest.mark.parametrize("slug", GOOD_SLUGS)
def test_good_slug_becomes_the_folder_and_the_package(bake, slug):
    project = bake({"project_slug": slug})
    assert project.path.name == slug
    assert project.source.is_dir() and project.package.isidentifier()


@pytest.mark.parametrize("slug", BAD_SLUGS)
def test_bad_slug_is_refused_with_the_reason(bake, tmp_path, slug):
    said = refusal(bake, tmp_path, project_slug=slug)
    assert BAD_SLUGS[slug] in said and "example: bird-classifier" in said


@pytest.mark.parametrize("slug", LIBRARIES)
def test_package_may_not_hide_a_library(bake, tmp_path, slug):
    assert "would hide the library" in refusal(bake, tmp_path, project_slug=slug)


@pytest.mark.parametrize(
    ("name", "slug"),
    {"Bird Classifier": "bird-classifier", "识别鸟": "shi-bie-niao", "🐦": "my-project"}.items(),
)
def test_slug_is_derived_from_the_name(bake, name, slug):
    assert bake({"project_name": name}).path.name == slug


@pytest.mark.parametrize("image", GOOD_IMAGES)
def test_image_without_tag_gets_the_tag_of_torch_and_cuda(bake, image):
    dockerfile = bake({"universal_image": image, "cuda": "cu126"}).path / "Dockerfile"
    expected = GOOD_IMAGES[image].format(tag=f"{QUESTIONS['_torch_version']}-cu126")
    assert f"UNIVERSAL_IMAGE={expected}\n" in dockerfile.read_text()


@pytest.mark.parametrize("image", BAD_IMAGES)
def test_bad_image_reference_is_refused_with_the_reason(bake, tmp_path, image):
    said = refusal(bake, tmp_path, universal_image=image)
    assert BAD_IMAGES[image] in said and "example: ghcr.io/org/torch-universal" in said


@pytest.mark.parametrize("field", FREE_TEXT)
@pytest.mark.parametrize("text", HARMLESS.values(), ids=HARMLESS)
def test_harmless_text_is_carried_to_the_letter(bake, field, text):
    project = bake({"project_slug": "net", field: text})
    parse(project)
    metadata = tomllib.loads((project.path / "pyproject.toml").read_text("utf-8"))["project"]
    carried = {
        "project_name": (project.path / "README.md").read_text("utf-8").splitlines()[0][2:],
        "description": metadata["description"],
        "author_name": metadata["authors"][0]["name"],
    }
    assert carried[field] == text


@pytest.mark.parametrize("field", FREE_TEXT)
@pytest.mark.parametrize(("text", "why"), REFUSED.values(), ids=REFUSED)
def test_text_that_would_break_a_file_is_refused(bake, tmp_path, field, text, why):
    said = refusal(bake, tmp_path, project_slug="net", **{field: text})
    assert why in said and field in said


def test_free_text_stays_out_of_whatever_runs(bake):
    answers = {name: f"Zebra {name}" for name in FREE_TEXT} | {"project_slug": "net"}
    holding = {name for name, content in bake(answers).files().items() if b"Zebra" in content}
    assert holding <= {"README.md", "LICENSE", "pyproject.toml", ".cruft.json"}


def test_every_problem_is_named_at_once(bake, tmp_path):
    answers = {"project_slug": "torch", "author_name": "a\nb", "universal_image": "http://x"}
    said = refusal(bake, tmp_path, **answers)
    assert all(f"\n{question} is " in said for question in answers)


def test_command_line_prints_the_report_alone(cookiecutter, tmp_path):
    done = cookiecutter("--no-input", "project_slug=torch")
    assert done.returncode == 1
    assert done.stdout.startswith("No project was created.") and "Traceback" not in done.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["{{ 7*7 }}", "{{", "{% raw %}", "{# x #}"])
def test_template_code_typed_at_the_prompt_is_refused(cookiecutter, tmp_path, text):
    done = cookiecutter(input=f"\n\n\n{text}\n" + "\n" * 4)
    assert done.returncode == 1, done.stdout
    assert "run it as a template" in done.stdout and "Traceback" not in done.stdout
    assert not list(tmp_path.iterdir())


def test_unfinished_template_code_on_the_command_line_leaves_nothing(cookiecutter, tmp_path):
    assert (
        cookiecutter("--no-input", "description={{").returncode == 1
    )  # cookiecutter's own message
    assert not list(tmp_path.iterdir())


def test_replay_file_edited_by_hand_is_refused_too(cookiecutter, own_settings, tmp_path):
    assert cookiecutter("--no-input", "-o", tmp_path / "first").returncode == 0
    replay = json.loads((own_settings / "replay" / "torch-gpu-template.json").read_text())
    replay["cookiecutter"]["project_slug"] = "{{ 7*7 }}"
    (tmp_path / "edited.json").write_text(json.dumps(replay))
    done = cookiecutter("--replay-file", tmp_path / "edited.json", "-o", tmp_path / "second")
    assert done.returncode == 1 and "project_slug is '{{ 7*7 }}'" in done.stdout
    assert not list((tmp_path / "second").iterdir())


@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: hook.name)
def test_hooks_use_no_shell_no_question_and_only_the_standard_library(hook):
    nodes = list(ast.walk(ast.parse(hook.read_text())))
    imported = {a.name for n in nodes if isinstance(n, ast.Import) for a in n.names}
    imported |= {n.module for n in nodes if isinstance(n, ast.ImportFrom)}
    called = {ast.unparse(n.func) for n in nodes if isinstance(n, ast.Call)}
    options = {k.arg for n in nodes if isinstance(n, ast.Call) for k in n.keywords}
    assert {name.partition(".")[0] for name in imported} <= sys.stdlib_module_names
    assert not imported & {"socket", "urllib.request", "http.client", "distutils"}
    assert not called & {"input", "eval", "exec", "os.system", "os.popen"}
    assert "shell" not in options


def test_every_question_says_what_it_asks():
    questions = json.loads((TEMPLATE / "cookiecutter.json").read_text())
    for name, default in questions.items():
        if not name.startswith("_"):
            prompt = questions["__prompts__"][name]
            if isinstance(default, list):
                assert set(prompt) == {"__prompt__", *default}
            assert "[" not in str(prompt), "rich would take [word] for markup"


def test_examples_in_the_report_are_good_answers():
    rules = runpy.run_path(str(TEMPLATE / "hooks" / "pre_gen_project.py"))
    good = rules["GOOD"]
    for image in good["universal_image"].split(", "):
        answers = good | {"universal_image": image, "__image": image}
        assert rules["report"](answers | {"__package_name": "bird_classifier"}) == ""
