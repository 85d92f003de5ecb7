"""Which engine serves, and that it says so."""

import subprocess
import sys

import pytest
import torch

import gradclip
from gradclip.torch import Clipper

WITHOUT_NUMBA = """
import sys
sys.modules["numba"] = None
import torch, gradclip
from gradclip.torch import Clipper, clip_grad_norm_
torch.manual_seed(0)
weight = torch.nn.Parameter(torch.zeros(1000))
weight.grad = torch.randn(1000)
result = Clipper(gradclip.ClipGradByGlobalNorm(1.0)).clip_([weight])
print(result.engine, repr(result.norm_before), weight.grad.double().sum().item())
"""


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


def test_without_numba_the_torch_engine_serves_says_so_and_gives_the_same_numbers():
    without = run(WITHOUT_NUMBA)
    with_numba = run(WITHOUT_NUMBA.replace('sys.modules["numba"] = None', ""))
    assert without[0] == "torch"
    assert with_numba[0] == "cpu"
    assert float(without[1]) == pytest.approx(float(with_numba[1]), rel=1e-6)
    # sums of 1000 elements of about 0.03, each within one rounding of float32
    assert float(without[2]) == pytest.approx(float(with_numba[2]), abs=1000 * 0.1 * 2**-23)


def test_asking_for_the_cpu_engine_without_numba_says_what_to_install():
    code = 'import sys; sys.modules["numba"] = None\n' + (
        "import gradclip\nfrom gradclip.torch import Clipper\n"
        'try: Clipper(gradclip.ClipGradByNorm(1.0), engine="cpu")\n'
        "except ModuleNotFoundError as error: print(error)"
    )
    assert 'pip install "gradclip[cpu]"' in " ".join(run(code))


@pytest.mark.parametrize("name", ["cpu", "torch"])
def test_an_engine_can_be_chosen(name):
    weight = torch.nn.Parameter(torch.zeros(2))
    weight.grad = torch.tensor([3.0, 4.0])
    assert Clipper(gradclip.ClipGradByGlobalNorm(1.0), engine=name).clip_(weight).engine == name


def test_an_unknown_engine_is_refused():
    with pytest.raises(ValueError, match="'cpu', 'torch'"):
        Clipper(gradclip.ClipGradByGlobalNorm(1.0), engine="gpu")


def test_torch_is_not_imported_by_the_core():
    code = "import sys, gradclip; print('torch' in sys.modules, 'numpy' in sys.modules)"
    assert run(code) == ["False", "False"]
