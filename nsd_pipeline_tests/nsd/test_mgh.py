import os
import struct
import tracemalloc
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nsd_pipeline.errors import InvalidFileError
from nsd_pipeline.nsd import mgh
from nsd_pipeline_tests.nsd.mgh_files import write_mgh

SIZES = st.integers(1, 2**31 - 1)
FRAMES = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=8),
    elements=st.floats(width=32, allow_subnormal=False),
)


def header(version=1, width=50, height=1, depth=1, n_frames=3, value_type=3, order=">"):
    fields = struct.pack(order + "6i", version, width, height, depth, n_frames, value_type)
    return fields.ljust(284, b"\0")


@pytest.fixture
def data():
    values = np.random.default_rng(0).normal(size=(7, 50)).astype(np.float32)
    values[:, 4] = np.nan  # NSD marks vertices without data so
    return values


@pytest.fixture
def path(tmp_path, data):
    write_mgh(tmp_path / "lh.betas_session01.mgh", data)
    return tmp_path / "lh.betas_session01.mgh"


@given(SIZES, SIZES)
def test_header_round_trip(n_vertices, n_frames):
    raw = mgh.header_bytes(n_vertices, n_frames)
    assert len(raw) == 284
    assert mgh.parse_header(raw, name="x") == mgh.MghHeader(n_vertices, n_frames)


NEARLY_HEADERS = st.builds(
    header,
    version=st.integers(0, 2),
    width=st.integers(-1, 2),
    height=st.integers(0, 2),
    depth=st.integers(0, 2),
    n_frames=st.integers(-1, 2),
    value_type=st.integers(2, 4),
    order=st.sampled_from("><"),
)


@given(st.binary(max_size=400) | NEARLY_HEADERS)
def test_any_bytes_are_a_header_or_a_clear_error(raw):
    fields = struct.unpack(">6i", raw[:24]) if len(raw) >= 284 else ()
    match fields:
        case (1, width, 1, 1, n_frames, 3) if width > 0 and n_frames > 0:
            assert mgh.parse_header(raw, name="x.mgh") == mgh.MghHeader(width, n_frames)
        case _:
            with pytest.raises(InvalidFileError, match=r"^x\.mgh .*\nNext step: "):
                mgh.parse_header(raw, name="x.mgh")


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (header(order="<"), "little-endian"),
        (header(version=2), "not an MGH file of version 1"),
        (b"\x1f\x8b\x08", "gzip-compressed"),
        (header()[:200], "truncated: it has 200 of the 284 bytes"),
        (b"", "truncated: it has 0 of the 284 bytes"),
        (header(value_type=4), "type 4 (int16), not 3 (float32)"),
        (header(value_type=77), "type 77 (unknown)"),
        (header(height=2), "dimensions (50, 2, 1, 3)"),
        (header(depth=0), "dimensions (50, 1, 0, 3)"),
        (header(depth=2), "dimensions (50, 1, 2, 3)"),
        (header(width=0), "dimensions (0, 1, 1, 3)"),
        (header(width=-1), "dimensions (-1, 1, 1, 3)"),
        (header(n_frames=0), "dimensions (50, 1, 1, 0)"),
    ],
)
def test_header_of_another_kind_is_named(raw, problem):
    with pytest.raises(InvalidFileError) as caught:
        mgh.parse_header(raw, name="lh.betas_session01.mgh")
    assert problem in caught.value.problem
    assert "lh.betas_session01.mgh" in caught.value.problem


def test_sizes_of_the_published_files():
    whole = mgh.MghHeader(n_vertices=163_842, n_frames=750)
    assert whole.data_end == 491_526_284
    ranges = mgh.frame_ranges(whole, 10_242)
    assert ranges[1] == (284 + 163_842 * 4, 40_968)
    assert len(ranges) == 750
    mgh.check_vertices(whole, 163_842, name="x")
    mgh.check_frames(whole, 750, name="x")


def test_size_must_match_header():
    small = mgh.MghHeader(n_vertices=50, n_frames=3)
    for n_bytes in (884, 904, 884 + 64):
        mgh.check_size(small, n_bytes, name="x.mgh")
    with pytest.raises(InvalidFileError, match=r"x\.mgh is truncated.* takes 884 bytes.* has 883"):
        mgh.check_size(small, 883, name="x.mgh")
    with pytest.raises(InvalidFileError, match=r"x\.mgh does not match its header"):
        mgh.check_size(small, 884 + 65, name="x.mgh")


@given(FRAMES, st.data())
def test_header_and_ranges_of_a_file_are_the_smaller_file(tmp_path_factory, frames, draw):
    n_vertices = draw.draw(st.integers(1, frames.shape[1]))
    folder = tmp_path_factory.mktemp("cut")
    write_mgh(folder / "whole.mgh", frames)
    write_mgh(folder / "small.mgh", frames[:, :n_vertices])
    whole = (folder / "whole.mgh").read_bytes()
    ranges = mgh.frame_ranges(mgh.parse_header(whole[:284], name="whole.mgh"), n_vertices)
    cut = mgh.header_bytes(n_vertices, len(frames))
    cut += b"".join(whole[offset : offset + length] for offset, length in ranges)
    assert cut == (folder / "small.mgh").read_bytes()
    for name in ("whole.mgh", "small.mgh"):
        read = mgh.read_vertices(folder / name, n_vertices, n_frames=len(frames))
        np.testing.assert_array_equal(read, frames[:, :n_vertices])
        assert read.dtype == np.dtype("=f4")


def test_nibabel_opens_what_we_write(path, data):
    image = nibabel.load(path)
    assert image.shape == (50, 1, 1, 7)
    assert image.get_data_dtype() == np.dtype(">f4")
    coronal = [[-1, 0, 0], [0, 0, 1], [0, -1, 0]]  # FreeSurfer's default orientation
    np.testing.assert_array_equal(image.affine[:3, :3], coronal)
    np.testing.assert_array_equal(np.asarray(image.dataobj)[:, 0, 0].T, data)


def test_we_read_what_nibabel_writes(tmp_path, data):
    image = nibabel.MGHImage(data.T[:, None, None], np.eye(4))
    image.header["tr"] = 1600  # a scan parameter, so that there is a footer
    nibabel.save(image, tmp_path / "x.mgh")
    assert (tmp_path / "x.mgh").stat().st_size > 284 + data.nbytes
    np.testing.assert_array_equal(mgh.read_vertices(tmp_path / "x.mgh", 20), data[:, :20])


def test_both_hemispheres_fill_one_array(path, data):
    both = np.full((7, 40), np.float32(-1))
    assert mgh.read_vertices(path, 20, out=both[:, 20:]).base is both
    np.testing.assert_array_equal(both[:, 20:], data[:, :20])
    assert (both[:, :20] == -1).all()


@pytest.mark.parametrize(
    "out",
    [
        np.empty((7, 21), np.float32),
        np.empty((7, 20), np.float64),
        np.empty((7, 20), ">f4"),
        np.empty((20, 7), np.float32).T,
    ],
)
def test_unsuitable_output_is_refused(path, out):
    with pytest.raises(ValueError, match="native float32 of shape"):
        mgh.read_vertices(path, 20, out=out)


def test_file_that_does_not_fit_the_design_is_refused(path):
    with pytest.raises(InvalidFileError, match=r"has 7 frames, but .* design has 750 trials"):
        mgh.read_vertices(path, 20, n_frames=750)
    with pytest.raises(InvalidFileError, match=r"has 50 vertices, not 51"):
        mgh.read_vertices(path, 51)
    with pytest.raises(InvalidFileError, match=r"has 50 vertices, not 163842"):
        mgh.check_vertices(mgh.MghHeader(50, 7), 163_842, name="x")


@given(keep=st.integers(0, 284 + 7 * 50 * 4 - 1))
def test_truncation_anywhere_is_reported(tmp_path_factory, keep):
    path = tmp_path_factory.mktemp("truncated") / "x.mgh"
    write_mgh(path, np.zeros((7, 50), np.float32))
    os.truncate(path, keep)
    with pytest.raises(InvalidFileError, match=r"x\.mgh is truncated"):
        mgh.read_vertices(path, 20)


def test_short_reads_are_continued(path, data, monkeypatch):
    preadv = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, at: preadv(fd, [buffers[0][:33]], at))
    np.testing.assert_array_equal(mgh.read_vertices(path, 20), data[:, :20])


def test_file_that_shrinks_while_it_is_read_is_reported(path, monkeypatch):
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, at: 0)
    with pytest.raises(InvalidFileError, match="truncated while it was being read"):
        mgh.read_vertices(path, 20)


def test_reading_a_whole_session_touches_only_what_is_needed(tmp_path, monkeypatch):
    path = tmp_path / "lh.betas_session01.mgh"
    path.write_bytes(mgh.header_bytes(163_842, 750))
    os.truncate(path, 491_526_284)  # sparse: takes no room on the disk
    sizes, preadv = [], os.preadv

    def counted(descriptor, buffers, offset):
        sizes.append(preadv(descriptor, buffers, offset))
        return sizes[-1]

    monkeypatch.setattr(os, "preadv", counted)
    tracemalloc.start()
    try:
        betas = mgh.read_vertices(path, 10_242)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sizes == [40_968] * 750
    assert betas.nbytes == 30_726_000
    assert peak < betas.nbytes + 1_000_000


@pytest.mark.parametrize(("width", "height"), [(20, -1157627903), (2**16, 2**16 + 1)])
def test_a_size_beyond_an_integer_of_four_bytes_is_not_believed(
    tmp_path: Path, width: int, height: int
) -> None:
    path = tmp_path / "t.mgh"
    path.write_bytes(header(width=width, height=height, n_frames=1) + bytes(80))
    with pytest.raises(ValueError, match="too short for values"):
        mgh.read_any(path)
