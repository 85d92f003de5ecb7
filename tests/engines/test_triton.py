"""The Triton engine beside the laws: kernels run in Python here, and are compiled for GPUs that need not be there."""

import json
import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import torch

from benches import INTERPRETED
from effort import LONG
from gradclip import AGC, L1, L2, ClipGradByGlobalNorm, ClipGradByValue, Constant, Global, Linf, Row, Rule, Tensor
from gradclip.engines.base import Measure
from gradclip.engines.torch_devices import DevicesEngine
from gradclip.engines.torch_functions import FUNCTIONS
from gradclip.rules.norm import norm_of_order
from gradclip.step.decide import Terms, decide
from gradclip.step.policy import EVERY
from gradclip.torch import Clipper, attach
from torch_tensors import Counting

pytestmark = pytest.mark.skipif(not INTERPRETED, reason="kernels run in Python in an environment of their own")
HERE = Path(__file__).parent

if INTERPRETED:
    from gradclip.engines import triton, triton_decide, triton_table


def parameters(*gradients: torch.Tensor) -> list[torch.Tensor]:
    found = []
    for gradient in gradients:
        parameter = torch.nn.Parameter(torch.zeros_like(gradient))
        parameter.grad = gradient
        found.append(parameter)
    return found


def drawn(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def test_all_dtypes_are_clipped_in_one_call_by_one_norm():
    """float16 and bfloat16 are exact in float64, and the norm is right to 1e-6 (the law)."""
    dtypes = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    gradients = [drawn(70, 3, dtype=dtype, seed=place) for place, dtype in enumerate(dtypes)]
    true = torch.cat([gradient.double().flatten() for gradient in gradients]).norm().item()
    result = Clipper(ClipGradByGlobalNorm(1.0), engine="triton").clip_(parameters(*gradients))
    assert result.norm_before == pytest.approx(true, rel=1e-6, abs=0.0)
    assert result.engine == "triton"


@pytest.mark.parametrize("norm", [L1(), L2(), Linf()])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_addresses_of_every_kind_are_read_and_written(norm, dtype):
    """Odd ones, permuted, expanded, with holes, of no axis and of no element."""
    makers = {
        "odd": lambda: drawn(1001, dtype=dtype)[1:],
        "permuted": lambda: drawn(8, 5, 3, dtype=dtype).permute(2, 0, 1),
        "channels last": lambda: drawn(4, 3, 5, 5, dtype=dtype).to(memory_format=torch.channels_last),
        "expanded": lambda: drawn(7, 1, dtype=dtype).expand(7, 4),
        "with holes": lambda: drawn(10, 12, dtype=dtype)[::2, ::3],
        "no axis": lambda: drawn(1, dtype=dtype)[0],
        "empty": lambda: torch.zeros(0, 3, dtype=dtype),
    }
    for scope in (Global(), Tensor(), Row(0), Row(-1)):
        rule = Rule(scope, norm, Constant(0.01))
        here, there = [[make() for make in makers.values()] for _ in range(2)]
        Clipper(rule, engine="triton").clip_(parameters(*here))
        Clipper(rule, engine="torch").clip_(parameters(*there))
        for name, one, other in zip(makers, here, there, strict=True):
            # both are products of one gradient and of coefficients that are 2e-6 apart, and round to the dtype
            tolerance = 2e-2 if dtype is torch.bfloat16 else 4e-6
            torch.testing.assert_close(one, other, rtol=tolerance, atol=1e-9, msg=f"{name}, {scope}")


def test_sparse_and_complex_gradients_are_clipped():
    sparse = torch.sparse_coo_tensor([[1, 1, 3]], [3.0, 1.0, 3.0], (5,))
    complex_one = torch.tensor([3.0 + 4.0j, 0.0])
    for norm, wanted in ((L2(), (16 + 9 + 25) ** 0.5), (L1(), 12.0), (Linf(), 5.0)):
        gradients = [sparse.clone(), complex_one.clone()]
        rule = Rule(Global(), norm, Constant(1.0))
        assert Clipper(rule, engine="triton").clip_(parameters(*gradients)).norm_before == pytest.approx(wanted)
        assert gradients[0].to_dense()[1].item() == pytest.approx(4.0 / wanted)
        torch.testing.assert_close(gradients[1][0], complex_one[0] / wanted)


@pytest.mark.parametrize(
    "rule", [ClipGradByGlobalNorm(0.1), Rule(Tensor(), L1(), Constant(0.1)), AGC(0.01), ClipGradByValue(0.1)], ids=repr
)
def test_gradients_on_several_devices_are_clipped_as_on_one(rule):
    """Tensors of an even number of elements are taken for those of another device."""
    spread = DevicesEngine("triton", lambda device: triton.ENGINE, lambda tensor: tensor.numel() % 2)
    shapes = [(7, 3), (8,), (4, 5), (9,), (2, 2, 3)]
    here, there = [[drawn(*shape, seed=place) for place, shape in enumerate(shapes)] for _ in range(2)]
    clipper = Clipper(rule, engine="triton")
    for _ in range(2):
        clipper.engine_for = lambda gradients: spread
        clipper.clip_(parameters(*here))
        Clipper(rule, engine="triton").clip_(parameters(*there))
        for one, other in zip(here, there, strict=True):
            torch.testing.assert_close(one, other)


def without_the_last(chunks_of):
    def planted(*given):
        chunks, rows = chunks_of(*given)
        return (chunks[:-1] if len(chunks) > 1 else chunks), rows

    return planted


def once(addresses):
    found = {}

    def planted(structure, wanted):
        return found.setdefault(structure, addresses(structure, wanted))

    return planted


PLANTS = {
    "the last chunk is left out": lambda patch: patch.setattr(
        triton_table, "chunks_of", without_the_last(triton_table.chunks_of)
    ),
    "squares that overflow are kept": lambda patch: patch.setitem(
        triton.RANGES, (triton.tl.float32, 2.0), (0.0, float("inf"))
    ),
    "addresses are those of the first step": lambda patch: patch.setattr(
        triton_table.Structure, "addresses", once(triton_table.Structure.addresses)
    ),
}


def clips_to_the_norm() -> None:
    """Three steps of long and of tiny gradients, each of which lies elsewhere; 1e-30 squared is no float32 number."""
    clipper, kept = Clipper(ClipGradByGlobalNorm(1e-35), engine="triton"), []
    for step in range(3):
        gradients = [1e-30 * drawn(150_000, seed=step), 1e-30 * drawn(64, 3, seed=step + 1)]
        kept.append(gradients)
        true = torch.cat([gradient.double().flatten() for gradient in gradients]).norm().item()
        assert clipper.clip_(parameters(*gradients)).norm_before == pytest.approx(true, rel=1e-6, abs=0.0)
        after = torch.cat([gradient.double().flatten() for gradient in gradients]).norm().item()
        assert after == pytest.approx(1e-35, rel=1e-3, abs=0.0)  # elements of 1e-38 and less are denormal


@pytest.mark.parametrize("bug", PLANTS)
def test_the_norm_is_right_and_with_a_planted_bug_red(bug, monkeypatch):
    clips_to_the_norm()
    PLANTS[bug](monkeypatch)
    with pytest.raises(AssertionError):
        clips_to_the_norm()


def test_the_bits_do_not_follow_the_programs(monkeypatch):
    gradients = [drawn(300_001), drawn(200, 700, seed=1), drawn(5, seed=2)]
    norms = set()
    for programs in (1, 2, 7, 64):
        monkeypatch.setattr(triton, "programs", lambda device, programs=programs: programs)
        norms.add(Clipper(Rule(threshold=Constant(None)), engine="triton").clip_(parameters(*gradients)).norm_before)
    assert len(norms) == 1
    true = torch.cat([gradient.double().flatten() for gradient in gradients]).norm().item()
    assert norms.pop() == pytest.approx(true, rel=1e-6)


def test_the_table_follows_addresses_and_is_made_once_for_a_structure(monkeypatch):
    made = []
    table_of = triton_table.table_of
    monkeypatch.setattr(triton_table, "table_of", lambda *given: made.append(given) or table_of(*given))
    model, clipper = torch.nn.Linear(5, 3), Clipper(ClipGradByGlobalNorm(0.1), engine="triton")
    kept = []
    for step in range(4):
        for parameter in model.parameters():
            parameter.grad = drawn(*parameter.shape, seed=step)
            kept.append(parameter.grad)  # so that the next one lies elsewhere
        clipper.clip_(model)
        assert torch.cat([p.grad.flatten() for p in model.parameters()]).norm().item() == pytest.approx(0.1, rel=1e-6)
    assert len(made) == 1
    model.bias.grad = None
    clipper.clip_(model)
    assert len(made) == 2


@pytest.mark.parametrize("rule", [ClipGradByGlobalNorm(0.1), ClipGradByValue(0.01), AGC(0.01)], ids=repr)
def test_a_model_trains_as_with_the_engine_of_plain_operations(rule):
    weights = []
    for engine in ("triton", "torch"):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(6, 9), torch.nn.Tanh(), torch.nn.Linear(9, 1))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        clipper = attach(optimizer, rule, engine=engine)
        for step in range(5):
            optimizer.zero_grad()
            (model(drawn(8, 6, seed=step)) ** 2).mean().backward()
            optimizer.step()
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
        assert clipper.last.engine == engine
    torch.testing.assert_close(*weights, rtol=1e-5, atol=1e-7)  # five products, each of which is 1e-6 apart


def test_autograd_is_told_what_the_kernels_write_and_inference_tensors_are_clipped():
    (parameter,) = parameters(torch.tensor([3.0, 4.0]))
    before = parameter.grad._version
    Clipper(ClipGradByGlobalNorm(1.0), engine="triton").clip_([parameter])
    assert parameter.grad._version > before
    with torch.inference_mode():
        made = torch.tensor([3.0, 4.0])
    parameter.grad = made
    Clipper(ClipGradByGlobalNorm(1.0), engine="triton").clip_([parameter])
    torch.testing.assert_close(made, torch.tensor([0.6, 0.8]))


def test_three_launches_clip_whatever_the_number_of_tensors(monkeypatch):
    """One measures, one decides, one scales; what PyTorch does beside them is to make room for the numbers."""
    launched = []
    monkeypatch.setattr(triton, "launch", lambda kernel, *given, **how: launched.append(kernel))
    for rule, launches in ((ClipGradByGlobalNorm(1.0), 3), (Rule(Tensor()), 3), (ClipGradByValue(0.1), 1)):
        for many in (2, 60):
            given, clipper = (
                parameters(*(drawn(3, 4, seed=place) for place in range(many))),
                Clipper(rule, engine="triton"),
            )
            clipper.clip_(given)
            launched.clear()
            with Counting() as counting:
                clipper.clip_(given)
            assert len(launched) == launches
            if launches == 3:
                assert len(counting.names) <= 8, counting.names


SAME = {"rtol": 1e-12, "atol": 0.0, "equal_nan": True}
"""A root of another order is taken by a logarithm, whose last bits the order multiplies."""


def decides_as_decide_does(order: float, scaled: bool) -> None:
    """Norms on both sides of the threshold, at its ends, zero, beyond float64 with its scale, and not finite."""
    totals = [0.0, 5e-324, 0.3, 1.0, 4.0, 1e300, float("inf"), float("nan"), 2.0, 1e-300]
    scales = [5e-324, 1.0, 1.0, 1.0, 1.0, 1e200, 2.0**1020, 2.0**1020, 1.7e308, 1e-10] if scaled else [1.0] * 10
    counts = [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 2.0, 0.0, 0.0]
    out = torch.tensor([totals, scales, counts], dtype=torch.float64).T.contiguous()
    norm = norm_of_order(order or float("inf"))
    measure = Measure(out[:, 0], out[:, 2], FUNCTIONS, out[:, 1] if scaled else 1.0)
    for threshold, policy, divisor in product((1e-3, 1.0, 3e200), EVERY, (None, torch.tensor(1024.0))):
        terms = Terms(policy, divisor=1.0 if divisor is None else divisor)
        wanted = decide(measure, Rule(Tensor(), norm, Constant(threshold)), {}, terms)
        options = {"ORDER": order, "SCALED": scaled}
        found = triton.hard_clip_of(out, threshold, divisor, 1, policy.coefficient, policy.action, **options)
        for name, one in zip(("norm", "coefficient", "action"), found, strict=True):
            torch.testing.assert_close(one, getattr(wanted, name), msg=f"{name}, {threshold}, {policy}", **SAME)


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("order", [0.0, 1.0, 2.0, 3.0])
def test_the_decision_in_one_launch_is_that_of_many_operations(order, scaled):
    decides_as_decide_does(order, scaled)


@pytest.mark.parametrize("bug", ["bits_of", "BLOCK"])
def test_the_decision_is_compared(bug, monkeypatch):
    """With a threshold of float32, or with segments left out."""
    wrong = {"bits_of": lambda number, bits=triton_decide.bits_of: bits(number * (1 + 1e-8)), "BLOCK": 8}
    monkeypatch.setattr(triton_decide, bug, wrong[bug])
    if bug == "BLOCK":
        monkeypatch.setattr(
            triton,
            "launch",
            lambda kernel, grid, *given, launch=triton.launch, **how: launch(kernel, (1,), *given, **how),
        )
    with pytest.raises(AssertionError):
        decides_as_decide_does(2.0, False)


def test_it_is_for_a_device_that_has_kernels():
    with pytest.raises(ValueError, match="'triton', 'torch' and None to choose"):
        Clipper(ClipGradByGlobalNorm(1.0), engine="cuda")
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch:
        patch.setattr("gradclip.torch.clipper.INTERPRETED", False)
        with pytest.raises(ValueError, match="on a CUDA device, and these are on cpu: leave engine= out"):
            Clipper(ClipGradByGlobalNorm(1.0), engine="triton").clip_(parameters(torch.ones(2)))


def test_every_kernel_is_compiled_for_gpus_with_wide_loads_and_without_spills():
    forms = () if LONG else ("short",)
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, str(HERE / "triton_compiled.py"), *forms]
    answer = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert answer.returncode == 0, answer.stderr[-3000:]
    found = json.loads(answer.stdout)
    assert len(found) >= 16
    assert not {name: facts for name, facts in found.items() if facts["stack"]}
    assert not [name for name, facts in found.items() if facts["wants_wide"] and not facts["wide"]]
