"""`gradclip doctor --versions`: what is here, which engine clips, and why another does not."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata, util
from pathlib import Path

import pytest

import gradclip
from effort import only_long
from gradclip.cli import main
from gradclip.doctor import engine_trial, installation
from gradclip.doctor.installation import engine_as_text, engines, engines_of, installation_as_text, processor

SOURCE = Path(gradclip.__file__).parents[1]
X86 = """
processor\t: 0
model name\t: A processor @ 2 GHz
flags\t\t: fpu vme avx avx2 fma sse sse4_2 avx512f hypervisor amx_tile
"""
ARM = "processor\t: 0\nFeatures\t: fp asimd crc32 asimddp sve bf16\n"


@pytest.mark.parametrize(
    ("text", "name", "vectors"),
    [
        (X86, "A processor @ 2 GHz", ["amx_tile", "avx", "avx2", "avx512f", "fma", "sse4_2"]),
        (ARM, None, ["asimd", "asimddp", "bf16", "sve"]),
    ],
)
def test_the_processor_and_its_vectors_are_read(tmp_path, text, name, vectors):
    file = tmp_path / "cpuinfo"
    file.write_text(text)
    found, flags = processor(file)
    assert flags == vectors
    assert found == name if name else found


def test_a_system_that_does_not_say_its_processor_has_a_name_all_the_same(tmp_path):
    name, vectors = processor(tmp_path / "nowhere")
    assert name
    assert vectors == []


def test_versions_are_those_of_the_packages_and_nothing_is_imported_for_them():
    code = (
        "import sys; from gradclip.doctor.installation import installation; found = installation()\n"
        "print(found.packages['numpy'], [name for name in ('numpy', 'torch', 'jax', 'paddle') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(SOURCE)}, capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{metadata.version('numpy')} []\n"


def test_the_engines_of_torch_clip_where_they_can():
    found = {engine: (works, said) for engine, works, said in engine_trial.in_torch()}
    assert found["cpu"][0]
    assert found["torch"][0]
    assert found["triton"][0] or "CUDA" in found["triton"][1]


@pytest.mark.parametrize(
    ("norm", "said"),
    [
        (lambda: 2.5, "it clips the norm 5 to 2.5, and not to 1"),
        (lambda: float("nan"), "it clips the norm 5 to nan, and not to 1"),
        (lambda: util.find_spec("gradclip.nowhere.at_all"), "ModuleNotFoundError: No module named 'gradclip.nowhere'"),
    ],
)
def test_an_engine_that_clips_wrongly_or_fails_does_not_work(norm, said):
    assert engine_trial.tried("cpu", norm, "fine") == ("cpu", False, said)


@pytest.fixture
def planted(tmp_path, monkeypatch):
    """Puts a package called jax, with this text, before the one that is installed, for the process of the trial."""

    def plant(text):
        (tmp_path / "jax").mkdir()
        (tmp_path / "jax" / "__init__.py").write_text(text)
        monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{SOURCE}")

    return plant


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("raise ImportError('libnvrtc.so.12: cannot open')", "jax cannot be imported: ImportError: libnvrtc.so.12: c"),
        ("import os; os.abort()", "jax was ended by signal 6"),
        ("import time; time.sleep(60)", "jax did not answer within 0.5 seconds"),
    ],
)
def test_a_framework_that_is_broken_is_said_with_its_error(planted, monkeypatch, text, said):
    planted(text)
    if "sleep" in text:
        monkeypatch.setattr(installation, "LONGEST", 0.5)
    (found,) = engines_of("jax")
    assert (found.framework, found.engine, found.works) == ("jax", "jax", False)
    assert found.said.startswith(said)


def test_what_an_engine_lacks_is_said_with_what_to_install(monkeypatch):
    monkeypatch.setattr(util, "find_spec", lambda name: None)
    assert [engine_as_text(engine) for engine in engines_of("torch")] == [
        f'engine     torch: {name:9}no     torch is not installed: pip install "gradclip[torch]"'
        for name in installation.ENGINES["torch"]
    ]
    assert installation.answer_of("cpu", {"cpu": (True, "")}, "") == (
        False,
        'it needs numba: pip install "gradclip[cpu]"',
    )


def test_text_and_document_say_the_same(monkeypatch, capsys):
    monkeypatch.setattr(installation, "outcome_of", lambda framework: ({"torch": (True, "CPU")}, f"{framework} broke"))
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    assert main(["doctor", "--versions"]) == 0
    text = capsys.readouterr().out
    assert main(["doctor", "--versions", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert text.startswith(f"gradclip   {gradclip.__version__}\nPython     {document['python']}\nplatform ")
    assert f"numpy {document['packages']['numpy']}" in " ".join(text.split())
    assert "setting    NUMBA_DISABLE_JIT=1" in text
    lines = [line for line in text.splitlines() if line.startswith("engine")]
    assert lines == [engine_as_text(installation.FoundEngine(**engine)) for engine in document["engines"]]
    assert [engine["works"] for engine in document["engines"]] == [False, True, False, False, False, False]


def test_it_is_about_no_script(capsys):
    assert main(["doctor", "--versions", "train.py"]) == 2
    assert capsys.readouterr().err == (
        "gradclip doctor: --versions is about this Python and not about train.py: leave one out\n"
    )


@only_long
def test_every_engine_that_is_installed_here_clips():
    found = list(engines())
    assert [engine.engine for engine in found if not engine.works] == (
        ["triton"] if not util.find_spec("triton") else []
    )
    assert installation_as_text(installation.installation())
