"""What a release consists of agrees: the version, the changelog, the citation, the workflows, and its scripts."""

import re
import sys
import tomllib
from importlib.util import module_from_spec, spec_from_file_location

import pytest
import yaml

import gradclip
from structure import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z][a-z-]*):", MAKEFILE, re.MULTILINE))


def script(name):
    """A script of a release, as a module."""
    sys.path.insert(0, str(ROOT / "release"))
    try:
        spec = spec_from_file_location(name, ROOT / "release" / f"{name}.py")
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(ROOT / "release"))
    return module


def test_the_version_is_one_in_the_package_the_changelog_and_the_citation():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    heading = re.search(r"^## (\S+) \((\d{4}-\d\d-\d\d)\)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert re.fullmatch(r"\d+\.\d+\.\d+", gradclip.__version__)
    assert "version" in PROJECT["dynamic"]
    assert {citation["version"], heading[1]} == {gradclip.__version__}
    assert str(citation["date-released"]) == heading[2]
    assert citation["license"] == PROJECT["license"]


def steps_of(document):
    return [step for job in document["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_calls_targets_of_make_that_exist_and_nothing_else(path):
    document = yaml.safe_load(path.read_text())
    commands = [step["run"] for step in steps_of(document) if "run" in step]
    several = [target for job in document["jobs"].values() for target in matrix(job).get("target", [])]
    called = [word for line in commands for word in line.split()[1:] if not re.match(r"\$\{\{|matrix|\}\}", word)]
    assert commands
    assert all(line.split()[0] == "make" for line in commands)
    assert set(called) | set(several) <= TARGETS


def matrix(job):
    return job.get("strategy", {}).get("matrix", {})


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_pins_what_it_uses_and_asks_for_no_more_rights_than_it_needs(path):
    document = yaml.safe_load(path.read_text())
    used = [step["uses"] for step in steps_of(document) if "uses" in step]
    assert used
    assert all(re.search(r"@(v\d+|release/v\d+)$", action) for action in used)
    assert document["permissions"] == {"contents": "read"}
    assert all("timeout-minutes" in job for job in document["jobs"].values())


def test_the_pythons_that_are_tested_are_those_that_are_promised():
    document = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())
    assert matrix(document["jobs"]["test"])["python"] == script("pythons").promised()
    assert PROJECT["requires-python"] == f">={script('pythons').promised()[0]}"


def test_every_form_for_an_issue_asks_for_the_versions():
    forms = [path for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.stem != "config"]
    asked = [
        [part["attributes"].get("description", "") for part in yaml.safe_load(f.read_text())["body"]] for f in forms
    ]
    assert len(asked) == 2
    assert all(any("gradclip doctor --versions" in text for text in texts) for texts in asked)


def test_hooks_before_a_commit_run_what_make_check_runs():
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    entries = [hook["entry"] for hook in repository["hooks"]]
    lines = re.search(r"^check: .*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)[1].replace("$(BIN)", ".venv/bin")
    assert repository["repo"] == "local"
    assert all(re.sub(" --force-exclude", "", entry) in lines for entry in entries)


def test_each_package_that_users_install_has_one_lowest_version():
    found = script("minimums").minimums(PROJECT)
    assert {"torch", "numpy", "numba", "jax", "optax", "paddlepaddle"} <= set(found)
    with pytest.raises(AssertionError, match="two lowest versions"):
        script("minimums").minimums({"optional-dependencies": {"a": ["x>=1"], "b": ["x>=2"]}})
    with pytest.raises(AssertionError, match="has no lowest version"):
        script("minimums").minimums({"optional-dependencies": {"a": ["x"]}})


def test_what_does_not_belong_into_an_archive_is_named():
    archives = script("archives")
    known = {"src/gradclip/__init__.py", "src/gradclip/py.typed", "docs/demo.png", ".ci/run"}
    about = {"gradclip-1.dist-info/entry_points.txt", "gradclip-1.dist-info/licenses/LICENSE"}
    package = {"gradclip/__init__.py", "gradclip/py.typed"}
    assert archives.wrong_in_wheel(package | about, known) == []
    assert archives.wrong_in_wheel(package | about | {"gradclip/x.png"}, known) == [
        "the wheel has gradclip/x.png, which is no part of the package",
        "the wheel has gradclip/x.png, a kind of file that no package needs",
    ]
    assert archives.wrong_in_wheel(about | {"gradclip/__init__.py"}, known)[0] == "the wheel lacks gradclip/py.typed"
    assert archives.wrong_in_source((known - {".ci/run"}) | {"PKG-INFO"}, known) == []
    assert archives.wrong_in_source(known | {"notes.txt"}, known) == [
        "the source archive has .ci/run, which git does not track or a release leaves out",
        "the source archive has notes.txt, which git does not track or a release leaves out",
        "the source archive lacks PKG-INFO",
    ]


def test_a_python_is_found_by_what_it_says_and_not_by_its_name(tmp_path, monkeypatch):
    pythons = script("pythons")
    for name, says in (("python3.99", "exit 127"), ("python3", "echo 3.99"), ("python", "echo 3.98")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{says}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert pythons.python_of("3.99") == str(tmp_path / "python3")
    assert pythons.python_of("3.97") is None
