"""The maps from a functional volume, beside those of nsdcode, the authors' own Python package.

Where the two are defined alike they agree to single precision. They differ, and have to, in these:

- nsdcode's "cubic" is scipy's B-spline, which first solves for coefficients over the whole volume;
  the published surface data were made with local cubic convolution (Catmull-Rom), as here. On noise
  that is independent from voxel to voxel, the worst case, the two correlate by 0.99; on anything
  smooth by more.
- nsdcode subtracts 1 from the 1-based coordinates and then still calls those below 1 outside, so
  that a rim of one voxel is lost at the low side, and one voxel beyond the volume is let in.
- nsdcode replaces NaN by 0 before it interpolates.
"""

from pathlib import Path

import numpy as np
import pytest
from nibabel.freesurfer import MGHImage

from nsd_pipeline.nsd.layout import transform_keys
from nsd_pipeline.surface import read_operator

nsdcode = pytest.importorskip("nsdcode", reason="pip install --no-deps nsdcode")

SHAPE = (14, 16, 15)
N = 10_242


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Transform files, one of three vertices within a voxel of an edge of the volume."""
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("nsd")
    middle = {}
    for key in transform_keys("subj01", "func1pt8mm"):
        hemisphere = Path(key).name[:2]
        path = folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        if "layer" in key:
            start = middle.setdefault(hemisphere, 1 + rng.random((900, 3)) * (np.array(SHAPE) - 1))
            values = np.clip(start + rng.normal(0, 0.3, (900, 3)), 1, SHAPE)
            values[:3] = 9999
        else:
            values = rng.integers(1, 901, (163_842, 1))
        axes = (1, 1, 3) if "layer" in key else (1, 1)
        data = values.astype(np.float32).reshape(len(values), *axes)
        MGHImage(data, np.eye(4)).to_filename(path)
    return folder


def ours(base: Path, volumes: np.ndarray, method: str) -> np.ndarray:
    paths = {key: base / key for key in transform_keys("subj01", "func1pt8mm")}
    operator = read_operator(paths, "subj01", "func1pt8mm", SHAPE, method)
    return operator.apply(volumes.reshape(-1, volumes.shape[-1]))


def theirs(
    base: Path, volumes: np.ndarray, method: str, monkeypatch: pytest.MonkeyPatch
) -> np.ndarray:
    monkeypatch.setattr(np, "int", int, raising=False)  # it was written for an older numpy
    mapper = nsdcode.NSDmapdata(str(base))
    halves = []
    for side in ("lh", "rh"):
        depths = [
            mapper.fit(1, "func1pt8", f"{side}.layerB{n}", volumes, method, badval=np.nan)
            for n in (1, 2, 3)
        ]
        native = np.mean(depths, axis=0)
        halves.append(mapper.fit(1, f"{side}.white", "fsaverage", native)[:N])
    return np.concatenate(halves).T


def away_from_edges(base: Path) -> np.ndarray:
    """Vertices (20484,) all of whose depths lie two voxels inside."""
    import nibabel

    folder = base / "nsddata/ppdata/subj01/transforms"
    halves = []
    for side in ("lh", "rh"):
        depths = [
            nibabel.load(folder / f"{side}.func1pt8-to-layerB{n}.mgz").get_fdata().reshape(-1, 3)
            for n in (1, 2, 3)
        ]
        inside = np.logical_and.reduce(
            [((depth > 3) & (depth < np.array(SHAPE) - 2)).all(axis=1) for depth in depths]
        )
        index = nibabel.load(folder / f"{side}.white-to-fsaverage.mgz").get_fdata().ravel()
        halves.append(inside[index[:N].astype(int) - 1])
    return np.concatenate(halves)


@pytest.mark.parametrize("method", ["linear", "nearest"])
def test_linear_and_nearest_agree_away_from_edges(
    base: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    volumes = np.random.default_rng(1).normal(size=(*SHAPE, 3)).astype(np.float32)
    inside = away_from_edges(base)
    assert inside.mean() > 0.2
    mine, peer = ours(base, volumes, method), theirs(base, volumes, method, monkeypatch)
    np.testing.assert_allclose(mine[:, inside], peer[:, inside], atol=1e-5)
    # The rim of low coordinates, which nsdcode loses, has values here.
    assert np.isnan(peer).sum() > np.isnan(mine).sum() > 0


def test_cubic_is_near_but_not_the_same(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(2).normal(size=(*SHAPE, 40)).astype(np.float32)
    inside = away_from_edges(base)
    mine = ours(base, noise, "cubic")[:, inside]
    peer = theirs(base, noise, "cubic", monkeypatch)[:, inside]
    r = np.corrcoef(mine.ravel(), peer.ravel())[0, 1]
    assert 0.985 < r < 0.9999
    # Both reproduce a plane, to which their difference in between adds nothing.
    plane = np.indices(SHAPE).sum(axis=0, dtype=np.float32)[..., np.newaxis].repeat(2, axis=-1)
    mine, peer = ours(base, plane, "cubic"), theirs(base, plane, "cubic", monkeypatch)
    np.testing.assert_allclose(mine[:, inside], peer[:, inside], atol=0.05)
