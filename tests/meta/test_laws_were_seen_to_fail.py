"""For each law a planted bug on which it is red; without the bug it is green."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from unittest import mock

import numpy as np
import pytest
import torch

import gradclip.step.decide
import gradclip.step.policy
import gradclip.step.run
from benches import BENCHES, bench_of
from gradclip import (
    L2,
    ClipGradByGlobalNorm,
    ClipGradByNorm,
    ClipGradByValue,
    Constant,
    Element,
    EMARatio,
    Global,
    Linf,
    Normalize,
    PercentileClip,
    Rescale,
    Response,
    Row,
    Rule,
    Smooth,
    Tensor,
)
from gradclip.clipper import Clipper
from gradclip.engines import torch as torch_engine
from gradclip.engines import torch_measure
from gradclip.engines.reference import ReferenceEngine
from gradclip.engines.torch import TorchEngine
from gradclip.engines.torch_functions import TorchFunctions
from gradclip.rules import codec
from gradclip.rules.response import KEEP
from gradclip.step.policy import POLICIES, Policy
from gradclip.testing import REFERENCE, Bench, laws, ordinary_gradients
from planting import Plant, unshrunk
from remembering import Following

TORCH, DEVICE = BENCHES["torch"], BENCHES["torch on a device"]
NORM, GLOBAL, VALUE = ClipGradByNorm(0.5), ClipGradByGlobalNorm(0.5), ClipGradByValue(0.5)
ROWS, MEMORY = Rule(Row(), L2(), Constant(0.5)), Rule(Global(), L2(), Following())


def hold(law, bench, rule, arrays):
    law(bench, rule, arrays())


def planted(what, law, target, name, bug, rule=NORM, bench=TORCH, arrays=ordinary_gradients):
    """A bug on which `law` must be red for `rule`."""
    return Plant(f"{law.__name__}: {what}", hold, (law, bench, rule, arrays), target, name, bug, AssertionError)


def around(function, change_result=None, change_arguments=None):
    """`function` with its result or its arguments changed: a bug is a small difference from what works."""

    def wrong(*args, **kwargs):
        args = change_arguments(*args) if change_arguments else args
        result = function(*args, **kwargs)
        return change_result(result) if change_result else result

    return wrong


def total_as(change):
    """A measure with other totals."""
    return around(TorchEngine.measure, lambda measure: measure._replace(total=change(measure.total)))


def coefficient_as(formula):
    return lambda self, ratio, xp: formula(ratio, xp)


narrow_norms = around(torch_measure._norms_of, lambda norms: norms.to(torch.float16).double())
rolled_rows = around(torch_engine.row_factors, None, lambda coefficient, *rest: (coefficient.roll(1), *rest))


def tiny_gradients():
    return [array * 1e-6 for array in ordinary_gradients()]


def with_epsilon(measure, rule, sizes, unscaled_norm=gradclip.step.decide.unscaled_norm):
    return unscaled_norm(measure, rule, sizes) + 1e-6


def always_multiply(targets, values):
    for target, value in zip(targets, values, strict=True):
        target.mul_(value)


def flatten_and_scale(self, batch, scope, coefficient, *known, apply_=ReferenceEngine.apply_):
    apply_(self, batch, scope, coefficient)
    for tensor in batch.tensors:
        tensor.shape = (tensor.size,)


def write_first(parts, answer, engine, *rest, respond=gradclip.step.respond.respond):
    for part, found in parts:
        engine.apply_(found.batch, part.sweep.leaf, part.plan.coefficient)
    return respond(parts, answer, engine, *rest)


def look_at_the_coefficient(self, batch, scope, coefficient, *known, apply_=TorchEngine.apply_):
    if float(coefficient.min()) < 1.0:
        apply_(self, batch, scope, coefficient)


def look_at_the_list(self, batch, scope, coefficient, *known, apply_=TorchEngine.apply_):
    if min(coefficient.tolist()) < 1.0:
        apply_(self, batch, scope, coefficient)


def look_for_nonfinite(self, batch, axes, totals, together, _nonfinite=TorchEngine._nonfinite):
    assert self.waits
    return torch.zeros_like(totals) if torch.isfinite(totals).all() else _nonfinite(self, batch, axes, totals, together)


def forget_the_memory(self, state, load=Clipper.load_state_dict):
    load(self, {**state, "thresholds": {}})


def zero_nan_only(self, batch):
    for target in batch.targets:
        target.nan_to_num_(0.0, float("inf"), -float("inf"))
        target.masked_fill_(target == 0.0, float("inf"))


class Fusing(ReferenceEngine):
    """The reference engine with a fused clamp."""

    clamps = True

    def clamp_(self, batch, low, high):
        measure = self.measure(batch, VALUE.scope, VALUE.norm)
        self.map_(batch, Rescale(), low, high)
        return measure


@dataclass(frozen=True)
class Damped(Response):
    """Half of every gradient that is not zero."""

    def coefficient(self, ratio, xp):
        return xp.where(ratio > 0.0, 0.5 / xp.maximum(ratio, 1.0), 1.0)


@dataclass(frozen=True)
class Forgetful(Smooth):
    """One that becomes the first kind, whatever it was made with."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", "reciprocal")


PLANTS = [
    planted(
        "a response scales what is zero",
        laws.phi_of_zero_is_one,
        Damped,
        "coefficient",
        lambda self, ratio, xp: 0.5 / xp.maximum(ratio, 1.0),
        rule=Rule(Tensor(), L2(), Constant(0.5), Damped()),
    ),
    planted(
        "a response takes infinity by infinity",
        laws.phi_of_infinity_is_a_number,
        Damped,
        "coefficient",
        lambda self, ratio, xp: xp.where(ratio > 0.0, (1.0 + ratio) / (1.0 + ratio * 2.0), 1.0),
        rule=Rule(Tensor(), L2(), Constant(0.5), Damped()),
    ),
    planted(
        "an engine divides by zero",
        laws.phi_of_zero_is_one,
        TorchEngine,
        "map_",
        lambda self, batch, response, low, high: [target.div_(target.abs()) for target in batch.targets],
        rule=Rule(Element(), Linf(), Constant(0.5), Normalize()),
        bench=DEVICE,
    ),
    planted(
        "written although below",
        laws.below_the_threshold_nothing_is_written,
        torch_engine,
        "scale_where_needed_",
        always_multiply,
    ),
    planted(
        "scaled although below",
        laws.below_the_threshold_nothing_is_written,
        Rescale,
        "coefficient",
        coefficient_as(lambda r, xp: 1.0 / xp.maximum(r, 1e-9)),
    ),
    planted(
        "clipped to more than the threshold",
        laws.the_bound_holds,
        Rescale,
        "coefficient",
        coefficient_as(lambda r, xp: 1.001 / xp.maximum(r, 1.001)),
    ),
    planted(
        "sign flip",
        laws.the_direction_stays,
        Rescale,
        "coefficient",
        coefficient_as(lambda r, xp: -1.0 / xp.maximum(r, 1.0)),
    ),
    planted(
        "rows of a tensor scaled apart",
        laws.the_direction_stays,
        torch_engine,
        "scale_where_needed_",
        lambda targets, values: [target.copy_(target.clamp(-0.1, 0.1)) for target in targets],
    ),
    planted(
        "an epsilon in the coefficient",
        laws.scaling_gradients_and_thresholds_scales_the_result,
        gradclip.step.decide,
        "unscaled_norm",
        with_epsilon,
        rule=ClipGradByNorm(1e-6),
        arrays=tiny_gradients,
    ),
    planted(
        "one group's measure decides for all",
        laws.groups_do_not_see_each_other,
        TorchEngine,
        "measure",
        total_as(lambda total: total.max().expand_as(total)),
    ),
    planted(
        "a soft response",
        laws.clipping_twice_is_clipping_once,
        Rescale,
        "coefficient",
        coefficient_as(lambda r, xp: 1.0 / xp.sqrt(xp.maximum(r, 1.0))),
    ),
    planted(
        "measures depend on those before",
        laws.the_order_of_tensors_does_not_matter,
        TorchEngine,
        "measure",
        total_as(lambda total: total.cumsum(0)),
    ),
    planted(
        "a flattened gradient", laws.shape_and_dtype_stay, ReferenceEngine, "apply_", flatten_and_scale, bench=REFERENCE
    ),
    planted("norms in fp16", laws.it_agrees_with_the_reference, torch_measure, "_norms_of", narrow_norms),
    planted(
        "wrong index of rows",
        laws.it_agrees_with_the_reference,
        torch_engine,
        "row_factors",
        rolled_rows,
        rule=ROWS,
    ),
    planted(
        "bounds swapped",
        laws.it_agrees_with_the_reference,
        TorchEngine,
        "map_",
        around(TorchEngine.map_, None, lambda self, b, r, low, high: (self, b, r, -high, -low)),
        rule=ClipGradByValue(0.5, -0.1),
    ),
    planted(
        "a kept segment is scaled",
        laws.a_kept_segment_is_not_written,
        gradclip.step.policy,
        "POLICIES",
        POLICIES | {"keep": Policy("keep", 0.5, KEEP)},
    ),
    planted("a skipped step is written", laws.a_skipped_step_writes_nothing, gradclip.step.run, "respond", write_first),
    planted(
        "a step with NaN is not skipped",
        laws.a_skipped_step_writes_nothing,
        gradclip.step.policy,
        "POLICIES",
        POLICIES | {"skip": POLICIES["keep"]},
    ),
    planted("0 * inf", laws.zeroing_leaves_only_finite_numbers, torch_engine, "scale_where_needed_", always_multiply),
    planted(
        "NaN by value becomes inf",
        laws.zeroing_leaves_only_finite_numbers,
        TorchEngine,
        "zero_nonfinite_",
        zero_nan_only,
        rule=Rule(VALUE.scope, VALUE.norm, Constant(0.5), Smooth()),
    ),
    planted(
        "written before it raises",
        laws.raising_names_the_tensor_and_writes_nothing,
        gradclip.step.run,
        "respond",
        write_first,
    ),
    planted(
        "the wrong name",
        laws.raising_names_the_tensor_and_writes_nothing,
        gradclip.step.respond,
        "offenders",
        lambda part, batch, engine: ["t0"],
    ),
    planted(
        "the memory is not loaded",
        laws.a_restored_clipper_goes_on_bit_for_bit,
        Clipper,
        "load_state_dict",
        forget_the_memory,
        rule=MEMORY,
    ),
    planted(
        "learning from a bad step",
        laws.bad_steps_teach_nothing,
        gradclip.step.decide,
        "Observed",
        around(gradclip.rules.threshold.Observed, lambda seen: seen._replace(learns=seen.learns | True)),
        rule=MEMORY,
    ),
    planted(
        "the norms of a window are not sorted",
        laws.it_learns_as_the_reference_does,
        TorchFunctions,
        "sort",
        staticmethod(lambda a: a),
        rule=PercentileClip(50, window=4),
    ),
    planted(
        "the memory of a tensor is another's",
        laws.it_learns_as_the_reference_does,
        TorchFunctions,
        "take",
        staticmethod(around(TorchFunctions.take, lambda taken: taken.flip(-1))),
        rule=EMARatio(),
    ),
    planted(
        "a kind that is not read back",
        laws.it_is_the_same_rule_after_a_round_trip,
        codec,
        "KINDS",
        codec.KINDS | {"Smooth": Forgetful},
        rule=Rule(response=Smooth("tanh")),
    ),
    planted(
        "a coefficient is looked at",
        laws.no_number_is_read_on_the_host,
        TorchEngine,
        "apply_",
        look_at_the_coefficient,
        bench=DEVICE,
    ),
    planted(
        "a list is made", laws.no_number_is_read_on_the_host, TorchEngine, "apply_", look_at_the_list, bench=DEVICE
    ),
    planted(
        "a flag is looked at",
        laws.no_number_is_read_on_the_host,
        TorchEngine,
        "_nonfinite",
        look_for_nonfinite,
        bench=DEVICE,
    ),
    planted(
        "a shard counts twice",
        laws.parts_combine_to_the_whole,
        TorchFunctions,
        "combine",
        staticmethod(around(TorchFunctions.combine, lambda total: 2.0 * total)),
    ),
    planted(
        "scales are not brought together",
        laws.parts_combine_to_the_whole,
        gradclip.step.decide,
        "_rescaled",
        lambda measure, rule, scale: measure.total,
        rule=Rule(norm=gradclip.Lp(3.0)),
    ),
    planted("norms in fp16", laws.every_norm_is_right, torch_measure, "_norms_of", narrow_norms),
    planted(
        "measuring writes",
        laws.every_norm_is_right,
        TorchEngine,
        "measure",
        around(TorchEngine.measure, None, lambda self, b, s, n: (self, [t.add_(0) for t in b.targets] and b, s, n)),
    ),
    planted(
        "the fused path clamps elsewhere",
        laws.a_fused_path_equals_the_plain_one,
        Fusing,
        "clamp_",
        around(Fusing.clamp_, None, lambda self, b, low, high: (self, b, low, 0.9 * high)),
        rule=VALUE,
        bench=Bench(Fusing(), REFERENCE.make, REFERENCE.read),
    ),
    planted(
        "the fused path measures afterwards",
        laws.a_fused_path_equals_the_plain_one,
        Fusing,
        "clamp_",
        lambda self, b, low, high: (self.map_(b, Rescale(), low, high), self.measure(b, VALUE.scope, VALUE.norm))[1],
        rule=VALUE,
        bench=Bench(Fusing(), REFERENCE.make, REFERENCE.read),
    ),
]


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.what)
def test_the_law_is_green_and_with_the_bug_red(plant):
    plant.check()


def test_every_law_was_seen_to_fail():
    every = {
        function
        for name, function in inspect.getmembers(laws, inspect.isfunction)
        if function.__module__ == laws.__name__
        and list(inspect.signature(function).parameters)[:3] == ["bench", "rule", "arrays"]
    }
    assert len(every) >= 19
    assert every - {plant.arguments[0] for plant in PLANTS} == set()


def test_an_engine_that_is_wrong_for_one_member_of_the_list_is_found():
    """The product over engines and rules finds a bug that only rows of matrices have."""
    from laws import test_engines_keep_the_laws as product

    with mock.patch.object(torch_engine, "row_factors", rolled_rows), pytest.raises(AssertionError, match="each row"):
        product.test_every_engine_keeps_every_law("torch", laws.it_agrees_with_the_reference)


def test_a_bug_that_only_drawn_gradients_meet_is_found():
    """An engine that forgets the last element of a tensor with an odd number of them."""
    from laws import test_laws_hold_for_drawn_gradients as drawn

    def forgetful(tensors, axes, norm, _norms_of=torch_measure._norms_of):
        short = [t.reshape(-1)[:-1] if t.dim() < 2 and t.numel() % 2 else t for t in tensors]
        return _norms_of(short, axes, norm)

    with mock.patch.object(torch_measure, "_norms_of", forgetful), unshrunk(), pytest.raises(AssertionError):
        drawn.test_the_law_holds("torch", laws.it_agrees_with_the_reference)


def test_the_bench_sees_a_write_that_changes_no_bit():
    bench = bench_of(torch_engine.CPU)
    with mock.patch.object(torch_engine, "scale_where_needed_", lambda targets, _: [t.mul_(1.0) for t in targets]):
        assert bench.clip(NORM, [np.array([0.1])]).wrote == [True]
    assert bench.clip(Rule(Tensor(), L2(), Constant(0.5)), [np.array([0.1])]).wrote == [False]
