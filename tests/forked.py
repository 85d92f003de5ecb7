"""Scripts run in forks of a process that has imported PyTorch, which a new Python needs seconds for; else as by Python.

`run` is what the tests call. Run as a script this file is the server: a fork of it, and nobody else, runs the script.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import runpy
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest import mock

COMMAND = ["-m", "gradclip"]
BEFOREHAND = (
    "gradclip.doctor", "gradclip.telemetry", "gradclip.torch", "gradclip.watch.replacement", "gradclip.watch.recorder",
    "numpy", "torch._dynamo",
)  # fmt: skip
"""What is imported besides PyTorch: by a watched process, by the first optimizer, or by what is trained."""
LONGEST = 300


def run(arguments, folder, environment):
    """What `python *arguments` in this folder and with this environment answers, captured."""
    place = server(list(arguments[:2]) == COMMAND, environment["PYTHONPATH"])
    with open(os.devnull) as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        with ask(place, arguments, folder, environment, [given, out, err]) as asked:
            code = answer_of(asked)
        texts = [(file.seek(0), file.read().decode())[1] for file in (out, err)]
    return subprocess.CompletedProcess([sys.executable, *arguments], code, *texts)


def server(watched, path):
    """Where the server listens: one for all scripts that are watched, one for the others, started when needed."""
    with _starting:
        if (watched, path) not in _servers:
            _servers[watched, path] = Server(watched, path)
    return _servers[watched, path].place


class Server:
    """A process that serves until its input ends, which it does when this process ends."""

    def __init__(self, watched, path):
        self.place = f"{tempfile.mkdtemp()}/socket"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(self.place)
            listener.listen(64)
            self._process = subprocess.Popen(
                [sys.executable, __file__, self.place, str(listener.fileno()), "watched" * watched],
                env={**os.environ, "PYTHONPATH": path}, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                pass_fds=[listener.fileno()],
            )  # fmt: skip


_servers = {}
_starting = threading.Lock()


def ask(place, arguments, folder, environment, files):
    """A connection over which the exit code comes when the script has ended."""
    asked = socket.socket(socket.AF_UNIX)
    asked.settimeout(LONGEST)
    asked.connect(place)
    job = {"arguments": list(arguments), "folder": str(folder), "environment": environment}
    with tempfile.TemporaryFile() as written:
        written.write(json.dumps(job).encode())
        written.flush()
        socket.send_fds(asked, [b"."], [*(file.fileno() for file in files), written.fileno()])
    return asked


def answer_of(asked):
    """The exit code, once it is there."""
    return int(asked.recv(64))


class Process:
    """A script that the fork of a command has started: what `run_watched` needs of a `subprocess.Popen`."""

    def __init__(self, command, env, stdout, stderr, preexec_fn=None):
        files = [sys.stdin, stdout or sys.stdout, stderr or sys.stderr]
        self._asked = ask(PLACE, command[1:], os.getcwd(), env, files)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._asked.close()

    def wait(self):
        return answer_of(self._asked)


def popen(command, **options):
    """A script in a fork of the server, anything else as ever."""
    forks = command[0] == sys.executable and command[1].endswith(".py")
    return Process(command, **options) if forks else subprocess.Popen(command, **options)


def import_all(watched):
    """Import what scripts import; where they are watched, as a watched process does, but for the recorder."""
    if watched:
        from gradclip.watch import start

        with mock.patch.object(start, "watch"):  # each fork has a recorder of its own
            start.wait_for_torch()
    for name in ("torch", *BEFOREHAND):
        importlib.import_module(name)
    from gradclip.torch.clipper import cpu_engine

    cpu_engine()
    gc.freeze()  # no fork has to look through, and so to copy, what is here


def next_job(listener):
    """Serve until the input ends; a fork returns from here, with the job it has to do."""
    while True:
        ready, _, _ = select.select([listener, sys.stdin], [], [])
        if sys.stdin in ready:
            shutil.rmtree(os.path.dirname(PLACE))
            os._exit(0)
        asked, _ = listener.accept()
        if not os.fork():
            return job_of(asked)
        asked.close()
        while ended_child():
            pass


def ended_child():
    """The number of a fork that has ended, if one has."""
    try:
        return os.waitpid(-1, os.WNOHANG)[0]
    except ChildProcessError:
        return 0


def job_of(asked):
    """In the fork: read the job, and leave it to another fork, the end of which this one tells."""
    _, (*files, written), _, _ = socket.recv_fds(asked, 1, 4)
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        asked.sendall(str(os.waitstatus_to_exitcode(status)).encode())
        os._exit(0)
    for number, file in enumerate(files):
        os.dup2(file, number)
    for file in [*files, asked.fileno()]:
        os.close(file)
    asked.detach()
    with os.fdopen(written, "rb") as file:
        file.seek(0)
        return json.load(file)


def become(arguments, folder, environment):
    """Be as a new Python is that was called so."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    tempfile.tempdir = None
    sys.argv = arguments[1:] if arguments[0] == "-m" else arguments
    sys.path[0] = folder if arguments[0] == "-m" else os.path.dirname(os.path.abspath(arguments[0]))
    sys.modules["__main__"] = ModuleType("__main__")
    sys.modules["torch"].default_generator.seed()  # at random; Python's own does so in each fork
    sys.modules["numpy"].random.seed()


def execute(arguments):
    """Run a module, or a file as the main one, which lives until the process ends."""
    if arguments[0] == "-m":
        return runpy._run_module_as_main(arguments[1])
    main, file = vars(sys.modules["__main__"]), os.path.abspath(arguments[0])
    main.update(__file__=file, __builtins__=__builtins__)
    return exec(compile(Path(file).read_bytes(), file, "exec", dont_inherit=True), main)


def end(ended):
    """The end of the process, without taking PyTorch apart, which takes longer than a small script does."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(ended.code)


def told_to(ended, arguments):
    """Run what the arguments say, and note the exit code."""
    ended.code = 1  # of an exception
    try:
        execute(arguments)
    except SystemExit as error:
        ended.code = error.code if isinstance(error.code, int) else int(error.code is not None)
        raise
    ended.code = 0


def main(watched, listener):
    ended = SimpleNamespace(code=1)
    atexit.register(end, ended)  # the first to be registered is the last to be called
    import_all(watched)
    job = next_job(listener)
    listener.close()
    become(**job)
    if job["arguments"][:2] == COMMAND:
        from gradclip.watch import launch

        launch.subprocess = SimpleNamespace(Popen=popen)
    elif watched:
        from gradclip.watch.start import watch

        watch(sys.modules["torch"])
    told_to(ended, job["arguments"])


if __name__ == "__main__":
    PLACE = sys.argv[1]
    main(bool(sys.argv[3]), socket.socket(fileno=int(sys.argv[2])))
