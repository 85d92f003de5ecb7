"""What a type checker says of `gradclip.torch`: every public name, as a user writes it."""

from collections.abc import Mapping
from typing import Any, assert_type

import torch

import gradclip
import gradclip.torch
from gradclip.telemetry import Telemetry, memory

model = torch.nn.Linear(10, 1)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
rule = gradclip.ClipGradByGlobalNorm(1.0)

clipper = gradclip.torch.attach(
    optimizer, rule, model=model, on_nonfinite="skip", max_consecutive_skips=5, need_clip=lambda p: p.ndim > 1,
    telemetry=Telemetry(memory()),
)  # fmt: skip
assert_type(clipper, gradclip.torch.AttachedClipper)
model(torch.randn(16, 10)).square().mean().backward()
optimizer.step()
assert_type(clipper.last.norm_before, float)
assert_type(clipper.last.norm_after, float)
assert_type(clipper.last.clipped, bool)
assert_type(clipper.last.skipped, bool)
assert_type(clipper.last.nonfinite, int)
assert_type(clipper.last.offenders, list[str])
assert_type(clipper.last.tensors, dict[str, float])
assert_type(clipper.last.engine, str)
assert_type(float(clipper.last), float)
assert_type([segment.name for segment in clipper.last.segments], list[str])
clipper.give(loss=torch.tensor(1.0))
state: Mapping[str, Any] = clipper.state_dict()
clipper.load_state_dict(state)
assert_type(clipper.rule, gradclip.AnyRule)
clipper.rule = gradclip.ClipGradByNorm(1.0)
clipper.detach()

first, second = torch.optim.SGD([model.weight], lr=0.1), torch.optim.SGD([model.bias], lr=0.1)
gradclip.torch.attach(first, second, rule=rule, place="gradient").detach()
gradclip.attach(first, rule, through_grad_scale=False, engine="torch").detach()

by_hand = gradclip.torch.Clipper(rule, need_clip=lambda p: p.ndim > 1)
assert_type(by_hand.clip_(model).norm_before, float)
by_hand.clip_(model.named_parameters())
by_hand.clip_([model.weight])
by_hand.clip_(optimizer)

assert_type(gradclip.torch.clip_grad_norm_(model.parameters(), max_norm=1.0, norm_type=float("inf")), torch.Tensor)
assert_type(gradclip.torch.clip_grad_norm_(model.weight, 1.0, error_if_nonfinite=True, foreach=None), torch.Tensor)
gradclip.torch.clip_grad_value_(list(model.parameters()), clip_value=0.1)
gradients = [p.grad for p in model.parameters() if p.grad is not None]
total = assert_type(gradclip.torch.get_total_norm(gradients, norm_type=2), torch.Tensor)
gradclip.torch.clip_grads_with_norm_(model.parameters(), 1.0, total)
assert_type(gradclip.torch.verify_norm(model).norm, float)
