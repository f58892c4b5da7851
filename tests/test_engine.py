"""The engine's own tests, in a baked project."""

import os
import re

# A push runs one case of each test, drawn anew; canary.yml asks for all.
CASES = "" if os.environ.get("ALL_CASES") else "--draw 1"


def test_the_engines_tests_pass(make):
    """Those of speed too; in one process, beside which another tests the template."""
    done = make("test-engine", f"ARGS=-n 1 -p no:cacheprovider -m 'not resume' {CASES}")
    assert done.returncode == 0, done.stdout
    assert int(re.search(r"= (\d+) passed", done.stdout)[1]) > 400
    skipped = re.findall(r"^SKIPPED \[\d+\] \S+ (.*)$", done.stdout, re.MULTILINE)
    here = {"needs a CUDA device", "no GPU", "no Docker here"}
    assert set(skipped) <= here | {"needs a C compiler and Python's headers"}
