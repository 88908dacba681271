"""FreeSurfer's MGH files, as far as NSD's surface betas need them.

A file is a 284-byte header, then big-endian values with the vertices of a frame side by side, then
a short footer that is not needed. Only what NSD publishes is accepted: version 1, float32, one
value per vertex and frame, that is dimensions (V, 1, 1, T). fsaverage5 is the first 10,242 vertices
of every frame of an fsaverage file, so a few byte ranges of it are all that has to be fetched, and
with a header of their own they are a valid, smaller MGH file again.

Format: https://surfer.nmr.mgh.harvard.edu/fswiki/FsTutorial/MghFormat
"""

import math
import os
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from nsd_pipeline.errors import InvalidFileError

HEADER_BYTES: Final = 284
MAX_FOOTER_BYTES: Final = 64
"""Longest footer accepted: scan parameters are 20 bytes, and some writers add a few tags."""

_VALUE_BYTES: Final = 4
_VERSION: Final = 1
_FLOAT32: Final = 3
_TYPE_NAMES: Final = {0: "uint8", 1: "int32", 4: "int16", 10: "uint16"}
_FIXED_FIELDS: Final = struct.Struct(">6i")
"""Version, width, height, depth, frames, type."""
_GEOMETRY: Final = struct.Struct(">ih3f9f3f")
"""Degrees of freedom, whether the rest is valid, voxel size, direction cosines, centre."""
_CONFORMED_GEOMETRY: Final = (0, 1, 1, 1, 1, -1, 0, 0, 0, 0, -1, 0, 1, 0, 0, 0, 0)
"""FreeSurfer's own default orientation; vertices have none."""
_GZIP_MOST: Final = 1032
"""How many times as long unpacked content can be: as far as deflate can go."""
_GZIP_MAGIC: Final = b"\x1f\x8b"

_FETCH_AGAIN: Final = "delete it and fetch it again from NSD's bucket."
_NOT_NSD: Final = (
    "compare it with the file of that name on NSD's bucket; surface betas there are uncompressed "
    "MGH with big-endian float32 values."
)


@dataclass(frozen=True, slots=True)
class MghHeader:
    """Size of an MGH file with one float32 for each of V vertices and T frames.

    Its dimensions are (V, 1, 1, T). In NSD's betas, a frame is a trial.
    """

    n_vertices: int
    n_frames: int

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame."""
        return self.n_vertices * _VALUE_BYTES

    @property
    def data_end(self) -> int:
        """Byte after the last frame, where the footer starts."""
        return HEADER_BYTES + self.n_frames * self.frame_bytes


def parse_header(raw: bytes, *, name: str) -> MghHeader:
    """Read an MGH header, a file's first 284 bytes, and check that it is of NSD's kind.

    Here and below, `name` is what an error calls the file. An InvalidFileError if the header is cut
    short, little-endian, compressed, of another version or value type, or has dimensions other than
    (V, 1, 1, T).
    """
    if raw.startswith(_GZIP_MAGIC):
        raise InvalidFileError(
            f"{name} is gzip-compressed (MGZ), so frames cannot be read from it one by one.",
            next_step="use the uncompressed .mgh file of NSD's bucket.",
        )
    if len(raw) < HEADER_BYTES:
        raise InvalidFileError(
            f"{name} is truncated: it has {len(raw)} of the {HEADER_BYTES} bytes of an MGH header.",
            next_step=_FETCH_AGAIN,
        )
    version, width, height, depth, n_frames, value_type = _FIXED_FIELDS.unpack_from(raw)
    if raw.startswith(struct.pack("<i", _VERSION)):
        problem = "is a little-endian MGH file; the format is big-endian"
    elif version != _VERSION:
        problem = f"is not an MGH file of version 1: it starts with {raw[:4].hex(' ')}"
    elif value_type != _FLOAT32:
        found = _TYPE_NAMES.get(value_type, "unknown")
        problem = f"holds values of type {value_type} ({found}), not 3 (float32)"
    elif width < 1 or height != 1 or depth != 1 or n_frames < 1:
        dimensions = (width, height, depth, n_frames)
        problem = f"has dimensions {dimensions}, not (vertices, 1, 1, frames)"
    else:
        return MghHeader(n_vertices=width, n_frames=n_frames)
    raise InvalidFileError(f"{name} {problem}.", next_step=_NOT_NSD)


def check_size(header: MghHeader, n_bytes: int, *, name: str) -> None:
    """Check that a file is as long as its header says.

    An InvalidFileError if `n_bytes`, the file's length, is too short for the data, or longer than
    any footer of `MAX_FOOTER_BYTES` explains.
    """
    size = f"{header.n_vertices} vertices and {header.n_frames} frames"
    if n_bytes < header.data_end:
        raise InvalidFileError(
            f"{name} is truncated: its header says {size}, which takes {header.data_end} bytes, "
            f"but it has {n_bytes}.",
            next_step=_FETCH_AGAIN,
        )
    if n_bytes > header.data_end + MAX_FOOTER_BYTES:
        raise InvalidFileError(
            f"{name} does not match its header: {size} take {header.data_end} bytes and a footer "
            f"of at most {MAX_FOOTER_BYTES}, but it has {n_bytes}.",
            next_step=_NOT_NSD,
        )


def check_vertices(header: MghHeader, n_vertices: int, *, name: str) -> None:
    """Check that a file is on the mesh it is said to be on; an InvalidFileError if not."""
    if header.n_vertices != n_vertices:
        raise InvalidFileError(
            f"{name} has {header.n_vertices} vertices, not {n_vertices}: it is on another surface.",
            next_step="check that it comes from the folder of the space that was asked for "
            "(fsaverage has 163842 vertices a hemisphere).",
        )


def check_frames(header: MghHeader, n_frames: int, *, name: str) -> None:
    """Check that a file has a frame for each trial of the design; an InvalidFileError if not."""
    if header.n_frames != n_frames:
        raise InvalidFileError(
            f"{name} has {header.n_frames} frames, but the experiment design has {n_frames} trials "
            "in this session.",
            next_step="check that the file and nsd_expdesign.mat are of the same release and that"
            " the file is the one of this session; if one was replaced, make experiment_design"
            " again.",
        )


def frame_ranges(header: MghHeader, n_vertices: int) -> list[tuple[int, int]]:
    """Where the first `n_vertices` of every frame of a whole file lie.

    Offset and length in bytes for each frame, in order; a ValueError if the file has fewer
    vertices.
    """
    if not 1 <= n_vertices <= header.n_vertices:
        raise ValueError(f"cannot take {n_vertices} of {header.n_vertices} vertices")
    length = n_vertices * _VALUE_BYTES
    starts = range(HEADER_BYTES, header.data_end, header.frame_bytes)
    return [(start, length) for start in starts]


def header_bytes(n_vertices: int, n_frames: int) -> bytes:
    """Header of a float32 MGH file with these dimensions: 284 bytes."""
    fixed = _FIXED_FIELDS.pack(_VERSION, n_vertices, 1, 1, n_frames, _FLOAT32)
    return (fixed + _GEOMETRY.pack(*_CONFORMED_GEOMETRY)).ljust(HEADER_BYTES, b"\0")


def read_vertices(
    path: str | os.PathLike[str],
    n_vertices: int,
    *,
    n_frames: int | None = None,
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Read the first vertices of every frame, and nothing else of the file: (T, n) float32.

    Works alike on a whole fsaverage file and on one that has these vertices only. One positioned
    read a frame goes straight into the result, which is all the memory this takes. Values are in
    native byte order, NaN where the file has NaN. They go to `out`, if that is given; its rows may
    be apart, so that each hemisphere can fill its half of one array.

    An InvalidFileError if the file is not the kind of MGH file NSD publishes, is truncated, has
    fewer vertices, or has another number of frames than the session's `n_frames`, if that is given;
    a ValueError if `out` has another shape, type or memory layout.
    """
    name = os.fspath(path)
    with Path(path).open("rb", buffering=0) as file:
        descriptor = file.fileno()
        header = parse_header(os.pread(descriptor, HEADER_BYTES, 0), name=name)
        check_size(header, os.fstat(descriptor).st_size, name=name)
        if n_frames is not None:
            check_frames(header, n_frames, name=name)
        if header.n_vertices < n_vertices:
            check_vertices(header, n_vertices, name=name)
        ranges = frame_ranges(header, n_vertices)
        values = _output(out, (header.n_frames, n_vertices))
        for row, (offset, length) in zip(values, ranges, strict=True):
            _read_into(descriptor, row, offset, length, name=name)
    return values


def read_any(path: Path) -> NDArray[Any]:
    """Values of an MGH or MGZ file of any shape and type: labels, transforms.

    Raises whatever nibabel trips over in a damaged file, see :func:`nsd_pipeline.errors.parsing`; a
    ValueError if the header claims more values than the file can hold.
    """
    from nibabel.freesurfer import MGHImage
    from nibabel.openers import ImageOpener

    # Before nibabel reserves memory for what the header alone claims, counted in int32.
    with ImageOpener(path) as file:
        shape = struct.unpack(">4i", file.read(20)[4:])
    if min(shape) < 1 or math.prod(shape) > _GZIP_MOST * path.stat().st_size:
        raise ValueError(f"it is too short for values of shape {shape}")
    return np.asarray(MGHImage.from_filename(path).dataobj)


def check_no_empty_frame(values: NDArray[np.floating], *, name: str) -> None:
    """Check that no frame of values (T, V) is of zeros only, as one that never arrived would be.

    NSD has none: single values are 0 at most by chance, and what is missing is NaN. An
    InvalidFileError names the first.
    """
    # The first 64 values settle nearly every frame; reading all of a mapped file takes long.
    empty = [frame for frame, row in enumerate(values) if not (row[:64].any() or row.any())]
    if empty:
        raise InvalidFileError(
            f"{name} has no data in {len(empty)} of {len(values)} trials: all {values.shape[1]}"
            f" values of trial {empty[0]} (counted from 0) are exactly 0.",
            next_step="run this step again, which fetches the file anew; a mirror's copy is"
            " incomplete and has to be copied again.",
        )


def _output(out: NDArray[np.float32] | None, shape: tuple[int, int]) -> NDArray[np.float32]:
    """`out` if it can take values of that shape, or a new array."""
    if out is None:
        return np.empty(shape, np.float32)
    if out.shape != shape or out.dtype != np.float32 or not out[0].flags.c_contiguous:
        raise ValueError(
            f"out must be native float32 of shape {shape} with contiguous rows, "
            f"not {out.dtype} of shape {out.shape}"
        )
    return out


def _read_into(
    descriptor: int, row: NDArray[np.float32], offset: int, length: int, *, name: str
) -> None:
    """Fill one contiguous row from a byte offset of the file, in native byte order."""
    target = row.view(np.uint8).data
    done = 0
    while done < length:  # a network file system may return less than was asked for
        n_read = os.preadv(descriptor, [target[done:]], offset + done)
        if n_read == 0:
            raise InvalidFileError(
                f"{name} was truncated while it was being read.", next_step=_FETCH_AGAIN
            )
        done += n_read
    if sys.byteorder == "little":
        row.byteswap(inplace=True)  # while the row is still in the processor's cache
