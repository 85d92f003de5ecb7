"""Where the machine code of the CPU engine is kept: a file for each function, under a seal (decision 0052).

Whatever lies in such a file is run. So it begins with a digest of all that follows it and of its own name, which has in
it what the code was made from and for; a file that does not fit its digest is not read, and is made anew.
"""

from __future__ import annotations

import glob
import hashlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

try:
    import fcntl
except ModuleNotFoundError:  # on Windows; there two processes may compile the same at once, which is slower only
    fcntl = None  # type: ignore[assignment]  # the module has no stand-in

MOST = 64 << 20
"""In bytes: what is larger is none of these files, which have some 10 kB."""

SEAL = 64
"""The characters of a SHA-256 in hexadecimal."""


class ObjectFile(NamedTuple):
    """Machine code as LLVM writes it, and the name that the function has in it."""

    symbol: str
    image: bytes


class Kept:
    """The file for the function `name` in a folder. What it was made for and from stands in its name: for another
    processor another file lies beside it, and of the same processor only the last one stays."""

    def __init__(self, folder: Path, name: str, processor: str, source: str) -> None:
        self.folder, self._stem = folder, f"{name}.{sys.implementation.cache_tag}.{processor}"
        self.path = folder / f"{self._stem}.{source}.code"

    def read(self) -> ObjectFile | None:
        """What was kept; None where nothing was. `ValueError` if it is not as it was sealed."""
        if not self.path.exists() and not self.path.is_symlink():
            return None
        # A pipe, a device and a directory are none of these files, nor is what would fill the memory.
        content = self.path.read_bytes() if self.path.is_file() and self.path.stat().st_size <= MOST else b""
        seal, body = content[:SEAL], content[SEAL:]
        if seal != self._seal(body):
            raise ValueError(f"{self.path} is damaged")
        symbol, _, image = body.partition(b"\n")
        return ObjectFile(symbol.decode(), image)

    def write(self, found: ObjectFile) -> None:
        """Keep an object file; whoever reads sees all of it or nothing. What was there for older sources goes."""
        self.folder.mkdir(parents=True, exist_ok=True)
        body = found.symbol.encode() + b"\n" + found.image
        draft = self.folder / f"{self._stem}.{os.getpid()}.draft"
        try:
            draft.write_bytes(self._seal(body) + body)
            draft.replace(self.path)
        finally:
            draft.unlink(missing_ok=True)
        for old in self.folder.glob(f"{glob.escape(self._stem)}.*"):
            if old.suffix in (".code", ".draft") and old != self.path:
                with suppress(OSError):
                    old.unlink()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """While this process alone makes the file; the others wait, and find it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / f"{self._stem}.lock", "w", encoding="ascii") as file:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _seal(self, body: bytes) -> bytes:
        return hashlib.sha256(self.path.name.encode() + b"\n" + body).hexdigest().encode()


def folders() -> list[Path]:
    """The folders for what is kept, in the order in which they are tried: that for the bytecode of these modules, and
    the user's for caches. Or the one alone that numba is told to use, if it can be made.
    """
    here = Path(__file__).resolve().parent
    own = f"gradclip-{hashlib.sha256(os.fsencode(here)).hexdigest()[:16]}"  # another installation has other sources
    user, named = _of_user(), _named()
    found = [here / "__pycache__", *([user / "gradclip" / own] if user is not None else [])]
    if named is not None:
        with suppress(OSError):
            (named / own).mkdir(parents=True, exist_ok=True)
            return [named / own]
    return found


def _named() -> Path | None:
    """What NUMBA_CACHE_DIR says, or whoever has set it in numba."""
    numba = sys.modules.get("numba")
    said = os.environ.get("NUMBA_CACHE_DIR", "") if numba is None else numba.config.CACHE_DIR
    return Path(said) if said else None


def _of_user() -> Path | None:
    """The folder in which this system has the caches of a user; None for one without a home."""
    if sys.platform == "win32":
        return Path(os.environ["LOCALAPPDATA"]) if "LOCALAPPDATA" in os.environ else None
    if os.environ.get("XDG_CACHE_HOME"):
        return Path(os.environ["XDG_CACHE_HOME"])
    try:
        return Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache")
    except RuntimeError:
        return None
