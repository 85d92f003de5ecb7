"""How a watched process begins: the finder, names, places in code, and the thresholds that were asked for."""

import argparse
import dataclasses
import os
import subprocess
import sys
import types
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from gradclip.telemetry import read_run
from gradclip.watch.call_site import CLIPS, caller, package_of
from gradclip.watch.import_hook import ImportHook
from gradclip.watch.parameter_names import parameter_names
from gradclip.watch.run_writer import claim_folder
from gradclip.watch.script_thresholds import thresholds, thresholds_of_script, unseen_clips
from watching import SOURCE, python


def test_a_module_is_told_of_once_it_is_whole(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "waited_for.py").write_text("value = 3\n", encoding="utf-8")
    (tmp_path / "another.py").write_text("value = 4\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    told: list[int] = []
    monkeypatch.setattr(
        sys, "meta_path", [ImportHook({"waited_for": lambda one: told.append(one.value)}), *sys.meta_path]
    )
    __import__("another")
    assert told == []
    __import__("waited_for")
    assert told == [3]


def test_a_module_that_is_nowhere_is_nowhere(monkeypatch) -> None:
    monkeypatch.setattr(sys, "meta_path", [ImportHook({"nowhere_at_all": print}), *sys.meta_path])
    with pytest.raises(ModuleNotFoundError):
        __import__("nowhere_at_all")
    assert isinstance(ImportHook({"json": print}).find_spec("json"), ModuleSpec)


def test_parameters_have_the_names_of_the_outermost_module() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))
    wrapped = torch.nn.DataParallel(model)
    names = parameter_names(torch.optim.SGD(wrapped.parameters(), lr=0.1))
    assert list(names.values()) == ["0.weight", "0.bias", "1.weight", "1.bias"]


def test_a_module_that_is_half_made_is_passed_over() -> None:
    class Half(torch.nn.Module):
        def __init__(self) -> None:
            pass

    half, model = Half(), torch.nn.Linear(2, 1, bias=False)
    assert list(parameter_names(torch.optim.SGD(model.parameters(), lr=0.1)).values()) == ["weight"]
    assert half is not None


def test_names_of_two_models_differ_and_a_lonely_parameter_has_its_place() -> None:
    first, second = torch.nn.Linear(2, 1, bias=False), torch.nn.Linear(2, 1, bias=False)
    lonely = torch.nn.Parameter(torch.zeros(1))
    names = parameter_names(torch.optim.SGD([first.weight, second.weight, lonely], lr=0.1))
    assert list(names.values()) == ["weight", "weight (2)", "group 0, parameter 2"]


def test_the_caller_is_the_line_of_the_user() -> None:
    line = sys._getframe().f_lineno + 1
    where, by = caller()
    assert where.endswith(f"test_start.py:{line}")
    assert by == ""


@pytest.mark.parametrize(
    ("line", "own"),
    [
        ("accelerator.clip_grad_norm_(model.parameters(), 1.0)", True),
        ("loss_scaler(loss, optimizer, clip_grad=1.0)", True),
        ("self.clip_gradients(optimizer, gradient_clip_val=0.5)", True),
        ("Trainer(gradient_clip_val=0.5).fit(model, data)", False),
    ],
)
def test_a_line_that_calls_a_library_in_order_to_clip(line: str, own: bool) -> None:
    assert bool(CLIPS.search(line)) is own


def test_whose_a_file_is() -> None:
    assert package_of(torch.__file__) == "torch"
    assert package_of(pytest.__file__) == "pytest"
    assert package_of(types.__file__) == "python"
    assert package_of(sys.modules["gradclip"].__file__) == "gradclip"
    assert package_of("<frozen runpy>") == "python"
    assert package_of(__file__) == ""


THRESHOLDS = ["max_norm", "max_grad_norm", "clip_norm", "grad_clip", "GRAD_CLIP", "gradient_clip_val", "clip_grad_norm"]


@pytest.mark.parametrize("name", THRESHOLDS)
def test_a_name_that_says_threshold(name: str) -> None:
    assert thresholds(name, 0.5) == [(name, 0.5)]


@pytest.mark.parametrize(
    "name",
    ["clip", "clip_value", "clip_range", "clip_skip", "grad_norm", "eclipse", "norm", "max_length"],
)
def test_a_name_that_says_something_else(name: str) -> None:
    assert thresholds(name, 0.5) == []


@pytest.mark.parametrize("value", [0, 0.0, -1.0, True, None, "1.0"])
def test_a_threshold_is_a_number_above_zero(value) -> None:
    assert thresholds("max_norm", value) == []


@dataclasses.dataclass
class Config:
    lr: float = 0.1
    grad_clip: float = 0.7


@pytest.mark.parametrize(
    "settings",
    [Config(), {"lr": 0.1, "grad_clip": 0.7}, argparse.Namespace(grad_clip=0.7), SimpleNamespace(grad_clip=0.7)],
)
def test_settings_hold_thresholds(settings) -> None:
    assert thresholds("config", settings) == [("grad_clip", 0.7)]


def test_what_the_optimizer_has_among_its_settings_is_its_own_to_apply() -> None:
    max_grad_norm = 1.5
    optimizer = torch.optim.SGD([{"params": [torch.zeros(1)], "max_grad_norm": max_grad_norm}], lr=0.1)
    assert thresholds_of_script(optimizer) == []


def test_what_may_clip_where_nobody_sees_it() -> None:
    parameters = [torch.nn.Parameter(torch.ones(2)) for _ in range(3)]
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    assert unseen_clips(optimizer) == []
    optimizer.param_groups[0]["max_grad_norm"] = 0.0  # off
    assert unseen_clips(optimizer) == []
    optimizer.param_groups[0]["max_grad_norm"] = 1.5
    for parameter in parameters[:2]:
        parameter.register_hook(lambda gradient: gradient.clamp(-0.1, 0.1))
    assert unseen_clips(optimizer) == [
        "the optimizer itself (its setting max_grad_norm=1.5)",
        "what the script hooked to 2 of the parameters",
    ]


def test_what_a_running_function_was_asked_for() -> None:
    max_grad_norm = 1.5
    assert {"name": "max_grad_norm", "value": max_grad_norm} in [
        {"name": one["name"], "value": one["value"]} for one in thresholds_of_script()
    ]


def test_each_run_has_a_folder_of_its_own(tmp_path: Path) -> None:
    places = [claim_folder(tmp_path / "run") for _ in range(3)]
    assert places == [tmp_path / "run", tmp_path / "run" / "run-2", tmp_path / "run" / "run-3"]


TRAINS = """
import torch
optimizer = torch.optim.SGD([weight := torch.nn.Parameter(torch.ones(2))], lr=0.1)
for _ in range(4):
    weight.grad = torch.full((2,), 3.0)
    torch.nn.utils.clip_grad_norm_([weight], 1.0)
    optimizer.step()
"""
ANOTHER_HOOK = """
import importlib.machinery, sys
class Hook:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            for finder in sys.meta_path:
                if finder is not self and (spec := finder.find_spec(name, path, target)) is not None:
                    return spec
sys.meta_path.insert(0, Hook())
"""
IMPORTS_PYTORCH = """
import os
if "GRADCLIP_WATCH" in os.environ:
    import torch
"""
AT_THE_START = {
    "PyTorch is imported, and a package is not there": f"{IMPORTS_PYTORCH}\nimport there_is_no_such_package",
    "another hook asks all finders, and it fails": f"{ANOTHER_HOOK}\nraise RuntimeError('no')",
}
"""Each has two of them, since a new process needs seconds for PyTorch."""


@pytest.mark.parametrize("start", AT_THE_START)
def test_what_the_user_does_at_the_start_of_python_is_no_obstacle(start: str, tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(AT_THE_START[start], encoding="utf-8")
    (tmp_path / "train.py").write_text(TRAINS, encoding="utf-8")
    command = [sys.executable, "-m", "gradclip", "watch", "--out", "run", "train.py"]
    paths = os.pathsep.join([str(tmp_path / "site"), str(SOURCE)])
    environment = {**os.environ, "PYTHONPATH": paths}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    run = read_run(tmp_path / "run")
    assert [event.clipped for event in run] == [True] * 4
    assert "Error in sitecustomize" in done.stderr


def test_what_was_imported_before_the_watch_began_is_watched(tmp_path: Path) -> None:
    """As by a `.pth` of the environment, which comes before everything else."""
    (tmp_path / "train.py").write_text(f"{BEGINS}{TRAINS}", encoding="utf-8")
    done = python("train.py", folder=tmp_path, GRADCLIP_WATCH=str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    assert [event.clipped for event in read_run(tmp_path / "run")] == [True] * 4


BEGINS = """
import torch
from gradclip.watch.start import wait_for_torch
wait_for_torch()
"""
