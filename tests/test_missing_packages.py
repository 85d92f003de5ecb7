"""What is said where a package that a part needs is not installed: one sentence, with the line to install it."""

import pytest

from watching import python

IMPORT = """
import sys
sys.modules[{missing!r}] = None
try:
    import gradclip.{door}
except ModuleNotFoundError as error:
    print(error, "|", error.name, "|", error.__suppress_context__)
"""

ANEW = """
import sys
for name in [name for name in sys.modules if name.partition(".")[0] == "gradclip"]:
    del sys.modules[name]
"""


@pytest.mark.parametrize(
    ("door", "missing", "said"),
    [
        ("optax", "optax", 'gradclip.optax needs jax and optax: pip install "gradclip[jax]"'),
        ("optax", "jax", 'gradclip.optax needs jax and optax: pip install "gradclip[jax]"'),
        ("paddle", "paddle", 'gradclip.paddle needs paddle: pip install "gradclip[paddle]"'),
        ("keras", "keras", 'gradclip.keras needs keras: pip install "gradclip[keras]"'),
        ("torch", "torch", 'gradclip.torch needs torch: pip install "gradclip[torch]"'),
        ("testing", "numpy", 'gradclip.testing needs numpy: pip install "gradclip[cpu]"'),
        ("timm", "torch", 'gradclip.timm needs torch: pip install "gradclip[torch]"'),
    ],
)
def test_a_door_without_its_framework_says_what_to_install(door, missing, said, tmp_path):
    assert said_without(missing, door, tmp_path).startswith(f"{said} | {missing}")


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
def test_the_door_of_a_trainer_says_what_to_install_for_both(door, missing, tmp_path):
    said = f'gradclip.{door} needs torch and {door}: pip install "gradclip[{door.replace("_", "-")}]"'
    assert said_without(missing, door, tmp_path).startswith(f"{said} | {missing}")


def said_without(missing, door, folder):
    """What is said where a package is not there and a door is imported, its name, and that no other error is shown.

    A door that imports PyTorch is imported where it is already: in a fork, with all of gradclip anew.
    """
    script = IMPORT.format(door=door, missing=missing)
    (folder / "script.py").write_text(f"{ANEW}{script}", encoding="utf-8")
    done = python("script.py", folder=folder, cold=missing == "torch" or door in ("keras", "optax", "paddle"))
    assert (done.returncode, done.stderr) == (0, "")
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
def test_without_numba_the_slow_engine_serves_and_one_warning_says_so(before, environment, tmp_path):
    (tmp_path / "script.py").write_text(ANEW + WITHOUT_NUMBA.format(before=before), encoding="utf-8")
    done = python("script.py", folder=tmp_path, cold=bool(environment), **environment)
    assert done.returncode == 0, done.stderr
    *steps, last = done.stdout.splitlines()
    assert steps == ["torch [0.6, 0.8] 0", "torch [0.6, 0.8] 1", "torch [0.6, 0.8] 1"]
    assert last.startswith("1 gradients on the CPU are clipped by plain operations of the framework")
    assert 'pip install "gradclip[cpu]"' in last


def test_what_is_missing_for_another_reason_is_said_as_it_is(tmp_path):
    script = IMPORT.format(door="torch", missing="gradclip.torch.hook")
    (tmp_path / "script.py").write_text(f"{ANEW}{script}", encoding="utf-8")
    done = python("script.py", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "gradclip.torch.hook" in done.stdout
    assert "pip install" not in done.stdout
