"""What is said where a package that a part needs is not installed: one sentence, with the line to install it."""

import os
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
        ("keras", "keras", 'gradclip.keras needs keras: pip install "gradclip[keras]"'),
        ("torch", "torch", 'gradclip.torch needs torch: pip install "gradclip[torch]"'),
        ("timm", "torch", 'gradclip.timm needs torch: pip install "gradclip[torch]"'),
    ],
)
def test_a_door_without_its_framework_says_what_to_install(door, missing, said):
    assert said_without(missing, door).startswith(f"{said} | {missing}")


@pytest.mark.parametrize(
    ("door", "missing"),
    [
        ("fastai", "fastai"),
        ("fastai", "torch"),
        ("ignite", "ignite"),
        ("ignite", "torch"),
        ("lightning", "torch"),
        ("skorch", "skorch"),
        ("skorch", "torch"),
        ("stable_baselines3", "stable_baselines3"),
        ("transformers", "torch"),
        ("transformers", "transformers"),
    ],
)
def test_the_door_of_a_trainer_says_what_to_install_for_both(door, missing):
    said = f'gradclip.{door} needs torch and {door}: pip install "gradclip[{door.replace("_", "-")}]"'
    assert said_without(missing, door).startswith(f"{said} | {missing}")


def said_without(missing, door):
    """What is said where a package is not there and a door is imported, its name, and that no other error is shown."""
    script = IMPORT.format(door=door, missing=missing)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.endswith(" | True\n")
    return done.stdout


WITHOUT_NUMBA = """
import sys, warnings
{before}
import torch, gradclip
from gradclip.torch import Clipper, clip_grad_norm_
weight = torch.nn.Parameter(torch.zeros(2))
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    for engine in ("torch", None, None):
        weight.grad = torch.tensor([3.0, 4.0])
        clipper = Clipper(gradclip.ClipGradByGlobalNorm(1.0), engine=engine)
        clipper.clip_([weight])
        print(clipper.last.engine, [round(number, 4) for number in weight.grad.tolist()], len(said))
    clip_grad_norm_([weight], 1.0)
print(len(said), said[0].message)
"""


@pytest.mark.parametrize(
    ("before", "environment"),
    [("sys.modules['numba'] = None", {}), ("", {"NUMBA_DISABLE_JIT": "1"})],
    ids=["not there", "does not compile"],
)
def test_without_numba_the_slow_engine_serves_and_one_warning_says_so(before, environment):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_NUMBA.format(before=before)], env={**os.environ, **environment},
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    *steps, last = done.stdout.splitlines()
    assert steps == ["torch [0.6, 0.8] 0", "torch [0.6, 0.8] 1", "torch [0.6, 0.8] 1"]
    assert last.startswith("1 gradients on the CPU are clipped by plain operations of the framework")
    assert 'pip install "gradclip[cpu]"' in last


def test_what_is_missing_for_another_reason_is_said_as_it_is():
    script = IMPORT.format(door="torch", missing="gradclip.torch.hook")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert "gradclip.torch.hook" in done.stdout
    assert "pip install" not in done.stdout
