"""NIfTI headers of every kind, and those that nobody should believe."""

import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest

from nsd_pipeline.errors import InvalidFileError
from nsd_pipeline.nsd.nifti import HEADER_PART, open_volumes, parse_header, read_mask

SHAPE = (4, 3, 2, 5)
AFFINE = np.diag([2.0, 2, 2, 1])


@pytest.fixture(scope="module")
def values() -> np.ndarray:
    return np.random.default_rng(0).integers(-999, 999, SHAPE).astype(np.int16)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("kind", ["one", "two", "big-endian", "extended"])
def test_every_kind_is_read_alike(tmp_path: Path, values: np.ndarray, kind: str, ending: str):
    stored = values.astype(">i2") if kind == "big-endian" else values
    image = (nibabel.Nifti2Image if kind == "two" else nibabel.Nifti1Image)(stored, AFFINE)
    if kind == "extended":  # as AFNI's programs write it, longer than all of the header
        image.header.extensions.append(nibabel.nifti1.Nifti1Extension(4, b"<AFNI/>" * 999))
    image.header.set_xyzt_units("mm", "msec")
    image.header.set_zooms((2, 2, 2, 1600))
    path = tmp_path / f"x{ending}"
    nibabel.save(image, path)
    found = open_volumes(path)
    assert (found.shape, found.n_volumes, found.zooms, found.tr) == (SHAPE[:3], 5, (2, 2, 2), 1.6)
    np.testing.assert_array_equal(found.affine, AFFINE)
    np.testing.assert_array_equal(np.stack([*found.volumes()], -1), values)
    (block,) = found.voxels(np.array([7, 0]))
    np.testing.assert_array_equal(block, values.reshape(-1, 5)[[7, 0]])
    # Of a file on a bucket, the start is enough.
    header = parse_header(path.read_bytes()[:HEADER_PART], name=f"s3://nsd/x{ending}")
    assert (header.shape, header.n_volumes) == (SHAPE[:3], 5)


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("vox_offset", np.inf, "is not a readable NIfTI file"),
        ("vox_offset", -5e5, "is not a readable NIfTI file: vox offset -500000"),
        ("dim", [4, 32767, 32767, 32767, 32767, 1, 1, 1], "is truncated: 32767 volumes"),
        ("dim", [4, 4, 3, 0, 5, 1, 1, 1], r"it has shape \(4, 3, 0, 5\)"),
        ("dim", [2, 24, 5, 1, 1, 1, 1, 1], r"it has shape \(24, 5\)"),
        ("datatype", 9, "is not a readable NIfTI file"),
        ("xyzt_units", 63, "is not a readable NIfTI file"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_no_header_makes_more_than_an_error(
    tmp_path: Path, values: np.ndarray, field: str, value: object, says: str, packed: bool
) -> None:
    header = nibabel.Nifti1Image(values, AFFINE).header
    header["magic"] = b"n+1"
    header["vox_offset"] = 352
    header[field] = value
    content = header.binaryblock + bytes(4) + values.tobytes(order="F")
    path = tmp_path / ("x.nii.gz" if packed else "x.nii")
    path.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(InvalidFileError, match=says):
        list(open_volumes(path).volumes())


def test_sizes_beyond_any_integer_of_a_processor_are_sizes(tmp_path: Path, values) -> None:
    header = nibabel.Nifti2Image(values, AFFINE).header
    header["dim"][1:4] = 2**49 + 1, 2**49, 2**49
    header["magic"], header["vox_offset"] = b"n+2\0\r\n\032\n", 544
    path = tmp_path / "x.nii"
    path.write_bytes(header.binaryblock + bytes(4) + values.tobytes())
    with pytest.raises(InvalidFileError, match="is truncated: 5 volumes"):
        list(open_volumes(path).volumes())


def test_a_mask_is_one_volume(tmp_path: Path, values: np.ndarray) -> None:
    path = tmp_path / "mask.nii.gz"
    nibabel.save(nibabel.Nifti1Image(values[..., 0], AFFINE), path)
    np.testing.assert_array_equal(read_mask(path), values[..., 0] != 0)
    nibabel.save(nibabel.Nifti1Image(values, AFFINE), path)
    with pytest.raises(InvalidFileError, match=r"has 5 volumes, where a mask has one"):
        read_mask(path)
