"""For each test of the semantics, of `decide`, of the drop-ins and of the tree a planted bug on which it is red."""

from __future__ import annotations

import math
import shutil
from unittest import mock

import pytest
import torch

import gradclip.clipper
import gradclip.rules.segments
import gradclip.rules.sweep
import gradclip.rules.threshold
import gradclip.step.decide
import gradclip.step.layout
import gradclip.step.policy
import gradclip.step.run
import gradclip.torch.functional
import gradclip.torch.parameters
import test_clipper
import test_decide
import test_result
from doors import Door, parameter
from engines import test_cpu
from gradclip import ClipGradByGlobalNorm, Global, Group, Rescale
from gradclip.engines import cpu_gather, torch_measure
from gradclip.engines import torch as torch_engine
from gradclip.engines.torch import TorchEngine
from gradclip.engines.torch_layout import distinct
from gradclip.engines.torch_stacks import of_each
from gradclip.rules.response import KEEP
from gradclip.rules.rule import rewritten
from gradclip.rules.sweep import phases_of
from gradclip.step.policy import POLICIES, Policy
from parity import test_where_pytorch_is_right as right
from parity import test_where_pytorch_is_wrong as wrong
from planting import Plant
from rules import test_scope, test_sweep
from semantics import test_nonfinite, test_numbers, test_parameters
from structure import (
    ROOT,
    SOURCE,
    backward_imports,
    circles,
    frameworks_named,
    heavy_modules,
    import_cost,
    impure_imports,
    missing_paths,
    repeated_class_names,
    repeated_file_names,
    unplaced_folders,
)

DOOR = Door("torch")


def narrow_norms(cut, norm):
    """The norm in the gradient's own dtype, as PyTorch takes it."""
    return torch.linalg.vector_norm(cut, norm.p, dim=torch_measure.AROUND).double()


def single_squares(cut, norm):
    """The power sum in fp32, without a rescue."""
    return cut.abs().float().pow(norm.p).sum(torch_measure.AROUND).pow(1 / norm.p).double()


def single_powers(cut, order):
    """The same of another order."""
    found = cut.abs().float().pow(order).sum(torch_measure.AROUND).double()
    return found, torch.ones_like(found)


def of_segments(norms):
    """The same bug wherever the norms of all tensors are taken, in one call or not."""

    def of_tensors(tensors, axes, norm):
        (found,) = of_each(tensors, lambda stack: (norms(torch_measure.rows(stack, axes[stack.places[0]]), norm),))
        return found

    return of_tensors


def always_multiply(targets, values):
    for target, value in zip(targets, values, strict=True):
        target.mul_(value)


def with_epsilon(measure, rule, sizes, unscaled_norm=gradclip.step.decide.unscaled_norm):
    return unscaled_norm(measure, rule, sizes) + 1e-6


def by_group(rule):
    """Each parameter group by itself, where the rule says all together."""
    return phases_of(
        rewritten(
            rule,
            lambda one: one.__class__(
                Group() if one.scope == Global() else one.scope, one.norm, one.threshold, one.response
            ),
        )
    )


def from_the_norm(measure, *args, decide=gradclip.step.decide.decide, **kwargs):
    """Decide that a segment is broken by its norm and not by its count."""
    return decide(measure._replace(nonfinite=measure.nonfinite * 0.0), *args, **kwargs)


def flags_only(tensors, axes, nonfinite_of=torch_engine.nonfinite_of):
    return nonfinite_of(tensors, axes).clamp(max=1)


def shrink_always(self, ratio, xp):
    return 1.0 / (xp.maximum(ratio, 1.0) + 1e-6)


def half_precision_product(targets, values):
    for target, value in zip(targets, values, strict=True):
        if value != 1.0:
            target.mul_(torch.tensor(value, dtype=target.dtype))


def write_everything_first(parts, answer, engine, *rest, respond=gradclip.step.respond.respond):
    for part, found in parts:
        engine.apply_(found.batch, part.sweep.leaf, part.plan.coefficient)
    return respond(parts, answer, engine, *rest)


def learning(norm, step, weights, learns, xp, given):
    return gradclip.rules.threshold.Observed(norm, step, weights, xp.where(learns, True, True), xp, given)


def shifted(*args, segments=gradclip.rules.segments.segments, **kwargs):
    found = segments(*args, **kwargs)
    return found if found.places is None else found._replace(places=[*found.places[1:], *found.places[:1]])


def one_axis(norm, engine, batch, as_tensor=gradclip.torch.functional._as_tensor):
    return as_tensor(norm, engine, batch).reshape(1)


def narrow_result(*args, as_tensor=gradclip.torch.functional._as_tensor):
    return as_tensor(*args).to(torch.float16)


def stored_once(tensors, *rest, totals_of=torch_engine.totals_of, **options):
    return totals_of([distinct(tensor) for tensor in tensors], *rest, **options)


def any_limit(value, what):
    return math.inf if value is None else float(value)


NUMBERS = [
    Plant(
        "norm in the gradient's dtype",
        test_numbers.test_an_fp16_norm_beyond_fp16_is_right_and_the_gradient_survives,
        (DOOR, 2.0),
        torch_measure,
        "_norms_of",
        of_segments(narrow_norms),
    ),
    Plant(
        "norm over tensors in fp16",
        test_numbers.test_an_fp16_norm_of_1e5_over_two_tensors_is_right,
        (DOOR,),
        torch_measure,
        "_norms_of",
        of_segments(narrow_norms),
    ),
    Plant(
        "power sum in fp32, large",
        test_numbers.test_squares_beyond_fp32_do_not_spoil_the_norm,
        (DOOR, torch.float32, 1e25, 2.0),
        torch_measure,
        "_norms_of",
        of_segments(single_squares),
    ),
    Plant(
        "power sum in fp32, small",
        test_numbers.test_squares_beyond_fp32_do_not_spoil_the_norm,
        (DOOR, torch.bfloat16, 1e-25, 3.0),
        torch_measure,
        "_power_sums",
        single_powers,
    ),
    Plant(
        "fp32 accumulation",
        test_numbers.test_fifty_million_elements_are_measured_to_1e_6,
        (DOOR,),
        torch_measure,
        "_norms_of",
        of_segments(narrow_norms),
    ),
    Plant(
        "written below the limit",
        test_numbers.test_below_the_limit_nothing_is_written,
        (DOOR, ClipGradByGlobalNorm, torch.float32),
        torch_engine,
        "scale_where_needed_",
        always_multiply,
    ),
    Plant(
        "the drop-in writes below the limit",
        test_numbers.test_the_drop_ins_write_nothing_below_the_limit,
        (DOOR,),
        torch_engine,
        "scale_where_needed_",
        always_multiply,
    ),
    Plant(
        "all are written where one is clipped",
        test_numbers.test_in_a_step_that_clips_one_tensor_the_others_are_not_written,
        (DOOR,),
        torch_engine,
        "scale_where_needed_",
        always_multiply,
    ),
    Plant(
        "an epsilon in the norm",
        test_numbers.test_a_norm_below_a_tiny_limit_is_not_shrunk_by_an_epsilon,
        (DOOR,),
        gradclip.step.decide,
        "unscaled_norm",
        with_epsilon,
    ),
    Plant(
        "an epsilon in the coefficient",
        test_numbers.test_a_norm_equal_to_the_limit_is_left_alone,
        (DOOR,),
        Rescale,
        "coefficient",
        shrink_always,
    ),
    Plant(
        "a product in fp16",
        test_numbers.test_a_coefficient_does_not_underflow_in_fp16,
        (DOOR,),
        torch_engine,
        "scale_where_needed_",
        half_precision_product,
    ),
    Plant(
        "0 * inf",
        test_numbers.test_a_coefficient_of_0_writes_zeros_over_infinity,
        (DOOR,),
        torch_engine,
        "scale_where_needed_",
        always_multiply,
    ),
    Plant(
        "a norm in fp16 is returned",
        test_numbers.test_a_returned_norm_is_a_plain_scalar_of_fp32_or_wider,
        (DOOR, torch.float16),
        gradclip.torch.functional,
        "_as_tensor",
        narrow_result,
    ),
    Plant(
        "a norm with an axis is returned",
        test_numbers.test_a_returned_norm_is_a_plain_scalar_of_fp32_or_wider,
        (DOOR, torch.float32),
        gradclip.torch.functional,
        "_as_tensor",
        one_axis,
    ),
]

BROKEN = [
    Plant(
        "a non-finite element is told from the norm",
        test_decide.test_a_non_finite_element_decides_whatever_the_norm_is,
        ("keep", 1.0, 3, 25.0),
        gradclip.step.decide,
        "decide",
        from_the_norm,
    ),
    Plant(
        "tensors are counted instead of elements",
        test_nonfinite.test_every_element_is_counted,
        (DOOR,),
        torch_engine,
        "nonfinite_of",
        flags_only,
    ),
    Plant(
        "every name is told",
        test_nonfinite.test_keep_writes_nothing_counts_and_names_the_parameter,
        (DOOR, math.nan, 2.0),
        gradclip.step.respond,
        "offenders",
        lambda part, batch, engine: ["good", "bad"],
    ),
    Plant(
        "a broken segment is scaled",
        test_nonfinite.test_keep_leaves_one_tensor_alone_and_clips_the_others,
        (DOOR, math.inf),
        gradclip.step.policy,
        "POLICIES",
        POLICIES | {"keep": Policy("keep", 0.5, KEEP)},
    ),
    Plant(
        "a skipped step keeps its gradients",
        test_nonfinite.test_skip_takes_every_gradient_away,
        (DOOR, math.nan, 2.0),
        gradclip.torch.clipper,
        "drop",
        lambda parameters: None,
    ),
    Plant(
        "written before it raises",
        test_nonfinite.test_raise_names_the_parameter_and_writes_nothing,
        (DOOR, math.nan, 2.0),
        gradclip.step.run,
        "respond",
        write_everything_first,
    ),
    Plant(
        "non-finite elements are left by value",
        test_nonfinite.test_zero_by_value_makes_the_element_zero_and_no_other,
        (DOOR, math.nan),
        TorchEngine,
        "zero_nonfinite_",
        lambda self, batch: None,
    ),
    Plant(
        "learning from a bad step",
        test_clipper.test_nothing_is_learnt_from_a_non_finite_or_an_all_zero_step,
        (DOOR,),
        gradclip.step.decide,
        "Observed",
        learning,
    ),
    Plant(
        "who may be learnt from",
        test_decide.test_only_a_finite_norm_that_is_not_0_may_be_learnt_from,
        (),
        gradclip.step.decide,
        "Observed",
        learning,
    ),
]

PARAMETERS = [
    Plant(
        "a part of a memory is scaled twice",
        test_parameters.test_gradients_that_have_a_part_of_their_memory_together_are_refused_by_name,
        (DOOR, "a part"),
        gradclip.engines.overlap,
        "_overlap",
        lambda a, b: False,
    ),
    Plant(
        "a parameter given twice",
        test_parameters.test_a_parameter_given_twice_counts_once_and_is_scaled_once,
        (DOOR,),
        TorchEngine,
        "repeated",
        lambda self, batch: set(),
    ),
    Plant(
        "a shared gradient",
        test_parameters.test_two_parameters_that_share_a_gradient_count_once_and_are_scaled_once,
        (DOOR,),
        TorchEngine,
        "repeated",
        lambda self, batch: set(),
    ),
    Plant(
        "a norm for each group",
        test_parameters.test_a_global_norm_is_over_all_parameter_groups,
        (DOOR,),
        gradclip.step.layout,
        "phases_of",
        by_group,
    ),
    Plant(
        "any limit is taken",
        test_parameters.test_a_limit_that_makes_no_sense_is_refused_and_nothing_is_written,
        (DOOR, "clip_grad_value_", -1, ValueError),
        gradclip.torch.functional,
        "checked_limit",
        any_limit,
    ),
    Plant(
        "an expanded element is counted once",
        test_parameters.test_an_expanded_gradient_counts_each_element_and_is_scaled_once,
        (DOOR, Global(), 1),
        torch_engine,
        "totals_of",
        stored_once,
    ),
    Plant(
        "an empty list is silent",
        test_parameters.test_an_empty_list_is_reported,
        (DOOR,),
        gradclip.torch.parameters,
        "report_nothing",
        lambda what: None,
    ),
    Plant(
        "need_clip is not heeded",
        test_parameters.test_need_clip_takes_a_parameter_out_of_the_measure_and_of_the_scaling,
        (DOOR, "drop-in"),
        gradclip.torch.functional,
        "found_in",
        lambda parameters: [p.grad for p in parameters],
    ),
]

DECISIONS = [
    Plant(
        "a fold that forgets the first stage",
        test_decide.test_rescaling_stages_fold_into_one_coefficient,
        (),
        gradclip.step.decide,
        "_after",
        lambda measure, rule, coefficient: measure,
    ),
    Plant(
        "a fold that scales every norm as an L2 norm",
        test_decide.test_folding_follows_the_norm,
        (),
        gradclip.step.decide,
        "_after",
        lambda measure, rule, c: measure._replace(total=measure.total * (c * c)),
    ),
    Plant(
        "0 * NaN in a fold",
        test_decide.test_a_stage_that_zeroes_a_broken_segment_lets_the_others_through,
        (),
        gradclip.step.decide,
        "_after",
        lambda measure, rule, c: measure._replace(total=measure.total * (c * c)),
    ),
    Plant(
        "an epsilon",
        test_decide.test_a_norm_at_or_below_the_threshold_passes_with_exactly_1,
        (4.0,),
        Rescale,
        "coefficient",
        shrink_always,
    ),
    Plant(
        "a loss scale that stays",
        test_decide.test_a_loss_scale_is_divided_out_of_the_norm,
        (),
        gradclip.step.decide,
        "decide",
        lambda m, rule, state, terms, sizes, decide=gradclip.step.decide.decide: decide(
            m, rule, state, terms._replace(divisor=1.0), sizes
        ),
    ),
    Plant(
        "segments of the wrong tensors",
        test_scope.test_each_measured_segment_belongs_to_one_of_the_stage,
        (gradclip.Tensor(), gradclip.Row(), gradclip.rules.segments.Segments(5, [0, 0, 1, 2, 4, 4, 4])),
        test_scope,
        "segments",
        shifted,
    ),
    Plant(
        "sizes of the wrong segments",
        test_scope.test_sizes_count_the_elements_of_each_segment,
        (gradclip.Tensor(), gradclip.Row(), [6, 1, 5, 0, 12]),
        test_scope,
        "segments",
        lambda *args, sized: gradclip.rules.segments.segments(*args, sized=sized)._replace(sizes=[6, 1, 5, 12, 0]),
    ),
    Plant(
        "stages measured at the first scope",
        test_clipper.test_an_element_stage_then_a_global_one,
        (DOOR,),
        gradclip.step.layout,
        "phases_of",
        lambda rule: phases_of(rule)[:1],
    ),
    Plant(
        "norms of a chain from its last stage",
        test_result.test_each_stage_of_a_chain_has_its_rows,
        (DOOR,),
        gradclip.step.decide,
        "_after",
        lambda measure, rule, coefficient: measure,
    ),
    Plant(
        "stages of different norms in one sweep",
        test_sweep.test_rescaling_stages_of_one_norm_share_a_sweep,
        (
            test_sweep.TENSOR >> ClipGradByGlobalNorm(1.0, 1),
            [[(test_sweep.TENSOR,)], [(ClipGradByGlobalNorm(1.0, 1),)]],
        ),
        gradclip.rules.sweep,
        "folds",
        lambda rules, rule: True,
    ),
]

DROP_INS = [
    Plant(
        "other numbers",
        right.test_clip_grad_norm_gives_the_same_numbers,
        (DOOR,),
        Rescale,
        "coefficient",
        lambda self, ratio, xp: 0.9 / xp.maximum(ratio, 0.9),
    ),
    Plant(
        "other bits by value",
        right.test_clip_grad_value_gives_the_same_bits,
        (DOOR,),
        TorchEngine,
        "map_",
        lambda self, batch, response, low, high: [t.mul_(0.999).clamp_(low, high) for t in batch.targets],
    ),
    Plant(
        "another shape",
        right.test_clip_grad_norm_gives_the_same_numbers,
        (DOOR,),
        gradclip.torch.functional,
        "_as_tensor",
        one_axis,
    ),
    Plant(
        "an inverse in get_total_norm",
        right.test_get_total_norm_and_clip_grads_with_norm_give_the_same_numbers,
        (DOOR,),
        gradclip.step.decide,
        "unscaled_norm",
        with_epsilon,
    ),
    Plant(
        "other words",
        right.test_error_if_nonfinite_raises_the_same_words_and_writes_nothing,
        (DOOR, 2.0, math.nan),
        gradclip.torch.functional,
        "_raise_if_nonfinite",
        lambda norm, kind: call_raise(),
    ),
    Plant(
        "no words at all",
        right.test_an_exhausted_generator_warns_in_the_same_words,
        (DOOR,),
        gradclip.torch.functional,
        "warnings",
        mock.Mock(),
    ),
    Plant(
        "PyTorch has been repaired",
        wrong.test_a_negative_limit_turns_the_gradient_round_in_pytorch,
        (DOOR,),
        torch.nn.utils,
        "clip_grad_norm_",
        lambda *args: None,
    ),
]


def call_raise():
    raise RuntimeError("the norm is non-finite")


def keeping_what_was(self):
    """`Table.changed`, which forgets nothing."""
    if not hasattr(self, "rows"):
        self.shapes, self.axes, self.rows_first, self.rows, self.overlaps = None, {}, {}, {}, None


TABLES = [
    Plant(
        f"a table is kept though its tensors changed: {what}",
        test_cpu.check_tables_follow_the_tensors,
        (order,),
        cpu_gather.Table,
        "changed",
        keeping_what_was,
    )
    for what, order in {"memory": [0, 1], "shape": [3, 4], "number": [0, 6], "repeated": [0, 7]}.items()
]

PLANTS = [*NUMBERS, *BROKEN, *PARAMETERS, *DECISIONS, *DROP_INS, *TABLES]


@pytest.fixture(autouse=True)
def _no_rule_is_kept():
    gradclip.torch.functional._global_rule.cache_clear()
    yield
    gradclip.torch.functional._global_rule.cache_clear()


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.what)
def test_the_oracle_is_green_and_with_the_bug_red(plant):
    plant.check()


def copy_with(tmp_path, file, line):
    """A copy of the source with one more line at the end of a file."""
    shutil.copytree(SOURCE / "gradclip", tmp_path / "gradclip", ignore=shutil.ignore_patterns("__pycache__"))
    path = tmp_path / "gradclip" / file
    path.write_text(path.read_text() + line + "\n")
    return tmp_path


@pytest.mark.parametrize("file", ["rules/norm.py", "step/decide.py"])
@pytest.mark.parametrize("line", ["import torch", "import numpy as np", "def late():\n    from jax import numpy"])
def test_a_planted_import_is_found(tmp_path, file, line):
    (found,) = impure_imports(copy_with(tmp_path, file, line))
    assert found.startswith(f"{file.rpartition('/')[2]} imports ")


def test_a_planted_name_of_a_framework_is_found(tmp_path):
    (found,) = frameworks_named(copy_with(tmp_path, "step/decide.py", "# as PyTorch does it"))
    assert found.endswith("# as PyTorch does it")


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("rules/norm.py", "from gradclip.step.decide import decide"),
        ("step/decide.py", "from gradclip.engines.torch import CPU"),
        ("engines/torch.py", "from gradclip.step.decide import decide"),
        ("engines/reference.py", "import gradclip.clipper"),
        ("clipper.py", "from gradclip.torch import attach"),
    ],
)
def test_a_planted_import_against_the_direction_is_found(tmp_path, file, line):
    (found,) = backward_imports(copy_with(tmp_path, file, line))
    assert found.startswith(f"gradclip/{file} imports gradclip.")


def test_a_new_folder_without_a_place_is_found(tmp_path):
    (tmp_path / "gradclip" / "mlx").mkdir(parents=True)
    (tmp_path / "gradclip" / "mlx" / "__init__.py").write_text("import gradclip.cli\n")
    assert unplaced_folders(tmp_path) == ["mlx"]


CIRCLES = [
    "import gradclip.rules.rule",
    "def late():\n    from gradclip.rules import rule",
    "from typing import TYPE_CHECKING\nif not TYPE_CHECKING:\n    import gradclip.rules.rule",
    "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import gradclip.rules.rule",
    "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    pass\nelse:\n    import gradclip.rules.rule",
]


@pytest.mark.parametrize("line", CIRCLES)
def test_a_planted_circle_is_found(tmp_path, line):
    found = circles(copy_with(tmp_path, "rules/norm.py", line))
    assert {"gradclip.rules.norm", "gradclip.rules.rule"} <= set(found)


def test_a_planted_module_of_a_known_name_is_found(tmp_path):
    source = copy_with(tmp_path, "rules/norm.py", "")
    shutil.copy(source / "gradclip/rules/norm.py", source / "gradclip/report/norm.py")
    assert "norm.py" in repeated_file_names(source)
    assert "norm.py" not in repeated_file_names(SOURCE)


def test_a_planted_class_of_a_known_name_is_found(tmp_path):
    source = copy_with(tmp_path, "rules/norm.py", "def late():\n    class Threshold:\n        pass")
    assert "Threshold" in repeated_class_names(source)
    assert "Threshold" not in repeated_class_names(SOURCE)


def test_a_planted_heavy_import_is_found(tmp_path):
    assert heavy_modules(copy_with(tmp_path, "rules/norm.py", "import numpy")) == ["numpy"]


def test_a_planted_slow_import_is_found(tmp_path):
    busy = "import time\nwhile time.process_time() < 0.2: pass"
    assert import_cost(copy_with(tmp_path, "errors.py", busy), attempts=2) > 3.0


def test_a_path_that_does_not_exist_is_found():
    text = "Read `src/gradclip/rules/`, `src/gradclip/nowhere.py`, `decide.py`, `nobody.py` and `engines/cpu*.py`."
    assert missing_paths(text, ROOT) == ["nobody.py", "src/gradclip/nowhere.py"]


def test_a_counter_of_writes_sees_a_write_that_changes_no_bit():
    from doors import written

    p = parameter(3.0)
    assert written(lambda: p.grad.mul_(1.0), p.grad)
    assert not written(lambda: p.grad * 2.0, p.grad)
