"""fastai with one callback: it clips, its memory is saved with the optimizer, and the table has its numbers."""

from __future__ import annotations

import copy
import re
import warnings

import pytest
import torch
from fastai.callback.core import Callback
from fastai.callback.fp16 import MixedPrecision
from fastai.callback.schedule import Learner  # which has lr_find from here
from fastai.callback.training import GradientAccumulation, GradientClip
from fastai.learner import load_learner

import gradclip
from gradclip import L2, ClipGradByGlobalNorm, Constant, Global, Group, Rule, SkipStep
from gradclip.fastai import Clip
from trainers import small
from trainers.fastai_fit import OPTIMIZERS, made


def same(a, b):
    return all(torch.equal(a[key], b[key]) for key in b)


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
def test_a_fit_that_was_killed_goes_on_bit_for_bit_from_learn_load(optimizer, tmp_path):
    small.child("fastai_fit.py", tmp_path, "begin", optimizer, killed=True)
    for what in ("resume", "through", "forgetful"):
        small.child("fastai_fit.py", tmp_path, what, optimizer)
    resumed, through, forgetful = (torch.load(tmp_path / f"{what}.pt") for what in ("resume", "through", "forgetful"))
    assert resumed["memory"] == through["memory"]
    assert same(resumed["weights"], through["weights"])
    # the oracle sees a memory that was not taken up
    assert forgetful["memory"] != through["memory"]
    assert not same(forgetful["weights"], through["weights"])


def by_hand(accumulated=1, rule=small.LEARNT, epochs=2):
    model = small.model()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    clipper = gradclip.torch.Clipper(rule)
    for _ in range(epochs):
        for number, (x, y) in enumerate(torch.utils.data.DataLoader(small.batches(), batch_size=4), 1):
            (torch.nn.functional.mse_loss(model(x), y) / accumulated).backward()
            if number % accumulated == 0:
                clipper.clip_(model)
                optimizer.step()
                optimizer.zero_grad()
    return model, clipper


def test_it_clips_as_a_loop_of_ones_own_does(tmp_path):
    learn = made(tmp_path, optimizer="torch")
    learn.fit(2, wd=0.0)
    model, clipper = by_hand()
    assert same(learn.model.state_dict(), model.state_dict())
    assert learn.clip.state_dict() == clipper.state_dict()


def test_accumulated_gradients_are_clipped_once_and_whole(tmp_path):
    learn = made(tmp_path, GradientAccumulation(8), optimizer="torch")
    learn.fit(2, wd=0.0)
    model, clipper = by_hand(accumulated=2)
    assert learn.clip.clipper.step == clipper.step == 8
    for name, weight in model.state_dict().items():  # fastai divides by n_acc / bs, a number with other roundings
        torch.testing.assert_close(learn.model.state_dict()[name], weight, rtol=1e-5, atol=1e-7)


def test_it_clips_after_the_gradients_are_unscaled_and_only_what_steps(tmp_path):
    learn = made(tmp_path)
    assert learn.clip.order > MixedPrecision.order > GradientAccumulation.order
    learn.add_cb(MixedPrecision())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # without a GPU autocast and the scaler say that they do nothing
        learn.fit(1)
    assert learn.clip.clipper.step == 8


class Norms(Callback):
    """The norm of each parameter group, as the optimizer has stepped by it."""

    def before_fit(self):
        self.seen = []

    def after_step(self):
        self.seen += [torch.cat([p.grad.flatten() for p in group]).norm() for group in self.learn.opt.param_lists]


def test_parameters_have_their_names_and_their_groups(tmp_path):
    learn = made(tmp_path, Norms(), layers=2, rule=Rule(Group(), L2(), Constant(0.5)))
    learn.splitter = lambda model: [list(model[0].parameters()), list(model[2].parameters())]
    learn.fit(1)
    seen = torch.stack(learn.norms.seen)
    assert len(seen) == 2 * 8
    assert seen.max().item() == pytest.approx(0.5, rel=1e-6)
    assert (seen > 0.49).sum() > 8  # under one norm over all, in each of the eight steps one of them at most
    names = [key for key in learn.clip.numbers if key.startswith("grad_norm/")]
    assert len(names) == 2
    assert all(re.fullmatch(r"grad_norm/[02]\.(weight|bias)", name) for name in names)


def test_the_table_has_the_columns_and_validate_has_not(tmp_path):
    learn = made(tmp_path, columns=small.LOGGED)
    learn.fit(2)
    assert list(learn.recorder.metric_names) == ["epoch", "train_loss", "valid_loss", *small.LOGGED, "time"]
    row = dict(zip(learn.recorder.metric_names[1:], learn.recorder.values[-1], strict=False))
    assert row["grad_norm"] > row["grad_norm_clipped"] > 0
    assert row["clip/threshold"] == learn.clip.numbers["clip/threshold"]
    assert len(learn.validate()) == 1
    learn.fit(1)
    assert len(learn.recorder.values[-1]) == 2 + len(small.LOGGED)


def test_a_cell_that_is_run_again_goes_on_and_with_another_rule_begins_anew(tmp_path):
    learn = made(tmp_path)
    learn.remove_cb(learn.clip)
    steps = []
    for rule in (small.LEARNT, small.LEARNT, small.RULE):
        learn.fit(1, cbs=(clip := Clip(rule)))
        steps.append(clip.clipper.step)
    assert steps == [8, 16, 8]


@pytest.mark.parametrize("again", [lambda clip: clip, lambda clip: Clip(clip.rule)])
def test_several_of_them_are_refused(again, tmp_path):
    learn = made(tmp_path)
    with pytest.raises(ValueError, match=r"several gradclip\.fastai\.Clip"):
        learn.fit(1, cbs=again(learn.clip))


def test_what_lr_find_tried_is_forgotten(tmp_path):
    learn = made(tmp_path)
    learn.fit(1)
    before = learn.clip.state_dict()
    assert isinstance(learn, Learner)
    learn.lr_find(num_it=12, suggest_funcs=(), show_plot=False)
    assert learn.clip.state_dict() != before
    learn.fit(1)
    other = made(tmp_path)
    other.fit(1)
    other.fit(1)
    assert learn.clip.state_dict() == other.clip.state_dict()


def test_an_exported_learner_and_a_copy_have_the_memory(tmp_path):
    learn = made(tmp_path)
    learn.fit(1)
    learn.export("whole.pkl")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = load_learner(tmp_path / "whole.pkl")
    copied = copy.deepcopy(learn)
    assert loaded.clip.state_dict() == copied.clip.state_dict() == learn.clip.state_dict()
    copied.fit(1)
    learn.fit(1)
    assert same(copied.model.state_dict(), learn.model.state_dict())
    assert copied.clip.state_dict() == learn.clip.state_dict()
    assert loaded.clip.clipper.step == 8


def test_a_step_that_is_skipped_moves_nothing(tmp_path):
    learn = made(tmp_path, rule=Rule(Global(), L2(), Constant(1e-9), SkipStep()))
    before = copy.deepcopy(learn.model.state_dict())
    learn.fit(1)
    assert same(learn.model.state_dict(), before)
    assert learn.clip.numbers["clip/skipped"] == 1.0


def test_fastais_own_clipping_is_refused_by_its_name(tmp_path):
    learn = made(tmp_path, GradientClip(0.1), rule=ClipGradByGlobalNorm(1.0))
    with pytest.raises(ValueError, match=r"GradientClip\(max_norm=0.1\).*remove_cb\(GradientClip\)"):
        learn.fit(1)
    learn.remove_cb(GradientClip)
    learn.fit(1)


def test_a_memory_of_another_rule_is_refused(tmp_path):
    learn = made(tmp_path)
    learn.fit(1)
    learn.save("first")
    other = made(tmp_path, rule=small.RULE)
    other.load("first")
    with pytest.raises(ValueError, match="rule"):
        other.fit(1)


def test_a_column_that_there_is_not_is_refused_where_it_is_written():
    with pytest.raises(ValueError, match=r"grad_norm, clip/rate, .*, got 'norm'"):
        Clip(small.RULE, columns=["grad_norm", "norm"])
