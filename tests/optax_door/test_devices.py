"""The tests on four devices, in a process of their own: the number of devices is fixed when JAX starts."""

import os
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def test_all_that_four_devices_can_show():
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4".strip()
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(HERE / "four_devices.py")]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=HERE.parents[1], check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    tests = len(re.findall(r"^def test_", (HERE / "four_devices.py").read_text(), flags=re.M))
    assert len(re.findall(r"\.", done.stdout.splitlines()[0])) >= tests, done.stdout
