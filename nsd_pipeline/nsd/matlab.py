"""Arrays of numbers out of MATLAB files of version 5 (and 7, which are the same, packed).

Not by scipy: its parser can be made to crash the process by a damaged file, and reserves whatever
memory a file claims to need. NSD's design is four arrays of numbers, which is little to ask.

Format: https://www.mathworks.com/help/pdf_doc/matlab/matfile_format.pdf
"""

import struct
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_HEADER_BYTES: Final = 128
_MATRIX: Final = 14
_COMPRESSED: Final = 15
_DTYPES: Final = {
    1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8",
}  # fmt: skip
"""Kinds of elements that hold numbers; whole ones may be stored in a smaller kind than theirs."""
_NUMERIC_CLASSES: Final = range(6, 16)
"""Kinds of arrays that hold numbers: not cells, structures, text or sparse ones."""
_TAG_BYTES: Final = 8


class MatlabError(ValueError):
    """A file is not a MATLAB file of version 5, or says something that cannot be."""


def read_arrays(path: Path, names: Collection[str], *, largest: int) -> dict[str, NDArray[Any]]:
    """Read arrays of numbers by their names, as far as they are there.

    `largest` is how many bytes a packed array may have when it is unpacked. A MatlabError if the
    file or one of these arrays cannot be read.
    """
    content = memoryview(path.read_bytes())
    version = bytes(content[_HEADER_BYTES - 4 : _HEADER_BYTES])
    if version not in (b"\x00\x01IM", b"\x01\x00MI"):
        raise MatlabError("its header is that of another format or version")
    order = "<" if version.endswith(b"IM") else ">"
    arrays = {}
    for kind, element in _elements(content[_HEADER_BYTES:], order):
        matrix = element
        if kind == _COMPRESSED:
            ((kind, matrix),) = _elements(_unpacked(element, largest), order)
        if kind == _MATRIX:
            name, values = _array(matrix, order, names)
            if values is not None:
                arrays[name] = values
    return arrays


def _elements(content: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """Kind and bytes of each element."""
    place = 0
    while place < len(content):
        if len(content) - place < _TAG_BYTES:
            raise MatlabError("it is cut off")
        kind, n_bytes = struct.unpack_from(f"{order}II", content, place)
        if kind >> 16:  # up to four bytes lie within the tag itself
            kind, n_bytes, start = kind & 0xFFFF, kind >> 16, place + 4
            stop = place + _TAG_BYTES
        else:
            start = place + _TAG_BYTES
            # All but packed elements are filled up to a multiple of 8 bytes.
            stop = start + n_bytes + (0 if kind == _COMPRESSED else -n_bytes % 8)
        if start + n_bytes > min(stop, len(content)):
            raise MatlabError("an element is longer than what holds it")
        yield kind, content[start : start + n_bytes]
        place = stop


def _unpacked(element: memoryview, largest: int) -> memoryview:
    unpack = zlib.decompressobj()
    try:
        content = unpack.decompress(element, largest + 1)
    except zlib.error as error:
        raise MatlabError(f"it cannot be unpacked: {error}") from error
    if len(content) > largest:
        raise MatlabError(f"it has a field of more than {largest / 1e6:.0f} MB")
    if not unpack.eof:
        raise MatlabError("it is cut off")
    return memoryview(content)


def _array(
    matrix: memoryview, order: str, names: Collection[str]
) -> tuple[str, NDArray[Any] | None]:
    """Name of an array, and its values if they are wanted."""
    parts = list(_elements(matrix, order))
    if len(parts) < 3:  # an empty element, which MATLAB allows
        return "", None
    (_, flags), (_, dimensions), (_, encoded) = parts[:3]
    name = bytes(encoded).decode("ascii", errors="replace")
    if name not in names:
        return name, None
    is_numeric = bool(flags) and flags[0 if order == "<" else 3] in _NUMERIC_CLASSES
    if len(parts) != 4 or not is_numeric:
        raise MatlabError(f"{name} holds no (real) numbers")
    kind, stored = parts[3]
    shape = np.frombuffer(dimensions, f"{order}i4").tolist()
    if kind not in _DTYPES:
        raise MatlabError(f"{name} holds values of the unknown kind {kind}")
    return name, np.frombuffer(stored, order + _DTYPES[kind]).reshape(shape, order="F")
