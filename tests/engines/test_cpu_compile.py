"""Compiled code is kept on disk where it can be, and where it cannot that is said; what is damaged is made anew."""

import errno
import importlib.util
import os
import shutil
import subprocess
import sys
import textwrap

import pytest
from numba import types
from numba.core.caching import UserProvidedCacheLocator

from gradclip.engines import cpu_compile, cpu_kernels
from gradclip.engines.cpu_cache import Kept
from gradclip.engines.cpu_compile import compile_c
from gradclip.errors import GradclipWarning

SIGNATURE = types.int64(types.int64)


@pytest.fixture(autouse=True)
def nothing_said():
    cpu_compile._say.cache_clear()


@pytest.fixture
def twice(tmp_path):
    """A function with a file of its own, whose work numba keeps beside it."""
    path = tmp_path / "doubling.py"
    path.write_text("def twice(number):\n    return 2 * number\n", encoding="utf-8")
    spec = importlib.util.spec_from_file_location("doubling", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.twice


def test_a_function_that_cannot_be_kept_is_compiled_all_the_same_and_said():
    scope = {}
    exec("def twice(number): return 2 * number", scope)  # it has no file, so numba has no place to keep it by
    with pytest.warns(GradclipWarning, match="set NUMBA_CACHE_DIR"):
        compiled = compile_c(SIGNATURE, scope["twice"])
    assert compiled.ctypes(21) == 42


def test_a_function_is_compiled_once(twice):
    assert [compile_c(SIGNATURE, twice).cache_hits for _ in range(3)] == [0, 1, 1]
    assert [file.suffix for file in Kept(twice).files] == [".nbc", ".nbi"]


def flip(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


DAMAGE = {
    "emptied": lambda content: b"",
    "cut off": lambda content: content[: len(content) // 2],
    "without its end": lambda content: content[:-1],
    "a bit flipped": flip,
    "zeros": lambda content: bytes(len(content)),
    "another file": lambda content: b"<html>not found</html>",
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
def test_a_damaged_file_is_removed_and_made_anew_and_said_once(twice, suffix, damage):
    compile_c(SIGNATURE, twice)
    (file,) = (file for file in Kept(twice).files if file.suffix == suffix)
    file.write_bytes(DAMAGE[damage](file.read_bytes()))
    with pytest.warns(GradclipWarning, match=r"damaged in .*made anew"):
        assert compile_c(SIGNATURE, twice).ctypes(21) == 42
    assert compile_c(SIGNATURE, twice).cache_hits == 1  # without a word


def sparse(path):
    with open(path, "wb") as file:
        file.truncate(40 << 30)


STRANGERS = {
    "40 GB": sparse,
    "a device without an end": lambda path: path.symlink_to("/dev/zero"),
    "a pipe that nobody writes": os.mkfifo,
}


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such files")
@pytest.mark.parametrize("stranger", STRANGERS)
@pytest.mark.parametrize("suffix", [".nbi", ".nbc", ".sha256"])
def test_what_is_no_file_of_numba_is_not_read(twice, suffix, stranger):
    compile_c(SIGNATURE, twice)
    (path,) = Kept(twice).folder.glob(f"*{suffix}")
    path.unlink()
    STRANGERS[stranger](path)
    with pytest.warns(GradclipWarning, match=r"damaged in .*made anew"):
        assert compile_c(SIGNATURE, twice).ctypes(21) == 42
    assert compile_c(SIGNATURE, twice).cache_hits == 1


def test_a_missing_file_is_made_anew(twice):
    for suffix in (".nbi", ".nbc", ".sha256"):
        compile_c(SIGNATURE, twice)
        for file in Kept(twice).folder.glob(f"*{suffix}"):
            file.unlink()
        cpu_compile._say.cache_clear()
        if suffix == ".sha256":  # a process that ended before it had sealed them leaves them so: nothing to say
            assert compile_c(SIGNATURE, twice).cache_hits == 0
        else:
            with pytest.warns(GradclipWarning, match="damaged"):
                assert compile_c(SIGNATURE, twice).cache_hits == 0


@pytest.mark.parametrize("name", ["save_overload", "load_overload"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_disk_that_is_full_or_read_only_ends_no_training(twice, name, code, monkeypatch):
    """As numba meets it when it saves or reads what it has compiled."""

    def refuse(*args):
        raise OSError(code, "said by the disk")

    monkeypatch.setattr(f"numba.core.caching.FunctionCache.{name}", refuse)
    with pytest.warns(GradclipWarning, match=r"said by the disk; set NUMBA_CACHE_DIR"):
        assert compile_c(SIGNATURE, twice).ctypes(21) == 42
    assert compile_c(SIGNATURE, twice).ctypes(21) == 42  # without a word


def test_a_seal_that_cannot_be_written_ends_no_training(twice):
    Kept(twice)._seal.mkdir()  # there it cannot be written
    with pytest.warns(GradclipWarning, match="set NUMBA_CACHE_DIR"):
        assert compile_c(SIGNATURE, twice).ctypes(21) == 42


def started(tmp_path, code):
    """A process of Python that has this code for a script."""
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(code), encoding="utf-8")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, str(script)], cwd=tmp_path, **pipes)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform has no fork")
def test_processes_that_start_at_once_compile_once(twice, tmp_path):
    """The first one compiles; the others wait for it, and read."""
    process = started(
        tmp_path,
        """
            import os
            from numba import types
            from doubling import twice
            from gradclip.engines.cpu_compile import compile_c
            for _ in range(3):
                if not os.fork():
                    print(compile_c(types.int64(types.int64), twice).cache_hits, flush=True)
                    os._exit(0)
            for _ in range(3):
                os.wait()
        """,
    )
    out, err = process.communicate(timeout=60)
    assert (sorted(out.split()), err) == (["0", "1", "1"], "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform has no fork")
def test_a_whole_clip_works_with_a_damaged_cache(tmp_path, monkeypatch):
    """In processes that begin with nothing compiled, and a copy of what was for this one, of which a kernel is cut off.

    Each is a fork of one that has imported what is slow to import, and clips when it is given a line.
    """
    cache = tmp_path / "cache"
    known = Kept(cpu_kernels.squares.py_func).folder
    own = cache / UserProvidedCacheLocator.get_suitable_cache_subpath(cpu_kernels.__file__)
    shutil.copytree(known, own, ignore=shutil.ignore_patterns("*.pyc", "*.lock", "*.tmp.*"))
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(cache))
    process = started(
        tmp_path,
        """
            import os, sys, warnings, numba, torch
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
                clipper = Clipper(gradclip.ClipGradByGlobalNorm(1.0), engine="cpu")
                clipper.clip_([weight])
            print(weight.grad.tolist(), len(said), clipper.last.engine)
        """,
    )

    def clipped():
        process.stdin.write("\n")
        process.stdin.flush()
        return process.stdout.readline()

    expected = "[0.6000000238418579, 0.800000011920929] {} cpu\n"
    assert clipped() == expected.format(0)
    for kernel in own.glob("cpu_kernels.squares-*.nb[ci]"):
        kernel.write_bytes(kernel.read_bytes()[:100])
    assert clipped() == expected.format(1)
    assert clipped() == expected.format(0)
    assert process.communicate(timeout=60) == ("", "")
