"""Runs that are killed at random moments, in a baked project."""

import os
import re

KILLS = 109 if os.environ.get("ALL_CASES") else 5  # canary.yml asks for all


def test_runs_that_are_killed_resume_to_the_same_bits(make):
    done = make("test-resume", "ARGS=-p no:cacheprovider", KILLS=str(KILLS))
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("resumed from") == KILLS
    assert re.search(rf"= {KILLS + 6} passed", done.stdout)
