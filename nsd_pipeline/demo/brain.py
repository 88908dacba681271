"""The simulated brain: the cortex it has, what it sees in an image, how it responds.

fsaverage5 is nilearn's copy. FreeSurfer refines a mesh by adding a vertex in the middle of every
edge, after the vertices that are there. Two such steps lead from the 10,242 vertices of fsaverage5
to the 163,842 of fsaverage. The first 10,242 are therefore where they are on fsaverage; the others
are in plausible places, in an order of our own.

The features are roughly what early visual cortex is known for, and nothing of any network: an
encoder can only be decoded from these responses because it looks at the same pictures.

A few patches of visual cortex respond linearly to the features of an image. Neighbouring
vertices prefer similar features, and a hemisphere prefers the opposite side of the visual field.
What subjects have in common is larger than what is their own. Everything else is noise: smooth
over the cortex, different from trial to trial, with an offset and a gain to every session. Surface
and volume files of a session are two pictures of the same responses.
"""

from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from nsd_pipeline.nsd.layout import HEMISPHERES, Hemisphere, subject_number

if TYPE_CHECKING:
    from scipy.sparse import csr_array


_REFINEMENTS: Final = 2
_SMOOTHING_STEPS: Final = 3


@dataclass(frozen=True, eq=False)
class Cortex:
    """One hemisphere of fsaverage5, and how to get from it to a mesh as fine as fsaverage.

    `white` and `pial`, the inner and outer surface of the grey matter, are (10242, 3) coordinates
    in mm, MNI305; `triangles` are (20480, 3) vertices.
    """

    white: NDArray[np.float32]
    pial: NDArray[np.float32]
    triangles: NDArray[np.int32]

    @property
    def n_vertices(self) -> int:
        """Vertices of the coarse mesh."""
        return len(self.white)

    @property
    def middle(self) -> NDArray[np.float32]:
        """(10242, 3) coordinates half way through the grey matter."""
        return (self.white + self.pial) * np.float32(0.5)

    @cached_property
    def parents(self) -> list[NDArray[np.int64]]:
        """For each refinement, the two vertices (edges, 2) that every new vertex is between."""
        triangles, n_vertices = self.triangles.astype(np.int64), self.n_vertices
        levels = []
        for _ in range(_REFINEMENTS):
            sides = np.sort(triangles[:, [[0, 1], [1, 2], [2, 0]]], axis=2).reshape(-1, 2)
            edges, index = np.unique(sides, axis=0, return_inverse=True)
            levels.append(edges)
            a, b, c = triangles.T
            ab, bc, ca = index.reshape(-1, 3).T + n_vertices
            triangles = np.concatenate(
                [np.stack(t, axis=1) for t in ((a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca))]
            )
            n_vertices += len(edges)
        return levels

    def refine(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Values (10242, ...) on the fine mesh (163842, ...), interpolated along edges."""
        for edges in self.parents:
            middles = (values[edges[:, 0]] + values[edges[:, 1]]) * np.float32(0.5)
            values = np.concatenate([values, middles])
        return values

    @cached_property
    def smoother(self) -> "csr_array":
        """(10242, 10242) operator that makes white noise smooth and leaves its variance as it is.

        It averages with the direct neighbours three times: about 14 mm wide at half maximum.
        """
        from scipy.sparse import csr_array

        first, second, third = self.triangles.T
        rows = np.concatenate([first, second, third, np.arange(self.n_vertices)])
        columns = np.concatenate([second, third, first, np.arange(self.n_vertices)])
        shape = (self.n_vertices, self.n_vertices)
        adjacent = csr_array((np.ones(rows.size, np.float32), (rows, columns)), shape=shape)
        step = _rows_scaled(adjacent, 1 / adjacent.sum(axis=1))
        smoother = step
        for _ in range(_SMOOTHING_STEPS - 1):
            smoother = csr_array(smoother @ step)
        return _rows_scaled(smoother, 1 / np.sqrt(smoother.multiply(smoother).sum(axis=1)))


def _rows_scaled(matrix: "csr_array", factors: NDArray[np.floating]) -> "csr_array":
    scaled = matrix.copy()
    scaled.data *= np.repeat(factors, np.diff(matrix.indptr)).astype(np.float32)
    return scaled


@cache
def load_cortex(hemisphere: Hemisphere) -> Cortex:
    """Read a hemisphere of fsaverage5 from nilearn's own files (nothing is downloaded)."""
    import nibabel
    from nilearn.datasets import fetch_surf_fsaverage

    files = fetch_surf_fsaverage("fsaverage5")
    side = {"lh": "left", "rh": "right"}[hemisphere]
    white, triangles = nibabel.load(files[f"white_{side}"]).agg_data(("pointset", "triangle"))
    pial = nibabel.load(files[f"pial_{side}"]).agg_data("pointset")
    return Cortex(white=white, pial=pial, triangles=triangles)


_FIELDS: Final = 3
"""The visual field is cut into 3 x 3 for colour, and into 2 x 2 for contrast."""
_POOL: Final = 5
_SIZE: Final = 84
"""Side of the picture that features are computed from, after averaging 5 x 5 pixels."""
_ORIENTATIONS: Final = np.deg2rad([0, 45, 90, 135])
_SCALES: Final = (1, 3)

HEMIFIELD: Final[NDArray[np.int64]] = np.concatenate(
    [
        np.tile([-1, 0, 1], 3 * _FIELDS),
        np.tile([-1, 1], 2 * len(_ORIENTATIONS) * len(_SCALES)),
    ]
)
"""Side of the visual field each feature is from: -1 left, 0 middle, 1 right. Shape (59,)."""


def image_features(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Features (59,) of one image (425, 425, 3).

    They are luminance, red-green and blue-yellow in 9 places, then contrast in 4 orientations and 4
    places at two scales.
    """
    side = _SIZE * _POOL
    small = image[:side, :side].reshape(_SIZE, _POOL, _SIZE, _POOL, 3).mean((1, 3), np.float32)
    red, green, blue = np.moveaxis(small / np.float32(255), -1, 0)
    luminance = (red + green + blue) / 3
    colours = (luminance, red - green, blue - (red + green) / 2)
    features = [_places(channel, _FIELDS) for channel in colours]
    for scale in _SCALES:
        cells = _SIZE // scale
        coarse = luminance.reshape(cells, scale, cells, scale).mean((1, 3))
        down, right = np.gradient(coarse)
        for angle in _ORIENTATIONS:
            edges = np.abs(np.float32(np.cos(angle)) * right + np.float32(np.sin(angle)) * down)
            features.append(_places(edges, 2))
    return np.concatenate(features)


def standardise(features: NDArray[np.floating]) -> NDArray[np.float32]:
    """Features (images, features) with mean 0 and standard deviation 1 over images."""
    deviation = features.std(axis=0)
    scaled = (features - features.mean(axis=0)) / np.where(deviation > 0, deviation, 1)
    return np.asarray(scaled, dtype=np.float32)


def _places(channel: NDArray[np.float32], n: int) -> NDArray[np.float32]:
    """Mean of a square picture over n x n places, row by row."""
    step = len(channel) // n
    return np.asarray(channel.reshape(n, step, n, step).mean((1, 3)).ravel())


_PATCHES: Final = (
    ((12, -92, 0), 15, 3.6, 1),  # occipital pole
    ((42, -76, 0), 11, 3.0, 6),  # lateral occipital
    ((36, -58, -16), 11, 3.0, 5),  # fusiform
    ((24, -84, 24), 11, 2.7, 7),  # dorsal occipital
    ((26, -48, -10), 9, 2.7, 5),  # parahippocampal
)
"""Patches of cortex that respond to images.

A centre in mm (MNI305) in the right hemisphere, mirrored for the left; the standard deviation of
the fall-off from it, in mm; in percent, that of its response over images at strength 1; and the
stream it is in, by NSD's numbers (1 early, 5 ventral, 6 lateral, 7 parietal).
"""
SMOOTH_NOISE: Final = 1.0
"""Standard deviation, in percent, of the noise that neighbouring vertices share."""
WHITE_NOISE: Final = 0.8
"""Standard deviation, in percent, of the noise that every vertex has for itself."""
_COMMON: Final = 0.7
"""Part of the variance of what vertices prefer that all subjects have in common."""
_SAME_SIDE: Final = 0.3
"""Weight of the side of the visual field that a hemisphere does not prefer."""
_MEAN_RESPONSE: Final = 1.2
_SESSION_OFFSET: Final = 0.4
_SESSION_GAIN: Final = 0.15


def response_profile(hemisphere: Hemisphere) -> NDArray[np.float32]:
    """Where the brain responds to images: amplitude of every vertex in percent, (10242,)."""
    profile: NDArray[np.float32] = _patch_profiles(hemisphere).max(axis=0)
    return profile


def stream_labels(hemisphere: Hemisphere) -> NDArray[np.int32]:
    """Stream of every vertex of the fine mesh (163842,), by NSD's numbers; 0 is none."""
    profiles = _patch_profiles(hemisphere)
    streams = np.array([stream for *_, stream in _PATCHES], np.int32)
    labels = np.where(profiles.any(axis=0), streams[profiles.argmax(axis=0)], 0)
    for edges in load_cortex(hemisphere).parents:
        labels = np.concatenate([labels, labels[edges[:, 0]]])  # a label has no mean
    return labels.astype(np.int32)


def _patch_profiles(hemisphere: Hemisphere) -> NDArray[np.float32]:
    """Amplitude of every vertex in percent, by patch: (5, 10242)."""
    middle = load_cortex(hemisphere).middle
    mirror = np.array([-1 if hemisphere == "lh" else 1, 1, 1])
    profiles = []
    for centre, radius, amplitude, _ in _PATCHES:
        distance = np.linalg.norm(middle - mirror * np.array(centre), axis=1)
        fall = amplitude * np.exp(-0.5 * (distance / radius) ** 2)
        profiles.append(np.where(fall > 0.05 * amplitude, fall, 0))
    return np.asarray(profiles, dtype=np.float32)


@dataclass(frozen=True, eq=False)
class Brain:
    """One hemisphere of one simulated subject.

    `strength` is a factor on the responses to what images show.
    """

    subject: str
    hemisphere: Hemisphere
    strength: float
    seed: int

    def rng(self, *purpose: int) -> np.random.Generator:
        """Random numbers of this hemisphere for one purpose."""
        side = HEMISPHERES.index(self.hemisphere)
        return np.random.default_rng([self.seed, 3, subject_number(self.subject), side, *purpose])

    @property
    def cortex(self) -> Cortex:
        """The surface it is on."""
        return load_cortex(self.hemisphere)

    def tuning(self) -> NDArray[np.float32]:
        """Response of every vertex to every standardised feature, in percent: (59, 10242)."""
        side = 1 if self.hemisphere == "lh" else -1
        gain = np.where((HEMIFIELD == 0) | (side == HEMIFIELD), 1, _SAME_SIDE)
        common = np.random.default_rng([self.seed, 3, 0, HEMISPHERES.index(self.hemisphere)])
        maps = [
            np.sqrt(part) * rng.standard_normal((len(HEMIFIELD), self.cortex.n_vertices))
            for part, rng in ((_COMMON, common), (1 - _COMMON, self.rng()))
        ]
        smooth = self.cortex.smoother @ (maps[0] + maps[1]).T
        weights = gain[:, np.newaxis] * smooth.T / np.linalg.norm(gain)
        profile = response_profile(self.hemisphere)
        return np.asarray(self.strength * profile * weights, dtype=np.float32)

    def responses(self, features: NDArray[np.float32], session: int) -> NDArray[np.float32]:
        """Betas (T, 10242) of a session's trials, without the noise every vertex has for itself.

        They are in percent signal change. ``features`` are the standardised ones (T, 59) of the
        images shown, by trial; sessions count from 1.
        """
        rng = self.rng(session)
        shape = (len(features) + 1, self.cortex.n_vertices)
        smooth = (self.cortex.smoother @ rng.standard_normal(shape, dtype=np.float32).T).T
        mean = _MEAN_RESPONSE * response_profile(self.hemisphere) + _SESSION_OFFSET * smooth[0]
        gain = 1 + _SESSION_GAIN * rng.uniform(-1, 1)
        betas = gain * (mean + features @ self.tuning()) + SMOOTH_NOISE * smooth[1:]
        return np.asarray(betas, dtype=np.float32)

    def betas(self, features: NDArray[np.float32], session: int) -> NDArray[np.float32]:
        """Betas of a session's trials: :meth:`responses` with every vertex's own noise.

        All spaces start from these, so that they hold the same noise.
        """
        betas = self.responses(features, session)
        noise = self.rng(session, 4).standard_normal(betas.shape, np.float32)
        betas += np.float32(WHITE_NOISE) * noise
        return betas

    def invalid(self, session: int) -> NDArray[np.bool_]:
        """Vertices (10242,) that a session has no data for.

        The slice package never covers the temporal pole, and every session it misses another bit
        of the top of the head.
        """
        _, y, z = self.cortex.middle.T
        never = (y > 0) & (z < -30)
        top = self.rng(session, 1).uniform(68, 74)
        return np.asarray(never | (z > top))
