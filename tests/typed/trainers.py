"""What a type checker says of the doors of trainers: every public name, as a user writes it."""

from typing import Any, assert_type

import keras
import torch
from ignite.engine import Engine
from lightning.pytorch import Trainer
from skorch import NeuralNetRegressor

import gradclip
import gradclip.fastai
import gradclip.ignite
import gradclip.keras
import gradclip.lightning
import gradclip.skorch
import gradclip.stable_baselines3
import gradclip.timm
import gradclip.transformers
from gradclip.telemetry import Telemetry, memory

rule = gradclip.AutoClip(90)
model = torch.nn.Linear(2, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

# Lightning
clip = gradclip.lightning.Clip(
    rule, together=True, layers=5, on_nonfinite="skip", telemetry=Telemetry(memory(), tensors=True)
)
trainer = Trainer(callbacks=[clip], logger=False)
assert_type(clip.rule, gradclip.AnyRule)
state: dict[str, Any] = clip.state_dict()


def after_a_fit(clip: gradclip.lightning.Clip) -> None:
    """What the last step did."""
    assert_type(clip.last.norm_before, float)
    assert_type(clip.clippers["0"].last.clipped, bool)


# Hugging Face's Trainer, and TRL's
of_trainer = gradclip.transformers.Clip(rule, max_consecutive_skips=5)
of_trainer.give(loss=1.0)


def add(hugging_face: Any) -> None:
    """Add it to a Trainer that exists."""
    of_trainer.add_to(hugging_face)


# Stable-Baselines3, skorch, Ignite, fastai
of_agent = gradclip.stable_baselines3.Clip(rule)
net = NeuralNetRegressor(torch.nn.Linear, module__in_features=2, callbacks=[gradclip.skorch.Clip(rule, layers=2)])
ignite_trainer = Engine(lambda engine, batch: None)
of_ignite = gradclip.ignite.Clip(rule).attach(ignite_trainer, optimizer, model=model)
assert_type(of_ignite, gradclip.ignite.Clip)
of_fastai = gradclip.fastai.Clip(rule)

# timm's functions
gradclip.timm.dispatch_clip_grad(model.parameters(), 1.0, mode="agc")
gradclip.timm.adaptive_clip_grad(model.parameters(), clip_factor=0.01)

# Keras
adam = gradclip.keras.clip(keras.optimizers.Adam(1e-3), rule, on_nonfinite="skip", tensors=True)
log = gradclip.keras.Log(print, every=10, prefix="train/", layers=5)


def told(optimizer: gradclip.keras.ClippedOptimizer) -> gradclip.keras.LastStep:
    """What the last step did."""
    assert_type(optimizer.last.norm_before, float)
    return optimizer.last
