"""The tests of `gradclip.keras` are red where a bug is planted in it."""

import importlib.util
import shutil
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def loaded(name):
    """A module beside this one, which is in no package."""
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


keras_tests = loaded("test_keras")

CLIP = "return self._clipping.clipped(grads)"
UPDATE = "update = partial(super().apply, grads, trainable_variables)"
EARLY = (
    "self._clipping.meet(trainable_variables or self._trainable_variables); grads = self._clipping.clipped(grads); "
    + UPDATE
)
SAVED = "name: optimizer.add_variable("
UNSAVED = (
    "name: (optimizer.add_variable if not name.startswith(MEMORY) else __import__('functools').partial("
    "__import__('keras').Variable, 'zeros', trainable=False))("
)
IN_ORDER = "OrderedDict(zip(self._names, arrays, strict=True))"
BUGS = {
    "accumulated gradients are clipped before they are summed up": (
        "torch",
        {"clipped.py": [(CLIP, "return grads"), (UPDATE, EARLY)]},
        "case_accumulated_gradients_are_clipped_once_for_each_step",
    ),
    "the loss scale is in what is clipped": (
        "torch",
        {"clipped.py": [(CLIP, "return grads"), (UPDATE, EARLY)]},
        "case_a_loss_scale_is_divided_out_before",
    ),
    "what is remembered follows the order of names": (
        "jax",
        {"jax_step.py": [(IN_ORDER, "dict(zip(self._names, arrays, strict=True))")]},
        "case_weights_go_into_a_network_of_other_names",
    ),
    "a step that is left out has moved the weights": (
        "jax",
        {"jax_step.py": [("return [*own, *weights]", "return own")]},
        "case_a_skipped_step_leaves_no_trace",
    ),
    "a NaN stays in the sum of gradients": (
        "torch",
        {"clipped.py": [("total.assign(keras.ops.zeros_like(total.value))", "total.assign(total.value * 0)")]},
        "case_accumulated_zeros_after_a_nan_begin_anew",
    ),
    "the memory is not in the variables of the optimizer": (
        "torch",
        {"kept.py": [(SAVED, UNSAVED)]},
        "case_files_have_the_rule_and_its_memory",
    ),
}


def planted(folder, files):
    """The sources with these texts replaced."""
    source = folder / "src"
    shutil.copytree(keras_tests.SOURCE, source, ignore=shutil.ignore_patterns("__pycache__"))
    for name, changes in files.items():
        place = source / "gradclip" / "keras" / name
        text = place.read_text()
        for right, wrong in changes:
            assert right in text, right
            text = text.replace(right, wrong)
        place.write_text(text)
    return source


@pytest.mark.parametrize("bug", BUGS)
def test_a_case_is_red(bug, tmp_path):
    backend, files, case = BUGS[bug]
    done = keras_tests.python(backend, HERE / "keras_cases.py", case, source=planted(tmp_path, files))
    assert "AssertionError" in keras_tests.answer(done)[case]


def test_going_on_without_the_memory_is_red(tmp_path):
    source = planted(tmp_path, {"kept.py": [(SAVED, UNSAVED)]})
    keras_tests.interrupted("torch", tmp_path, source=source)
    with pytest.raises(AssertionError):
        keras_tests.assert_goes_on("torch", tmp_path, "resumed", source=source)
