"""What must not change without a decision: what the digits come to, and which settings there are.

The scores of the whole run are compared where it is trained: in test_demo.py.
"""

import json
from pathlib import Path

import golden
import pytest
import yaml

KNOWN = json.loads(golden.GOLDEN.read_text())
KEYS = golden.GOLDEN.with_name("configuration_keys.txt")


@pytest.fixture(scope="module")
def first_steps(bake, python, tmp_path_factory):
    """`first_steps(*flags)`: the folder of a run of the first 20 steps of the digits."""
    project = bake()

    def train(*flags: str) -> Path:
        run = tmp_path_factory.mktemp("run")
        settings = {"PYTHONPATH": str(project.path / "src"), "RUN_FOLDER": str(run)}
        command = ["-m", "my_project", *golden.FIRST_STEPS, *flags]
        status, said = python(*command, cwd=project.path, **settings)
        assert status == 0, said
        return run

    return train


@pytest.fixture(scope="module")
def run(first_steps) -> Path:
    return first_steps()


def test_the_first_losses_are_those_of_earlier_commits(run):
    found = list(golden.changed_losses(KNOWN["losses"], golden.losses_of(run)))
    assert not found, "\n".join([*found, "If that is meant: make golden"])


def test_a_learning_rate_that_is_a_thousandth_higher_is_noticed(first_steps):
    other = golden.losses_of(first_steps("--model.learning_rate=0.1001"))
    assert len(other) == 20 and list(golden.changed_losses(KNOWN["losses"], other))


def test_a_score_that_falls_and_one_that_is_missing_are_noticed():
    scores = KNOWN["scores"]
    assert not list(golden.changed_scores(scores, scores))
    lower = scores | {"test/accuracy": scores["test/accuracy"] - 0.021}
    assert len(list(golden.changed_scores(scores, lower))) == 1
    assert len(list(golden.changed_scores(scores, {}))) == len(scores) > 1


def keys_of(config: dict) -> set[str]:
    """Return the keys of a resolved configuration, but for those of Lightning's Trainer."""
    own = {name: section for name, section in config.items() if name != "trainer"}
    sections = {name: section for name, section in own.items() if isinstance(section, dict)}
    return {name for name in own if name not in sections} | {
        f"{name}.{key}" for name, section in sections.items() for key in section
    }


def test_a_new_key_of_the_configuration_is_a_decision(run):
    found = keys_of(yaml.safe_load((run / "config.yaml").read_text()))
    known = KEYS.read_text()
    assert "model.network" in found and "trainer.devices" not in found
    assert known == "".join(f"{key}\n" for key in sorted(found)), f"decided on: see {KEYS.name}"
