"""The tests on several devices, in processes of their own: the number of devices is fixed when JAX starts."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.parametrize(
    ("files", "devices"), [(["four_devices.py"], 4), (["eight_devices.py", "eight_devices_layouts.py"], 8)]
)
def test_all_that_several_devices_can_show(files, devices):
    """Without conftest.py, which imports the other frameworks too."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}".strip()
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--noconftest"]
    command += [str(HERE / file) for file in files]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=HERE.parents[1], check=False, timeout=900
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    tests = sum(len(re.findall(r"^def test_", (HERE / file).read_text(), flags=re.M)) for file in files)
    assert len(re.findall(r"\.(?=.*%])", done.stdout)) >= tests, done.stdout
