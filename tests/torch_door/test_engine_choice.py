"""Which engine serves, and that it says so."""

import subprocess
import sys

import pytest
import torch

import gradclip
from gradclip.torch import Clipper

CLIP = """
import torch, gradclip
from gradclip.torch import Clipper
torch.manual_seed(0)
weight = torch.nn.Parameter(torch.zeros(1000))
weight.grad = torch.randn(1000)
result = Clipper(gradclip.ClipGradByGlobalNorm(1.0)).clip_([weight])
print(result.engine, repr(result.norm_before), weight.grad.double().sum().item())
"""
ASK = """
try: Clipper(gradclip.ClipGradByNorm(1.0), engine="cpu")
except ModuleNotFoundError as error: print(error)
"""


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def without_numba():
    """What a process without numba says when it clips, and when it is asked for the engine that needs it."""
    return run(f'import sys; sys.modules["numba"] = None\n{CLIP}{ASK}').split("\n", 1)


def test_without_numba_the_torch_engine_serves_says_so_and_gives_the_same_numbers(without_numba, capsys):
    without = without_numba[0].split()
    exec(CLIP, {})
    with_numba = capsys.readouterr().out.split()
    assert without[0] == "torch"
    assert with_numba[0] == "cpu"
    assert float(without[1]) == pytest.approx(float(with_numba[1]), rel=1e-6)
    # sums of 1000 elements of about 0.03, each within one rounding of float32
    assert float(without[2]) == pytest.approx(float(with_numba[2]), abs=1000 * 0.1 * 2**-23)


def test_asking_for_the_cpu_engine_without_numba_says_what_to_install(without_numba):
    assert 'pip install "gradclip[cpu]"' in without_numba[1]


@pytest.mark.parametrize("name", ["cpu", "torch"])
def test_an_engine_can_be_chosen(name):
    weight = torch.nn.Parameter(torch.zeros(2))
    weight.grad = torch.tensor([3.0, 4.0])
    assert Clipper(gradclip.ClipGradByGlobalNorm(1.0), engine=name).clip_(weight).engine == name


def test_an_unknown_engine_is_refused():
    with pytest.raises(ValueError, match="'cpu', 'triton', 'torch'"):
        Clipper(gradclip.ClipGradByGlobalNorm(1.0), engine="gpu")


def test_torch_is_not_imported_by_the_core():
    code = "import sys, gradclip; print('torch' in sys.modules, 'numpy' in sys.modules)"
    assert run(code).split() == ["False", "False"]


@pytest.mark.parametrize("engine", ["cpu", "torch"])
@pytest.mark.parametrize("layout", ["channels last", "transposed"])
@pytest.mark.parametrize("scope", [gradclip.Row(), gradclip.Row(1), gradclip.Tensor(), gradclip.Global()])
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


@pytest.mark.parametrize("engine", ["cpu", "torch"])
def test_a_transposed_convolution_has_its_output_units_along_axis_1(engine):
    """Weights (in, out, width): unit 0 has norm (2 (9 + 16))^(1/2) = 7.07, unit 1 (2 (0.09 + 0.16))^(1/2) = 0.71."""
    layer = torch.nn.ConvTranspose1d(2, 2, 2)
    units = torch.tensor([[3.0, 4.0], [0.3, 0.4]])
    layer.weight.grad, layer.bias.grad = torch.stack([units, units]), torch.tensor([3.0, 4.0])
    result = Clipper(gradclip.Rule(gradclip.Row(1)), engine=engine).clip_(layer)
    norms = {row.name: row.norm_before for row in result.segments}
    assert norms == pytest.approx({"weight[0]": 50**0.5, "weight[1]": 0.5**0.5, "bias": 5.0})
    torch.testing.assert_close(layer.weight.grad[:, 0], torch.tensor([[3.0, 4.0]] * 2) / 50**0.5)
    assert torch.equal(layer.weight.grad[:, 1], torch.tensor([[0.3, 0.4]] * 2))


@pytest.mark.parametrize("engine", ["cpu", "torch"])
@pytest.mark.parametrize(
    "rule",
    [
        gradclip.Rule(gradclip.Row(2)),
        gradclip.ClipGradByGlobalNorm(0.1) >> gradclip.ClipGradByValue(0.1) >> gradclip.Rule(gradclip.Row(2)),
        gradclip.Rules({"kernel": gradclip.ClipGradByValue(0.1), "*": gradclip.Rule(gradclip.Row(2))}),
    ],
)
def test_a_tensor_without_the_axis_is_refused_by_name_before_anything_is_written(engine, rule):
    kernel, matrix = (torch.nn.Parameter(torch.zeros(shape)) for shape in ((2, 2, 2), (2, 2)))
    kernel.grad, matrix.grad = torch.ones(2, 2, 2), torch.ones(2, 2)
    with pytest.raises(TypeError, match=r"'matrix' cannot be clipped: its shape \(2, 2\) has no axis 2"):
        Clipper(rule, engine=engine).clip_({"kernel": kernel, "matrix": matrix})
    assert torch.equal(kernel.grad, torch.ones(2, 2, 2))
    assert torch.equal(matrix.grad, torch.ones(2, 2))


def test_a_complex_gradient_is_refused_before_another_of_the_rule_is_clamped():
    real, odd = torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(2, dtype=torch.complex64))
    real.grad, odd.grad = torch.ones(2), torch.ones(2, dtype=torch.complex64)
    value = gradclip.ClipGradByValue(0.1)
    with pytest.raises(TypeError, match="'odd' cannot be clipped: it is complex"):
        Clipper(gradclip.Rules({"real": value, "odd": value})).clip_({"real": real, "odd": odd})
    assert torch.equal(real.grad, torch.ones(2))


@pytest.mark.parametrize("engine", ["cpu", "torch"])
def test_a_sparse_gradient_has_not_the_rows_of_its_weight_and_is_refused_by_name(engine):
    table = torch.nn.Embedding(5, 2, sparse=True)
    table(torch.tensor([1, 1, 3])).sum().backward()
    with pytest.raises(TypeError, match="'weight' cannot be clipped: it has 2 of the 5 rows of its weight"):
        Clipper(gradclip.AGC(), engine=engine).clip_(table)
