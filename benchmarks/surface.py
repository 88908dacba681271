"""Rows of the cortical surface: betas out of fsaverage files, volumes to the surface, and Zarr."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks import data
from benchmarks.harness import (
    Bar,
    Inputs,
    Row,
    Side,
    Sides,
    faster,
    fewer,
    less_memory,
)
from benchmarks.worker import Outcome, Repeat, Settings, bytes_read_from_disk
from nsd_pipeline.nsd.layout import FSAVERAGE5_VERTICES

_OURS: Final = "ours"
_NIBABEL: Final = "nibabel get_fdata, sliced"
_NILEARN: Final = "nilearn vol_to_surf"
_FIRST, _FURTHER = "ours, all built anew", "ours, further volumes"


# --- betas of a session ------------------------------------------------------------------------


@contextmanager
def _session(folder: Path, quick: bool) -> Iterator[Inputs]:
    paths = [str(path) for path in data.session_files(folder, quick=quick)]
    n_trials = data.n_trials(quick)
    yield Inputs(
        {"paths": paths},
        cold=paths,
        work=f"{n_trials} trials, both hemispheres, cold",
        # nibabel's float64, and its copy where both hemispheres are joined.
        n_touched=4 * sum(Path(path).stat().st_size for path in paths),
    )


def read_with_ours(settings: Settings) -> Repeat:
    """`mgh.read_vertices`: one positioned read a frame."""
    from nsd_pipeline.nsd import mgh

    def repeat() -> Outcome:
        before = bytes_read_from_disk()
        halves = [mgh.read_vertices(path, FSAVERAGE5_VERTICES) for path in settings["paths"]]
        return _betas(halves, before)

    return repeat


def read_with_nibabel(settings: Settings) -> Repeat:
    """As the reference does: both hemispheres as one float64 array, then two slices of it."""
    import nibabel

    from nsd_pipeline.surface import downsample

    def repeat() -> Outcome:
        before = bytes_read_from_disk()
        hemispheres = [nibabel.load(path).get_fdata().squeeze() for path in settings["paths"]]
        betas = downsample(np.concatenate(hemispheres)).T.astype(np.float32)
        return _betas(np.split(betas, 2, axis=1), before)

    return repeat


def _betas(halves: list[NDArray[np.float32]], before: int) -> Outcome:
    return Outcome(
        {"lh": halves[0], "rh": halves[1]}, {"bytes read": bytes_read_from_disk() - before}
    )


# --- growth: sessions --------------------------------------------------------------------------


@contextmanager
def _sessions(folder: Path, quick: bool) -> Iterator[Inputs]:
    with _session(folder, quick) as inputs:
        yield Inputs({**inputs.settings, "folder": str(folder / "growth")}, work=inputs.work[:-6])


def prepare_sessions(settings: Settings) -> Repeat:
    """Sessions from files to Zarr as the asset makes them, and back as a training reads them."""
    import shutil

    import zarr

    from nsd_pipeline.nsd import mgh
    from nsd_pipeline.surface import read_session, summarise, write_session

    def repeat() -> Outcome:
        root = Path(settings["folder"])
        for number in range(settings["n_sessions"]):
            folder = root / str(number)
            shutil.rmtree(folder, ignore_errors=True)
            halves = [mgh.read_vertices(path, FSAVERAGE5_VERTICES) for path in settings["paths"]]
            betas = np.hstack(halves)
            write_session(folder, betas, summarise(betas), {})
            read_session(zarr.open_group(folder, mode="r"), out=betas)
        return Outcome()

    return repeat


def _per_unit(few: str, many: str, factor: float, sides: Sides) -> float:
    return sides[many].seconds / sides[few].seconds / factor


# --- volumes to the surface --------------------------------------------------------------------


@contextmanager
def _volumes(_folder: Path, quick: bool) -> Iterator[Inputs]:
    n_volumes = 6 if quick else 75
    yield Inputs({"n_volumes": n_volumes}, work=f"{n_volumes} volumes of 91 x 109 x 91")


@contextmanager
def _volume_file(folder: Path, quick: bool) -> Iterator[Inputs]:
    n_volumes = 6 if quick else 75
    path = data.volume_file(folder, n_volumes)
    yield Inputs({"path": str(path)}, work=f"{n_volumes} volumes of 91 x 109 x 91, int16, gzip")


def project_anew(settings: Settings) -> Repeat:
    """`project_volume` with nothing prepared, as in the first call of a process."""
    from nsd_pipeline.surface import project_volume, projection

    volumes, affine = data.volumes(settings["n_volumes"])
    project_volume(volumes[..., :1], affine)

    def repeat() -> Outcome:
        projection._projector.cache_clear()
        return Outcome({"surface": project_volume(volumes, affine)})

    return repeat


def project_further(settings: Settings) -> Repeat:
    """`project_volume` on a grid it has seen."""
    from nsd_pipeline.surface import project_volume

    volumes, affine = data.volumes(settings["n_volumes"])
    project_volume(volumes[..., :1], affine)
    return lambda: Outcome({"surface": project_volume(volumes, affine)})


def project_with_nilearn(settings: Settings) -> Repeat:
    """All volumes in one call for each hemisphere, as the reference's projector does."""
    from nibabel import Nifti1Image

    volumes, affine = data.volumes(settings["n_volumes"])
    image = Nifti1Image(volumes, affine)
    project = _nilearn_projection()
    return lambda: Outcome({"surface": project(image)})


def project_file(settings: Settings) -> Repeat:
    """Decompress as stored, project, and only then scale."""
    import nibabel

    from nsd_pipeline.surface import project_volume

    def repeat() -> Outcome:
        image = nibabel.load(settings["path"])
        surface = project_volume(np.asarray(image.dataobj), image.affine)
        return Outcome({"surface": surface})

    return repeat


def project_file_with_nilearn(settings: Settings) -> Repeat:
    """Hand the file to nilearn."""
    import nibabel

    project = _nilearn_projection()
    return lambda: Outcome({"surface": project(nibabel.load(settings["path"]))})


def _nilearn_projection() -> Any:
    from nilearn.datasets import load_fsaverage
    from nilearn.surface import vol_to_surf

    meshes = load_fsaverage("fsaverage5")

    def project(image: Any) -> NDArray[np.float32]:
        halves = [
            vol_to_surf(
                image,
                meshes["pial"].parts[side],
                inner_mesh=meshes["white_matter"].parts[side],
            )
            for side in ("left", "right")
        ]
        return np.concatenate(halves).astype(np.float32)

    return project


ROWS: Final = (
    Row(
        "surface-betas",
        "Surface betas of a local fsaverage session",
        _session,
        (Side(_OURS, read_with_ours), Side(_NIBABEL, read_with_nibabel)),
        (
            faster(_OURS, _NIBABEL, 12),
            less_memory(_OURS, _NIBABEL, 1 / 6),
            fewer("bytes read", _OURS, _NIBABEL, 1 / 13),
        ),
        warm_up=False,
    ),
    Row(
        "session-growth",
        "Sessions from fsaverage files to Zarr and back: cost against their number",
        _sessions,
        tuple(
            Side(f"{n} session{'s' * (n > 1)}", prepare_sessions, {"n_sessions": n})
            for n in (1, 2, 4, 8)
        ),
        (
            Bar(
                "times the cost of one, per session, at 8",
                partial(_per_unit, "1 session", "8 sessions", 8),
                1.15,
                at_most=True,
            ),
        ),
        repetitions=2,
        warm_up=False,
    ),
    Row(
        "volume-projection",
        "Volumes in memory to fsaverage5",
        _volumes,
        (
            Side(_FIRST, project_anew),
            Side(_FURTHER, project_further),
            Side(_NILEARN, project_with_nilearn),
        ),
        (
            faster(_FIRST, _NILEARN, 8, "times faster, all built"),
            faster(_FURTHER, _NILEARN, 25, "times faster, further volumes"),
        ),
        tolerance=1e-4,
    ),
    Row(
        "volume-file-projection",
        "Volumes of a .nii.gz to fsaverage5",
        _volume_file,
        (Side(_OURS, project_file), Side(_NILEARN, project_file_with_nilearn)),
        (faster(_OURS, _NILEARN, 4),),
        tolerance=1e-4,
    ),
)
