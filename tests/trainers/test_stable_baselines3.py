"""Stable-Baselines3 with one callback: each optimizer is clipped, the model remembers, no clipping is lost unsaid."""

from __future__ import annotations

import copy
import gc
import math
import re
import warnings

import pytest
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter, Logger
from torch.optim import optimizer as torch_optimizer

from gradclip import ClipGradByGlobalNorm, ZClip
from gradclip.errors import GradclipWarning
from gradclip.stable_baselines3 import Clip
from trainers import small
from trainers.sb3_learn import ALGORITHMS, EPISODE, made

OPTIMIZERS = {
    "PPO": ["policy"],
    "A2C": ["policy"],
    "DQN": ["policy"],
    "SAC": ["actor", "critic", "ent_coef"],
    "TD3": ["actor", "critic"],
    "DDPG": ["actor", "critic"],
}


class Kept(KVWriter):
    """An output of the logger that keeps what it is given."""

    def __init__(self):
        self.rows = []

    def write(self, numbers, excluded, step=0):
        self.rows.append(dict(numbers))

    def close(self):
        pass


@pytest.mark.parametrize("name", ["PPO", "SAC"])
def test_a_training_that_was_killed_goes_on_bit_for_bit(name, tmp_path):
    small.child("sb3_learn.py", tmp_path, "begin", name, killed=True)
    for what in ("resume", "through", "forgetful"):
        small.child("sb3_learn.py", tmp_path, what, name)
    through = torch.load(tmp_path / f"through-{name}.pt")
    resumed = torch.load(tmp_path / f"resume-{name}.pt")
    forgetful = torch.load(tmp_path / f"forgetful-{name}.pt")
    assert resumed["memory"] == through["memory"]
    assert all(torch.equal(resumed["weights"][key], value) for key, value in through["weights"].items())
    # the oracle sees a memory that was not taken up
    assert forgetful["memory"] != through["memory"]
    assert not all(torch.equal(forgetful["weights"][key], value) for key, value in through["weights"].items())


@pytest.mark.parametrize("name", list(ALGORITHMS))
def test_each_optimizer_is_clipped_by_a_norm_of_its_own(name):
    clip = Clip(ClipGradByGlobalNorm(0.01))
    model = made(name)
    model.learn(3 * EPISODE, callback=clip)
    assert list(clip.clippers) == OPTIMIZERS[name]
    for clipper in clip.clippers.values():
        assert clipper.step > 0
        assert clipper.last.norm_after <= 0.01 * (1 + 1e-6)
        assert not clipper.attached


@pytest.mark.parametrize("name", ["PPO", "SAC"])
def test_the_numbers_are_in_the_logger_by_their_names(name):
    model, kept = made(name), Kept()
    model.set_logger(Logger(None, [kept]))
    model.learn(6 * EPISODE, callback=Clip(small.LEARNT, layers=2), log_interval=1)
    logged = {key for row in kept.rows for key in row}
    begin = [""] if name == "PPO" else [f"{optimizer}/" for optimizer in OPTIMIZERS[name]]
    assert {start + key for start in begin for key in small.LOGGED} <= logged
    row = next(row for row in reversed(kept.rows) if begin[0] + "grad_norm" in row)
    assert row[begin[0] + "grad_norm"] >= row[begin[0] + "grad_norm_clipped"] > 0
    assert any(re.fullmatch(begin[0] + r"grad_norm/.*weight|.*bias", key) for key in logged)


def test_a_loaded_model_that_trains_without_clipping_is_said_once(tmp_path):
    made("PPO").learn(EPISODE, callback=Clip(small.LEARNT)).save(tmp_path / "model")
    model = ALGORITHMS["PPO"][0].load(tmp_path / "model", env=made("PPO").env, device="cpu")
    with pytest.warns(GradclipWarning, match=r"this PPO was trained with clipping .* without") as said:
        model.learn(2 * EPISODE)
    (warning,) = (warning for warning in said if warning.category is GradclipWarning)
    assert warning.filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error", GradclipWarning)
        model.learn(EPISODE)


def test_nothing_is_said_of_a_model_that_only_predicts_or_is_gone_or_goes_on_to_be_clipped(tmp_path):
    made("PPO").learn(EPISODE, callback=Clip(small.LEARNT)).save(tmp_path / "model")
    kind = ALGORITHMS["PPO"][0]
    teacher = kind.load(tmp_path / "model", device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("error", GradclipWarning)
        made("PPO").learn(EPISODE)  # another model, which was never clipped
        kind.load(tmp_path / "model", env=made("PPO").env, device="cpu").learn(EPISODE, callback=Clip(small.LEARNT))
        intended = kind.load(tmp_path / "model", env=made("PPO").env, device="cpu")
        del intended.clip_memory
        intended.learn(EPISODE)
    hooks = torch_optimizer._global_optimizer_pre_hooks
    waiting = len(hooks)
    del teacher, intended
    gc.collect()
    assert len(hooks) < waiting


def test_the_next_learn_of_a_model_goes_on_and_one_without_the_callback_is_said():
    model = made("PPO").learn(EPISODE, callback=Clip(small.LEARNT))
    clip = Clip(small.LEARNT)
    model.learn(EPISODE, callback=clip)
    assert clip.clippers["policy"].step == 8  # two epochs of two batches, twice
    with pytest.warns(GradclipWarning, match="clip_memory"):
        model.learn(EPISODE)


def test_a_learn_that_ended_by_an_error_leaves_the_model_to_the_next_callback():
    class Broken(BaseCallback):
        def _on_step(self):
            raise ZeroDivisionError

    model = made("PPO").learn(EPISODE, callback=Clip(small.LEARNT))
    with pytest.raises(ZeroDivisionError):
        model.learn(EPISODE, callback=[Clip(small.LEARNT), Broken()])
    clip = Clip(small.LEARNT)
    model.learn(EPISODE, callback=clip)
    assert clip.clippers["policy"].step == 8


def test_a_copy_of_a_model_has_its_memory():
    model = made("PPO").learn(EPISODE, callback=Clip(small.LEARNT))
    memory = copy.deepcopy(model.clip_memory)
    assert memory.state_dict() == model.clip_memory.state_dict()


def test_the_models_own_clipping_is_refused_with_what_to_write():
    model = made("PPO")
    model.max_grad_norm = 0.5
    with pytest.raises(ValueError, match=re.escape('PPO(..., max_grad_norm=float("inf"))')):
        model.learn(EPISODE, callback=Clip(small.LEARNT))
    assert math.isinf(made("A2C").max_grad_norm)


def test_the_rule_of_a_callback_may_be_changed_between_two_trainings():
    clip = Clip(ZClip(z=2.0, warmup=2))
    model = made("PPO").learn(EPISODE, callback=clip)
    clip.rule = ZClip(z=3.0, warmup=2)
    model.learn(EPISODE, callback=clip)
    assert clip.clippers["policy"].step == 8
    assert clip.state_dict()["clippers"]["policy"]["thresholds"]["0 -1 0"]["memory"]["1.count"] == [8.0]


def test_another_rule_than_the_remembered_one_is_refused_with_what_to_write():
    model = made("PPO").learn(EPISODE, callback=Clip(small.LEARNT))
    with pytest.raises(ValueError, match=r"del model\.clip_memory"):
        model.learn(EPISODE, callback=Clip(small.RULE))
    del model.clip_memory
    model.learn(EPISODE, callback=Clip(small.RULE))
