"""Threads that wait sleep: two runs on the same cores do not take them from each other."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from export.waiting import wait_passively


def test_waiting_threads_sleep_unless_the_user_says_otherwise():
    nothing_said: dict[str, str] = {}
    wait_passively(nothing_said)
    assert nothing_said == {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "KMP_BLOCKTIME": "0"}
    said = {"OMP_WAIT_POLICY": "ACTIVE"}
    wait_passively(said)
    assert said == {"OMP_WAIT_POLICY": "ACTIVE"}


@pytest.mark.slow
@pytest.mark.parametrize(("given", "policy"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")])
def test_the_openmp_that_torch_brings_is_told(given, policy):
    """OMP_DISPLAY_ENV makes the library print what it took from the environment when it was loaded."""
    code = "from drsf_cli.app import main; main(['--version']); import torch"
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    environment |= {"OMP_DISPLAY_ENV": "TRUE", **given}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    (line,) = {line.strip() for line in done.stderr.splitlines() if "OMP_WAIT_POLICY" in line}
    assert line.endswith(f"OMP_WAIT_POLICY = '{policy}'")
