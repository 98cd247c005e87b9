"""Slimming of an environment before it becomes a layer of an image, as a program of its own: `slim.py DIRECTORY`.

Tests, stubs, headers, NumPy's builders of extensions and the extensions of CEL go, and of every shared library what
only debuggers read. The libraries are cut and not stripped: that needs no binutils, and leaves all that is loaded
where it was.
"""

import shutil
import struct
import sys
from pathlib import Path

UNUSED = ("tests", "numpy/f2py", "numpy/distutils", "cel_expr_python/ext")
FOR_COMPILERS = {".a", ".c", ".cpp", ".h", ".pxd", ".pyi", ".pyx"}
MAGIC = b"\x7fELF\x02\x01"
"""Of 64 bits, little-endian."""
HEADER = struct.Struct("<16xHHIQQQIHHHHHH")
SEGMENT = struct.Struct("<IIQQQQQQ")


def slim(directory: Path) -> None:
    """Removes from an environment what running it does not need."""
    for packages in directory.glob("lib/python*/site-packages"):
        for name in UNUSED:
            for unused in list(packages.rglob(name)):
                shutil.rmtree(unused)
        for file in packages.rglob("*"):
            if file.suffix in FOR_COMPILERS:
                file.unlink()
            elif file.suffix == ".so" or ".so." in file.name:
                cut(file)


def cut(library: Path) -> None:
    """Ends a shared library after its last segment, and with it the table of sections, which no loader reads."""
    with library.open("r+b") as file:
        head = file.read(HEADER.size)
        if not head.startswith(MAGIC):
            return
        kind, machine, version, entry, segments, _, flags, size, segment_size, n_segments, *_ = HEADER.unpack(
            head
        )
        file.seek(segments)
        end = segments + n_segments * segment_size
        for _ in range(n_segments):
            _, _, offset, _, _, length, *_ = SEGMENT.unpack(file.read(segment_size))
            end = max(end, offset + length)
        without_sections = HEADER.pack(
            kind, machine, version, entry, segments, 0, flags, size, segment_size, n_segments, 0, 0, 0
        )
        file.seek(16)
        file.write(without_sections[16:])
        file.truncate(end)


if __name__ == "__main__":
    slim(Path(sys.argv[1]))
