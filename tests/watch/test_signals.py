"""What is sent to `gradclip watch` comes to the script, once; nobody is left behind, and how it ended is told."""

from __future__ import annotations

import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gradclip.telemetry import read_run
from watching import SOURCE

LISTENS = """
import os, signal, sys, time
def heard(number, frame):
    os.write(1, f"heard {signal.Signals(number).name}\\n".encode())  # at once: two processes write here
    ends.append(number)
ends = []
for name in sys.argv[1].split(","):
    if name:
        signal.signal(getattr(signal, name), heard)
print("ready", flush=True)
open("written", "w").write(str(os.getpid()))
os.replace("written", "pid")
wait = time.monotonic() + 20
while not ends and time.monotonic() < wait:
    time.sleep(0.01)
time.sleep(0.3)  # whatever comes twice comes now
sys.exit(7)
"""
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(SOURCE)}
GRADCLIP = [sys.executable, "-m", "gradclip"]
SENT = ["SIGTERM", "SIGHUP", "SIGINT", "SIGUSR1", "SIGUSR2", "SIGQUIT"]


@pytest.fixture(autouse=True)
def heard_here():
    """Whatever started the tests, and ignored Ctrl-C for them, as a shell does in the background."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGQUIT)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def makes_namespaces() -> bool:
    """Whether a process can be made process 1, as in a container."""
    return (
        bool(shutil.which("unshare"))
        and not subprocess.run(["unshare", "-pfr", "true"], capture_output=True).returncode
    )


@pytest.fixture
def start(tmp_path: Path):
    """Start a script that listens to signals, in a session of its own, and wait until it does."""
    (tmp_path / "listens.py").write_text(LISTENS, encoding="utf-8")
    started = []

    def start(names: str, *before: str, command: str = "watch") -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*before, *GRADCLIP, command, "listens.py", names], cwd=tmp_path, env=ENVIRONMENT, text=True,
            start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        started.append(process)
        until = time.monotonic() + 60
        while not (tmp_path / "pid").exists():
            assert time.monotonic() < until, "the script was not started"
            time.sleep(0.01)
        if command != "suggest":  # which keeps what the script prints
            assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()
    if (tmp_path / "pid").exists() and alive(int((tmp_path / "pid").read_text())):
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def gone(pid: int) -> bool:
    """Whether a process has ended, or ends within seconds."""
    until = time.monotonic() + 10
    while alive(pid) and time.monotonic() < until:
        time.sleep(0.02)
    return not alive(pid)


@pytest.mark.parametrize("name", SENT)
def test_a_signal_to_the_watcher_alone_is_heard_by_the_script(start, name):
    process = start(name)
    process.send_signal(getattr(signal, name))
    out, err = process.communicate(timeout=30)
    assert (out, process.returncode) == (f"heard {name}\n", 7), err
    assert "nothing was recorded" in err


@pytest.mark.parametrize("name", SENT)
def test_a_signal_to_the_whole_group_is_heard_once(start, name):
    process = start(name)
    os.killpg(process.pid, getattr(signal, name))
    out, err = process.communicate(timeout=30)
    assert (out, process.returncode) == (f"heard {name}\n", 7), err


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGUSR1", "SIGQUIT"])
def test_a_script_that_a_signal_ends_takes_the_watcher_with_it_and_is_not_left_behind(start, tmp_path, name):
    process = start("")
    process.send_signal(getattr(signal, name))
    process.communicate(timeout=30)
    assert process.returncode == -getattr(signal, name)
    assert gone(int((tmp_path / "pid").read_text()))


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", -signal.SIGTERM), ("SIGINT", 130)])
def test_the_doctor_passes_signals_on_as_well(start, name, code):
    process = start(name, command="doctor")
    process.send_signal(getattr(signal, name))
    out, err = process.communicate(timeout=30)
    assert (out, process.returncode) == (f"heard {name}\n", code)
    assert err.endswith("gradclip: interrupted\n")


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", -signal.SIGTERM), ("SIGINT", 130)])
def test_a_search_by_trial_ends_with_the_training_that_was_ended(start, tmp_path, name, code):
    process = start(name, command="suggest")
    process.send_signal(getattr(signal, name))
    _, err = process.communicate(timeout=30)
    assert process.returncode == code
    assert err.endswith("gradclip: interrupted\n")
    assert gone(int((tmp_path / "pid").read_text()))


@pytest.mark.skipif(not makes_namespaces(), reason="no namespaces can be made here")
@pytest.mark.parametrize(("names", "code"), [("SIGTERM", 7), ("", 128 + signal.SIGTERM)])
def test_as_process_1_of_a_container_it_passes_signals_on(tmp_path, names, code):
    (tmp_path / "listens.py").write_text(LISTENS, encoding="utf-8")
    process = subprocess.Popen(
        ["unshare", "-pfr", *GRADCLIP, "watch", "listens.py", names], cwd=tmp_path, env=ENVIRONMENT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout.readline() == "ready\n"
    (inside,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(inside), signal.SIGTERM)
    out, _ = process.communicate(timeout=30)
    assert (out, process.returncode) == ("heard SIGTERM\n" if names else "", code)


@pytest.mark.parametrize(
    "before", [(), ("sh", "-c", 'trap "" TERM; exec "$@"', "sh")], ids=["a script", "that goes on"]
)
def test_a_watcher_that_is_killed_leaves_no_orphan(start, tmp_path, before):
    process = start("", *before)
    process.kill()
    assert gone(int((tmp_path / "pid").read_text()))


def test_a_script_that_listens_to_what_was_ignored_before_hears_it(start):
    """As a shell starts what it does not wait for: with Ctrl-C ignored."""
    process = start("SIGINT", "sh", "-c", 'trap "" INT; exec "$@"', "sh")
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=30)
    assert (out, process.returncode) == ("heard SIGINT\n", 7)


def test_a_script_that_does_not_listen_ignores_what_was_ignored_before(start):
    process = start("SIGTERM", "sh", "-c", 'trap "" INT; exec "$@"', "sh")
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=30)[0] == "heard SIGTERM\n"


def test_a_script_under_nohup_does_not_hear_that_its_terminal_is_gone(start):
    process = start("SIGTERM", "nohup")
    process.send_signal(signal.SIGHUP)
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=30)[0] == "heard SIGTERM\n"


@pytest.mark.skipif(shutil.which("timeout") is None, reason="there is no timeout")
def test_under_timeout_the_script_hears_once(start):
    """It sends the signal to its child, and then to the whole group."""
    process = start("SIGTERM", "timeout", "6")
    out, _ = process.communicate(timeout=30)
    assert (out, process.returncode) == ("heard SIGTERM\n", 124)


@pytest.mark.parametrize("sender", ["the terminal", "a process"])
def test_an_interrupt_in_a_terminal_is_heard_once(tmp_path, sender):
    """Ctrl-C comes to script and watcher; what an editor sends to the process that it started comes to the watcher."""
    (tmp_path / "listens.py").write_text(LISTENS, encoding="utf-8")
    pid, terminal = pty.fork()
    if not pid:
        os.chdir(tmp_path)
        os.execve(sys.executable, [*GRADCLIP, "watch", "listens.py", "SIGINT"], ENVIRONMENT)
    seen = b""
    while b"ready" not in seen:
        seen += os.read(terminal, 1000)
    if sender == "the terminal":
        os.write(terminal, b"\x03")
    else:
        os.kill(pid, signal.SIGINT)
    try:
        while chunk := os.read(terminal, 1000):
            seen += chunk
    except OSError:  # the terminal is closed when its last process has ended
        pass
    assert seen.count(b"heard SIGINT") == 1
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7


def test_a_training_that_is_asked_to_end_is_summed_up(tmp_path):
    """It hears the signal, saves and ends in its own way; what it recorded is there, and said."""
    script = """
import signal, sys, time, torch
p = torch.nn.Parameter(torch.ones(2))
optimizer = torch.optim.SGD([p], lr=0.1)
def save(number, frame):
    print("saved", flush=True)
    sys.exit(3)
signal.signal(signal.SIGTERM, save)
for step in range(100000):
    p.grad = torch.ones(2)
    optimizer.step()
    time.sleep(0.001)
    if step == 70:
        print("ready", flush=True)
"""
    (tmp_path / "train.py").write_text(script, encoding="utf-8")
    process = subprocess.Popen(
        [*GRADCLIP, "watch", "--out", "run", "train.py"], cwd=tmp_path, env=ENVIRONMENT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout.readline() == "ready\n"
    process.terminate()
    out, err = process.communicate(timeout=60)
    assert (out, process.returncode) == ("saved\n", 3)
    steps = len(read_run(tmp_path / "run"))
    assert steps > 70
    assert f"gradclip: {steps} steps of SGD" in err


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_under_torchrun_each_process_hears_and_none_is_left(tmp_path, name):
    """torchrun passes the signal on to its two processes, and ends when they have."""
    own = LISTENS.replace('"written"', 'f"{os.getpid()}"').replace('"pid"', 'f"pid{os.getpid()}"')
    (tmp_path / "listens.py").write_text(own, encoding="utf-8")
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "listens.py", name]
    process = subprocess.Popen(
        [*GRADCLIP, "watch", *torchrun], cwd=tmp_path, env=ENVIRONMENT, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    until = time.monotonic() + 60
    while len(found := list(tmp_path.glob("pid*"))) < 2:
        assert time.monotonic() < until, "the processes were not started"
        time.sleep(0.01)
    process.send_signal(getattr(signal, name))
    out, err = process.communicate(timeout=60)
    assert out.count(f"heard {name}") == 2, err
    assert process.returncode != 0
    assert all(gone(int(pid.read_text())) for pid in found)
