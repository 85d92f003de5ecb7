"""The clipper across steps: policies, memory, chains, and errors before anything is written."""

import io
import json
import math
import warnings
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from doors import DOORS, Door, exact, parameter, written
from gradclip import (
    AGC,
    EMA,
    L2,
    ClipGradByGlobalNorm,
    ClipGradByNorm,
    ClipGradByValue,
    Constant,
    Element,
    Global,
    GradclipWarning,
    GradientAboveThreshold,
    History,
    Linf,
    NonFiniteGradient,
    Normalize,
    Raise,
    Ratio,
    Rule,
    Rules,
    Schedule,
    SkipStep,
    Tensor,
    TooManySkips,
    until,
)
from gradclip.clipper import Clipper as Core
from gradclip.engines import torch as torch_engine
from gradclip.engines.reference import ReferenceEngine
from gradclip.step.gradients import Gradients
from gradclip.torch import Clipper
from remembering import Following


def clipper_of(door, rule, **options):
    return Clipper(rule, engine=door.engine, **options)


def test_a_policy_that_does_not_exist_is_refused_with_those_that_do():
    with pytest.raises(ValueError, match="on_nonfinite is one of 'keep', 'skip', 'zero', 'raise', got 'ignore'"):
        Core(ClipGradByNorm(1.0), on_nonfinite="ignore")


def test_what_is_no_rule_is_refused():
    with pytest.raises(TypeError, match=r"expected a clipping rule, got 1.0: write for example ClipGradByGlobalNorm"):
        Core(1.0)


def test_a_schedule_follows_the_steps_of_the_clipper(door):
    clipper = clipper_of(door, ClipGradByGlobalNorm(Schedule((0, 4.0), (2, 2.0))))
    assert [clipper.clip_([parameter(8.0)]).norm_after for _ in range(4)] == [4.0, 3.0, 2.0, 2.0]


def test_a_threshold_that_remembers_is_given_its_memory(door):
    """Twice the running mean: 1 at first, then twice 3, then twice the mean of 3 and 30."""
    clipper = clipper_of(door, Rule(Global(), L2(), Following()))
    assert [clipper.clip_([parameter(norm)]).threshold for norm in (3.0, 30.0, 30.0)] == pytest.approx([1.0, 6.0, 33.0])


def test_each_segment_has_a_memory_of_its_own(door):
    clipper = clipper_of(door, Rule(Tensor(), L2(), Following()))
    clipper.clip_([parameter(3.0), parameter(5.0)])
    rows = clipper.clip_([parameter(100.0), parameter(100.0)]).segments
    assert [row.threshold for row in rows] == pytest.approx([6.0, 10.0])


def test_nothing_is_learnt_from_a_non_finite_or_an_all_zero_step(door):
    clipper = clipper_of(door, Rule(Global(), L2(), Following()), on_nonfinite="skip")
    clipper.clip_([parameter(3.0)])
    for bad in (math.nan, math.inf, 0.0):
        clipper.clip_([parameter(bad)])
    assert clipper.clip_([parameter(3.0)]).threshold == pytest.approx(6.0)


def test_the_state_survives_a_file_that_is_loaded_with_weights_only(door):
    rule = Rule(Tensor(), L2(), Following()) >> Rule(Global(), L2(), Following())
    first = clipper_of(door, rule)
    for norm in (3.0, 7.0, 2.5):
        first.clip_([parameter(norm), parameter(2 * norm)])
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = clipper_of(door, rule)
    second.load_state_dict(torch.load(file, weights_only=True))
    steps = [[c.clip_([parameter(90.0), parameter(1.0)]).segments for _ in range(3)] for c in (first, second)]
    assert steps[0] == steps[1]
    assert second.last.step == first.last.step == 5


def test_a_state_goes_on_on_another_engine():
    rule = Rule(Tensor(), L2(), Following()) >> Rule(Global(), L2(), Following())
    states, thresholds = [], []
    for door in DOORS:
        clipper = clipper_of(door, rule)
        clipper.clip_([parameter(3.0), parameter(5.0)])
        states.append(json.loads(json.dumps(clipper.state_dict())))
    for door, state in zip(DOORS[::-1], states, strict=True):
        clipper = clipper_of(door, rule)
        clipper.load_state_dict(state)
        thresholds.append([row.threshold for row in clipper.clip_([parameter(90.0), parameter(1.0)]).segments])
    assert all(found == pytest.approx(thresholds[0]) for found in thresholds)
    assert thresholds[0][:2] == pytest.approx([6.0, 10.0])


def test_a_state_is_a_copy(door):
    clipper = clipper_of(door, Rule(Global(), L2(), Following()))
    clipper.clip_([parameter(3.0)])
    state = clipper.state_dict()
    clipper.clip_([parameter(300.0)])
    other = clipper_of(door, Rule(Global(), L2(), Following()))
    other.load_state_dict(state)
    assert other.clip_([parameter(1.0)]).threshold == pytest.approx(6.0)


def test_the_state_of_another_rule_is_refused_with_both_rules():
    state = Core(ClipGradByNorm(1.0)).state_dict()
    with pytest.raises(ValueError, match=r"belongs to the rule .*above 1 is.*the clipper has .*above 2 is"):
        Core(ClipGradByNorm(2.0)).load_state_dict(state)


@pytest.mark.parametrize("version", [None, 0, 3])
def test_a_state_of_another_version_is_refused(version):
    state = Core(ClipGradByNorm(1.0)).state_dict() | {"version": version}
    with pytest.raises(ValueError, match=rf"expected a clipper state of version 2, found {version}"):
        Core(ClipGradByNorm(1.0)).load_state_dict(state)


def test_skips_in_a_row_are_counted_across_a_state(door):
    options = {"on_nonfinite": "skip", "max_consecutive_skips": 1}
    first, second = (clipper_of(door, ClipGradByNorm(1.0), **options) for _ in range(2))
    first.clip_([parameter(math.nan)])
    second.load_state_dict(first.state_dict())
    with pytest.raises(TooManySkips, match=r"2 steps in a row.*max_consecutive_skips=1.*lower the learning rate"):
        second.clip_([parameter(math.nan)])


def test_a_good_step_ends_the_row_of_skips(door):
    clipper = clipper_of(door, ClipGradByNorm(1.0), on_nonfinite="skip", max_consecutive_skips=1)
    for value in (math.nan, 1.0, math.inf, 1.0):
        clipper.clip_([parameter(value)])
    assert clipper.consecutive_skips == 0


def test_a_step_above_the_threshold_of_skip_step_is_skipped(door):
    clipper = clipper_of(door, Rule(response=SkipStep(), threshold=Constant(10.0)))
    p = parameter(30.0)
    assert clipper.clip_([p]).skipped
    assert p.grad is None
    p.grad = torch.tensor([3.0])
    assert not clipper.clip_([p]).skipped
    assert p.grad.item() == 3.0


def test_every_gradient_is_taken_away_even_those_that_no_rule_is_for(door):
    bias, weight = parameter(3.0), parameter(math.nan)
    door.clip_({"bias": bias, "weight": weight}, Rules({"weight": ClipGradByNorm(1.0)}), on_nonfinite="skip")
    assert bias.grad is None
    assert weight.grad is None


def test_a_measure_above_the_threshold_of_raise_raises_before_anything_is_written(door):
    small, large = parameter(30.0), parameter(200.0)
    rule = ClipGradByNorm(5.0) >> Rule(Global(), L2(), Constant(6.0), Raise())
    with pytest.raises(GradientAboveThreshold, match=r"at step 0 the norm is 7.07.*above 6.*no gradient was written"):
        door.clip_([small, large], rule)
    assert (small.grad.item(), large.grad.item()) == (30.0, 200.0)


def test_one_pattern_that_raises_keeps_the_others_from_writing(door):
    a, b = parameter(30.0), parameter(200.0)
    rules = Rules({"a": ClipGradByValue(1.0), "b": Rule(threshold=Constant(6.0), response=Raise())})
    with pytest.raises(GradientAboveThreshold):
        door.clip_({"a": a, "b": b}, rules)
    assert (a.grad.item(), b.grad.item()) == (30.0, 200.0)


def test_one_pattern_that_skips_keeps_the_others_from_writing(door):
    a, b = parameter(30.0), parameter(200.0)
    kept = (a.grad, b.grad)
    rules = Rules({"a": ClipGradByValue(1.0), "b": Rule(threshold=Constant(6.0), response=SkipStep())})
    assert not written(lambda: door.clip_({"a": a, "b": b}, rules), *kept)


def test_no_gradient_is_written_when_another_norm_raises_later(door):
    """A chain with two norms has two phases; an error of the second would come after the first has written."""
    p = parameter(3.0, 4.0)
    try:
        door.clip_([p], ClipGradByNorm(1.0) >> Rule(Global(), Linf(), Constant(0.5), Raise()))
    except GradientAboveThreshold:
        assert p.grad.tolist() == [3.0, 4.0], "the error says that no gradient was written"
    except ValueError:
        assert p.grad.tolist() == [3.0, 4.0], "the chain was refused"


def test_a_rule_that_raises_does_not_speak_of_non_finite_gradients_that_are_to_be_skipped(door):
    """Only what is above its threshold may raise when on_nonfinite says to skip."""
    broken, large = parameter(math.nan), parameter(200.0)
    rule = Rule(Tensor(), L2(), Constant(6.0), Raise())
    with pytest.raises(GradientAboveThreshold, match="the norm is 200"):
        door.clip_({"broken": broken, "large": large}, rule, on_nonfinite="skip")


def test_an_element_stage_then_a_global_one(door):
    """[3, -4, 0.1] by value 1 is [1, -1, 0.1], of norm sqrt(2.01), which the second stage brings to 1."""
    p = parameter(3.0, -4.0, 0.1)
    result = door.clip_([p], ClipGradByValue(1.0) >> ClipGradByGlobalNorm(1.0))
    np.testing.assert_allclose(exact(p), np.array([1.0, -1.0, 0.1]) / math.sqrt(2.01), rtol=1e-6)
    assert result.segments[-1].norm_before == pytest.approx(math.sqrt(2.01), rel=1e-6)


def test_a_global_stage_then_an_element_one(door):
    p = parameter(3.0, -4.0)
    door.clip_([p], ClipGradByGlobalNorm(1.0) >> ClipGradByValue(0.7, -0.5))
    np.testing.assert_allclose(exact(p), [0.6, -0.5], rtol=1e-6)


def test_an_element_stage_between_two_others(door):
    p, q = parameter(30.0, 40.0), parameter(0.0, -5.0)
    door.clip_([p, q], ClipGradByNorm(5.0) >> ClipGradByValue(3.5) >> ClipGradByGlobalNorm(1.0))
    expected = np.array([3.0, 3.5, 0.0, -3.5])
    np.testing.assert_allclose(exact(p, q), expected / np.linalg.norm(expected), rtol=1e-6)


def test_an_element_stage_of_each_kind_of_gradient_writes_back(door):
    matrix = torch.arange(6.0).reshape(2, 3).t()
    p = parameter(grad=matrix)
    door.clip_([p], ClipGradByValue(2.0) >> ClipGradByNorm(1.0))
    expected = np.clip(np.arange(6.0).reshape(2, 3).T, None, 2.0)
    np.testing.assert_allclose(exact(p).reshape(3, 2), expected / np.linalg.norm(expected), rtol=1e-6)


def test_parameters_by_pattern_get_their_own_rule(door):
    named = {
        "embed.w": parameter(3.0, 4.0),
        "fc.bias": parameter(100.0),
        "fc.w": parameter(6.0),
        "fc2.w": parameter(8.0),
    }
    rules = Rules({"embed.*": ClipGradByNorm(0.5), "*.bias": None, "*": ClipGradByGlobalNorm(5.0)})
    result = door.clip_(named, rules)
    np.testing.assert_allclose(exact(*named.values()), [0.3, 0.4, 100.0, 3.0, 4.0], rtol=1e-6)
    assert [row.name for row in result.segments] == ["embed.w", "all"]


def test_patterns_may_hold_chains_of_different_length(door):
    named = {"a": parameter(3.0, 4.0), "b": parameter(8.0, 0.5)}
    rules = Rules({"a": ClipGradByValue(3.5) >> ClipGradByNorm(1.0), "b": ClipGradByValue(2.0)})
    door.clip_(named, rules)
    norm = math.hypot(3.0, 3.5)
    np.testing.assert_allclose(exact(*named.values()), [3.0 / norm, 3.5 / norm, 2.0, 0.5], rtol=1e-6)


def test_the_warning_names_the_first_three_and_counts_the_others(door):
    named = {f"layer{i}.weight": parameter(math.nan) for i in range(5)}
    with pytest.warns(GradclipWarning, match="'layer0.weight', 'layer1.weight', 'layer2.weight' and 2 more is non-fin"):
        door.clip_(named, ClipGradByNorm(1.0))


@pytest.mark.parametrize("scope", [Tensor(), Global()], ids=str)
def test_the_warning_names_only_those_that_are_non_finite(door, scope):
    named = {"good": parameter(1.0), "bad": parameter(math.inf)}
    with pytest.warns(GradclipWarning, match="the gradient of 'bad' is non-finite at step 0"):
        door.clip_(named, Rule(scope))


def test_the_warning_points_at_the_line_that_clips(door):
    with pytest.warns(GradclipWarning) as caught:
        Clipper(ClipGradByNorm(1.0), engine=door.engine).clip_([parameter(math.nan)])
    assert caught[0].filename == __file__


def test_rules_that_match_no_name_are_warned_of_and_give_an_empty_result(door):
    p = parameter(3.0)
    with pytest.warns(GradclipWarning, match="no name of a parameter matches 'b'.*the names are like 'a'"):
        result = door.clip_({"a": p}, Rules({"b": ClipGradByNorm(1.0)}))
    assert (result.norm_before, result.norm_after, result.coefficient, result.clipped) == (0.0, 0.0, 1.0, False)
    assert p.grad.item() == 3.0


def scaled_gradients(*values):
    """Each engine with a gradient of `values` under a loss scale of 1024."""
    yield ReferenceEngine(), np.array(values) * 1024
    for door in DOORS:
        tensor = torch.tensor(values) * 1024
        yield Clipper(Rule(), engine=door.engine).engine_for(Gradients([tensor], str)), tensor


def test_gradients_under_a_loss_scale_are_measured_in_their_own_unit():
    for engine, tensor in scaled_gradients(3.0, 4.0):
        result = Core(ClipGradByGlobalNorm(1.0)).clip_gradients(Gradients([tensor], str, divisor=1024.0), engine)
        assert (result.norm_before, result.norm_after) == pytest.approx((5.0, 1.0))
        np.testing.assert_allclose(np.asarray(tensor), np.array([0.6, 0.8]) * 1024, rtol=1e-6)


def test_bounds_under_a_loss_scale_are_in_the_unit_of_the_gradient():
    for engine, tensor in scaled_gradients(3.0, -4.0):
        result = Core(ClipGradByValue(1.0, -2.0)).clip_gradients(Gradients([tensor], str, divisor=1024.0), engine)
        np.testing.assert_allclose(np.asarray(tensor), np.array([1.0, -2.0]) * 1024, rtol=1e-6)
        assert [row.norm_before for row in result.segments] == pytest.approx([3.0, 4.0])
        assert result.coefficient == pytest.approx(1 / 3)


def test_elements_take_one_threshold_for_all_tensors_until_each_has_its_own():
    clipper = Core(Rule(Element(), Linf(), until(1, 2.0, History(EMA(0.5), Ratio(1.0), warmup=1))))
    for expected in ([2.0, 2.0, 2.0, 2.0], [4.0, 4.0, 1.0, 1.0]):
        tensors = [np.array([4.0, -1.0]), np.array([1.0])]
        result = clipper.clip_gradients(Gradients(tensors, str), ReferenceEngine())
        assert [row.threshold for row in result.segments] == pytest.approx(expected)


def test_a_rule_that_reads_the_weights_needs_a_door_that_gives_them():
    class Share(Constant):
        adapts = True
        reads_weights = True

        def at(self, observed, state):
            return observed.xp.maximum(0.1 * observed.weights, 1e-3), state

    rule = Rule(Tensor(), L2(), Share(1.0))
    engine, gradients = ReferenceEngine(), [np.array([3.0, 4.0]), np.array([0.1])]
    weights = [np.array([6.0, 8.0]), np.array([20.0])]
    with pytest.raises(ValueError, match="reads the weights, and this door was not given them"):
        Core(rule).clip_gradients(Gradients(gradients, str), engine)
    result = Core(rule).clip_gradients(Gradients(gradients, str, weights=lambda: weights), engine)
    assert [row.threshold for row in result.segments] == pytest.approx([1.0, 2.0])
    np.testing.assert_allclose(gradients[0], [0.6, 0.8])


@pytest.mark.parametrize("error", [NonFiniteGradient, GradientAboveThreshold, TooManySkips])
def test_errors_are_runtime_errors(error):
    assert issubclass(error, RuntimeError)


def test_an_unknown_engine_is_refused():
    with pytest.raises(ValueError, match="PyTorch has the engines 'cpu', 'triton', 'torch' and None to"):
        Door("cuda").clip_([parameter(1.0)])


def test_rules_that_leave_every_parameter_alone_are_meant_and_not_warned_of(door):
    p = parameter(3.0)
    result = door.clip_({"a": p}, Rules({"*": None}))
    assert not result.clipped
    assert p.grad.item() == 3.0


def test_a_nan_that_only_a_later_phase_meets_raises_before_anything_is_written(door):
    good, broken = parameter(3.0, 4.0), parameter(math.nan)
    rule = Rules({"a": ClipGradByNorm(1.0)}) >> ClipGradByGlobalNorm(1.0)
    with pytest.raises(NonFiniteGradient, match="'b' is non-finite"):
        door.clip_({"a": good, "b": broken}, rule, on_nonfinite="raise")
    assert good.grad.tolist() == [3.0, 4.0]


def test_a_nan_that_only_a_later_phase_meets_is_counted(door):
    good, broken = parameter(3.0, 4.0), parameter(math.nan)
    rule = Rules({"a": ClipGradByNorm(1.0)}) >> ClipGradByGlobalNorm(1.0)
    with pytest.warns(GradclipWarning, match="'b' is non-finite"):
        assert door.clip_({"a": good, "b": broken}, rule).nonfinite == 1


def test_a_schedule_that_fails_in_a_later_phase_fails_before_anything_is_written(door):
    p = parameter(3.0, 4.0)
    rule = ClipGradByValue(1.0) >> ClipGradByGlobalNorm(Schedule(lambda step: 0.0))
    with pytest.raises(ValueError, match="the scheduled threshold at step 0 must be above 0"):
        door.clip_([p], rule)
    assert p.grad.tolist() == [3.0, 4.0]


def test_what_happens_to_infinities_by_value_is_said_as_it_is(door):
    p = parameter(math.inf, 0.5)
    with pytest.warns(GradclipWarning, match="its infinities become the bound, NaN stays"):
        door.clip_([p], ClipGradByValue(1.0))
    assert p.grad.tolist() == [1.0, 0.5]


@pytest.mark.parametrize("wrong", [-1, 1.5, "3", True])
def test_max_consecutive_skips_is_a_whole_number(wrong):
    with pytest.raises(ValueError, match="max_consecutive_skips is a whole number"):
        Clipper(Rule(), max_consecutive_skips=wrong)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("rule", [ClipGradByValue(1.0), ClipGradByValue(1.0) >> ClipGradByGlobalNorm(0.5)], ids=repr)
def test_a_warning_that_is_an_error_comes_when_the_step_is_done(rule):
    """The gradients are those of a step whose warning is only said, and the next step goes on from there."""
    ends = {}
    for action in ("error", "ignore"):
        weights = [parameter(3.0, -4.0), parameter(math.nan, 5.0)]
        clipper = Clipper(rule, engine="cpu")
        with warnings.catch_warnings():
            warnings.simplefilter(action, GradclipWarning)
            with pytest.raises(GradclipWarning) if action == "error" else nullcontext():
                clipper.clip_(weights)
        ends[action] = [weight.grad.tolist() for weight in weights], clipper.step, repr(clipper.last)
    assert repr(ends["error"]) == repr(ends["ignore"])


@pytest.mark.filterwarnings("error")
def test_a_pattern_that_matches_nothing_is_said_before_anything_is_written():
    weight = parameter(3.0, 4.0)
    clipper = Clipper(ClipGradByValue(1.0) >> Rules({"zz*": ClipGradByGlobalNorm(1.0)}))
    with pytest.raises(GradclipWarning, match="no name of a parameter matches 'zz"):
        clipper.clip_([("a", weight)])
    assert weight.grad.tolist() == [3.0, 4.0]


def test_an_error_of_a_later_stage_does_not_say_that_nothing_was_written():
    """What was finite becomes infinite where a stage enlarges it beyond its type."""
    weight = parameter(1.0, 2.0, dtype=torch.float16)
    rule = Rule(Tensor(), Linf(), Constant(1e6), Normalize()) >> ClipGradByGlobalNorm(1.0)
    with pytest.raises(NonFiniteGradient, match="what the stages before it wrote stays"):
        Clipper(rule, on_nonfinite="raise").clip_([weight])
    assert weight.grad.isinf().any()


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("engine", ["cpu", "torch"])
@pytest.mark.parametrize("rule", [ClipGradByValue(1.0) >> AGC(), Rules({"a": ClipGradByValue(1.0), "e": AGC()})])
def test_rows_that_a_sparse_gradient_lacks_are_refused_before_anything_is_written(rule, engine):
    dense, sparse = parameter(3.0, 4.0), torch.nn.Parameter(torch.ones(4, 2))
    sparse.grad = torch.sparse_coo_tensor([[0, 1]], torch.full((2, 2), 9.0), (4, 2))
    with pytest.raises(TypeError, match="'e' cannot be clipped: it has 2 of the 4 rows of its weight"):
        Clipper(rule, engine=engine).clip_([("a", dense), ("e", sparse)])
    assert dense.grad.tolist() == [3.0, 4.0]
    assert (sparse.grad.coalesce().values() == 9.0).all()


def test_what_a_fused_clamp_has_written_is_not_read_a_second_time(monkeypatch):
    monkeypatch.setattr("gradclip.engines.cpu.CpuEngine.map_", None)
    weight = parameter(3.0, -4.0)
    Clipper(ClipGradByValue(1.0), engine="cpu").clip_([weight])
    assert weight.grad.tolist() == [1.0, -1.0]


def test_a_limit_of_skips_is_kept_on_an_engine_that_waits_too():
    clipper = Core(ClipGradByGlobalNorm(1.0), on_nonfinite="skip", max_consecutive_skips=1)
    broken = Gradients([torch.tensor([math.nan, 1.0])], str)
    clipper.clip_gradients(broken, torch_engine.DEVICE)
    with pytest.raises(TooManySkips, match="2 steps in a row"):
        clipper.clip_gradients(broken, torch_engine.DEVICE)
