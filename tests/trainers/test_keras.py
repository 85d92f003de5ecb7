"""`gradclip.keras` on PyTorch and on JAX, each in processes of their own: Keras runs on one backend in a process."""

import ast
import json
import os
import re
import signal
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).parent
SOURCE = HERE.parent.parent / "src"
BACKENDS = ["torch", "jax"]
CASES = [
    node.name
    for node in ast.parse((HERE / "keras_cases.py").read_text()).body
    if isinstance(node, ast.FunctionDef) and node.name.startswith("case_")
]


def python(backend, *arguments, source=SOURCE, folder=None):
    """A process that runs Keras on this backend, with the package as it is in `source`."""
    environment = {**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": str(source), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=600)


def answer(done):
    """What a process that ended well has said in its last line."""
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@cache
def outcomes(backend):
    """What went wrong in each case on this backend."""
    return answer(python(backend, HERE / "keras_cases.py"))


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_cases_hold(backend):
    found = outcomes(backend)
    assert list(found) == CASES
    assert not {case: words for case, words in found.items() if words}


def state(folder, how):
    with np.load(folder / f"{how}.npz") as arrays:
        return [arrays[name] for name in arrays.files]


def differences(one, other):
    """Of how many variables the bits differ."""
    assert len(one) == len(other)
    return sum(a.dtype != b.dtype or a.tobytes() != b.tobytes() for a, b in zip(one, other, strict=True))


def interrupted(backend, folder, source=SOURCE):
    """Train without an interruption, and up to one that no process survives."""
    script = HERE / "keras_resume.py"
    whole = answer(python(backend, script, "whole", folder, source=source))
    assert whole["epochs"] == [0, 1, 2, 3, 4, 5]
    assert max(whole["rate"]) > 0
    killed = python(backend, script, "killed", folder, source=source)
    assert killed.returncode == -signal.SIGKILL, killed.stderr


def assert_goes_on(backend, folder, how, source=SOURCE):
    """That a training goes on so from where it was killed, and ends in the bits of one that was not."""
    assert answer(python(backend, HERE / "keras_resume.py", how, folder, source=source))["epochs"] == [3, 4, 5]
    assert differences(state(folder, "whole"), state(folder, how)) == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_killed_training_goes_on_with_the_same_bits(backend, tmp_path):
    interrupted(backend, tmp_path)
    assert_goes_on(backend, tmp_path, "resumed")
    assert_goes_on(backend, tmp_path, "loaded")


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_file_of_one_backend_is_taken_up_on_the_other(backend, tmp_path):
    other = BACKENDS[1 - BACKENDS.index(backend)]
    script = HERE / "keras_resume.py"
    assert python(backend, script, "killed", tmp_path).returncode == -signal.SIGKILL
    assert answer(python(other, script, "loaded", tmp_path))["epochs"] == [3, 4, 5]


EXAMPLES = """
import doctest, pkgutil, importlib
import keras, gradclip, gradclip.keras
found = {}
for module in pkgutil.iter_modules(gradclip.keras.__path__, "gradclip.keras."):
    if module.name.endswith("_step") and not module.name.endswith("last_step"):
        continue  # of one backend each
    loaded = importlib.import_module(module.name)
    names = {**vars(gradclip), "gradclip": gradclip, "keras": keras, **vars(loaded)}
    found[module.name] = doctest.testmod(loaded, globs=names, optionflags=doctest.NORMALIZE_WHITESPACE)
assert sum(result.attempted for result in found.values()) > 5
assert sum(result.failed for result in found.values()) == 0, found
"""


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_examples_run(backend, tmp_path):
    page = (HERE.parent.parent / "docs" / "trainers" / "keras.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", page, flags=re.M | re.S)
    script = tmp_path / "page.py"
    script.write_text("\n".join([EXAMPLES, *blocks]))
    done = python(backend, script, folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ClippedAdam True" in done.stdout
    assert (tmp_path / "runs" / "keras").is_dir()


def test_other_backends_are_refused_by_name():
    code = "import gradclip, gradclip.keras, keras; gradclip.keras.clip(keras.optimizers.SGD(), gradclip.ZClip())"
    done = python("numpy", "-c", code)
    assert "gradclip.keras clips on the backends torch and jax, and Keras runs on numpy here" in done.stderr


@pytest.mark.parametrize(("backend", "other"), [("torch", "jax"), ("jax", "torch")])
def test_the_other_framework_is_not_imported(backend, other):
    code = (
        "import sys, gradclip, gradclip.keras, keras; gradclip.keras.clip(keras.optimizers.SGD(), gradclip.ZClip()); "
        f"print(any(name.startswith('gradclip.') and name.endswith('{other}_step') for name in sys.modules))"
    )
    assert python(backend, "-c", code).stdout.split() == ["False"]
