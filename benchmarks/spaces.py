"""Rows of the other spaces: functional volumes to fsaverage5, a session of betas and a run of BOLD.

Sizes are NSD's: subj01's volumes, noise of the compressibility of measurements throughout the
brain, and as many vertices on the subject's own surface as fsaverage has.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import Bar, Inputs, Row, Side, Sides, faster
from benchmarks.worker import Outcome, Prepare, Repeat, Settings

_SUBJECT: Final = "subj01"
_SPACE: Final = "func1pt8mm"
_NIFTI: Final = "ours: .nii.gz, cubic, 3 depths"
_HDF5: Final = "ours: HDF5, cubic, 3 depths"
_NILEARN: Final = "nilearn vol_to_surf, linear, 3 depths"
_NSDCODE: Final = "nsdcode NSDmapdata, cubic, 3 depths"
_NATIVE_VERTICES: Final = 163_842

Volumes = NDArray[np.float32]
MakeFiles = Callable[[Path, int], dict[str, str]]


@contextmanager
def _volumes(
    make_files: MakeFiles, n_quick: int, n_full: int, folder: Path, quick: bool
) -> Iterator[Inputs]:
    """Files of volumes, and the operator that a first session or run has built."""
    from nsd_pipeline.demo.anatomy import grid, write_transforms
    from nsd_pipeline.nsd.layout import transform_keys
    from nsd_pipeline.surface import read_operator

    n_volumes, voxels = n_quick if quick else n_full, grid(_SUBJECT, _SPACE)
    operator = folder / "operator.npz"
    if not operator.exists():
        transforms = folder / f"nsddata/ppdata/{_SUBJECT}/transforms"
        write_transforms(transforms, _SUBJECT, (_SPACE,), seed=0, n_vertices=_NATIVE_VERTICES)
        paths = {key: folder / key for key in transform_keys(_SUBJECT, _SPACE)}
        read_operator(paths, _SUBJECT, _SPACE, voxels.shape).save(operator)
    yield Inputs(
        {
            "folder": str(folder),
            "operator": str(operator),
            **make_files(folder, n_volumes),
        },
        work=f"{n_volumes} volumes of {' x '.join(map(str, voxels.shape))}, int16",
    )


def _smooth(n_volumes: int) -> Volumes:
    """Noise (T, 20484) that neighbouring vertices share, as in a brain."""
    from nsd_pipeline.demo.brain import load_cortex

    rng = np.random.default_rng(0)
    smoothers = [load_cortex(hemisphere).smoother for hemisphere in ("lh", "rh")]
    halves = [each @ rng.standard_normal((10_242, n_volumes), np.float32) for each in smoothers]
    return np.concatenate(halves).T


def _betas_files(folder: Path, n_volumes: int) -> dict[str, str]:
    """A session's betas in both formats: values within the brain, 0 around it."""
    from nsd_pipeline.demo import made_files as volumes
    from nsd_pipeline.demo.anatomy import grid

    nifti, hdf5 = (folder / f"betas_{n_volumes}.{end}" for end in ("nii.gz", "hdf5"))
    if not hdf5.exists():
        voxels, betas = grid(_SUBJECT, _SPACE), _smooth(n_volumes)
        vertex = volumes.nearest_vertices(voxels)
        # What lies between the cortices has betas as well: any vertex's will do.
        middle = np.argwhere(vertex >= 0).mean(axis=0)
        distance = np.moveaxis(np.indices(voxels.shape), 0, -1) - middle
        brain = (distance**2 / np.ptp(np.argwhere(vertex >= 0), axis=0) ** 2).sum(axis=-1) < 0.25
        _fill(vertex, brain)
        volumes.write_betas(nifti, voxels, vertex, betas)
        volumes.write_volume_hdf5(hdf5, vertex, betas)
    return {"nifti": str(nifti), "hdf5": str(hdf5)}


def _bold_file(folder: Path, n_volumes: int) -> dict[str, str]:
    """A run: values everywhere, in air too, as a scanner gives them."""
    from nsd_pipeline.demo import made_files as volumes
    from nsd_pipeline.demo.anatomy import grid

    path = folder / f"bold_{n_volumes}.nii.gz"
    if not path.exists():
        voxels = grid(_SUBJECT, _SPACE)
        vertex = volumes.nearest_vertices(voxels)
        _fill(vertex, np.ones(voxels.shape, np.bool_))
        volumes.write_nifti(path, voxels, vertex, 1_000 + 50 * _smooth(n_volumes))
    return {"nifti": str(path)}


def _fill(vertex: NDArray[np.int64], where: NDArray[np.bool_]) -> None:
    """Give voxels that have no vertex any one."""
    empty = where & (vertex < 0)
    vertex[empty] = np.random.default_rng(0).integers(0, 20_484, np.count_nonzero(empty))


def map_nifti(settings: Settings) -> Repeat:
    """Betas from the compressed file, with the operator that a first session has built."""
    from nsd_pipeline.surface import FsaverageOperator, betas_from_nifti

    def repeat() -> Outcome:
        operator = FsaverageOperator.load(Path(settings["operator"]))
        return Outcome({"surface": betas_from_nifti(Path(settings["nifti"]), operator)})

    return repeat


def map_hdf5(settings: Settings) -> Repeat:
    """Only the voxels that matter out of the HDF5 file, in place."""
    from nsd_pipeline.nsd.layout import PERCENT_SCALE
    from nsd_pipeline.nsd.space_betas import SpaceFiles, read_parts
    from nsd_pipeline.nsd.voxel_chunks import read_shape
    from nsd_pipeline.surface import FsaverageOperator

    def repeat() -> Outcome:
        operator = FsaverageOperator.load(Path(settings["operator"]))
        path = Path(settings["hdf5"])
        shape, n_trials = read_shape(path, name=path.name)
        parts = read_parts(SpaceFiles("hdf5", (path,), ()), [shape], operator.touched_voxels)
        betas = operator.apply_to_parts(parts, n_trials)
        betas /= PERCENT_SCALE
        return Outcome({"surface": betas})

    return repeat


def map_run(settings: Settings) -> Repeat:
    """A run of BOLD, before it is cleaned."""
    from nsd_pipeline.surface import FsaverageOperator
    from nsd_pipeline.surface.projected_runs import project_native_run

    def repeat() -> Outcome:
        operator = FsaverageOperator.load(Path(settings["operator"]))
        return Outcome({"surface": project_native_run(Path(settings["nifti"]), operator).data.T})

    return repeat


def map_with_nsdcode(settings: Settings) -> Repeat:
    """The authors' own Python package: three depths and their mean; fsaverage's vertices taken."""
    import nibabel
    from nsdcode import NSDmapdata

    mapper = NSDmapdata(settings["folder"])

    def repeat() -> Outcome:
        with Path(os.devnull).open("w") as quiet, redirect_stdout(quiet), redirect_stderr(quiet):
            return project()

    def project() -> Outcome:
        data = np.asarray(nibabel.load(settings["nifti"]).dataobj).astype(np.float32)
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
        return Outcome({"surface": np.concatenate(halves).T.astype(np.float32)})

    return repeat


def _after_first(prepare: Prepare, settings: Settings) -> Repeat:
    """Leave out the first run, which imports and fills caches; nsdcode takes too long for that."""
    repeat = prepare(settings)
    repeat()
    return repeat


def _correlation(first: Any, second: Any) -> dict[str, float]:
    """How near another interpolation comes, over volumes, at the median vertex."""
    a, b = (values["surface"] - values["surface"].mean(axis=0) for values in (first, second))
    with np.errstate(invalid="ignore"):
        r = (a * b).sum(axis=0) / np.sqrt((a * a).sum(axis=0) * (b * b).sum(axis=0))
    return {"median correlation": float(np.nanmedian(r))}


def _gigabytes(side: str, sides: Sides) -> float:
    return sides[side].peak_bytes / 1e9


def _within_2_gb(side: str, what: str) -> Bar:
    return Bar(f"GB at most, {what}", partial(_gigabytes, side), 2.0, at_most=True)


ROWS: Final = (
    Row(
        "functional-session",
        "A functional session's betas to fsaverage5, sessions after the first",
        partial(_volumes, _betas_files, 30, 750),
        (
            Side(_NIFTI, map_nifti),
            Side(_HDF5, map_hdf5),
            Side(_NILEARN, map_with_nilearn, agreement=_correlation),
        ),
        (
            faster(_NIFTI, _NILEARN, 3, "times faster, .nii.gz"),
            faster(_HDF5, _NILEARN, 3, "times faster, HDF5"),
            _within_2_gb(_NIFTI, ".nii.gz"),
            _within_2_gb(_HDF5, "HDF5"),
        ),
        repetitions=2,
        tolerance=1e-4,
    ),
    Row(
        "functional-run",
        "A functional run of BOLD to fsaverage5, runs after the first",
        partial(_volumes, _bold_file, 6, 226),
        (
            Side(_NIFTI, partial(_after_first, map_run)),
            Side(_NILEARN, partial(_after_first, map_with_nilearn), agreement=_correlation),
            Side(_NSDCODE, map_with_nsdcode, agreement=_correlation),
        ),
        (
            faster(_NIFTI, _NILEARN, 3, "times faster than nilearn"),
            faster(_NIFTI, _NSDCODE, 3, "times faster than nsdcode"),
            _within_2_gb(_NIFTI, ".nii.gz"),
        ),
        repetitions=1,
        warm_up=False,
        tolerance=1e-4,
    ),
)
