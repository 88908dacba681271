"""The simulated brain: how fsaverage5 responds to images, in percent signal change.

A few patches of visual cortex respond linearly to the features of :mod:`.features`. Neighbouring
vertices prefer similar features, and a hemisphere prefers the opposite side of the visual field.
What subjects have in common is larger than what is their own. Everything else is noise: smooth
over the cortex, different from trial to trial, with an offset and a gain to every session. Surface
and volume files of a session are two pictures of the same responses.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from nsd_pipeline.demo.cortex import Cortex, load_cortex
from nsd_pipeline.demo.features import HEMIFIELD
from nsd_pipeline.nsd.layout import HEMISPHERES, Hemisphere, subject_number


@dataclass(frozen=True)
class Patch:
    """A patch of cortex that responds to images.

    Parameters
    ----------
    centre
        x, y, z in mm (MNI305) in the right hemisphere; mirrored for the left.
    radius
        Standard deviation of the fall-off from the centre, in mm.
    amplitude
        Standard deviation over images of the centre's response at strength 1, in percent.
    """

    centre: tuple[float, float, float]
    radius: float
    amplitude: float


PATCHES: Final = (
    Patch(centre=(12, -92, 0), radius=15, amplitude=3.6),  # occipital pole
    Patch(centre=(42, -76, 0), radius=11, amplitude=3.0),  # lateral occipital
    Patch(centre=(36, -58, -16), radius=11, amplitude=3.0),  # fusiform
    Patch(centre=(24, -84, 24), radius=11, amplitude=2.7),  # dorsal occipital
    Patch(centre=(26, -48, -10), radius=9, amplitude=2.7),  # parahippocampal
)

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
    middle = load_cortex(hemisphere).middle
    mirror = np.array([-1 if hemisphere == "lh" else 1, 1, 1])
    profile = np.zeros(len(middle))
    for patch in PATCHES:
        distance = np.linalg.norm(middle - mirror * np.array(patch.centre), axis=1)
        fall = patch.amplitude * np.exp(-0.5 * (distance / patch.radius) ** 2)
        profile = np.maximum(profile, np.where(fall > 0.05 * patch.amplitude, fall, 0))
    return np.asarray(profile, dtype=np.float32)


@dataclass(frozen=True, eq=False)
class Brain:
    """One hemisphere of one simulated subject.

    Parameters
    ----------
    subject
        ``subj01`` to ``subj08``.
    hemisphere
        ``lh`` or ``rh``.
    strength
        Factor on the responses to what images show.
    seed
        Seed of the dataset.
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
        """Betas of a session's trials without the noise that every vertex has for itself.

        Parameters
        ----------
        features
            (T, 59) standardised features of the images shown, by trial.
        session
            1-based session.

        Returns
        -------
        numpy.ndarray
            (T, 10242) float32, percent signal change.
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
