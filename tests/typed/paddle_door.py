"""What a type checker says of `gradclip.paddle`: every public name, as a user writes it."""

from typing import Any, assert_type

import paddle

import gradclip
import gradclip.paddle
from gradclip.telemetry import Telemetry, memory

layer = paddle.nn.Linear(10, 1)
rule = gradclip.ZClip()

CLIPS: list[gradclip.paddle.Clip] = [
    gradclip.paddle.ClipGradByValue(max=1.0, min=-1.0, need_clip=lambda p: "w_0" in p.name),
    gradclip.paddle.ClipGradByNorm(1.0, on_nonfinite="skip"),
    gradclip.paddle.ClipGradByGlobalNorm(1.0, group_name="mine", max_consecutive_skips=5),
]
clip = gradclip.paddle.Clip(rule, on_nonfinite="keep", engine="cpu", telemetry=Telemetry(memory()))
sgd = paddle.optimizer.SGD(0.1, parameters=layer.parameters(), grad_clip=clip)
layer(paddle.full([4, 10], 100.0)).square().sum().backward()
sgd.step()
assert_type(clip.last.norm_before, float)
assert_type(clip.last.clipped, bool)
assert_type(clip.rule, gradclip.AnyRule)
state: dict[str, Any] = clip.state_dict()
clip.load_state_dict(state)
clip.give(loss=1.0)

by_hand = gradclip.paddle.Clipper(rule, engine="paddle", need_clip=lambda p: p.ndim > 1)
assert_type(by_hand.clip_(layer).norm_after, float)
norm = gradclip.paddle.clip_grad_norm_(layer.parameters(), 1.0, norm_type="inf")
gradclip.paddle.clip_grad_value_(layer.parameters(), 0.1)
callback = gradclip.paddle.ModelCallback(prefix="train/", without=["grad_norm"])
