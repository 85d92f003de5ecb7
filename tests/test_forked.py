"""A fork of a process that has PyTorch answers as a new Python does."""

import json
from dataclasses import replace

import pytest

import forked
from gradclip.telemetry import read_run
from gradclip.telemetry.runs import folders_of
from watching import SCRIPTS, SOURCE, python, watch

TELLS = """
import json, os, sys, tempfile
threads = __import__("torch").get_num_threads() if sys.argv[1] == "--lr" else 0  # a new Python needs seconds for it
own = {name: str(value) for name, value in globals().items() if name in ("__name__", "__file__")}
told = [sys.argv, sys.path, own, os.getcwd(), tempfile.gettempdir(), threads]
print(json.dumps([*told, sys.stdin.read(), sorted(os.environ.items()), sys.stdout.line_buffering]))
print("to the other", file=sys.stderr)
"""


@pytest.mark.parametrize("call", [["script.py", "--lr", "3"], ["-m", "script", "a b"]])
def test_a_fork_sees_what_a_new_python_sees(call, tmp_path):
    (tmp_path / "script.py").write_text(TELLS, encoding="utf-8")
    fork, new = (python(*call, folder=tmp_path, cold=cold, TMPDIR=str(tmp_path), MARK="é") for cold in (False, True))
    assert vars(fork) == vars(new)
    assert ["MARK", "é"] in json.loads(fork.stdout)[-2]


def test_no_two_forks_have_the_same_random_numbers(tmp_path):
    script = "import random, numpy, torch\nprint(random.random(), numpy.random.rand(), torch.rand(1).item())\n"
    (tmp_path / "script.py").write_text(script, encoding="utf-8")
    first, second = (python("script.py", folder=tmp_path).stdout.split() for _ in range(2))
    assert len(first) == 3
    assert not set(first) & set(second)


ENDS = {
    "well": "print('well')",
    "an exit code": "import sys\nprint('waits')\nsys.exit(5)",
    "words": "import sys\nsys.exit('why it ends')",
    "nothing said": "import sys\nsys.exit()",
    "a signal": "import os\nos.kill(os.getpid(), 9)",
    "what comes last": "import atexit\natexit.register(print, 'last')\nprint('first')",
    "a thread": "import threading\nthreading.Timer(0.05, print, ['late']).start()",
}


@pytest.mark.parametrize("how", ENDS)
def test_a_fork_ends_as_a_new_python_does(how, tmp_path):
    (tmp_path / "script.py").write_text(ENDS[how], encoding="utf-8")
    fork, new = (python("script.py", folder=tmp_path, cold=cold) for cold in (False, True))
    assert vars(fork) == vars(new)


def test_an_error_ends_a_fork_as_it_ends_a_new_python(tmp_path):
    (tmp_path / "script.py").write_text("print('before')\nraise ValueError('wrong')\n", encoding="utf-8")
    fork, new = (python("script.py", folder=tmp_path, cold=cold) for cold in (False, True))
    assert (fork.returncode, fork.stdout) == (new.returncode, new.stdout) == (1, "before\n")
    assert fork.stderr.splitlines()[-2:] == new.stderr.splitlines()[-2:]


def written(path):
    """What is in the folder of a run, but for the time."""
    run = read_run(path)
    about = {key: value for key, value in run.about.items() if key != "starts"}
    return (path / "calls.jsonl").read_text(encoding="utf-8"), about, [replace(event, time=0.0) for event in run]


TWO = f"""
import runpy, sys
sys.path.insert(0, {str(SCRIPTS)!r})
for name in ("twice", "before_unscale"):
    runpy.run_path({str(SCRIPTS)!r} + f"/{{name}}.py")
"""


def test_a_fork_is_watched_as_a_new_python_is(tmp_path):
    """Of two scripts, one after the other, each of which clips in a wrong way of its own."""
    runs, answers = {}, {}
    for cold in (False, True):
        folder = tmp_path / str(cold)
        folder.mkdir()
        (folder / "script.py").write_text(TWO, encoding="utf-8")
        answers[cold] = vars(watch("--out", "run", "script.py", folder=folder, cold=cold))
        runs[cold] = [written(place) for place in folders_of(folder / "run")]
    assert answers[False] == answers[True]
    assert runs[False] == runs[True]
    assert [len(events) for _, _, events in runs[True]] == [60, 60]


def test_a_library_is_there_beforehand_for_the_scripts_that_import_it_alone(tmp_path):
    for first, there in (("import lightning", "True"), ("import json", "False")):
        script = f"import sys\nprint('lightning' in sys.modules)\n{first}\n"
        (tmp_path / "script.py").write_text(script, encoding="utf-8")
        assert python("script.py", folder=tmp_path).stdout == f"{there}\n"


def test_a_server_is_started_once(monkeypatch):
    place = forked.server(False, str(SOURCE))
    monkeypatch.setattr(forked, "start_server", None)
    assert forked.server(False, str(SOURCE)) == place
