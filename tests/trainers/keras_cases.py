"""What has to hold of `gradclip.keras` on each backend; run as a script, it says of each case what went wrong.

Keras runs on one backend in a process, so `test_keras.py` starts a process of this file for each.
"""

import copy
import csv
import json
import math
import re
import sys
import tempfile
import traceback
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest

import gradclip
from gradclip.keras import ClippedOptimizer, Log, clip
from gradclip.telemetry import jsonl, read_run

BACKEND = keras.config.backend()
RNG = np.random.default_rng(0)
X = RNG.normal(size=(48, 6)).astype("float32")
Y = 10 * RNG.normal(size=(48, 1)).astype("float32")
ADAPTIVE = gradclip.EMARatio(1.05, 0.9)
"""A rule with memory that clips within a few steps."""
GLOBAL = gradclip.ClipGradByGlobalNorm(5.0)
CLOSE = {"rtol": 1e-6, "atol": 1e-6}
"""The weights are near 1 and of float32, and several steps of two programs that round differently lie behind them."""


def network():
    """A small network that begins with the same weights each time."""
    keras.utils.set_random_seed(7)
    body = keras.layers.Dense(5, activation="tanh", name="body")
    return keras.Sequential([keras.layers.Input((6,)), body, keras.layers.Dense(1, name="head")], name="net")


def trained(optimizer, epochs=2, batch=8, callbacks=(), **compiled):
    """A network after `fit`, its data in their order."""
    model = network()
    model.compile(optimizer, loss="mse", **compiled)
    model.fit(X, Y, batch_size=batch, epochs=epochs, shuffle=False, verbose=0, callbacks=list(callbacks))
    return model


def sgd(**options):
    return keras.optimizers.SGD(0.05, momentum=0.9, **options)


def arrays(variables):
    return [variable.numpy() for variable in variables]


def assert_close(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, **CLOSE)


def assert_same(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def refused(kind, words, function):
    """That `function` raises this kind of error with these words."""
    with pytest.raises(kind, match=re.escape(words)):
        function()


def stepped(optimizer, *gradients, start=(0.0, 0.0)):
    """A weight after steps with these gradients."""
    weight = keras.Variable(list(start), name="weight")
    for gradient in gradients:
        optimizer.apply([keras.ops.convert_to_tensor(gradient, dtype="float32")], [weight])
    return weight.numpy()


def memory(optimizer):
    """What the rule remembers, by the names of the variables."""
    return {v.path.split("/")[-1]: v.numpy() for v in optimizer.variables if "clip_memory" in v.path}


def case_of_a_global_norm_as_keras_where_it_is_right():
    assert_close(arrays(trained(clip(sgd(), GLOBAL)).weights), arrays(trained(sgd(global_clipnorm=5.0)).weights))


def case_of_each_tensor_as_keras_where_it_is_right():
    rule = gradclip.ClipGradByNorm(2.0)
    assert_close(arrays(trained(clip(sgd(), rule)).weights), arrays(trained(sgd(clipnorm=2.0)).weights))


def case_by_value_as_keras_where_it_is_right():
    rule = gradclip.ClipGradByValue(0.3)
    assert_close(arrays(trained(clip(sgd(), rule)).weights), arrays(trained(sgd(clipvalue=0.3)).weights))


def case_the_moving_average_of_the_weights_as_keras():
    options = {"use_ema": True, "ema_momentum": 0.8, "ema_overwrite_frequency": 3}
    found, expected = trained(clip(sgd(**options), GLOBAL)), trained(sgd(global_clipnorm=5.0, **options))
    assert_close(arrays(found.weights), arrays(expected.weights))


def case_weight_decay_schedule_and_adam_as_keras():
    def adam(**options):
        schedule = keras.optimizers.schedules.ExponentialDecay(0.05, 3, 0.5)
        return keras.optimizers.AdamW(schedule, weight_decay=0.1, **options)

    assert_close(arrays(trained(clip(adam(), GLOBAL)).weights), arrays(trained(adam(global_clipnorm=5.0)).weights))


def case_a_norm_that_float16_cannot_hold_is_right_where_keras_is_not():
    gradient = np.full(400, 3000.0, "float16")  # the norm is 60000, and its square no number of float16

    def moved(optimizer):
        weight = keras.Variable(np.zeros(400, "float16"), dtype="float16")
        optimizer.apply([keras.ops.convert_to_tensor(gradient)], [weight])
        return weight.numpy().astype("float64")

    wide = gradient.astype("float64")
    expected = -wide / np.linalg.norm(wide)
    optimizer = clip(keras.optimizers.SGD(1.0), gradclip.ClipGradByGlobalNorm(1.0))
    np.testing.assert_allclose(moved(optimizer), expected, rtol=2**-10)  # a rounding to float16, and one of the update
    assert abs(optimizer.last.norm_before / 60000 - 1) < 1e-6
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        own = moved(keras.optimizers.SGD(1.0, global_clipnorm=1.0))
    assert not np.allclose(own, expected, rtol=0.1)


def case_steps_by_hand():
    """`w <- w - lr g min(1, t / |g|)` with the mean of past norms as t, in float64."""
    rule = gradclip.Rule(threshold=gradclip.History(gradclip.EMA(0.5), gradclip.Ratio(1.0)))
    gradients = [(3.0, 4.0), (30.0, 40.0), (0.3, 0.4), (6.0, 8.0)]
    weight, mean, count = np.zeros(2), 0.0, 0
    for gradient in map(np.array, gradients):
        norm = np.linalg.norm(gradient)
        limit = mean if count else math.inf
        weight = weight - 0.1 * gradient * min(1.0, limit / norm)
        mean, count = (norm if count == 0 else 0.5 * mean + 0.5 * norm), count + 1
    optimizer = clip(keras.optimizers.SGD(0.1), rule)
    np.testing.assert_allclose(stepped(optimizer, *gradients), weight, rtol=1e-6)
    assert optimizer.last.step == 3
    assert abs(optimizer.last.norm_before - 10.0) < 1e-5


def case_every_way_to_train_is_the_same():
    expected = arrays(trained(clip(sgd(), ADAPTIVE), jit_compile=False).weights)
    for options in ({"jit_compile": True}, {"run_eagerly": True}):
        assert_close(arrays(trained(clip(sgd(), ADAPTIVE), **options).weights), expected)
    model = network()
    model.compile(clip(sgd(), ADAPTIVE), loss="mse")
    for _ in range(2):
        for start in range(0, 48, 8):
            model.train_on_batch(X[start : start + 8], Y[start : start + 8])
    assert_close(arrays(model.weights), expected)
    assert model.optimizer.last.step == 11


def gradients_of(model, x, y):
    """The gradients of the loss, as a training loop of the user takes them."""
    if BACKEND == "jax":
        import jax

        def loss(weights):
            found, _ = model.stateless_call(weights, [v.value for v in model.non_trainable_variables], x)
            return keras.ops.mean((found - y) ** 2)

        return jax.grad(loss)([v.value for v in model.trainable_variables])
    import torch

    x, y = torch.as_tensor(x), torch.as_tensor(y)
    model.zero_grad()
    torch.mean((model(x) - y) ** 2).backward()
    return [v.value.grad for v in model.trainable_variables]


def case_loops_of_the_user_are_the_same():
    expected = trained(clip(sgd(), ADAPTIVE), epochs=1)

    def apply(optimizer, gradients, variables):
        optimizer.apply(gradients, variables)

    def apply_gradients(optimizer, gradients, variables):
        optimizer.apply_gradients(zip(gradients, variables, strict=True))

    def stateless(optimizer, gradients, variables):
        optimizer.build(variables) if not optimizer.built else None
        values = [v.value for v in variables]
        values, state = optimizer.stateless_apply([v.value for v in optimizer.variables], gradients, values)
        for variable, value in zip([*variables, *optimizer.variables], [*values, *state], strict=True):
            variable.assign(value)

    for update in (apply, apply_gradients, stateless):
        model, optimizer = network(), clip(sgd(), ADAPTIVE)
        for start in range(0, 48, 8):
            gradients = gradients_of(model, X[start : start + 8], Y[start : start + 8])
            update(optimizer, gradients, model.trainable_variables)
        assert_close(arrays(model.weights), arrays(expected.weights))
        for name, array in memory(expected.optimizer).items():
            np.testing.assert_allclose(memory(optimizer)[name], array, rtol=1e-5)


def case_a_loss_scale_is_divided_out_before():
    for rule in (GLOBAL, ADAPTIVE):
        expected = trained(clip(sgd(), rule))
        inner = clip(sgd(), rule)
        dynamic = trained(keras.optimizers.LossScaleOptimizer(inner, initial_scale=1024.0))
        assert_close(arrays(dynamic.weights), arrays(expected.weights))
        assert abs(inner.last.norm_before / expected.optimizer.last.norm_before - 1) < 1e-5
        fixed = trained(clip(sgd(loss_scale_factor=256.0), rule))
        assert_close(arrays(fixed.weights), arrays(expected.weights))


def case_mixed_precision_compiles_the_scale_around_the_clip():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        optimizer = clip(sgd(), GLOBAL)
        model = trained(optimizer, epochs=3, callbacks=[log := Log()])
    finally:
        keras.config.set_dtype_policy("float32")
    assert type(model.optimizer).__name__ == "LossScaleOptimizer"
    assert model.optimizer.inner_optimizer is optimizer
    assert optimizer.last.norm_before < 200  # the scale is 2**15 at first
    assert optimizer.last.norm_after <= 5.0 * (1 + 1e-6)
    assert (
        0 < optimizer.last.step + 1 == int(optimizer.iterations) <= 18
    )  # steps that the scale leaves out do not count
    assert log.model is model
    assert model.history.history["grad_norm"][-1] < 200


def case_accumulated_gradients_are_clipped_once_for_each_step():
    expected = trained(clip(sgd(), ADAPTIVE), batch=16)
    found = trained(clip(sgd(gradient_accumulation_steps=2), ADAPTIVE), batch=8)
    assert_close(arrays(found.weights), arrays(expected.weights))
    assert found.optimizer.last.step == expected.optimizer.last.step == 5
    for name, array in memory(expected.optimizer).items():
        np.testing.assert_allclose(memory(found.optimizer)[name], array, rtol=1e-5)


def case_a_weight_that_its_gradient_overwrites_is_not_clipped():
    scale, weight = keras.Variable(1.0, name="scale"), keras.Variable([0.0, 0.0], name="weight")
    scale.overwrite_with_gradient = True
    optimizer = clip(keras.optimizers.SGD(1.0), gradclip.ClipGradByGlobalNorm(1.0))
    gradients = [keras.ops.convert_to_tensor(50.0), keras.ops.convert_to_tensor([3.0, 4.0])]
    optimizer.apply(gradients, [scale, weight])
    assert float(scale) == 50.0
    np.testing.assert_allclose(weight.numpy(), [-0.6, -0.8], rtol=1e-6)
    assert optimizer.last.norm_before == 5.0


def case_nonfinite_gradients_are_kept_zeroed_or_raised_for():
    bad = (math.nan, 4.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", gradclip.GradclipWarning)
        kept = stepped(clip(keras.optimizers.SGD(1.0), GLOBAL), bad)
    assert math.isnan(kept[0])
    assert kept[1] == -4.0
    zeroed = stepped(optimizer := clip(keras.optimizers.SGD(1.0), GLOBAL, on_nonfinite="zero"), bad)
    assert zeroed.tolist() == [0.0, 0.0]
    assert optimizer.last.nonfinite == 1
    if BACKEND == "jax":
        refused(ValueError, "a compiled step cannot raise", lambda: clip(sgd(), GLOBAL, on_nonfinite="raise"))
        refused(
            ValueError, "a compiled step cannot raise", lambda: clip(sgd(), gradclip.Rule(response=gradclip.Raise()))
        )
    else:
        raising = clip(keras.optimizers.SGD(1.0), GLOBAL, on_nonfinite="raise")
        refused(gradclip.NonFiniteGradient, "weight", lambda: stepped(raising, bad))


def poisoned(step):
    """The data with a NaN in the batch of this step."""
    x = X.copy()
    x[8 * step, 0] = math.nan
    return x


def case_a_skipped_step_leaves_no_trace():
    average = {"use_ema": True, "ema_momentum": 0.8}  # which Keras moves in each batch, also where it only sums up
    for steps, options in ((1, average), (2, {"gradient_accumulation_steps": 2})):
        optimizer = clip(sgd(weight_decay=0.1, **options), ADAPTIVE, on_nonfinite="skip")
        model = network()
        model.compile(optimizer, loss="mse")

        def train(x, model=model, steps=steps):
            for start in range(0, 8 * steps, 8):
                model.train_on_batch(x[start : start + 8], Y[start : start + 8])

        train(X)
        train(X)
        others = [
            v for v in optimizer.variables if v.path.split("/")[-1] not in ("clip_last", "clip_skips", "clip_step")
        ]
        before, iterations = arrays([*model.weights, *others]), int(optimizer.iterations)
        train(poisoned(steps - 1))
        assert optimizer.last.skipped
        assert optimizer.last.consecutive_skips == 1
        assert_same(arrays([*model.weights, *others]), before)
        assert int(optimizer.iterations) == iterations == 2
        train(X)
        assert not optimizer.last.skipped
        assert optimizer.last.consecutive_skips == 0
        assert int(optimizer.iterations) == 3
        assert np.isfinite(np.concatenate([array.ravel() for array in arrays(model.weights)])).all()
        assert not np.array_equal(model.weights[0].numpy(), before[0])


def case_accumulated_zeros_after_a_nan_begin_anew():
    optimizer = clip(sgd(gradient_accumulation_steps=2), GLOBAL, on_nonfinite="zero")
    model = network()
    model.compile(optimizer, loss="mse")
    for x in (poisoned(0)[:16], X[:16]):
        model.fit(x, Y[:16], batch_size=8, shuffle=False, verbose=0)
    assert np.isfinite(optimizer.last.norm_before)
    assert np.isfinite(model.get_layer("body").kernel.numpy()).all()


def case_a_rule_that_skips_spikes():
    optimizer = clip(
        keras.optimizers.SGD(0.1), gradclip.Rule(threshold=gradclip.Constant(10.0), response=gradclip.SkipStep())
    )
    assert_close([stepped(optimizer, (3.0, 4.0), (30.0, 40.0))], [np.array([-0.3, -0.4], "float32")])
    assert optimizer.last.skipped
    assert optimizer.last.norm_after == 0.0


def case_rules_by_name_match_paths():
    rule = gradclip.Rules({"*/bias": None, "net/head/*": gradclip.ClipGradByNorm(0.5), "*": GLOBAL})
    model = network()
    model.compile(optimizer := clip(keras.optimizers.SGD(1.0), rule), loss="mse")
    before = {v.path: v.numpy() for v in model.trainable_variables}
    gradients = [np.array(g) for g in gradients_of(model, X, Y)]
    model.train_on_batch(X, Y)
    moved = {v.path: before[v.path] - v.numpy() for v in model.trainable_variables}
    for (path, step), gradient in zip(moved.items(), gradients, strict=True):
        norm = float(np.linalg.norm(gradient))
        limit = {"bias": math.inf}.get(path.split("/")[-1], 0.5 if "head" in path else 5.0)
        np.testing.assert_allclose(step, gradient * min(1.0, limit / norm), rtol=1e-4, atol=1e-6)  # w - (w - g) rounds
    assert optimizer.last.clipped


def case_each_of_several_optimizers_is_clipped():
    if not hasattr(keras.optimizers, "MultiOptimizer"):  # of earlier versions
        return
    head = gradclip.ClipGradByNorm(0.5)
    parts = keras.optimizers.OptimizerMap(clip(sgd(), GLOBAL), {"net/head/.*": clip(sgd(), head, on_nonfinite="skip")})
    found = trained(keras.optimizers.MultiOptimizer(parts))
    expected = trained(clip(sgd(), gradclip.Rules({"net/head/*": head, "*": GLOBAL})))
    assert_close(arrays(found.weights), arrays(expected.weights))


def case_the_optimizer_stays_what_it_is():
    optimizer = keras.optimizers.Adam(1e-3)
    clipped = clip(optimizer, GLOBAL)
    assert clipped is optimizer
    assert isinstance(clipped, keras.optimizers.Adam)
    assert isinstance(clipped, ClippedOptimizer)
    clipped.learning_rate = 0.5
    assert float(clipped.learning_rate) == 0.5
    assert clip(clipped, GLOBAL) is clipped
    assert clipped.beta_1 == 0.9
    assert type(clip(keras.optimizers.Adam(), ADAPTIVE)) is type(clipped)
    own = type("Mine", (keras.optimizers.SGD,), {})
    assert type(clip(own(0.1), GLOBAL)).__name__ == "ClippedMine"
    model = trained(sgd())
    clip(model.optimizer, ADAPTIVE)  # of a model that was trained already
    model.fit(X, Y, verbose=0)
    assert model.optimizer.last.step == 1


def case_the_learning_rate_of_a_callback_is_taken():
    factor = keras.callbacks.LearningRateScheduler(lambda epoch, rate: 0.0)
    model = trained(clip(sgd(), GLOBAL), callbacks=[factor])
    assert_same(arrays(model.weights), arrays(network().weights))


def case_what_cannot_be_clipped_is_refused_by_name():
    for name in ("clipnorm", "clipvalue", "global_clipnorm"):
        refused(ValueError, f"has {name}=1.0", lambda name=name: clip(sgd(**{name: 1.0}), GLOBAL))
    late = clip(sgd(), GLOBAL)
    late.clipnorm = 1.0
    refused(ValueError, "has clipnorm=1.0", lambda: stepped(late, (1.0, 1.0)))
    refused(ValueError, "is clipped already", lambda: clip(clip(sgd(), GLOBAL), ADAPTIVE))
    wrapper = keras.optimizers.LossScaleOptimizer(sgd())
    refused(ValueError, "LossScaleOptimizer(gradclip.keras.clip(optimizer, rule))", lambda: clip(wrapper, GLOBAL))
    if hasattr(keras.optimizers, "MultiOptimizer"):
        several = keras.optimizers.MultiOptimizer(keras.optimizers.OptimizerMap(sgd()))
        refused(ValueError, "clip each of them", lambda: clip(several, GLOBAL))
    refused(TypeError, "got 'adam'", lambda: clip("adam", GLOBAL))
    refused(TypeError, "expected a clipping rule", lambda: clip(sgd(), 1.0))
    refused(ValueError, "reads the loss", lambda: clip(sgd(), gradclip.SkipSpikes(loss=True)))
    refused(ValueError, "reads the second moments", lambda: clip(sgd(), gradclip.SPAM()))
    refused(gradclip.NothingClipped, "nothing was clipped yet", lambda: clip(sgd(), GLOBAL).last)


def case_a_rule_with_a_function_trains_and_is_not_saved():
    model = trained(clip(sgd(), gradclip.Rule(threshold=gradclip.Schedule(lambda step: 5.0 + step))))
    refused(ValueError, "give it points", lambda: model.save(Path(tempfile.mkdtemp()) / "model.keras"))
    model.save_weights(Path(tempfile.mkdtemp()) / "model.weights.h5")


def case_files_have_the_rule_and_its_memory():
    folder = Path(tempfile.mkdtemp())
    for rule in (
        ADAPTIVE,
        gradclip.AdaGC(),
        gradclip.UClip(gradclip.ClipGradByNorm(0.5)),
        gradclip.AutoClip(),
        gradclip.AGC(),
    ):
        model = trained(clip(keras.optimizers.Adam(0.05), rule, on_nonfinite="skip"))
        model.save(folder / "model.keras")
        loaded = keras.models.load_model(folder / "model.keras")
        assert loaded.optimizer._clipping.rule == rule
        assert loaded.optimizer._clipping.on_nonfinite == "skip"
        assert type(loaded.optimizer) is type(model.optimizer)
        assert loaded.optimizer.last == model.optimizer.last
        assert_same(arrays(loaded.optimizer.variables), arrays(model.optimizer.variables))
        for each in (model, loaded):
            each.fit(X, Y, batch_size=8, shuffle=False, verbose=0)
        assert_same(
            arrays([*loaded.weights, *loaded.optimizer.variables]), arrays([*model.weights, *model.optimizer.variables])
        )


def case_weights_go_into_a_network_of_other_names():
    """What is remembered of each tensor follows the order of the weights, and not that of their names."""

    def layered(names):
        keras.utils.set_random_seed(3)
        layers = [keras.layers.Dense(4, name=name) for name in names]
        model = keras.Sequential([keras.layers.Input((6,)), *layers, keras.layers.Dense(1)])
        model.compile(clip(sgd(), gradclip.AdaGC()), loss="mse")
        model.build((None, 6))
        model.optimizer.build(model.trainable_variables)
        return model

    first, second = layered(["dense_9", "dense_10"]), layered(["a", "b"])
    path = Path(tempfile.mkdtemp()) / "model.weights.h5"
    first.fit(X, Y, batch_size=8, shuffle=False, verbose=0)
    first.save_weights(path)
    second.load_weights(path)
    for each in (first, second):
        each.fit(X, Y, batch_size=8, shuffle=False, verbose=0)
    assert_same(
        arrays([*first.weights, *first.optimizer.variables]), arrays([*second.weights, *second.optimizer.variables])
    )


def case_weights_of_another_rule_are_told():
    path = Path(tempfile.mkdtemp()) / "model.weights.h5"
    trained(clip(sgd(), ADAPTIVE)).save_weights(path)
    for rule in (gradclip.AutoClip(), GLOBAL):
        other = trained(clip(sgd(), rule), epochs=1)
        with pytest.warns(gradclip.GradclipWarning, match="was not clipped by"):
            other.load_weights(path)


def case_weights_without_a_gradient_keep_their_memory():
    optimizer, ones = clip(keras.optimizers.SGD(0.1), gradclip.AdaGC(warmup=1)), keras.ops.ones((2,))
    first, second = keras.Variable([0.0, 0.0], name="first"), keras.Variable([0.0, 0.0], name="second")
    optimizer.apply([ones, ones * 3], [first, second])
    means = {name: array for name, array in memory(optimizer).items() if name.endswith("mean")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optimizer.apply([None, ones * 5], [first, second])
    for name, before in means.items():
        after = memory(optimizer)[name]
        assert after[0] == before[0]
        assert after[1] > before[1]


def case_copies_and_configs_are_clipped():
    optimizer = clip(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.1, 9)), ADAPTIVE)
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert again.get_config() == optimizer.get_config()
    assert again.get_config()["gradclip"]["optimizer"]["module"] == "keras.optimizers"
    assert type(again) is type(optimizer)
    assert copy.deepcopy(optimizer)._clipping.rule == ADAPTIVE


@keras.saving.register_keras_serializable("tests", "Adam")
class Adam(keras.optimizers.Adam):
    """An optimizer of a user, called as the one that it is derived from, and with an argument of its own."""

    def __init__(self, learning_rate=0.01, factor=1.0, **options):
        super().__init__(learning_rate, **options)
        self.factor = factor

    def get_config(self):
        return {**super().get_config(), "factor": self.factor}


def case_an_optimizer_of_the_user_is_saved_as_what_it_is():
    optimizer = clip(Adam(factor=3.0), ADAPTIVE)
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert isinstance(again, Adam)
    assert again.factor == 3.0


def case_given_gradients_are_left_alone():
    gradient = keras.ops.convert_to_tensor([3.0, 4.0])
    clip(keras.optimizers.SGD(1.0), gradclip.ClipGradByGlobalNorm(1.0)).apply([gradient], [keras.Variable([0.0, 0.0])])
    assert keras.ops.convert_to_numpy(gradient).tolist() == [3.0, 4.0]


NAMES = (
    "grad_norm",
    "grad_norm_clipped",
    "clip/threshold",
    "clip/scale",
    "clip/rate",
    "clip/nonfinite",
    "clip/skipped",
)


def case_the_logs_of_keras_have_the_numbers():
    folder, batches, events = Path(tempfile.mkdtemp()), [], []
    seen = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: batches.append(dict(logs)))
    optimizer = clip(sgd(), GLOBAL)
    table = keras.callbacks.CSVLogger(str(folder / "log.csv"))
    history = trained(optimizer, callbacks=[Log(events.append), seen, table]).history.history
    assert all(len(history[name]) == 2 for name in NAMES)
    assert len(batches) == len(events) == 12
    for row, event in zip(batches, events, strict=True):
        assert row["grad_norm"] == event.norm_before
        assert row["grad_norm_clipped"] == event.norm_after == min(event.norm_before, event.norm_after)
    for epoch in range(2):
        rows = batches[6 * epoch : 6 * epoch + 6]
        assert math.isclose(history["grad_norm"][epoch], sum(row["grad_norm"] for row in rows) / 6)
        assert history["clip/rate"][epoch] == sum(row["clip/scale"] < 1 for row in rows) / 6
        assert history["clip/threshold"][epoch] == 5.0
    assert events[-1].step == optimizer.last.step == 11
    with open(folder / "log.csv") as file:
        assert set(NAMES) <= set(next(csv.reader(file)))


def case_logs_of_some_batches_with_a_prefix():
    batches, events = [], []
    seen = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: batches.append(dict(logs)))
    log = Log(events.append, every=3, prefix="train/", without=["clip/scale"])
    history = trained(clip(sgd(), GLOBAL, on_nonfinite="skip"), epochs=1, callbacks=[log, seen]).history.history
    assert [event.step for event in events] == [2, 5]
    assert "train/grad_norm" in history
    assert "train/clip/scale" not in history
    assert "train/grad_norm" not in batches[0]
    assert batches[3]["train/grad_norm"] == events[0].norm_before
    refused(ValueError, "is not clipped by it", lambda: trained(sgd(), callbacks=[Log()]))
    refused(ValueError, "every is a whole number", lambda: Log(every=0))
    refused(TypeError, "Log takes sinks", lambda: Log("runs/first"))


def case_the_logs_of_accumulated_steps_count_once():
    events = []
    trained(clip(sgd(gradient_accumulation_steps=2), GLOBAL), callbacks=[Log(events.append)])
    assert [event.step for event in events] == list(range(6))


def case_the_largest_layers_are_logged():
    batches, events = [], []
    seen = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: batches.append(dict(logs)))
    optimizer = clip(sgd(), GLOBAL, tensors=True)
    history = trained(optimizer, callbacks=[Log(events.append, layers=2), seen]).history.history
    paths = {"net/body/kernel", "net/body/bias", "net/head/kernel", "net/head/bias"}
    for row, event in zip(batches, events, strict=True):
        assert event.tensors.keys() == paths
        assert math.isclose(event.norm_before, math.hypot(*event.tensors.values()), rel_tol=1e-6)
        largest = sorted(paths, key=event.tensors.get, reverse=True)[:2]
        logged = {f"grad_norm/{path}": event.tensors[path] for path in largest}
        assert {name: number for name, number in row.items() if name.startswith("grad_norm/")} == logged
    assert optimizer.last.tensors == events[-1].tensors
    assert any(name.startswith("grad_norm/net/") for name in history)
    assert_close(
        arrays(trained(clip(sgd(), GLOBAL, tensors=True)).weights), arrays(trained(clip(sgd(), GLOBAL)).weights)
    )


def case_the_norms_of_layers_are_right_and_survive_a_file():
    optimizer = clip(sgd(), gradclip.ClipGradByNorm(1.0), tensors=True)
    model = trained(optimizer)
    model.save(folder := Path(tempfile.mkdtemp()) / "model.keras")
    again = keras.models.load_model(folder)
    assert [*again.optimizer.last.tensors.values()] == [*optimizer.last.tensors.values()]  # Keras shortens the paths
    again.fit(X, Y, batch_size=8, verbose=0, callbacks=[Log(layers=1)])
    weight = keras.Variable([0.0, 0.0], name="weight")
    alone = clip(sgd(), gradclip.ClipGradByNorm(1.0), tensors=True)
    alone.apply([keras.ops.convert_to_tensor([3.0, 4.0])], [weight])
    assert alone.last.tensors == {"weight": 5.0}


def case_layers_that_were_not_asked_of_the_clip_are_refused():
    refused(
        ValueError,
        "clip(optimizer, rule, tensors=True)",
        lambda: trained(clip(sgd(), GLOBAL), callbacks=[Log(layers=1)]),
    )
    refused(ValueError, "layers is how many tensors", lambda: Log(layers=-1))
    refused(TypeError, "tensors", lambda: clip(sgd(), GLOBAL, tensors="yes"))
    optimizer = clip(sgd(), GLOBAL, tensors=True)
    assert clip(optimizer, GLOBAL, tensors=True) is optimizer
    refused(ValueError, "is clipped already", lambda: clip(optimizer, GLOBAL))


def case_logs_sum_up_what_was_skipped():
    model = network()
    model.compile(clip(sgd(), GLOBAL, on_nonfinite="skip"), loss="mse")
    fit = {"batch_size": 8, "shuffle": False, "verbose": 0, "callbacks": [Log()]}
    history = model.fit(poisoned(1), Y, **fit).history
    assert history["clip/skipped"] == [1.0]
    assert history["clip/nonfinite"][0] >= 1.0
    assert math.isfinite(history["grad_norm"][0])


def case_the_numbers_in_the_middle_of_fit():
    found = []

    def read(batch, logs):
        try:
            found.append(optimizer.last.step)
        except RuntimeError as error:
            found.append(str(error))

    optimizer = clip(sgd(), GLOBAL)
    trained(optimizer, epochs=1, callbacks=[keras.callbacks.LambdaCallback(on_train_batch_end=read)])
    if BACKEND == "jax":
        assert len(found) == 6
        assert all("jax_state_sync" in each for each in found)
    else:
        assert found == list(range(6))


def case_a_run_on_disk_is_read_back():
    folder = Path(tempfile.mkdtemp()) / "run"
    trained(clip(sgd(), GLOBAL), callbacks=[Log(jsonl(folder))])
    run = read_run(folder)
    assert [event.step for event in run] == list(range(12))
    assert run[0].rule == repr(GLOBAL)


def main():
    """Say of each case, or of those that are named, what went wrong: JSON in the last line."""
    found = {}
    wanted = sys.argv[1:] or [name for name in globals() if name.startswith("case_")]
    for name in wanted:
        try:
            globals()[name]()
            found[name] = ""
        except Exception:  # noqa: BLE001  # whatever it is, it is what the test shows
            found[name] = traceback.format_exc()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
