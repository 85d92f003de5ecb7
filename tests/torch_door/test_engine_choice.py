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


@pytest.mark.parametrize("engine", ["cpu", "torch"])
@pytest.mark.parametrize("layout", ["channels last", "transposed"])
@pytest.mark.parametrize("scope", [gradclip.Row(), gradclip.Tensor(), gradclip.Global()])
def test_the_order_of_the_axes_in_memory_does_not_matter(engine, layout, scope):
    torch.manual_seed(0)
    plain = torch.randn(6, 5, 3, 2)
    ordered = plain.to(memory_format=torch.channels_last) if layout == "channels last" else plain.mT.contiguous().mT
    results = []
    for gradient in (plain.clone(), ordered):
        weight = torch.nn.Parameter(torch.zeros_like(plain))
        weight.grad = gradient
        Clipper(gradclip.Rule(scope, threshold=gradclip.Constant(0.5)), engine=engine).clip_([weight])
        results.append(weight.grad)
    assert not ordered.is_contiguous()
    # sums in another order: a rounding of float64 in the norm, one of float32 in the product
    torch.testing.assert_close(results[0], results[1], rtol=2e-7, atol=0)


def test_a_tensor_without_memory_of_its_own_is_refused_by_name():
    weight = torch.nn.Parameter(torch.zeros(2))
    weight.grad = torch.ones(2)
    weight.grad.untyped_storage().resize_(0)
    with pytest.raises(TypeError, match="'w' cannot be clipped: it has no memory"):
        Clipper(gradclip.ClipGradByGlobalNorm(1.0), engine="cpu").clip_({"w": weight})
