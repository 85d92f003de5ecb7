"""Scripts run in forks of a process that has imported PyTorch, which a new Python needs seconds for; else as by Python.

`run` is what the tests call. Run as a script this file is the server: a fork of it, and nobody else, runs the script.
All processes that run tests share the servers, which listen in one folder: the first that needs one starts it.
"""

from __future__ import annotations

import atexit
import fcntl
import gc
import importlib
import json
import os
import re
import runpy
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import zlib
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest import mock

COMMAND = ["-m", "gradclip"]
BEFOREHAND = (
    "gradclip.doctor", "gradclip.telemetry", "gradclip.torch", "gradclip.watch.replacement", "gradclip.watch.recorder",
    "numpy", "torch._dynamo",
)  # fmt: skip
"""What is imported besides PyTorch: by a watched process, by the first optimizer, or by what is trained."""
LIBRARIES = {"lightning": "lightning", "transformers": "transformers.trainer", "torch": "torch"}
"""What scripts import that takes seconds, and the part of it that takes them.

The first script that imports one leaves a server behind that has it, for the next.
"""
LONGEST = 300


def shared_folder():
    """Where the servers listen: a folder of the first process of this test run, whose end is theirs."""
    if FOLDER not in os.environ:
        os.environ[FOLDER] = tempfile.mkdtemp()
        os.mkfifo(f"{os.environ[FOLDER]}/input")
        os.open(f"{os.environ[FOLDER]}/input", os.O_RDWR)  # and never closed: it ends with this process
        atexit.register(shutil.rmtree, os.environ[FOLDER])
    return os.environ[FOLDER]


FOLDER = "GRADCLIP_FORKED"


def run(arguments, folder, environment):
    """What `python *arguments` in this folder and with this environment answers, captured."""
    place = server(list(arguments[:2]) == COMMAND, environment["PYTHONPATH"])
    with open(os.devnull) as given, piped() as (out, out_end), piped() as (err, err_end):
        with ask(place, arguments, folder, environment, [given, out_end, err_end]) as asked:
            out_end.close()
            err_end.close()
            code, *texts = read_to_the_end(asked, out, err)
        return subprocess.CompletedProcess([sys.executable, *arguments], int(code), *texts)


@contextmanager
def piped():
    """Both ends of a pipe, as files."""
    reader, writer = os.pipe()
    with open(reader, "rb") as out, open(writer, "wb") as end:
        yield out, end


def read_to_the_end(*files):
    """What comes out of each of the files, at the same time."""
    texts, still = dict.fromkeys(files, b""), list(files)
    while still:
        ready, _, _ = select.select(still, [], [], LONGEST)
        if not ready:
            raise TimeoutError("the script does not end")
        for file in ready:
            more = os.read(file.fileno(), 1 << 16)
            texts[file] += more
            if not more:
                still.remove(file)
    return [text.decode() for text in texts.values()]


def server(watched, path):
    """Where a server listens: one for all scripts that are watched, one for the others, started when needed."""
    place = f"{shared_folder()}/{'watched' if watched else 'plain'}-{zlib.crc32(path.encode()):x}"
    with open(f"{shared_folder()}/lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.path.exists(place):
            start_server(place, watched, path)
    return place


def start_server(place, watched, path):
    """A process that serves until its input ends, which it does when the test run ends."""
    os.mkdir(place)
    listeners = [listening(f"{place}/{library}") for library in LIBRARIES]
    numbers = [listener.fileno() for listener in listeners]
    with open(f"{shared_folder()}/input") as given:
        subprocess.Popen(
            [sys.executable, __file__, place, "watched" * watched, *map(str, numbers)],
            env={**os.environ, "PYTHONPATH": path}, stdin=given, stdout=subprocess.DEVNULL, pass_fds=numbers,
        )  # fmt: skip
    for listener in listeners:
        listener.close()


def listening(place):
    """A socket on which requests wait."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(place)
    listener.listen(64)
    return listener


def library_of(arguments, folder):
    """What the script imports that takes the longest."""
    script = Path(folder, arguments[0])
    text = script.read_bytes() if script.suffix == ".py" and script.is_file() else b""
    return next((name for name in LIBRARIES if re.search(rf"^(import|from) {name}\b".encode(), text, re.M)), "torch")


def ask(place, arguments, folder, environment, files):
    """A connection over which the exit code comes when the script has ended."""
    asked = socket.socket(socket.AF_UNIX)
    asked.settimeout(LONGEST)
    asked.connect(f"{place}/{library_of(arguments, folder)}")
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
    """A script or a module in a fork of the server, anything else as ever."""
    forks = command[0] == sys.executable and (command[1] == "-m" or command[1].endswith(".py"))
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


def next_job(listeners):
    """Serve until the input ends; a fork returns from here, with the job it has to do.

    `listeners` are names of libraries and where those who import them ask.
    """
    while True:
        ready, _, _ = select.select([*listeners.values(), sys.stdin], [], [])
        if sys.stdin in ready:
            os._exit(0)
        library = next(name for name, listener in listeners.items() if listener in ready)
        if LIBRARIES[library] not in sys.modules:
            listeners = with_library(library, listeners)
            continue
        asked, _ = listeners[library].accept()
        if not os.fork():
            for listener in listeners.values():
                listener.close()
            return job_of(asked)
        asked.close()
        while ended_child():
            pass


def with_library(library, listeners):
    """Whom to listen to from now on: in a fork, which imports the library, those who want it, and here the others."""
    here = bool(os.fork())
    if not here:
        importlib.import_module(LIBRARIES[library])
        gc.freeze()
    kept = {name: listener for name, listener in listeners.items() if (name != library) == here}
    for name in listeners.keys() - kept.keys():
        listeners[name].close()
    return kept


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
    open_streams()
    tempfile.tempdir = None
    sys.argv = arguments[1:] if arguments[0] == "-m" else arguments
    sys.path[0] = folder if arguments[0] == "-m" else os.path.dirname(os.path.abspath(arguments[0]))
    sys.modules["__main__"] = ModuleType("__main__")
    sys.modules["torch"].default_generator.seed()  # at random; Python's own does so in each fork
    sys.modules["numpy"].random.seed()


def open_streams():
    """Open the streams anew: they are no longer what the server had, of which one can seek and another cannot."""
    for name in ("stdin", "stdout", "stderr"):
        old = getattr(sys, name)
        buffering = 1 if name == "stderr" else -1
        stream = os.fdopen(old.fileno(), old.mode, buffering, old.encoding, old.errors, closefd=False)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


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


def main(watched, listeners):
    ended = SimpleNamespace(code=1)
    atexit.register(end, ended)  # the first to be registered is the last to be called
    import_all(watched)
    job = next_job(listeners)
    become(**job)
    if job["arguments"][:2] == COMMAND:
        from gradclip.watch import launch

        launch.subprocess = SimpleNamespace(Popen=popen)
    elif watched:
        from gradclip.watch.start import watch

        watch(sys.modules["torch"])
    told_to(ended, job["arguments"])


if __name__ == "__main__":
    PLACE, watched, *numbers = sys.argv[1:]
    sockets = [socket.socket(fileno=int(number)) for number in numbers]
    main(bool(watched), dict(zip(LIBRARIES, sockets, strict=True)))
