"""What lies in a wheel and a source archive is looked through: `python release/archives.py dist`.

A wheel has the package, its licence and nothing else; a source archive what git tracks and nothing else. What is wrong
is said in lines, and ends with 1.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from email.parser import HeaderParser
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).parent.parent
OF_A_PACKAGE = {".py", ".typed", ".css", ".js", ".jinja"}
"""The kinds of files that the package consists of: pictures are of the docs."""
OF_NO_RELEASE = (".ci/",)
"""What git tracks and no test reads."""
LARGEST = {"*.whl": 1.0, "*.tar.gz": 4.0}
"""The most MB of an archive: more would be something that nobody meant to put in."""


def main(folder: Path) -> int:
    (wheel,), (source,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    wrong = [*wrong_in_wheel(names_in_wheel(wheel), tracked()), *wrong_in_metadata(metadata_of(wheel))]
    wrong += [*wrong_in_source(names_in_source(source), tracked()), *too_large(folder)]
    for line in wrong:
        print(line, file=sys.stderr)
    for archive, names in ((wheel, names_in_wheel(wheel)), (source, names_in_source(source))):
        print(f"{archive.name}: {len(names)} files, {archive.stat().st_size / 1e6:.2f} MB")
    return 1 if wrong else 0


def tracked() -> set[str]:
    """The files that git tracks."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    return {name for name in listed.stdout.split("\0") if name}


def names_in_wheel(path: Path) -> set[str]:
    with zipfile.ZipFile(path) as archive:
        return set(archive.namelist())


def names_in_source(path: Path) -> set[str]:
    """The files of a source archive, without the folder that all of them lie in."""
    with tarfile.open(path) as archive:
        return {str(PurePosixPath(*PurePosixPath(one.name).parts[1:])) for one in archive.getmembers() if one.isfile()}


def metadata_of(path: Path) -> dict[str, str]:
    """The headers of a wheel's metadata; of one that stands there several times the last."""
    with zipfile.ZipFile(path) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return dict(HeaderParser().parsestr(archive.read(name).decode()).items())


def wrong_in_wheel(names: set[str], known: set[str]) -> list[str]:
    """What a wheel has too much and what it lacks."""
    package = {name for name in names if not name.split("/")[0].endswith(".dist-info")}
    wanted = {name.removeprefix("src/") for name in known if name.startswith("src/gradclip/")}
    wrong = [f"the wheel has {name}, which is no part of the package" for name in sorted(package - wanted)]
    wrong += [f"the wheel lacks {name}" for name in sorted(wanted - package)]
    strange = [name for name in sorted(package) if PurePosixPath(name).suffix not in OF_A_PACKAGE]
    wrong += [f"the wheel has {name}, a kind of file that no package needs" for name in strange]
    needed = ("gradclip/py.typed", "/licenses/LICENSE", "/entry_points.txt")
    return wrong + [f"the wheel lacks {end}" for end in needed if not any(name.endswith(end) for name in names)]


def wrong_in_metadata(headers: dict[str, str]) -> list[str]:
    """What an index would show wrongly."""
    needed = ("Summary", "License-Expression", "Requires-Python", "Keywords", "Classifier", "Description-Content-Type")
    return [f"the metadata has no {name}" for name in needed if not headers.get(name)]


def wrong_in_source(names: set[str], known: set[str]) -> list[str]:
    """What a source archive has too much and what it lacks."""
    wanted = {name for name in known if not name.startswith(OF_NO_RELEASE)} | {"PKG-INFO"}
    wrong = [
        f"the source archive has {name}, which git does not track or a release leaves out"
        for name in sorted(names - wanted)
    ]
    return wrong + [f"the source archive lacks {name}" for name in sorted(wanted - names)]


def too_large(folder: Path) -> list[str]:
    return [
        f"{path.name} has {path.stat().st_size / 1e6:.1f} MB, more than {most:g}"
        for pattern, most in LARGEST.items()
        for path in folder.glob(pattern)
        if path.stat().st_size > most * 1e6
    ]


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
