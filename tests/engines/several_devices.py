"""Clips gradients on two devices that there are not, in a process of its own, since PyTorch is told of them.

Their tensors hold no numbers, and PyTorch refuses an operation that mixes tensors of both. Prints for each case what
went wrong, as JSON; with the argument "planted" no number travels from one device to the other.
"""

from __future__ import annotations

import json
import sys

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

import gradclip
from gradclip.engines.torch import TorchEngine
from gradclip.engines.torch_devices import Share
from gradclip.rules.norm import Linf
from gradclip.rules.rule import AnyRule, Rule
from gradclip.rules.scope import Element, Row
from gradclip.rules.threshold import Constant
from gradclip.torch import Clipper, attach, clip_grad_norm_, clip_grad_value_, get_total_norm

RULES: dict[str, AnyRule] = {
    "global": gradclip.ClipGradByGlobalNorm(1.0),
    "each tensor": gradclip.ClipGradByNorm(1.0),
    "each row": Rule(Row(-1), Linf(), Constant(0.1)),
    "each element": gradclip.ClipGradByValue(0.1),
    "each element, bent": Rule(Element(), Linf(), Constant(0.1), gradclip.Smooth()),
    "units of weights": gradclip.AGC(0.01),
    "follows the norm": gradclip.ZClip(),
    "follows each norm": gradclip.AdaGC(),
    "follows elements": gradclip.StableSPAM(),
    "one after the other": gradclip.ClipGradByValue(1.0) >> gradclip.ClipGradByGlobalNorm(0.1),
}
TRAVELS = [name for name in RULES if name != "each element"]
"""The rules that need a number of another device; by value each device clamps by itself."""
PLACES = ["two:1", "two:0", "two:1", "two:0"]
SHAPES = [(4, 3), (3,), (4, 3), ()]


def parameters(dtype: torch.dtype = torch.float32) -> list[torch.nn.Parameter]:
    found = []
    for shape, place in zip(SHAPES, PLACES, strict=True):
        found.append(torch.nn.Parameter(torch.zeros(shape, dtype=dtype, device=place)))
        found[-1].grad = torch.ones(shape, dtype=dtype, device=place)
    return found


def clips(rule: AnyRule, on_nonfinite: str = "keep", dtype: torch.dtype = torch.float32) -> None:
    given, clipper = parameters(dtype), Clipper(rule, on_nonfinite=on_nonfinite)
    for _ in range(2):
        clipper.clip_(given)
    assert clipper.last.engine == "torch"
    assert [str(p.grad.device) for p in given] == PLACES


def clips_by_hand() -> None:
    given = parameters()
    norm = clip_grad_norm_(given, 1.0)
    assert (norm.shape, str(norm.device)) == ((), PLACES[0])
    assert get_total_norm([p.grad for p in given]).shape == ()
    clip_grad_value_(given, 0.1)


def clips_in_a_step() -> None:
    optimizer = torch.optim.SGD(parameters(), lr=0.1)
    clipper = attach(optimizer, gradclip.ClipGradByGlobalNorm(1.0))
    optimizer.step()
    assert clipper.last.engine == "torch"


CASES = {
    **{name: lambda rule=rule: clips(rule) for name, rule in RULES.items()},
    **{f"{name}, zeros": lambda rule=rule: clips(rule, "zero", torch.float64) for name, rule in RULES.items()},
    "each element of bfloat16": lambda: clips(RULES["each element"], dtype=torch.bfloat16),
    "by hand": clips_by_hand,
    "in a step": clips_in_a_step,
}


def main() -> None:
    _setup_privateuseone_for_python_backend("two")
    TorchEngine.repeated = lambda self, batch: set()  # all tensors without numbers lie at address 0
    if "planted" in sys.argv:
        Share.here = lambda self, array: array
    wrong = {}
    with FakeTensorMode():
        for name, case in CASES.items():
            try:
                case()
            except (AssertionError, RuntimeError, TypeError) as error:
                wrong[name] = f"{type(error).__name__}: {error}"[:500]
    print(json.dumps(wrong))


if __name__ == "__main__":
    main()
