"""Noise ceiling and reliability: how much of a response comes back when an image is shown again.

The ceiling is by NSD's rule (Allen et al. 2022, "noise ceiling estimation"). Betas are z-scored
within each session. Noise is what differs between the three repeats of an image: its variance is
the mean over images of their variance over repeats. A z-scored response has variance 1, so the rest
is signal:

    ncsnr = sqrt(max(0, 1 - noise variance)) / sqrt(noise variance)
    NC%   = 100 ncsnr^2 / (ncsnr^2 + 1 / n)        for the mean of n repeats

Reliability is test against retest, as GLMsingle's authors judge betas by it (Prince et al. 2022):
Pearson's correlation, over images, of the responses to one repeat with those to another. Three
repeats make no halves, so all of their pairs count, in both orders, with one mean m and one
variance for all: Fisher's (1925) intraclass correlation.

    reliability = mean of (z_i - m) (z_j - m) / variance of z       over images, and pairs i, j

Where that variance is 1, as the ceiling's rule has it, this is NC% / 100 of one trial. But nothing
is cut off: where there is no signal, it is 0 on average.

Repeats of an image are in different sessions, so sums over them must wait for the last one. They
take two numbers for each image and vertex: for all of fsaverage5 and 10,000 images 1.6 GB. They are
therefore kept for some vertices at a time, and each session is read once for each block of them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nsd_pipeline.errors import NotEnoughDataError
from nsd_pipeline.evaluation.retrieval import Floats, Integers

REPEATS: Final = 3
"""How often NSD shows an image. Those that were shown less often tell less, and are left out."""
_BLOCK: Final = 4096

Read = Callable[[str, slice], NDArray[Any]]
"""From a session and a range of vertices to the betas (T, v) of all of its trials."""


@dataclass(frozen=True)
class NoiseCeiling:
    """What comes back of vertices' responses (V,) when an image is shown again; NaN: no value.

    ``ncsnr`` is the noise ceiling signal-to-noise ratio. Where there is no signal it is not 0 on
    average but about 0.1, because noise variances above 1 are cut off. ``reliability``, from -0.5
    to 1, is the correlation of a vertex's responses to an image with those to its other repeats.
    Both are from the ``n_images`` images that were shown three times.
    """

    ncsnr: NDArray[np.float64]
    reliability: NDArray[np.float64]
    n_images: int

    def percent(self, n_repeats: int) -> NDArray[np.float64]:
        """Share of variance (V,), in percent, that is signal in the mean of so many repeats."""
        squared = self.ncsnr**2
        return 100 * squared / (squared + 1 / n_repeats)


def noise_ceiling(
    images: Mapping[str, ArrayLike], read: Read, n_vertices: int, block: int = _BLOCK
) -> NoiseCeiling:
    """Compute the noise ceiling and the reliability of one subject's V vertices, in one reading.

    ``images`` are those (T,) that a session's trials showed. Betas may be percent signal change, or
    z-scored by session already, which changes nothing. ``block`` vertices are read at once: for
    NSD's 10,000 images, 4,096 of them take 0.5 GB. Where a vertex is not finite, or constant
    throughout a session, it has no z-score: images that were shown then do not count for it. With
    fewer than two left it has no value. A NotEnoughDataError if no image was shown three times.
    """
    codes, n_images = _numbers(images)
    found = np.empty((2, n_vertices))
    for start in range(0, n_vertices, block):
        vertices = slice(start, min(start + block, n_vertices))
        # Sums over the repeats of each image: of z-scores, and of their squares.
        sums = np.zeros((2, n_images, vertices.stop - start), np.float32)
        for session, code in codes.items():
            z_scores = _z_scored(read(session, vertices))
            _add(sums, z_scores[code >= 0], code[code >= 0])
        found[:, vertices] = _from_sums(sums)
    return NoiseCeiling(found[0], found[1], n_images)


def _numbers(images: Mapping[str, ArrayLike]) -> tuple[dict[str, Integers], int]:
    """Number the images that were shown three times; -1 for the trials of others."""
    import pandas as pd

    trials = np.concatenate([np.asarray(each) for each in images.values()])
    distinct, counts = np.unique(trials, return_counts=True)
    shown = distinct[counts == REPEATS]
    if not len(shown):
        raise NotEnoughDataError(
            f"There is no noise ceiling: in {len(images)} sessions, no image was shown"
            f" {REPEATS} times.",
            next_step="prepare more sessions of this subject.",
        )
    index = pd.Index(shown)
    codes = {session: index.get_indexer(np.asarray(each)) for session, each in images.items()}
    return codes, len(shown)


def _z_scored(betas: NDArray[Any]) -> Floats:
    """Z-score each vertex over its finite trials; NaN where there are none or all are equal."""
    finite, betas = np.isfinite(betas), np.asarray(betas, np.float64)
    n = np.count_nonzero(finite, axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        centred: NDArray[np.float64] = betas - np.sum(betas, axis=0, where=finite) / n
        variance = np.sum(centred**2, axis=0, where=finite) / (n - 1)
        centred /= np.sqrt(np.where(variance > 0, variance, np.nan))
    return centred.astype(np.float32)


def _add(sums: Floats, z_scores: Floats, code: Integers) -> None:
    from scipy.sparse import csr_array

    shown, place = np.unique(code, return_inverse=True)
    ones = np.ones(len(code), np.float32)
    belongs = csr_array((ones, (place, np.arange(len(code)))), shape=(len(shown), len(code)))
    sums[0, shown] += belongs @ z_scores
    sums[1, shown] += belongs @ z_scores**2


def _from_sums(sums: Floats) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute ``ncsnr`` and reliability (v,) from sums (2, N, v) over the repeats of N images."""
    total, squares = sums
    there = np.isfinite(squares)
    n = np.count_nonzero(there, axis=0)
    # One image has no spread over images: its reliability would be -0.5, its ceiling anything.
    n = np.where(n > 1, n, np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean, square = (
            np.sum(each, axis=0, where=there, dtype=np.float64) / (REPEATS * n) for each in sums
        )
        # In place: the sums are all that fills the memory.
        np.square(total, out=total)
        of_totals = np.sum(total, axis=0, where=there, dtype=np.float64) / (REPEATS * n)
        # The squared total of an image is its squares, and each product of two of its repeats.
        noise = (square - of_totals / REPEATS) * REPEATS / (REPEATS - 1)
        product = (of_totals - square) / (REPEATS - 1)
        ncsnr = np.sqrt(np.maximum(0, 1 - noise) / noise)
        reliability = (product - mean**2) / (square - mean**2)
    return ncsnr, reliability
