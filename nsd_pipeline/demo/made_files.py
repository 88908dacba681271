"""What the demo's brains do, as files: betas in NSD's spaces, and time series in BIDS trees.

A voxel in the grey matter has the beta of the nearest vertex of fsaverage5, so that every space
tells the same story; the rest of a volume is 0. In a time series the same responses come one after
the other, each as a haemodynamic response to its image, on a baseline that drifts. Runs are as long
as their trials need.
"""

import json
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nsd_pipeline.demo.anatomy import Grid, NativeSurface, grid, native_surface
from nsd_pipeline.demo.brain import WHITE_NOISE, Brain, load_cortex, stream_labels
from nsd_pipeline.nsd import mgh
from nsd_pipeline.nsd.bids_names import TASK
from nsd_pipeline.nsd.layout import (
    FSAVERAGE5_VERTICES,
    FSAVERAGE_VERTICES,
    HEMISPHERES,
    PERCENT_SCALE,
    Space,
    betas_files,
    betas_keys,
    subject_number,
    valid_key,
)
from nsd_pipeline.nsd.voxel_chunks import DATASET, VALUE, read_layout

_MGH_FOOTER: Final = np.zeros(4, ">f4").tobytes()
"""Repetition time, flip angle, echo and inversion time, as FreeSurfer's MATLAB code appends."""
_FRAMES_AT_ONCE: Final = 16
_RIBBON: Final = 2.5
"""Voxels within this distance of the middle of the grey matter have data, in mm."""

RAW: Final = "nsddata_rawdata"
DERIVATIVES: Final = "derivatives"
"""Folders of a dataset that hold the raw BIDS tree (as on the bucket) and what was made of it."""
TR: Final = 1.6
"""Repetition time of NSD's raw data in seconds."""

_SLOT: Final = 4.0
_AFTER_LAST: Final = 16.0
"""Seconds that a run goes on after its last image."""
_LATE: Final = 0.25
"""Seconds by which an image may come later than its slot: raw events have measured onsets."""
_BASELINE: Final = 1000.0
_DRIFT: Final = 10.0


def write_surface_betas(path: Path, brain: Brain, shown: NDArray[np.float32], session: int) -> None:
    """Write a session of one hemisphere as MGH on fsaverage: big-endian float32, NaN where invalid.

    `shown` are the (T, 59) standardised features of the images shown, by trial; sessions count from
    1.
    """
    betas = brain.betas(shown, session)
    rng = brain.rng(session, 2)
    cortex = brain.cortex
    invalid = cortex.refine(brain.invalid(session).astype(np.float32)) > 0
    with path.open("wb") as file:
        file.write(mgh.header_bytes(FSAVERAGE_VERTICES, len(betas)))
        for start in range(0, len(betas), _FRAMES_AT_ONCE):
            coarse = np.ascontiguousarray(betas[start : start + _FRAMES_AT_ONCE].T)
            frames = np.ascontiguousarray(cortex.refine(coarse).T)
            between = frames[:, FSAVERAGE5_VERTICES:]
            between += np.float32(WHITE_NOISE) * rng.standard_normal(between.shape, np.float32)
            frames[:, invalid] = np.nan
            frames.astype(">f4").tofile(file)
        file.write(_MGH_FOOTER)


def write_labels(folder: Path) -> None:
    """Write the regions of the brain that all subjects share, as NSD has them on fsaverage.

    ``streams``, and ``nsdgeneral``, which is every vertex that responds to images.
    """
    import nibabel

    folder.mkdir(parents=True, exist_ok=True)
    for side in HEMISPHERES:
        streams = stream_labels(side)
        for name, values in (("streams", streams), ("nsdgeneral", (streams > 0).astype(np.int32))):
            image = nibabel.MGHImage(values[:, np.newaxis, np.newaxis], np.eye(4))
            image.to_filename(folder / f"{side}.{name}.mgz")


def nearest_vertices(voxels: Grid) -> NDArray[np.int64]:
    """Vertex of both hemispheres nearest to each voxel (X, Y, Z); -1 outside the grey matter."""
    from scipy.spatial import KDTree

    middle = np.concatenate([load_cortex(hemisphere).middle for hemisphere in HEMISPHERES])
    vertex = np.full(voxels.shape, -1)
    # Voxels that a vertex is anywhere near: most of a volume need not be searched.
    places = np.round((middle - voxels.affine[:3, 3]) / voxels.size).astype(int)
    reach = np.arange(-np.ceil(_RIBBON / voxels.size), np.ceil(_RIBBON / voxels.size) + 1)
    around = np.stack(np.meshgrid(reach, reach, reach), axis=-1).reshape(-1, 3).astype(int)
    near = np.zeros(voxels.shape, np.bool_)
    for offset in around:
        shifted = places + offset
        inside = ((shifted >= 0) & (shifted < voxels.shape)).all(axis=1)
        near[tuple(shifted[inside].T)] = True
    candidates = np.argwhere(near)
    found: Any = KDTree(middle).query(
        candidates * voxels.size + voxels.affine[:3, 3], distance_upper_bound=_RIBBON
    )
    hit = np.isfinite(found[0])
    vertex[tuple(candidates[hit].T)] = found[1][hit]
    return vertex


def write_nifti(
    path: Path,
    voxels: Grid,
    vertex: NDArray[np.int64],
    betas: NDArray[np.float32],
) -> None:
    """Write volumes as gzipped NIfTI.

    `vertex` is what :func:`nearest_vertices` gives for the grid. `betas` (T, 20484) are one row a
    volume, in the unit of the file; NaN and voxels without a vertex become 0.
    """
    import nibabel
    from isal import igzip

    header = nibabel.Nifti1Header()
    header.set_data_dtype(VALUE)
    header.set_data_shape((*voxels.shape, len(betas)) if len(betas) > 1 else voxels.shape)
    header.set_xyzt_units("mm", "sec")
    header.set_sform(voxels.affine, code="scanner")
    header.set_qform(voxels.affine, code="scanner")
    header["magic"] = b"n+1"
    header["vox_offset"] = 352
    places = np.flatnonzero((vertex >= 0).ravel(order="F"))
    sources = vertex.ravel(order="F")[places]
    frame = np.zeros(vertex.size, VALUE)
    with path.open("wb") as file, igzip.IGzipFile("", "wb", 1, file, mtime=0) as volumes:
        header.write_to(volumes)
        for row in betas:
            frame[places] = np.round(np.nan_to_num(row[sources]))
            volumes.write(frame.tobytes())


def write_betas(
    path: Path, voxels: Grid, vertex: NDArray[np.int64], betas: NDArray[np.float32]
) -> None:
    """Write a session's betas (T, 20484), in percent, as ``betas_sessionNN.nii.gz``."""
    write_nifti(path, voxels, vertex, PERCENT_SCALE * betas)


def write_mask(
    path: Path, voxels: Grid, vertex: NDArray[np.int64], invalid: NDArray[np.bool_]
) -> None:
    """Write which voxels have data: all but those of vertices (20484,) without any."""
    everywhere = np.concatenate([~invalid, [True]]).astype(np.float32)
    # Voxels outside the grey matter, of no vertex, have data; they are just 0.
    filled = np.where(vertex < 0, len(invalid), vertex)
    write_nifti(path, voxels, filled, everywhere[np.newaxis])


def write_volume_hdf5(path: Path, vertex: NDArray[np.int64], betas: NDArray[np.float32]) -> None:
    """Write a session's betas (T, 20484), in percent, as ``betas_sessionNN.hdf5``.

    HDF5 lays the chunks out, and only those of the grey matter are written to: the others are
    holes in the file, which read as 0. Through HDF5 itself it would take ten times as long.
    """
    import h5py

    n_trials = len(betas)
    with h5py.File(path, "w", libver="earliest") as file:
        creation: Any = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        creation.set_chunk((n_trials, 1, 1, 1))
        creation.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        creation.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        space = h5py.h5s.create_simple((n_trials, *vertex.shape[::-1]))
        h5py.h5d.create(file.id, DATASET.encode(), h5py.h5t.STD_I16LE, space, creation)
    places = np.flatnonzero(vertex.ravel() >= 0)
    offsets = read_layout(path, name=str(path)).offsets[places]
    values = np.round(PERCENT_SCALE * betas[:, vertex.ravel()[places]].T).astype(VALUE)
    content = np.memmap(path, VALUE, "r+")
    content[offsets[:, np.newaxis] // VALUE.itemsize + np.arange(n_trials)] = values
    content.flush()


def write_native_surface(path: Path, surface: NativeSurface, betas: NDArray[np.float32]) -> None:
    """Write a hemisphere's betas (T, 10242), in percent, on the subject's own surface."""
    import h5py

    percent = np.nan_to_num(surface.values(np.ascontiguousarray(betas.T)).T)
    values = np.round(PERCENT_SCALE * percent).astype(VALUE)
    with h5py.File(path, "w", libver="earliest") as file:
        file.create_dataset(DATASET, data=values, chunks=(len(values), 1))


def write_session_in(
    folder: Path,
    brains: list[Brain],
    shown: NDArray[np.float32],
    session: int,
    space: Space,
    *,
    hdf5: bool,
) -> None:
    """Write one session of a subject in a space but fsaverage, with the mask of voxels with data.

    `folder` is the root of the mirror, and `brains` are both hemispheres of the subject, left
    first; `shown` is as for :func:`write_surface_betas`. A functional volume is written as `hdf5`
    as well.
    """
    subject = brains[0].subject
    paths = [folder / key for key in betas_keys(subject, session, space)]
    paths[0].parent.mkdir(parents=True, exist_ok=True)
    betas = [brain.betas(shown, session) for brain in brains]
    invalid = [brain.invalid(session) for brain in brains]
    if space == "nativesurface":
        for path, brain, values, missing in zip(paths, brains, betas, invalid, strict=True):
            values[:, missing] = np.nan
            surface = native_surface(subject, brain.hemisphere, brain.seed)
            write_native_surface(path, surface, values)
        return
    voxels = grid(subject, space)
    vertex = nearest_vertices(voxels)
    for file_format, (key,) in betas_files(subject, session, space).items():
        if file_format == "nii.gz":
            write_betas(folder / key, voxels, vertex, np.hstack(betas))
        elif hdf5:
            write_volume_hdf5(folder / key, vertex, np.hstack(betas))
    mask = folder / valid_key(subject, session, space)
    mask.parent.mkdir(parents=True, exist_ok=True)
    write_mask(mask, voxels, vertex, np.concatenate(invalid))


def haemodynamic_response(seconds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Response to a short event: a peak of 1 about 5 s after it, and an undershoot after that."""
    from scipy.stats import gamma

    response = gamma.pdf(seconds, 6) - gamma.pdf(seconds, 16) / 6
    return np.asarray(response / 0.1755)


def write_events(folder: Path, trials: pd.DataFrame, seed: int) -> None:
    """Write the raw BIDS tree's ``events.tsv`` for the runs of a session, and the sidecar.

    Trials have ``subject``, ``session``, ``run``, ``slot`` and ``image_id``.
    """
    raw = folder / RAW
    sidecar = raw / f"task-{TASK}_bold.json"
    for run, onsets in session_onsets(trials, seed).items():
        images = trials.loc[trials["run"] == run, "image_id"].to_numpy() + 1
        path = raw / f"{_stem(trials, run)}_events.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        table = pd.DataFrame({"onset": onsets.round(3), "duration": 3.0, "73k_id": images})
        table.to_csv(path, sep="\t", index=False)
    sidecar.write_text(json.dumps({"RepetitionTime": TR, "TaskName": TASK}) + "\n")


def session_onsets(trials: pd.DataFrame, seed: int) -> dict[int, NDArray[np.float64]]:
    """Seconds at which each image of a session came on, by run."""
    subject, session = trials["subject"].iloc[0], int(trials["session"].iloc[0])
    rng = np.random.default_rng([seed, 4, subject_number(subject), session])
    return {
        int(str(run)): _SLOT * slots.to_numpy() + rng.uniform(0, _LATE, len(slots))
        for run, slots in trials.groupby("run")["slot"]
    }


def write_surface_runs(
    folder: Path, brain: Brain, trials: pd.DataFrame, shown: NDArray[np.float32]
) -> None:
    """Write one hemisphere of a session's runs on fsaverage5, as fMRIPrep names them.

    Trials are as for :func:`write_events`, and `shown` as for :func:`write_surface_betas`.
    """
    import nibabel

    session = int(trials["session"].iloc[0])
    responses = brain.responses(shown, session)
    rng = brain.rng(session, 4)
    side = {"lh": "L", "rh": "R"}[brain.hemisphere]
    for run, onsets in session_onsets(trials, brain.seed).items():
        n_samples = int((onsets[-1] + _AFTER_LAST) / TR)
        seconds = TR * np.arange(n_samples)
        course = haemodynamic_response(seconds[:, np.newaxis] - onsets).astype(np.float32)
        series = course @ responses[trials["run"].to_numpy() == run]
        series += np.float32(WHITE_NOISE / 2) * rng.standard_normal(series.shape, np.float32)
        series += np.float32(_DRIFT / 100) * np.linspace(-1, 1, n_samples, dtype="f4")[:, None]
        series = _BASELINE * (1 + series / 100)
        path = folder / DERIVATIVES / f"{_stem(trials, run)}_hemi-{side}_space-fsaverage5_bold"
        path.parent.mkdir(parents=True, exist_ok=True)
        arrays: list[Any] = [
            nibabel.gifti.GiftiDataArray(sample.round(1), intent="NIFTI_INTENT_TIME_SERIES")
            for sample in series.astype(np.float32)
        ]
        nibabel.save(nibabel.GiftiImage(darrays=arrays), f"{path}.func.gii")


def _stem(trials: pd.DataFrame, run: int) -> str:
    """Path of a run's files without their endings, relative to a BIDS tree."""
    subject = f"sub-{subject_number(trials['subject'].iloc[0]):02d}"
    session = f"ses-nsd{int(trials['session'].iloc[0]):02d}"
    return f"{subject}/{session}/func/{subject}_{session}_task-{TASK}_run-{run:02d}"
