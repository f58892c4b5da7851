"""Runs that are killed at random moments, in a baked project."""

import re


def test_runs_that_are_killed_resume_to_the_same_bits(make):
    done = make("test-resume", "ARGS=-p no:cacheprovider")
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("resumed from") == 25
    assert re.search(r"= 31 passed", done.stdout)
