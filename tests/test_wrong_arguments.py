"""Every public callable answers a wrong argument in one sentence at the call: the table of callables and kinds."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import paddle
import pytest
import torch

import gradclip
import gradclip.doctor
import gradclip.optax
import gradclip.paddle
import gradclip.report
import gradclip.telemetry
import gradclip.torch
from gradclip import EMA, ClipGradByNorm, Constant, Ratio, Rule, from_dict
from gradclip.rules.rule import rules_in
from gradclip.telemetry import Event, jsonl
from gradclip.torch.late import LateClippers
from wrong_arguments import assert_answered

ARGUMENTS = {
    "Constant": {"limit": 1.0}, "Bounds": {"max": 1.0, "min": -1.0}, "Lp": {"p": 3.0}, "EMA": {"decay": 0.9},
    "EMASpread": {"decay": 0.9}, "Moments": {"decay": 0.9, "square_decay": 0.9}, "Window": {"length": 8},
    "Sigma": {"z": 2.0}, "ZReciprocal": {"z": 2.0}, "Quantile": {"q": 0.5},
    "History": {"estimator": EMA(0.9), "level": Ratio(1.0)}, "Chain": {"stages": (Rule(), Rule())},
    "Rules": {"parts": {"*": Rule()}}, "Carry": {"rule": Rule()}, "UClip": {"rule": Rule()},
    "WeightRatio": {"ratio": 0.1}, "Given": {"threshold": Constant(1.0)},
    "StepLength": {"length": 1.0}, "from_dict": {"data": Rule().to_dict()},
    "norm_of_order": {"p": 2.0}, "ClipGradByNorm": {"clip_norm": 1.0}, "ClipGradByGlobalNorm": {"clip_norm": 1.0},
    "ClipGradByValue": {"max": 1.0}, "SmoothClip": {"clip_norm": 1.0}, "Schedule": {"*": [(0, 1.0)]},
    "min_of": {"*": [1.0]}, "max_of": {"*": [1.0]}, "until": {"steps": 3, "first": 1.0, "then": None},
    "Smallest": {"parts": (Constant(1.0),)}, "Largest": {"parts": (Constant(1.0),)},
    "metric": {"value": 1.0}, "Switched": {"parts": (Constant(1.0), Constant(2.0))},
}  # fmt: skip
"""What a callable needs; the others need nothing."""


def model():
    made = torch.nn.Linear(2, 1)
    made.weight.grad, made.bias.grad = torch.ones(1, 2), torch.ones(1)
    return made


def use_rule(made: object) -> None:
    """Show what was made, write and read it, and clip by it where it is a rule."""
    repr(made)
    if not isinstance(made, gradclip.Rule | gradclip.Chain | gradclip.Rules | gradclip.Carry):
        return
    if not any(isinstance(rule.threshold, gradclip.Schedule) for rule in rules_in(made)):
        assert from_dict(made.to_dict()) == made
    clipper = gradclip.torch.Clipper(made)
    for _ in range(2):
        clipper.give(**dict.fromkeys(clipper.reads_given, 1.0))
        if not clipper.reads_moments:
            clipper.clip_(model())


def public(module: object) -> list[str]:
    """The functions and classes of a module that are no errors."""
    return [name for name in module.__all__ if callable(getattr(module, name)) and not is_error(getattr(module, name))]


def is_error(made: object) -> bool:
    return isinstance(made, type) and issubclass(made, BaseException)


@pytest.mark.parametrize("name", [name for name in public(gradclip) if name not in ("attach", "verify_norm")])
def test_parts_of_rules_and_methods(name):
    assert_answered(getattr(gradclip, name), lambda: dict(ARGUMENTS.get(name, {})), use_rule)


MADE: list[torch.optim.Optimizer] = []
"""The last optimizer, which a clipper does not keep."""


def optimizer() -> torch.optim.Optimizer:
    MADE[:] = [torch.optim.SGD(model().parameters(), lr=0.1)]
    return MADE[0]


def weight() -> torch.nn.Parameter:
    found = torch.nn.Parameter(torch.zeros(2))
    found.grad = torch.ones(2)
    return found


def step(clipper: gradclip.torch.AttachedClipper) -> None:
    (taken,) = clipper.optimizers[:1]
    taken.step()
    clipper.detach()


TORCH = {
    "attach": (lambda: {"*": [optimizer()], "rule": Rule()}, step),
    "Clipper": (lambda: {"rule": Rule()}, lambda clipper: clipper.clip_(model())),
    "clip_grad_norm_": (lambda: {"parameters": model().parameters(), "max_norm": 1.0}, repr),
    "clip_grad_value_": (lambda: {"parameters": model().parameters(), "clip_value": 1.0}, repr),
    "clip_grads_with_norm_": (
        lambda: {"parameters": model().parameters(), "max_norm": 1.0, "total_norm": torch.tensor(3.0)}, repr,
    ),
    "get_total_norm": (lambda: {"tensors": [torch.ones(2)]}, repr),
    "verify_norm": (lambda: {"source": [weight()]}, repr),
}  # fmt: skip


@pytest.mark.parametrize("name", TORCH)
def test_the_torch_door(name):
    assert_answered(getattr(gradclip.torch, name), *TORCH[name])


def attach_late(late: LateClippers) -> None:
    late.attach_to({"0": optimizer()})
    late.detach()


def test_what_the_callbacks_of_trainers_take():
    assert_answered(LateClippers, lambda: {"rule": Rule()}, attach_late)


METHODS = {
    "clip_": (lambda: {"parameters": model()}, repr),
    "give": (lambda: {}, repr),
    "load_state_dict": (lambda: {"state": gradclip.torch.Clipper(ClipGradByNorm(1.0)).state_dict()}, repr),
}


@pytest.mark.parametrize("name", METHODS)
def test_the_methods_of_a_clipper(name):
    assert_answered(getattr(gradclip.torch.Clipper(ClipGradByNorm(1.0)), name), *METHODS[name])


def test_a_given_number_of_a_wrong_kind(recwarn):
    clipper = gradclip.torch.Clipper(gradclip.SkipSpikes(loss=True))
    assert_answered(lambda loss: clipper.give(loss=loss), lambda: {"loss": 1.0}, lambda _: clipper.clip_(model()))


@pytest.mark.parametrize("loss", [torch.tensor(1j), torch.empty((), device="meta"), np.array([1.0, 2.0])], ids=repr)
def test_what_is_not_one_real_number_is_refused_when_it_is_given(loss):
    with pytest.raises((TypeError, ValueError), match=r"the loss is (a real|one) number, got"):
        gradclip.torch.Clipper(gradclip.SkipSpikes(loss=True)).give(loss=loss)


@pytest.mark.parametrize("engine", ["cpu", "torch"])
@pytest.mark.parametrize("loss", [np.array([1.0]), torch.ones(1, 1), np.float32(1.0)], ids=repr)
def test_one_number_may_be_any_array_of_one(engine, loss):
    clipper = gradclip.torch.Clipper(gradclip.SkipSpikes(loss=True), engine=engine)
    clipper.give(loss=loss)
    assert not clipper.clip_(model()).skipped


def test_a_limit_without_a_number_is_refused():
    with pytest.raises(TypeError, match=r"clip_norm is a tensor on the device 'meta', which has no number: write 1\.0"):
        ClipGradByNorm(torch.empty((), device="meta"))


EVENT = Event(0, "all", "cpu", 5.0, 1.0, 1.0, 0.2, True)


@pytest.fixture
def run(tmp_path):
    sink = jsonl(tmp_path / "run")
    sink(EVENT)
    sink.close()
    return tmp_path / "run"


def test_the_functions_of_telemetry(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    telemetry = {
        "Telemetry": (
            lambda: {"*": [print]},
            lambda made: gradclip.torch.Clipper(Rule(), telemetry=made).clip_(model()),
        ),
        "Metrics": (lambda: {}, lambda made: made(EVENT)),
        "jsonl": (lambda: {"path": "new"}, lambda sink: (sink(EVENT), sink.close())),
        "read_run": (lambda: {"path": run}, len),
    }
    for name, (valid, use) in telemetry.items():
        assert_answered(getattr(gradclip.telemetry, name), valid, use)


def test_the_functions_of_reports_and_of_the_doctor(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = [gradclip.telemetry.read_run(run)]
    for name, valid in {
        "page": lambda: {"runs": runs}, "summarise": lambda: {"runs": runs}, "show": lambda: {"run": runs[0]},
        "write_report": lambda: {"runs": runs, "path": "page.html"},
        "compare_losses": lambda: {"summaries": gradclip.report.summarise(runs)},
    }.items():  # fmt: skip
        assert_answered(getattr(gradclip.report, name), valid, repr)
    assert_answered(gradclip.doctor.diagnose, lambda: {"folder": run}, repr)


def paddle_weight():
    made = paddle.create_parameter([2], "float32")
    made.grad = paddle.to_tensor([3.0, 4.0])
    return made


def paddle_step(clip) -> None:
    weight = paddle_weight()
    paddle.optimizer.SGD(0.1, parameters=[weight], grad_clip=clip).step()


def paddle_fit(callback) -> None:
    net = paddle.nn.Linear(2, 1)
    clip = gradclip.paddle.Clip(Rule())
    model = paddle.Model(net)
    model.prepare(paddle.optimizer.SGD(0.1, parameters=net.parameters(), grad_clip=clip), paddle.nn.MSELoss())
    model.fit([(paddle.ones([1, 2]), paddle.ones([1, 1]))], epochs=1, verbose=0, callbacks=[callback])


PADDLE = {
    "Clip": (lambda: {"rule": Rule()}, paddle_step),
    "ClipGradByGlobalNorm": (lambda: {"clip_norm": 1.0}, paddle_step),
    "ClipGradByNorm": (lambda: {"clip_norm": 1.0}, paddle_step),
    "ClipGradByValue": (lambda: {"max": 1.0}, paddle_step),
    "Clipper": (lambda: {"rule": Rule()}, lambda clipper: clipper.clip_(paddle_weight())),
    "ModelCallback": (lambda: {}, paddle_fit),
    "clip_grad_norm_": (lambda: {"parameters": [paddle_weight()], "max_norm": 1.0}, repr),
    "clip_grad_value_": (lambda: {"parameters": [paddle_weight()], "clip_value": 1.0}, repr),
}


@pytest.mark.parametrize("name", PADDLE)
def test_the_paddle_door(name):
    assert_answered(getattr(gradclip.paddle, name), *PADDLE[name])


def optax_step(tx) -> None:
    gradients = {"w": jnp.array([3.0, 4.0])}
    tx.update(gradients, tx.init(gradients), gradients)


def clip_state():
    gradients, tx = {"w": jnp.array([3.0, 4.0])}, gradclip.optax.clip(Rule())
    return tx.update(gradients, tx.init(gradients))[1]


def last():
    return clip_state().last


OPTAX = {
    "clip": (lambda: {"rule": ClipGradByNorm(1.0)}, optax_step),
    "check_skips": (lambda: {"opt_state": clip_state(), "max_consecutive_skips": 3}, repr),
    "event_of": (lambda: {"last": last(), "step": 3, "rule": Rule()}, repr),
    "record": (lambda: {"opt_state": clip_state(), "run": "new", "rule": Rule()}, repr),
}


@pytest.mark.parametrize("name", OPTAX)
def test_the_optax_door(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_answered(getattr(gradclip.optax, name), *OPTAX[name])


def test_no_function_of_a_door_is_forgotten():
    assert {*public(gradclip.torch)} - {"AttachedClipper"} == TORCH.keys()
    assert {*public(gradclip.paddle)} == PADDLE.keys()
    assert {*public(gradclip.optax)} - {"ClipState", "Last"} == OPTAX.keys()
