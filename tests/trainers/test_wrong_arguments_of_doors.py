"""The doors of trainers answer every wrong argument in one sentence, at the call."""

from __future__ import annotations

import importlib

import pytest
import torch

from gradclip import Rule
from trainers import small
from wrong_arguments import assert_answered


def weight():
    parameter = torch.nn.Parameter(torch.ones(2, 2))
    parameter.grad = torch.ones(2, 2)
    return parameter


def engine():
    return importlib.import_module("ignite.engine").Engine(lambda engine, batch: None)


def optimizer():
    return torch.optim.SGD([weight()], lr=0.1)


def clip_late(clip):
    clip.attach_to({"0": optimizer()})
    clip.detach()


CALLBACKS = {
    "lightning": clip_late,
    "transformers": clip_late,
    "stable_baselines3": clip_late,
    "skorch": clip_late,
    "ignite": clip_late,
    "fastai": lambda clip: clip.clipper.clip_([weight()]),
}


@pytest.mark.parametrize("door", CALLBACKS)
def test_the_callback(door):
    assert_answered(importlib.import_module(f"gradclip.{door}").Clip, lambda: {"rule": Rule()}, CALLBACKS[door])


def test_the_functions_of_timm():
    functions = importlib.import_module("gradclip.timm")
    parameters = [weight()]
    assert_answered(functions.dispatch_clip_grad, lambda: {"parameters": parameters, "value": 1.0, "mode": "agc"}, repr)
    assert_answered(functions.adaptive_clip_grad, lambda: {"parameters": parameters}, repr)


def test_attaching_to_an_engine_of_ignite():
    clip = importlib.import_module("gradclip.ignite").Clip

    def attach(engine, optimizer, model=None, every=1):
        made = clip(small.RULE).attach(engine, optimizer, model=model, every=every)
        made.detach()

    assert_answered(attach, lambda: {"engine": engine(), "optimizer": optimizer()}, repr)
