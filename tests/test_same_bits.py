"""same_bits.py, which compares revisions: it finds a difference, and none where there is none."""

import shutil

from conftest import ENVIRONMENT, TEMPLATE


def test_a_changed_loss_is_found_and_an_unchanged_project_is_the_same(
    python, default_project, tmp_path
):
    other = tmp_path / "my-project"
    shutil.copytree(default_project.path, other)
    classifier = other / "src" / "my_project" / "classifier.py"
    text = classifier.read_text()
    classifier.write_text(
        text.replace("label_smoothing: float = 0.0", "label_smoothing: float = 0.1")
    )
    assert classifier.read_text() != text
    command = [TEMPLATE / "tests" / "same_bits.py", default_project.path]
    options = ["--only=digits", f"--python={ENVIRONMENT / 'bin' / 'python'}"]
    for head, status, said in (
        (default_project.path, 0, "1 of 1 runs have the same bits"),
        (other, 1, "0 of 1 runs have the same bits"),
    ):
        found, words = python(*command, head, *options, cwd=tmp_path)
        assert found == status and words.splitlines()[-1] == said, words
