"""What a machine has: cores within quotas and affinity."""

import pytest

from {{ cookiecutter.__package_name }}.engine import hardware


@pytest.mark.parametrize(
    ("logical", "affinity", "quota", "cores"),
    [(128, 64, 2.5, 2), (128, 64, None, 64), (8, None, None, 8), (8, 8, 0.5, 1), (4, 4, 16.0, 4)],
)
def test_cores_are_those_that_are_really_there(logical, affinity, quota, cores):
    assert hardware.usable_cores(logical, affinity, quota) == cores


def test_quota_of_a_container():
    assert hardware.parse_cpu_max("250000 100000\n") == 2.5
    assert hardware.parse_cpu_max("max 100000\n") is None


def test_a_process_looks_at_its_machine_once():
    machine = hardware.this_machine()
    assert machine.cores >= 1
    assert hardware.this_machine() is machine
