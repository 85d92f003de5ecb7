"""The tests on several devices, in processes of their own: the number of devices is fixed when JAX starts."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.parametrize(("file", "devices"), [("four_devices.py", 4), ("eight_devices.py", 8)])
def test_all_that_several_devices_can_show(file, devices):
    """Without conftest.py, which imports the other frameworks too."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}".strip()
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--noconftest", str(HERE / file)]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=HERE.parents[1], check=False, timeout=900
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    tests = len(re.findall(r"^def test_", (HERE / file).read_text(), flags=re.M))
    assert len(re.findall(r"\.", done.stdout.splitlines()[0])) >= tests, done.stdout
