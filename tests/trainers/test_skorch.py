"""skorch with one callback: it clips, is cloned and searched over, is pickled and saved with the net, and records."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from skorch import NeuralNetRegressor
from skorch.callbacks import Callback, GradientNormClipping, LoadInitState

import gradclip
from gradclip import ClipGradByGlobalNorm, NothingClipped
from gradclip.skorch import Clip
from trainers import small
from trainers.skorch_fit import data, made, weights


def same(a, b):
    return all(torch.equal(a[key], b[key]) for key in b)


def test_a_fit_that_was_killed_goes_on_bit_for_bit_from_skorchs_checkpoint(tmp_path):
    small.child("skorch_fit.py", tmp_path, "begin", killed=True)
    for what in ("resume", "through", "forgetful"):
        small.child("skorch_fit.py", tmp_path, what)
    resumed, through, forgetful = (torch.load(tmp_path / f"{what}.pt") for what in ("resume", "through", "forgetful"))
    assert resumed["memory"] == through["memory"]
    assert same(resumed["weights"], through["weights"])
    # the oracle sees a memory that was not taken up
    assert forgetful["memory"] != through["memory"]
    assert not same(forgetful["weights"], through["weights"])


def test_it_clips_as_a_loop_of_ones_own_does():
    net = made(max_epochs=2).fit(*data())
    model, (x, y) = small.model(), data()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    clipper = gradclip.attach(optimizer, small.LEARNT, model=model)
    for first in [*range(0, 32, 4)] * 2:
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(model(x[first : first + 4]), y[first : first + 4]).backward()
        optimizer.step()
    assert same(weights(net), model.state_dict())
    assert net.clip_.state_dict()["clippers"]["optimizer"] == {**clipper.state_dict(), "left_out": 0}


@pytest.mark.parametrize("how", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))], ids=["copy", "pickle"])
def test_a_copy_of_a_fitted_net_goes_on_as_the_net_itself(how):
    net = made(max_epochs=2).fit(*data())
    other = how(net)
    for one in (net, other):
        one.partial_fit(*data())
    assert same(weights(other), weights(net))
    assert other.clip_ is dict(other.callbacks_)["Clip"]
    assert other.clip_.state_dict() == net.clip_.state_dict()
    assert other.clip_.clippers["optimizer"].step == 32


def test_a_warm_start_goes_on_and_another_fit_begins_anew():
    through = made(max_epochs=4).fit(*data())
    warm = made(max_epochs=2, warm_start=True).fit(*data()).fit(*data())
    assert same(weights(warm), weights(through))
    assert warm.clip_.state_dict() == through.clip_.state_dict()
    assert made(max_epochs=1).fit(*data()).fit(*data()).clip_.clippers["optimizer"].step == 8


def test_a_clone_has_the_rule_and_the_options_and_no_memory():
    net = NeuralNetRegressor(small.model(), callbacks=[Clip(small.LEARNT, layers=2, on_nonfinite="skip")])
    copied = clone(net).initialize()
    clip = dict(copied.callbacks_)["Clip"]
    assert clip is not net.callbacks[0]
    assert clip.rule == small.LEARNT
    assert (clip.layers, clip.on_nonfinite, clip.state_dict()) == (2, "skip", {})


def test_a_search_tries_each_rule():
    rules = [ClipGradByGlobalNorm(1e-6), ClipGradByGlobalNorm(10.0)]
    net = made(rule=rules[0], max_epochs=5)
    search = GridSearchCV(net, {"callbacks__Clip__rule": rules}, cv=2, scoring="neg_mean_absolute_error")
    x, y = data()
    search.fit(x.numpy(), y.clip(-3, 3).numpy())
    assert search.best_params_["callbacks__Clip__rule"] == rules[1]
    assert search.best_estimator_.clip_.rule == rules[1]
    slow, fast = search.cv_results_["mean_test_score"]
    assert slow != fast


def test_parameters_are_set_all_or_none():
    clip = Clip(ClipGradByGlobalNorm(1.0))
    clip.set_params(on_nonfinite="skip", layers=3)
    assert (clip.on_nonfinite, clip.layers) == ("skip", 3)
    with pytest.raises(ValueError, match="on_nonfinite"):
        clip.set_params(layers=5, on_nonfinite="never")
    assert clip.layers == 3
    with pytest.raises(ValueError, match="no parameter 'max_norm': it has rule, together"):
        clip.set_params(max_norm=3)


def test_the_history_has_the_numbers_of_each_batch_and_the_mean_of_an_epoch():
    net = made(max_epochs=2).fit(*data())
    for name in small.LOGGED:
        assert len(net.history[:, "batches", :, name][0]) == 8
    norms = net.history[-1, "batches", :, "grad_norm"]
    assert net.history[-1, "grad_norm"] == pytest.approx(sum(norms) / 8, rel=1e-12)
    assert net.history[-1, "clip/rate"] == net.history[-1, "batches", -1, "clip/rate"]


def test_parameters_are_saved_and_loaded_by_hand(tmp_path):
    files = {
        "f_params": tmp_path / "params.pt",
        "f_optimizer": tmp_path / "optimizer.pt",
        "f_clip": tmp_path / "clip.pt",
    }
    net = made(max_epochs=2).fit(*data())
    net.save_params(**files)
    other = made(max_epochs=2).initialize()
    dict(other.callbacks_)["Clip"].add_to(other)
    other.load_params(**files)
    for one in (net, other):
        one.partial_fit(*data())
    assert same(weights(other), weights(net))
    assert other.clip_.state_dict() == net.clip_.state_dict()


def test_what_loads_before_the_clip_is_there_is_told_so_by_skorch(tmp_path):
    files = {"f_params": str(tmp_path / "params.pt"), "f_clip": str(tmp_path / "clip.pt")}
    net = made(max_epochs=1).fit(*data())
    net.save_params(**files)
    with pytest.raises(AttributeError, match="f_clip"):
        made().initialize().load_params(**files)


def test_each_optimizer_of_a_net_has_a_clipper():
    class Two(NeuralNetRegressor):
        def initialize_optimizer(self, *arguments, **options):
            first, _, last = self.module_
            self.first_ = torch.optim.SGD(first.parameters(), lr=0.01)
            self.last_ = torch.optim.SGD(last.parameters(), lr=0.01)
            return self

    net = Two(
        small.model(),
        callbacks=[Clip(ClipGradByGlobalNorm(0.5))],
        train_split=None,
        max_epochs=1,
        batch_size=4,
        verbose=0,
    )
    net.fit(*data())
    assert list(net.clip_.clippers) == ["first", "last"]
    assert net.history[-1, "batches", -1, "last/grad_norm_clipped"] <= 0.5 * (1 + 1e-6)


def test_an_optimizer_that_is_changed_in_the_middle_is_clipped():
    class Swaps(Callback):
        def on_batch_end(self, net, batch=None, training=None, **of_fit):
            if training and len(net.history[-1, "batches"]) == 3:
                net.optimizer_ = torch.optim.SGD(net.module_.parameters(), lr=0.01)

    net = made(Swaps(), max_epochs=1)
    net.fit(*data())
    assert net.clip_.clippers["optimizer"].step == 8
    assert net.clip_.clippers["optimizer"].optimizers == [net.optimizer_]


def test_before_the_first_fit_nothing_was_clipped():
    with pytest.raises(NothingClipped):
        _ = Clip(small.RULE).last


def test_skorchs_own_clipping_is_refused_by_its_name():
    net = made(("own", GradientNormClipping(1.0)))
    with pytest.raises(ValueError, match=r"'own' \(gradient_clip_value=1.0\).*set_params\(callbacks__own=None\)"):
        net.fit(*data())
    net.set_params(callbacks__own=None)
    net.fit(*data())


def test_a_load_without_a_file_trains_from_the_beginning(tmp_path):
    from skorch.callbacks import Checkpoint

    saved = Checkpoint(monitor=None, dirname=str(tmp_path), f_clip="clip.pt")
    net = made(LoadInitState(saved), max_epochs=1).fit(*data())
    assert net.clip_.clippers["optimizer"].step == 8
