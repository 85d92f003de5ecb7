"""`paddle.Model` with a clip: its checkpoints have the memory, a resumed training is the same, the logs have norms."""

import copy
import math
import os
import pickle
import subprocess
import sys
import warnings

import numpy as np
import paddle
import pytest

from gradclip import AutoClip, ClipGradByGlobalNorm, GradclipWarning, ZClip
from gradclip.paddle import Clip, ModelCallback, optimizer_state
from gradclip.telemetry import Event, Metrics
from paddle_door import hapi_training

NAMES = list(Metrics()(Event(0, "", "cpu", 5.0, 1.0, 1.0, 0.2, True)))
ADAPTING = AutoClip(50)


@pytest.fixture(scope="module")
def trainings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trainings")
    for part in ("begin", "resume"):
        command = [sys.executable, hapi_training.__file__, part, str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env={**os.environ})
        assert done.returncode == 0, done.stderr[-3000:]
        assert "GradclipWarning" not in done.stderr
    return folder


@pytest.mark.parametrize("case", hapi_training.CASES)
def test_a_training_that_a_new_process_resumes_is_the_uninterrupted_one_bit_for_bit(case, trainings):
    whole, halves = (
        pickle.loads((trainings / case / kind / "end.pickle").read_bytes()) for kind in ("whole", "halves")
    )
    np.testing.assert_equal(halves, whole)
    assert whole[2][0] == hapi_training.EPOCHS * hapi_training.STEPS - 1


class Seen(paddle.callbacks.Callback):
    """What a callback is told of each batch."""

    def __init__(self):
        super().__init__()
        self.logs = []

    def on_train_batch_end(self, step, logs=None):
        self.logs.append(dict(logs))


@pytest.fixture(autouse=True)
def names():
    """Each model begins with the same names, as it does in a process of its own."""
    with paddle.utils.unique_name.guard():
        yield


def model_with(grad_clip, kind="SGD", groups=None):
    paddle.utils.unique_name.switch()
    net = paddle.nn.Linear(2, 1)
    parameters = net.parameters() if groups is None else groups(net)
    optimizer = getattr(paddle.optimizer, kind)(0.1, parameters=parameters, grad_clip=grad_clip)
    model = paddle.Model(net)
    model.prepare(optimizer, paddle.nn.MSELoss())
    return model


STATIC = [(np.full([4, 2], 3.0, "float32"), np.full([4, 1], 50.0, "float32"))] * 4
BATCHES = [(paddle.full([4, 2], 3.0), paddle.full([4, 1], 50.0))] * 4


def fit(model, *callbacks, **options):
    model.fit(BATCHES, epochs=1, verbose=0, callbacks=list(callbacks), **options)
    return model


def test_the_logs_have_the_numbers_of_each_step():
    seen, clip = Seen(), Clip(ClipGradByGlobalNorm(1.0))
    fit(model_with(clip), ModelCallback(), seen)
    assert [set(NAMES) <= set(logs) for logs in seen.logs] == [True] * 4
    assert [logs["grad_norm_clipped"] for logs in seen.logs] == pytest.approx([1.0] * 4, rel=1e-6)
    assert seen.logs[-1]["grad_norm"] == clip.last.norm_before > 1.0
    assert {(logs["clip/threshold"], logs["clip/rate"]) for logs in seen.logs} == {(1.0, 1.0)}


def test_the_progress_bar_shows_them(capsys):
    bar = paddle.callbacks.ProgBarLogger(1, verbose=2)
    fit(model_with(Clip(ClipGradByGlobalNorm(1.0))), ModelCallback(without=["clip/nonfinite"]), bar)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step")]
    assert len(lines) == 4
    assert all("grad_norm_clipped: 1.0000" in line and "clip/rate: 1.0000" in line for line in lines[1:])
    assert "clip/nonfinite" not in "".join(lines)


def test_the_largest_layers_are_logged():
    seen, clip = Seen(), Clip(ClipGradByGlobalNorm(1.0))
    fit(model_with(clip), ModelCallback(layers=1), seen)
    each = [{name: logs[name] for name in logs if name.startswith("grad_norm/")} for logs in seen.logs]
    assert each == [{"grad_norm/linear_0.w_0": pytest.approx(norm)} for norm in [logs_of_w(logs) for logs in seen.logs]]
    assert clip.last.tensors.keys() == {"linear_0.w_0", "linear_0.b_0"}
    fit(model_with(Clip(ClipGradByGlobalNorm(1.0))), ModelCallback(), seen)
    assert not [name for name in seen.logs[-1] if name.startswith("grad_norm/")], "Paddle has one dict for all fits"
    with pytest.raises(ValueError, match="layers is how many"):
        ModelCallback(layers=-1)


def logs_of_w(logs):
    """With inputs of 3 each weight has 3 times the gradient of the bias: sqrt(18) of sqrt(19) parts of the norm."""
    return logs["grad_norm"] * math.sqrt(18 / 19)


def test_layers_in_a_static_graph_are_refused():
    paddle.enable_static()
    try:
        net, spec = paddle.nn.Linear(2, 1), paddle.static.InputSpec
        model = paddle.Model(net, spec([None, 2], name="x"), spec([None, 1], name="y"))
        optimizer = paddle.optimizer.SGD(0.1, parameters=net.parameters(), grad_clip=Clip(ClipGradByGlobalNorm(1.0)))
        model.prepare(optimizer, paddle.nn.MSELoss())
        with pytest.raises(ValueError, match="layers need dynamic mode"):
            model.fit(STATIC, epochs=1, verbose=0, callbacks=[ModelCallback(layers=1)])
    finally:
        paddle.disable_static()


def test_a_batch_that_only_adds_gradients_up_is_no_step():
    seen, clip = Seen(), Clip(ClipGradByGlobalNorm(1.0))
    fit(model_with(clip), ModelCallback(prefix="train/"), seen, accumulate_grad_batches=2)
    assert clip.last.step == 1
    norms = [logs.get("train/grad_norm") for logs in seen.logs]
    assert norms[1] == norms[2] != norms[3]
    assert seen.logs[3]["train/clip/rate"] == 1.0


def test_an_optimizer_that_has_no_state_saves_the_memory(tmp_path):
    model = fit(model_with(Clip(ADAPTING)), ModelCallback(), save_dir=str(tmp_path))
    assert (tmp_path / "final.pdopt").is_file()
    other = model_with(clip := Clip(ADAPTING))
    other.load(str(tmp_path / "final"))
    fit(other)
    assert clip.last.step == 7
    assert "gradclip" not in other._optimizer.state_dict(), "only the callback changes what an optimizer saves"
    assert model._optimizer.state_dict()["gradclip"]["step"] == 4


def test_a_memory_is_loaded_into_a_training_that_goes_on(tmp_path):
    clip = Clip(ADAPTING)
    model = fit(model_with(clip, "Adam"), ModelCallback(), save_dir=str(tmp_path))
    before = clip.state_dict()
    fit(model, ModelCallback())
    assert clip.state_dict() != before
    model.load(str(tmp_path / "final"))
    assert clip.state_dict() == before


def test_a_copy_of_an_optimizer_saves_the_memory_of_its_own_clip():
    """Paddle copies an optimizer before its first step."""
    optimizer = model_with(clip := Clip(ADAPTING))._optimizer
    optimizer_state.keep_in_state(optimizer, clip)
    copied = copy.deepcopy(optimizer)
    copied._grad_clip.clipper.step = 9
    assert copied.state_dict()["gradclip"]["step"] == 9
    assert optimizer.state_dict() == {}


@pytest.mark.parametrize("rule", [ADAPTING, ZClip()], ids=repr)
def test_a_checkpoint_without_the_memory_is_told(rule, tmp_path):
    fit(model_with(Clip(rule), "Adam"), save_dir=str(tmp_path))
    other = model_with(Clip(rule), "Adam")
    other.load(str(tmp_path / "final"))
    with pytest.warns(GradclipWarning, match=r"begins anew: give every Model.fit callbacks=\[gradclip"):
        fit(other, ModelCallback())
    with pytest.warns(GradclipWarning, match="has no memory of its clip"):
        other.load(str(tmp_path / "final"))


def test_a_rule_that_needs_no_earlier_step_is_silent(tmp_path):
    fit(model_with(Clip(ClipGradByGlobalNorm(1.0)), "Adam"), save_dir=str(tmp_path))
    other = model_with(Clip(ClipGradByGlobalNorm(1.0)), "Adam")
    other.load(str(tmp_path / "final"))
    with warnings.catch_warnings():
        warnings.simplefilter("error", GradclipWarning)
        fit(other, ModelCallback())


def test_the_memory_of_another_rule_is_refused(tmp_path):
    fit(model_with(Clip(ADAPTING)), ModelCallback(), save_dir=str(tmp_path))
    other = model_with(Clip(ZClip()))
    other.load(str(tmp_path / "final"))
    with pytest.raises(ValueError, match=r"this state belongs to the rule .*; to begin anew take 'gradclip' out of"):
        fit(other, ModelCallback())


def two_clips(net):
    first, second = net.parameters()
    return [
        {"params": [first], "grad_clip": Clip(ClipGradByGlobalNorm(1.0))},
        {"params": [second], "grad_clip": Clip(ClipGradByGlobalNorm(2.0))},
    ]


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (lambda: model_with(None), "has no clip of gradclip"),
        (lambda: model_with(paddle.nn.ClipGradByGlobalNorm(1.0)), "has no clip of gradclip"),
        (lambda: model_with(None, groups=two_clips), "has 2 clips"),
    ],
)
def test_a_model_without_one_clip_is_refused(model, sentence):
    with pytest.raises(ValueError, match=sentence):
        fit(model(), ModelCallback())


def test_nothing_is_set_on_the_class():
    before = paddle.optimizer.Optimizer.state_dict, paddle.optimizer.SGD.state_dict
    optimizer_state.keep_in_state(model_with(clip := Clip(ADAPTING))._optimizer, clip)
    assert (paddle.optimizer.Optimizer.state_dict, paddle.optimizer.SGD.state_dict) == before
