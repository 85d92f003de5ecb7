"""What the CPU engine compiled, kept on disk by numba: one process at a time, and under a seal.

A file that was cut off, or in which a bit was flipped, would be run as machine code. So beside the files of a function
lies a digest of them; where it is not theirs, they go, and the function is compiled anew.
"""

from __future__ import annotations

import glob
import hashlib
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from numba.core.caching import FunctionCache

try:
    import fcntl
except ModuleNotFoundError:  # on Windows; there two processes may compile the same at once, which is slower only
    fcntl = None  # type: ignore[assignment]  # the module has no stand-in

MOST = 64 << 20
"""In bytes: what is larger is none of these files, which have some 50 kB."""


class Kept:
    """The files that numba keeps for `body`; `RuntimeError` where it finds no directory for them."""

    def __init__(self, body: Callable[..., object]) -> None:
        self.folder = Path(FunctionCache(body).cache_path)
        module, line = Path(inspect.getfile(body)).stem, body.__code__.co_firstlineno
        self._stem = f"{module}.{body.__qualname__}-{line}.py{sys.version_info[0]}{sys.version_info[1]}{sys.abiflags}"
        self._seal = self.folder / f"{self._stem}.sha256"

    @property
    def files(self) -> list[Path]:
        """An index, and the code for each signature."""
        return sorted(self.folder.glob(f"{glob.escape(self._stem)}*.nb[ci]"))

    @contextmanager
    def alone(self) -> Iterator[None]:
        """While this process alone reads and writes the files; the others wait, and find what it has compiled."""
        with open(self.folder / f"{self._stem}.lock", "w", encoding="ascii") as file:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def remove_damaged(self) -> bool:
        """Remove files that are not as they were sealed; whether there were any."""
        files = self.files
        if not files or (all(map(is_plain, files)) and self._sealed() == digest(files)):
            return False
        for file in files:
            file.unlink(missing_ok=True)
        damaged = self._seal.exists()  # where there is none, a process ended before it had sealed them
        self._seal.unlink(missing_ok=True)
        return damaged

    def seal(self) -> None:
        """Note what the files are now."""
        self._seal.write_bytes(digest(self.files))

    def _sealed(self) -> bytes | None:
        """What the files were when they were sealed."""
        return self._seal.read_bytes() if is_plain(self._seal) else None


def is_plain(path: Path) -> bool:
    """Whether this is a file that may be read as a whole, and no pipe, device or directory."""
    return path.is_file() and path.stat().st_size <= MOST


def digest(files: Sequence[Path]) -> bytes:
    """The SHA-256 of the names, the lengths and the contents of files, in hexadecimal."""
    found = hashlib.sha256()
    for file in files:
        content = file.read_bytes()
        found.update(f"{file.name} {len(content)}\n".encode())
        found.update(content)
    return found.hexdigest().encode()
