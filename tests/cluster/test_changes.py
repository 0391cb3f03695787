"""Clusters that grow, shrink and are restarted under traffic: short runs of the programs that try it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.parametrize("program", ["elastic.py", "rolling.py"])
def test_nobody_notices(program):
    command = [sys.executable, HERE / program, "--seconds", "0.5"]
    done = subprocess.run(command, capture_output=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()[-4000:]
