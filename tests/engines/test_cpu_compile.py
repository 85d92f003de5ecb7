"""Compiled code is kept on disk where it can be, and where it cannot that is said; what is damaged is made anew."""

import ctypes
import errno
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import llvmlite.binding as llvm
import pytest
from numba import types

from gradclip.engines import choice, cpu_cache, cpu_code
from gradclip.engines.cpu_cache import Kept, ObjectFile
from gradclip.engines.cpu_code import loaded
from gradclip.engines.cpu_compile import CALLABLE, object_of, without_runtime
from gradclip.errors import GradclipWarning

SIGNATURE = types.int64(types.int64)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A folder of its own for what is kept: the only one."""
    cpu_code._say.cache_clear()
    folder = tmp_path / "cache"
    monkeypatch.setattr(cpu_code, "folders", lambda: [folder])
    return folder


@pytest.fixture(scope="module")
def doubled(tmp_path_factory):
    """The object file of a function that gives twice a number."""
    return compiled("def twice(number):\n    return 2 * number\n", "twice")


def compiled(text, name):
    scope = {}
    exec(text, scope)
    return object_of(SIGNATURE, scope[name])


class Twice:
    """The address of the function, and how often it was compiled."""

    def __init__(self, code):
        self.code, self.made = code, 0

    def make(self):
        self.made += 1
        return self.code

    def __call__(self, number):
        self.made = 0
        return ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(loaded("twice", self.make))(number)


@pytest.fixture
def twice(doubled):
    return Twice(doubled)


def kept(folder):
    (file,) = folder.glob("*.code")
    return file


def test_a_function_is_compiled_once(twice, cache):
    assert [(twice(21), twice.made) for _ in range(3)] == [(42, 1), (42, 0), (42, 0)]
    assert sorted(file.suffix for file in cache.iterdir()) == [".code", ".lock"]


def flip(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


DAMAGE = {
    "emptied": lambda content: b"",
    "cut off": lambda content: content[: len(content) // 2],
    "without its end": lambda content: content[:-1],
    "with more at its end": lambda content: content + b"\0",
    "a bit flipped": flip,
    "a bit of the seal flipped": lambda content: bytes([content[0] ^ 1]) + content[1:],
    "another name of the function": lambda content: content.replace(b"twice", b"thrice", 1),
    "zeros": lambda content: bytes(len(content)),
    "another file": lambda content: b"<html>not found</html>",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_made_anew_and_said_once(twice, cache, damage):
    twice(21)
    whole = kept(cache).read_bytes()
    kept(cache).write_bytes(DAMAGE[damage](whole))
    assert kept(cache).read_bytes() != whole
    with pytest.warns(GradclipWarning, match=r"damaged in .*made anew"):
        assert (twice(21), twice.made) == (42, 1)
    assert kept(cache).read_bytes() == whole
    assert (twice(21), twice.made) == (42, 0)  # without a word


def test_what_was_kept_for_another_function_is_not_taken(twice, cache, doubled):
    """Each file has a seal of its own name, so that one that was renamed is as damaged as any."""
    twice(21)
    content = kept(cache).read_bytes()
    kept(cache).rename(kept(cache).with_name(kept(cache).name.replace("twice", "thrice")))
    tripled = compiled("def thrice(number):\n    return 3 * number\n", "thrice")
    assert kept(cache).read_bytes() == content
    with pytest.warns(GradclipWarning, match="damaged"):
        address = loaded("thrice", lambda: tripled)
    assert ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(address)(7) == 21


def sparse(path):
    with open(path, "wb") as file:
        file.truncate(40 << 30)


STRANGERS = {
    "40 GB": sparse,
    "a device without an end": lambda path: path.symlink_to("/dev/zero"),
    "a pipe that nobody writes": os.mkfifo if hasattr(os, "mkfifo") else None,
    "a link to nothing": lambda path: path.symlink_to("nowhere"),
}


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such files")
@pytest.mark.parametrize("stranger", STRANGERS)
def test_what_is_no_file_of_the_engine_is_not_read(twice, cache, stranger):
    twice(21)
    path = kept(cache)
    path.unlink()
    STRANGERS[stranger](path)
    with pytest.warns(GradclipWarning, match=r"damaged in .*made anew"):
        assert (twice(21), twice.made) == (42, 1)
    assert (twice(21), twice.made) == (42, 0)


def test_a_missing_file_is_made_anew_without_a_word(twice, cache):
    twice(21)
    kept(cache).unlink()
    assert [(twice(21), twice.made) for _ in range(2)] == [(42, 1), (42, 0)]


def test_code_for_another_processor_lies_beside_and_that_of_other_sources_goes(twice, cache, monkeypatch):
    def files():
        return sorted(file.name.split(".")[-3:-1] for file in cache.glob("*.code"))

    for source, processor in (("old", "one"), ("old", "two"), ("new", "one")):
        monkeypatch.setattr(cpu_code, "_made_for", lambda name=processor: name)
        monkeypatch.setattr(cpu_code, "_made_from", lambda name=source: name)
        assert (twice(21), twice.made) == (42, 1)
    assert files() == [["one", "new"], ["two", "old"]]


def test_what_code_is_made_from_has_each_source_version_and_setting(monkeypatch):
    of = cpu_code._made_from.__wrapped__
    found = {of()}
    monkeypatch.setattr("numba.__version__", "0.0")
    found.add(of())
    monkeypatch.setattr("llvmlite.__version__", "0.0")
    found.add(of())
    for name in cpu_code.SETTINGS:
        monkeypatch.setenv(f"NUMBA_{name}", "1")
        found.add(of())
    read = Path.read_bytes
    for name in cpu_code.SOURCES:
        monkeypatch.setattr(Path, "read_bytes", lambda path, own=name: read(path) + b" " * (path.name == own))
        found.add(of())
    assert len(found) == 3 + len(cpu_code.SETTINGS) + len(cpu_code.SOURCES)


def test_every_module_that_code_is_made_of_is_one_of_its_sources():
    """Of what the compiled modules import of gradclip, apart from the form of a file and the words of an error."""
    folder = Path(cpu_code.__file__).parent
    for name in ("cpu_kernels", "cpu_table", "cpu_layout", "cpu_compile"):
        text = (folder / f"{name}.py").read_text()
        imported = {line.split()[1] for line in text.splitlines() if line.startswith("from gradclip")}
        known = {f"gradclip.engines.{Path(source).stem}" for source in cpu_code.SOURCES}
        assert imported <= known | {"gradclip.engines.cpu_cache"}


def test_the_processor_is_that_of_this_machine(monkeypatch):
    of = cpu_code._made_for.__wrapped__
    found = {of()}
    monkeypatch.setattr(llvm, "get_host_cpu_name", lambda: "another")
    found.add(of())
    features = llvm.get_host_cpu_features()
    monkeypatch.setattr(
        llvm, "get_host_cpu_features", lambda: type(features)(**{**features, "avx": False, "neon": True})
    )
    found.add(of())
    assert len(found) == 3


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
@pytest.mark.parametrize("when", ["mkdir", "write_bytes", "replace"])
def test_a_disk_that_is_full_or_read_only_ends_no_training(twice, code, when, monkeypatch):
    def refuse(*args, **options):
        raise OSError(code, "said by the disk")

    monkeypatch.setattr(Path, when, refuse)
    with pytest.warns(GradclipWarning, match=r"said by the disk; set NUMBA_CACHE_DIR"):
        assert (twice(21), twice.made) == (42, 1)
    assert (twice(21), twice.made) == (42, 1)  # without a word


def test_a_file_that_may_not_be_read_is_replaced(twice, cache, monkeypatch):
    twice(21)
    read = Path.read_bytes

    def refuse(path):
        monkeypatch.setattr(Path, "read_bytes", read)
        raise PermissionError(errno.EACCES, "not for you")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert (twice(21), twice.made) == (42, 0)  # another look, while nobody else writes


def test_a_draft_of_a_process_that_was_ended_goes(twice, cache):
    twice(21)
    draft = cache / kept(cache).name.replace(kept(cache).name.split(".")[-2] + ".code", "4711.draft")
    draft.write_bytes(b"half")
    kept(cache).unlink()
    twice(21)
    assert not draft.exists()


def test_where_one_folder_cannot_be_written_the_next_one_is(twice, tmp_path, monkeypatch):
    (tmp_path / "a file").write_text("in the way")
    places = [tmp_path / "a file", tmp_path / "second"]
    monkeypatch.setattr(cpu_code, "folders", lambda: places)
    assert [(twice(21), twice.made) for _ in range(2)] == [(42, 1), (42, 0)]
    assert kept(tmp_path / "second")


def test_a_folder_that_can_only_be_read_is_read(twice, cache, tmp_path, monkeypatch):
    twice(21)

    def refuse(*args, **options):
        raise OSError(errno.EROFS, "said by the disk")

    for name in ("mkdir", "write_bytes", "replace", "unlink"):
        monkeypatch.setattr(Path, name, refuse)
    assert (twice(21), twice.made) == (42, 0)


def test_sources_that_cannot_be_read_cost_the_cache_alone(twice, monkeypatch):
    """As those in an archive that modules are imported from."""

    def refuse():
        raise NotADirectoryError(errno.ENOTDIR, "Not a directory")

    monkeypatch.setattr(cpu_code, "_made_from", refuse)
    with pytest.warns(GradclipWarning, match=r"Not a directory; set NUMBA_CACHE_DIR"):
        assert (twice(21), twice.made) == (42, 1)


def test_the_folder_is_the_one_that_numba_is_told_to_use_or_else_there_are_two(monkeypatch, tmp_path):
    numba = sys.modules["numba"]
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "set in numba"))
    (own,) = cpu_cache.folders()
    assert own.parent == tmp_path / "set in numba"
    monkeypatch.delitem(sys.modules, "numba")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "told"))
    assert cpu_cache.folders() == [tmp_path / "told" / own.name]
    (tmp_path / "a file").write_text("in the way")
    beside = [Path(cpu_cache.__file__).parent / "__pycache__", cpu_cache._of_user() / "gradclip" / own.name]
    for said in (str(tmp_path / "a file"), ""):
        monkeypatch.setenv("NUMBA_CACHE_DIR", said)
        assert cpu_cache.folders() == beside


def test_what_llvm_does_not_link_is_called_as_numba_has_it(doubled, monkeypatch):
    unknown = llvm.parse_assembly(
        "declare i64 @nowhere(i64)\ndefine i64 @f(i64 %x) {\n  %y = call i64 @nowhere(i64 %x)\n  ret i64 %y\n}"
    )
    target = llvm.Target.from_triple(llvm.get_process_triple())
    image = target.create_target_machine(jit=True, codemodel="jitdefault").emit_object(unknown)
    with pytest.raises(RuntimeError, match="materialize"):
        cpu_code._load(ObjectFile("f", image))
    made = [ObjectFile("f", image), doubled]  # as an earlier process has kept it, and as this one makes it
    assert loaded("twice", lambda: made.pop(0)) == CALLABLE[doubled.symbol].address
    monkeypatch.setitem(CALLABLE, "f", CALLABLE[doubled.symbol])
    assert loaded("thrice", lambda: ObjectFile("f", image)) == CALLABLE[doubled.symbol].address


RUNTIME = """
define i32 @f() {
  %x = call i32 @numba_gil_ensure()
  ret i32 %x
}
declare i32 @numba_gil_ensure() local_unnamed_addr #1
declare void @NRT_Free(ptr noundef) local_unnamed_addr
declare ptr @PyErr_Clear() local_unnamed_addr
"""


def test_no_code_calls_what_numba_alone_has():
    text = without_runtime(RUNTIME)
    module = llvm.parse_assembly(text)
    module.verify()
    missing = [one.name for one in module.functions if one.is_declaration]
    assert sorted(missing) == ["PyErr_Clear", "llvm.trap"]
    assert without_runtime(text) == text


def started(folder, code, **environment):
    """A process of Python that has this code for a script."""
    script = folder / "script.py"
    script.write_text(textwrap.dedent(code), encoding="utf-8")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, str(script)], cwd=folder, env={**os.environ, **environment}, **pipes)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform has no fork")
def test_processes_that_start_at_once_compile_once(tmp_path):
    """The first one compiles; the others wait for it, and read."""
    process = started(
        tmp_path,
        """
            import os, sys, time
            from pathlib import Path
            from gradclip.engines import cpu_code
            from gradclip.engines.cpu_cache import ObjectFile
            cpu_code.folders = lambda: [Path(sys.argv[0]).with_name("kept")]
            cpu_code._load = len
            made = []
            def make():
                time.sleep(0.3)
                made.append(1)
                return ObjectFile("f", b"code")
            for _ in range(3):
                if not os.fork():
                    cpu_code.loaded("f", make)
                    os.write(1, f"{len(made)} ".encode())
                    os._exit(0)
            for _ in range(3):
                os.wait()
        """,
    )
    out, err = process.communicate(timeout=60)
    assert (sorted(out.split()), err) == (["0", "0", "1"], "")


CLIP = """
    import os, sys, warnings, torch
    for _ in sys.stdin:
        if not os.fork():
            break
        os.wait()
    else:
        sys.exit()
    import gradclip
    from gradclip.torch import Clipper
    weight = torch.nn.Parameter(torch.zeros(2))
    weight.grad = torch.tensor([3.0, 4.0])
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        clipper = Clipper(gradclip.ClipGradByGlobalNorm(1.0))
        clipper.clip_([weight])
    print(weight.grad.tolist(), len(said), clipper.last.engine, "numba" in sys.modules)
"""
"""Each clip is in a fork of a process that has imported what is slow to import, and begins when it is given a line."""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform has no fork")
def test_a_whole_clip_finds_all_kept_without_numba_and_makes_anew_what_is_damaged(tmp_path):
    """The first one finds nothing; a kernel is damaged later."""
    process = started(tmp_path, CLIP, NUMBA_CACHE_DIR=str(tmp_path / "own"))

    def clipped():
        process.stdin.write("\n")
        process.stdin.flush()
        return process.stdout.readline()

    expected = "[0.6000000238418579, 0.800000011920929] {} cpu {}\n"
    assert clipped() == expected.format(0, True)
    assert clipped() == expected.format(0, False)
    (kernel,) = (tmp_path / "own").rglob("cpu_kernels.squares-2.*.code")
    whole = kernel.read_bytes()
    kernel.write_bytes(whole[:100])
    assert clipped() == expected.format(1, True)
    assert kernel.stat().st_size > 1000
    assert clipped() == expected.format(0, False)
    assert process.communicate(timeout=60) == ("", "")


@pytest.mark.parametrize(
    ("name", "code"), [("squares", 0), ("scale", 1), ("powers", 2), ("respond", 3), ("squares", 6), ("scale", 5)]
)
def test_kept_code_does_to_the_bit_what_numba_compiles(name, code, monkeypatch):
    """In the same memory, one after the other."""
    import numpy as np

    from gradclip.engines import cpu_kernels

    made = cpu_kernels.compiled(name, code)
    rng, found = np.random.default_rng(0), []
    start = rng.integers(0, 1 << 15, 4 * 3 * 1000, np.uint16)
    for address in (loaded("kernel", lambda: made), CALLABLE[made.symbol].address):
        memory, out = start.copy(), np.zeros(2000)
        parameter = np.array([2.0, 0.5, 0.5, 1.0]).repeat(500)
        sizes = (3000,) if code < 4 else (3, 1000, 1000, 1)
        words = (memory.ctypes.data, *sizes, out.ctypes.data, parameter.ctypes.data)
        ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * len(words))(address)(*words)
        found.append(memory.tobytes() + out.tobytes())
    assert found[0] == found[1]
    assert found[0] != start.tobytes() + bytes(16000)


def test_numba_is_asked_for_its_settings_where_it_is_imported_or_has_a_file_of_them(tmp_path, monkeypatch):
    numba = sys.modules["numba"]
    assert choice.compiles()
    monkeypatch.setattr(numba.config, "DISABLE_JIT", True)
    assert not choice.compiles()
    monkeypatch.delitem(sys.modules, "numba")
    assert choice.compiles()
    assert "numba" not in sys.modules
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    assert not choice.compiles()
    monkeypatch.delenv("NUMBA_DISABLE_JIT")
    monkeypatch.setitem(sys.modules, "numba", None)
    assert not choice.compiles()


def test_the_file_has_the_name_of_the_function_and_its_code(cache, doubled):
    place = Kept(cache, "twice", "here", "now")
    assert place.read() is None
    place.write(doubled)
    assert place.read() == doubled
