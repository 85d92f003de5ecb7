"""However arrays are cut on a mesh of 4 x 2 devices, a clip has the numbers of one device, and no sum more than needed.

`test_devices.py` runs this file in a process that has eight devices. The truth is the reference engine, in float64.
"""

import re
from functools import cached_property
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from effort import LONG
from gradclip import (
    AGC,
    L1,
    L2,
    AutoClip,
    ClipGradByGlobalNorm,
    ClipGradByNorm,
    ClipGradByValue,
    Constant,
    Global,
    Linf,
    Lp,
    Row,
    Rule,
    Rules,
    Tensor,
)
from gradclip.clipper import Clipper
from gradclip.engines import jax as jax_engine
from gradclip.engines import jax_measure, jax_pieces, jax_shards
from gradclip.engines.base import Across, Slot
from gradclip.engines.reference import ReferenceEngine
from gradclip.optax import across, clip, last, transform
from gradclip.optax.placed import Places
from gradclip.step.gradients import Gradients
from gradclip.testing.bench import NORM_TOLERANCE
from jax_lowering import share_contexts
from planting import Plant

share_contexts()

SIZES, NAMES = (4, 2), ("data", "model")
AUTO = jax.make_mesh(SIZES, NAMES, axis_types=(AxisType.Auto,) * 2)
EXPLICIT = jax.make_mesh(SIZES, NAMES, axis_types=(AxisType.Explicit,) * 2)
OTHER = jax.make_mesh((8,), ("all",), axis_types=(AxisType.Auto,))

EACH = {
    "first axis": ((8, 3), P("data", None)),
    "other axis": ((3, 4), P(None, "model")),
    "both axes": ((4, 8), P("model", "data")),
    "one by two": ((16, 2), P(("data", "model"), None)),
    "copied": ((5,), P(None)),
}
"""Each way to cut an array, in one tree."""
ROWS = {"first": ((8, 3), P("data", None)), "second": ((16, 3), P("data", None)), "bias": ((5,), P(None))}
"""A model that is cut along one axis of the mesh, the first of each array."""

RULES = {
    "L2": ClipGradByGlobalNorm(1.0),
    "L1": Rule(Global(), L1(), Constant(1.0)),
    "Linf": Rule(Global(), Linf(), Constant(1.0)),
    "L3": Rule(Global(), Lp(3.0), Constant(1.0)),
    "AutoClip": AutoClip(50),
    "each tensor": ClipGradByNorm(1.0),
    "by value": ClipGradByValue(0.5),
    "rows": Rule(Row(0), L2(), Constant(1.0)),
    "AGC": AGC(0.1, axis=0),
}
CHAIN = ClipGradByValue(1.5) >> ClipGradByNorm(3.0) >> ClipGradByGlobalNorm(2.0)
OF_EACH = ("each tensor", "by value")
WAYS = ("auto", "said", "explicit", "shard_map")
"""Automatic axes, the same with `shardings=`, explicit axes, and a `shard_map`."""
TABLE = [(way, name) for way in WAYS for name in ("L2", "Linf", "AutoClip", *OF_EACH)]
TABLE += [("auto", "L3"), ("explicit", "L1")]
TABLE += [("auto", "L1"), ("explicit", "L3"), ("shard_map", "L1"), ("shard_map", "L3")] if LONG else []
ROW_TABLE = [(way, name) for way in ("auto", "explicit") for name in ("rows", "AGC")]


class Program:
    """A step that was compiled for gradients that lie so, in one of three ways; alone without the state after it."""

    def __init__(self, way, rule, layout=EACH, alone=False, **options):
        self.mesh, self.layout = EXPLICIT if way == "explicit" else AUTO, layout
        self.specs = {name: spec for name, (_, spec) in layout.items()}
        said = shardings_of(layout) if way == "said" else None
        self.tx = clip(rule, axis_name=NAMES if way == "shard_map" else None, shardings=said, **options)
        step = (lambda *given: self.tx.update(*given)[0]) if alone else self.tx.update
        if way == "shard_map":
            out = self.specs if alone else (self.specs, P())
            step = jax.shard_map(step, mesh=self.mesh, in_specs=(self.specs, P(), self.specs), out_specs=out)
        self.step = jax.jit(step)

    def placed(self, arrays):
        return {name: jax.device_put(x, NamedSharding(self.mesh, self.specs[name])) for name, x in arrays.items()}

    def copied(self, state):
        return jax.device_put(state, NamedSharding(self.mesh, P()))

    @cached_property
    def compiled(self):
        zeros = self.placed({name: np.zeros(shape, np.float32) for name, (shape, _) in self.layout.items()})
        with jax.set_mesh(self.mesh):
            return self.step.lower(zeros, self.copied(self.tx.init(zeros)), zeros).compile()

    @property
    def collectives(self):
        return collectives(self.compiled)

    def run(self, *every, weights):
        """What comes out of one step after another; each update lies where its gradient does."""
        weights, found = self.placed(weights), []
        with jax.set_mesh(self.mesh):
            state = self.tx.init(weights)
        for arrays in every:
            gradients = self.placed(arrays)
            updates, state = self.compiled(gradients, self.copied(state), weights)
            for name, update in updates.items():
                assert update.sharding.is_equivalent_to(gradients[name].sharding, update.ndim), name
            found.append((updates, state.last))
        return found


def shardings_of(layout=EACH, mesh=AUTO):
    return {name: NamedSharding(mesh, spec) for name, (_, spec) in layout.items()}


def collectives(compiled):
    """The operations of a compiled program that the devices make together."""
    names = r"\b(all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute)(?:-start)?\("
    return re.findall(names, compiled.as_text())


def drawn(layout=EACH, size=1.0):
    draw = np.random.default_rng(int(size)).standard_normal
    return {name: (size * draw(shape)).astype(np.float32) for name, (shape, _) in layout.items()}


def truth(rule, *every, weights=None, **options):
    """The same steps of the reference engine."""
    clipper, found = Clipper(rule, **options), []
    for arrays in every:
        clipped = {name: x.copy() for name, x in arrays.items()}
        gradients = Gradients(list(clipped.values()), list(clipped).__getitem__, weights=lambda: list(weights.values()))
        found.append((clipped, clipper.clip_gradients(gradients, ReferenceEngine())))
    return found


def require_true(found, expected):
    """Norms, thresholds and coefficients to 1e-6 each; of an update three roundings beside."""
    for (updates, told), (clipped, result) in zip(found, expected, strict=True):
        for field in ("norm_before", "norm_after", "threshold", "coefficient"):
            wanted = np.clip(getattr(result, field), None, np.finfo(np.float32).max)
            np.testing.assert_allclose(getattr(told, field), wanted, rtol=NORM_TOLERANCE, err_msg=field)
        assert bool(told.clipped) == result.clipped
        for name, update in updates.items():
            np.testing.assert_allclose(update, clipped[name], rtol=NORM_TOLERANCE + 3 * 2.0**-24, err_msg=name)


def require_the_numbers_of_one_device(way, rule, layout=EACH):
    program, every, weights = Program(way, rule, layout), [drawn(layout, 2.0), drawn(layout, 5.0)], drawn(layout)
    require_true(program.run(*every, weights=weights), truth(rule, *every, weights=weights))
    return program.collectives


@pytest.mark.parametrize(("way", "name"), TABLE)
def test_each_layout_has_the_numbers_of_one_device(way, name):
    """The tree has each layout, and a norm of all counts each; the long form has each by itself, too.

    Where the compiler is left to find the sums, it makes one for each set of axes, here three, as it does for optax.
    """
    found = require_the_numbers_of_one_device(way, RULES[name])
    one = way == "shard_map" or (way in ("said", "explicit") and name not in OF_EACH)
    assert found == ["all-reduce"] * (1 if one else 3)
    for alone in EACH if LONG else ():
        require_the_numbers_of_one_device(way, RULES[name], {alone: EACH[alone]})


def test_the_compiler_makes_as_many_sums_for_optax():
    zeros = {n: jax.device_put(np.zeros(s, np.float32), NamedSharding(AUTO, spec)) for n, (s, spec) in EACH.items()}
    tx = optax.clip_by_global_norm(1.0)
    assert collectives(jax.jit(tx.update).lower(zeros, tx.init(zeros)).compile()) == ["all-reduce"] * 3


@pytest.mark.parametrize("name", ["L2", "Linf"])
def test_a_norm_of_arrays_that_are_cut_along_one_axis_is_one_all_reduce(name):
    assert Program("auto", RULES[name], ROWS).collectives == ["all-reduce"]


@pytest.mark.parametrize("way", WAYS)
def test_clipping_by_value_takes_no_sum(way):
    """But for what the state tells of all devices."""
    assert Program(way, RULES["by value"], alone=True).collectives == []


@pytest.mark.parametrize(("way", "name"), ROW_TABLE if LONG else ROW_TABLE[:1])
def test_rows_have_the_numbers_of_one_device(way, name):
    """Under `shard_map` they are refused: nobody knows there whether a device has whole rows."""
    require_the_numbers_of_one_device(way, RULES[name])


@pytest.mark.parametrize(("way", "name"), ROW_TABLE if LONG else [("auto", "AGC"), ("explicit", "rows")])
def test_rows_of_which_a_device_has_all_elements_take_no_sum(way, name):
    """But for what the state tells of all devices."""
    assert Program(way, RULES[name], ROWS, alone=True).collectives == []


def test_rows_that_only_the_state_tells_of_are_not_gathered():
    assert set(Program("auto", RULES["AGC"], ROWS).collectives) == {"all-reduce"}


def test_arrays_may_be_cut_into_unequal_parts():
    """13 by 8 and 10 by 4 devices: inside a program JAX allows it."""
    cut = {"a": ((10, 3), P("data", None)), "b": ((13,), P(NAMES)), "c": ((2, 5), P(None, "model"))}
    gradients, tx = drawn(cut, 3.0), clip(CHAIN)

    def step(gradients, state):
        placed = {n: lax.with_sharding_constraint(x, NamedSharding(AUTO, cut[n][1])) for n, x in gradients.items()}
        return tx.update(placed, state)

    updates, state = jax.jit(step)(gradients, tx.init(gradients))
    require_true([(updates, state.last)], truth(CHAIN, gradients))


def test_arrays_may_lie_on_two_meshes():
    """Of the same devices, which have other axes there; JAX allows it where they are automatic."""
    gradients, tx = drawn({"a": EACH["both axes"], "b": EACH["first axis"]}, 3.0), clip(CHAIN)
    places = {"a": NamedSharding(AUTO, P("model", "data")), "b": NamedSharding(OTHER, P("all"))}
    updates, state = jax.jit(tx.update)(jax.device_put(gradients, places), tx.init(gradients))
    require_true([(updates, state.last)], truth(CHAIN, gradients))


@pytest.mark.parametrize(
    ("way", "name"), [*((way, "Linf") for way in WAYS), ("shard_map", "L2"), ("auto", "each Linf")]
)
def test_a_nan_of_some_devices_is_known_to_all(way, name):
    """Two devices have one in the same tensor, which counts once; a maximum over devices may lose it."""
    rule = RULES.get(name, Rule(Tensor(), Linf(), Constant(1.0)))
    broken = drawn()
    broken["first axis"][[1, 6], 2] = np.nan
    found = Program(way, rule, on_nonfinite="zero").run(broken, weights=broken)
    require_true(found, truth(rule, broken, on_nonfinite="zero"))
    assert int(found[0][1].nonfinite) == 1


def test_rules_by_name_sum_up_what_their_tensors_have():
    """Each pattern is for some of the arrays, and one for none of them."""
    rule = Rules([("*axis", CHAIN), ("both*", ClipGradByValue(0.5)), ("none", ClipGradByNorm(1.0)), ("*", RULES["L1"])])
    every = [drawn(size=2.0), drawn(size=5.0)]
    require_true(Program("shard_map", rule).run(*every, weights=every[0]), truth(rule, *every))


def test_what_is_said_wrongly_costs_time_and_changes_no_number():
    other = shardings_of() | {"first axis": NamedSharding(AUTO, P(None)), "copied": NamedSharding(AUTO, P())}
    every = [drawn(size=2.0), drawn(size=5.0)]
    program = Program("auto", CHAIN)
    program.tx = clip(CHAIN, shardings=other)
    program.step = jax.jit(program.tx.update)
    require_true(program.run(*every, weights=every[0]), truth(CHAIN, *every))


def test_of_what_is_said_a_part_may_be_clipped():
    """The shardings of all parameters serve `masked`, which hands over some of them, and an `inner` optimizer."""
    mask = {name: name != "copied" for name in EACH}
    gradients = jax.device_put(drawn(size=3.0), shardings_of())
    tx = optax.masked(clip(CHAIN, inner=optax.sgd(-1.0), shardings=shardings_of()), mask)
    updates, state = jax.jit(tx.update)(gradients, tx.init(gradients))
    of_mask = {name: x for name, x in drawn(size=3.0).items() if mask[name]}
    part = {name: updates[name] for name in of_mask}
    require_true([(part, state.inner_state.last)], truth(CHAIN, of_mask))


REFUSED = {
    "no leaf 'copied'": {"shardings": {n: s for n, s in shardings_of().items() if n != "copied"}},
    "tree of NamedSharding like the gradients, got P.* for 'a'": {"shardings": {"a": P("data")}},
    "give one of the two": {"shardings": shardings_of(), "axis_name": "data"},
    "leave out shardings$": {"shardings": shardings_of(mesh=EXPLICIT)},
    "on one mesh": {"shardings": {**shardings_of(), "copied": NamedSharding(OTHER, P())}},
    "leaves .* to the compiler": {"shardings": {"a": NamedSharding(AUTO, P(P.UNCONSTRAINED))}},
    r"'copied' with shape \(5,\) cannot be cut by": {
        "shardings": {**shardings_of(), "copied": NamedSharding(AUTO, P("data"))}
    },
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_shardings_that_say_nothing_are_refused(sentence):
    with pytest.raises((TypeError, ValueError), match=sentence):
        clip(RULES["L2"], **REFUSED[sentence]).update(drawn(), None)


@pytest.mark.parametrize("way", ["explicit", "shard_map"])
def test_where_types_say_it_nothing_else_may(way):
    program = Program(way, RULES["L2"])
    program.tx = clip(RULES["L2"], shardings=shardings_of())
    step = program.tx.update
    if way == "shard_map":
        step = jax.shard_map(step, mesh=AUTO, in_specs=(program.specs, P(), program.specs), out_specs=P())
    gradients = program.placed(drawn())
    state = program.copied(clip(RULES["L2"]).init(gradients))
    with pytest.raises(ValueError, match=r"leave out shardings|leave them out"), jax.set_mesh(program.mesh):
        jax.jit(step).lower(gradients, state, gradients)


def on_none(x):
    return False


def put_behind_one_another(stages):
    return [
        last.Stage(
            stages[0].part, *(jnp.concatenate(each)[None] for each in zip(*[s[1:] for s in stages], strict=True))
        )
    ]


def counted_on_each(parts, across):
    return sum(jnp.sum(across.shards(part.measure.nonfinite, "sum")) for part in parts)


def a_little_more(x, magnitude=jax_measure.magnitude):
    return magnitude(x) * (1.0 + 4e-6)


UNEQUAL, TWO_MESHES = test_arrays_may_be_cut_into_unequal_parts, test_arrays_may_lie_on_two_meshes
NUMBERS, NAN, ONE_SUM = (
    test_each_layout_has_the_numbers_of_one_device,
    test_a_nan_of_some_devices_is_known_to_all,
    test_a_norm_of_arrays_that_are_cut_along_one_axis_is_one_all_reduce,
)
PLANTS = [
    Plant("copies count on every device", NUMBERS, ("shard_map", "L2"), across, "varying", lambda x: frozenset(NAMES)),
    Plant("the compiler is left to find the sums", NUMBERS, ("explicit", "L2"),
          Places, "slots", lambda self, arrays: [Slot(array) for array in arrays]),
    Plant("what was said is not heard", NUMBERS, ("said", "L2"), transform, "checked_shardings", lambda *_: None),
    Plant("copies count on each device", NUMBERS, ("said", "L2"),
          jax_shards, "_counts", lambda axes: jnp.ones((), bool)),
    Plant("results lie where the compiler left them", NUMBERS, ("explicit", "by value"),
          Places, "each", property(lambda self: [self._copied] * len(EACH), lambda self, each: None)),
    Plant("arrays of other cuts are put side by side", NUMBERS, ("auto", "L2"), jax_pieces, "on_mesh", on_none),
    Plant("devices agree on a branch", ONE_SUM, ("L2",), jax_measure, "on_mesh", on_none),
    Plant("elements wait for all devices", test_clipping_by_value_takes_no_sum, ("auto",),
          jax_engine, "on_mesh", on_none),
    Plant("rows are put behind one another", test_rows_of_which_a_device_has_all_elements_take_no_sum, ("auto", "rows"),
          transform, "on_mesh", on_none),
    Plant("what the state tells of rows is gathered", test_rows_that_only_the_state_tells_of_are_not_gathered, (),
          last, "_beside", put_behind_one_another),
    Plant("the compiler's maximum loses a NaN", NAN, ("auto", "Linf"), jax_measure, "on_mesh", on_none),
    Plant("a maximum of devices loses a NaN", NAN, ("shard_map", "Linf"), across, "_largest", lax.pmax),
    Plant("a tensor counts on each device", NAN, ("shard_map", "L2"), last, "_nonfinite", counted_on_each),
    Plant("the sums are those of all tensors", test_rules_by_name_sum_up_what_their_tensors_have, (),
          Across, "only", lambda self, indices: self, (ValueError, TypeError)),
    Plant("norms are too large", UNEQUAL, (), jax_measure, "magnitude", a_little_more),
    Plant("they are, on two meshes", TWO_MESHES, (), jax_measure, "magnitude", a_little_more),
]  # fmt: skip


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.what)
def test_a_planted_bug_turns_the_test_red(plant):
    """It is green without the bug: that ran above. What was compiled before does not know of the bug."""
    jax.clear_caches()
    with mock.patch.object(plant.target, plant.name, plant.bug, create=True), pytest.raises(plant.red):
        plant.oracle(*plant.arguments)
    jax.clear_caches()
