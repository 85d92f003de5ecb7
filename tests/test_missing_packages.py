"""What is said where a package that a part needs is not installed: one sentence, with the line to install it."""

import subprocess
import sys

import pytest

IMPORT = """
import sys
sys.modules[{missing!r}] = None
try:
    import gradclip.{door}
except ModuleNotFoundError as error:
    print(error, "|", error.name, "|", error.__suppress_context__)
"""


@pytest.mark.parametrize(
    ("door", "missing", "said"),
    [
        ("optax", "optax", 'gradclip.optax needs jax and optax: pip install "gradclip[jax]"'),
        ("optax", "jax", 'gradclip.optax needs jax and optax: pip install "gradclip[jax]"'),
        ("paddle", "paddle", 'gradclip.paddle needs paddle: pip install "gradclip[paddle]"'),
        ("torch", "torch", 'gradclip.torch needs torch: pip install "gradclip[torch]"'),
    ],
)
def test_a_door_without_its_framework_says_what_to_install(door, missing, said):
    script = IMPORT.format(door=door, missing=missing)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith(f"{said} | {missing}")
    assert done.stdout.endswith(" | True\n")


def test_what_is_missing_for_another_reason_is_said_as_it_is():
    script = IMPORT.format(door="torch", missing="gradclip.torch.hook")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert "gradclip.torch.hook" in done.stdout
    assert "pip install" not in done.stdout
