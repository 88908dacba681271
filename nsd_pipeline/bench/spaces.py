"""Rows of the other spaces: a session's functional volumes to fsaverage5."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from nsd_pipeline.bench.harness import Bar, Inputs, Row, Side, Sides, faster
from nsd_pipeline.bench.worker import Outcome, Repeat, Settings

_SUBJECT: Final = "subj01"
_NIFTI: Final = "ours: .nii.gz, cubic, 3 depths"
_HDF5: Final = "ours: HDF5, cubic, 3 depths"
_NILEARN: Final = "nilearn vol_to_surf, linear, 3 depths"
_NSDCODE: Final = "nsdcode NSDmapdata, cubic, 3 depths"


@contextmanager
def _volumes(n_quick: int, n_full: int, folder: Path, quick: bool) -> Iterator[Inputs]:
    """A session's betas as int16 volumes of 81 x 104 x 83, and the transforms of a subject."""
    from nsd_pipeline.demo import volumes
    from nsd_pipeline.demo.anatomy import grid, write_transforms

    n_volumes = n_quick if quick else n_full
    transforms = folder / f"nsddata/ppdata/{_SUBJECT}/transforms"
    nifti, hdf5 = (folder / f"func1pt8mm_{n_volumes}.{end}" for end in ("nii.gz", "hdf5"))
    voxels = grid(_SUBJECT, "func1pt8mm")
    if not hdf5.exists():
        write_transforms(transforms, _SUBJECT, ("func1pt8mm",), seed=0)
        vertex = volumes.nearest_vertices(voxels)
        betas = np.random.default_rng(0).standard_normal((n_volumes, 20_484), np.float32)
        volumes.write_betas(nifti, voxels, vertex, betas)
        volumes.write_volume_hdf5(hdf5, vertex, betas)
    operator = folder / "operator.npz"
    if not operator.exists():
        _operator(folder, voxels.shape).save(operator)
    yield Inputs(
        {
            "folder": str(folder),
            "nifti": str(nifti),
            "hdf5": str(hdf5),
            "operator": str(operator),
            "affine": voxels.affine.tolist(),
        },
        work=f"{n_volumes} volumes of 81 x 104 x 83, int16",
    )


def _operator(folder: Path, shape: tuple[int, int, int]) -> Any:
    from nsd_pipeline.surface import read_operator, transform_keys

    paths = {key: folder / key for key in transform_keys(_SUBJECT, "func1pt8mm")}
    return read_operator(paths, _SUBJECT, "func1pt8mm", shape)


def map_nifti(settings: Settings) -> Repeat:
    """From the compressed file, with the operator that a first session has built."""
    from nsd_pipeline.surface import FsaverageOperator, betas_from_nifti

    def repeat() -> Outcome:
        operator = FsaverageOperator.load(Path(settings["operator"]))
        return Outcome({"surface": betas_from_nifti(Path(settings["nifti"]), operator)})

    return repeat


def map_hdf5(settings: Settings) -> Repeat:
    """Only the voxels that matter out of the HDF5 file, in place."""
    from nsd_pipeline.download.space_files import SpaceFiles, read_parts
    from nsd_pipeline.nsd.voxel_chunks import read_shape
    from nsd_pipeline.surface import FsaverageOperator, betas_from_voxels

    def repeat() -> Outcome:
        operator = FsaverageOperator.load(Path(settings["operator"]))
        path = Path(settings["hdf5"])
        shape, n_trials = read_shape(path, name=path.name)
        parts = read_parts(SpaceFiles("hdf5", (path,), ()), [shape], operator.touched_voxels)
        return Outcome({"surface": betas_from_voxels(parts, operator, n_trials)})

    return repeat


def map_with_nsdcode(settings: Settings) -> Repeat:
    """The authors' own Python package: three depths and their mean; fsaverage's vertices taken."""
    import nibabel
    from nsdcode import NSDmapdata

    mapper = NSDmapdata(settings["folder"])

    def repeat() -> Outcome:
        data = np.asarray(nibabel.load(settings["nifti"]).dataobj).astype(np.float32) / 300
        halves = []
        for side in ("lh", "rh"):
            depths = [
                mapper.fit(1, "func1pt8", f"{side}.layerB{n}", data, "cubic", badval=np.nan)
                for n in (1, 2, 3)
            ]
            transforms = Path(settings["folder"], "nsddata/ppdata", _SUBJECT, "transforms")
            nearest = nibabel.load(transforms / f"{side}.white-to-fsaverage.mgz").get_fdata()
            halves.append(np.mean(depths, axis=0)[nearest.ravel()[:10_242].astype(int) - 1])
        return Outcome({"surface": np.concatenate(halves).T})

    return repeat


def map_with_nilearn(settings: Settings) -> Repeat:
    """Nilearn at the same three depths; its only interpolations are linear and nearest."""
    import nibabel
    from nilearn.datasets import load_fsaverage
    from nilearn.surface import vol_to_surf

    meshes = load_fsaverage("fsaverage5")

    def repeat() -> Outcome:
        image = nibabel.load(settings["nifti"])
        halves = [
            vol_to_surf(
                image,
                meshes["pial"].parts[side],
                inner_mesh=meshes["white_matter"].parts[side],
                depth=[0.25, 0.5, 0.75],
            )
            for side in ("left", "right")
        ]
        return Outcome({"surface": np.concatenate(halves).T.astype(np.float32) / 300})

    return repeat


def _correlation(first: Any, second: Any) -> dict[str, float]:
    """How near another interpolation comes, over volumes, at the median vertex."""
    a, b = (values["surface"] - values["surface"].mean(axis=0) for values in (first, second))
    with np.errstate(invalid="ignore"):
        r = (a * b).sum(axis=0) / np.sqrt((a * a).sum(axis=0) * (b * b).sum(axis=0))
    return {"median correlation": float(np.nanmedian(r))}


def _gigabytes(side: str, sides: Sides) -> float:
    return sides[side].peak_bytes / 1e9


ROWS: Final = (
    Row(
        "functional-volumes",
        "Functional volumes to fsaverage5, sessions after the first",
        partial(_volumes, 3, 75),
        (
            Side(_NIFTI, map_nifti),
            Side(_HDF5, map_hdf5),
            Side(_NSDCODE, map_with_nsdcode, agreement=_correlation),
        ),
        (faster(_NIFTI, _NSDCODE, 3),),
        repetitions=1,
        warm_up=False,
        tolerance=1e-4,
    ),
    Row(
        "functional-many-volumes",
        "The same, and more volumes than nsdcode has time for",
        partial(_volumes, 6, 300),
        (
            Side(_NIFTI, map_nifti),
            Side(_NILEARN, map_with_nilearn, agreement=_correlation),
        ),
        (faster(_NIFTI, _NILEARN, 3),),
        repetitions=2,
        tolerance=1e-4,
    ),
    Row(
        "functional-session",
        "A whole functional session to fsaverage5",
        partial(_volumes, 30, 750),
        (Side(_NIFTI, map_nifti), Side(_HDF5, map_hdf5)),
        (
            Bar("GB at most, .nii.gz", partial(_gigabytes, _NIFTI), 2.0, at_most=True),
            Bar("GB at most, HDF5", partial(_gigabytes, _HDF5), 2.0, at_most=True),
        ),
        repetitions=2,
        tolerance=1e-4,
    ),
)
