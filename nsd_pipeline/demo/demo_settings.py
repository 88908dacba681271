"""What a demo dataset looks like, as numbers: the settings it is generated from."""

from typing import Final, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from nsd_pipeline.nsd.layout import N_SESSIONS, SUBJECTS, FunctionalSpace, Space

N_DESIGN_SESSIONS: Final = max(N_SESSIONS.values())
N_DESIGN_TRIALS: Final = 30_000
"""Trials the real design plans for every subject, over 40 sessions."""
N_RUNS: Final = 12
"""Task runs of a session."""
N_SLOTS: Final = 75
"""Slots of 4 s in a run; each shows an image or nothing."""
Signal = Literal["betas", "bold"]
SIGNALS: Final[tuple[Signal, ...]] = get_args(Signal)
DEFAULT_SPACES: Final[tuple[Space, ...]] = ("func1pt8mm",)


class DemoSettings(BaseModel):
    """Size, signal and seed of a demo dataset.

    Parameters
    ----------
    subjects
        How many of NSD's subjects are there, counted from subj01.
    sessions
        Sessions of subj01. Every further subject has one less, and at least one.
    trials_per_run
        Trials in a run of odd number; runs of even number have one less (63 and 62 in NSD).
    signal
        How the brain's responses are written: as ``betas`` alone, or as ``bold`` beside them, which
        is a raw BIDS tree and derivatives. Trials then come early in their runs, so that runs can
        be short.
    strength
        How strongly the brain responds to what an image shows; 0 for not at all, 1 for responses
        that stand out of the noise in visual cortex.
    spaces
        Spaces beside fsaverage that every subject's first session is written in as well.
    hdf5
        Functional spaces among them that are written as HDF5 beside NIfTI.
    seed
        Seed of everything random.
    generator
        Version of the generator. It is raised when the same settings give another dataset.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    subjects: int = Field(default=2, ge=1, le=len(SUBJECTS))
    sessions: int = Field(default=4, ge=1, le=min(N_SESSIONS.values()))
    trials_per_run: int = Field(default=9, ge=2, le=63)
    signal: Signal = "betas"
    strength: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    spaces: tuple[Space, ...] = DEFAULT_SPACES
    hdf5: tuple[FunctionalSpace, ...] = ()
    seed: int = Field(default=0, ge=0)
    generator: int = 2

    @model_validator(mode="after")
    def _check_spaces(self) -> Self:
        if "fsaverage" in self.spaces:
            raise ValueError("fsaverage is written anyway: name other spaces only")
        if not set(self.hdf5) <= set(self.spaces):
            raise ValueError(f"hdf5 names {self.hdf5}, but spaces only {self.spaces}")
        return self

    @model_validator(mode="after")
    def _check_room(self) -> Self:
        later_slots = (N_DESIGN_SESSIONS - self.sessions) * N_RUNS * N_SLOTS
        if self.n_trials + later_slots < N_DESIGN_TRIALS:
            raise ValueError(
                f"{self.sessions} sessions of {self.session_trials} trials leave more of the "
                f"design's {N_DESIGN_TRIALS} trials than the other sessions have slots for: ask "
                "for fewer sessions or more trials_per_run"
            )
        return self

    @property
    def session_trials(self) -> int:
        """Trials of one generated session."""
        return N_RUNS // 2 * (2 * self.trials_per_run - 1)

    @property
    def n_trials(self) -> int:
        """Trials of subj01, who has the most."""
        return self.sessions * self.session_trials

    @property
    def subject_sessions(self) -> dict[str, int]:
        """How many sessions each subject has."""
        return {
            subject: max(self.sessions - index, 1)
            for index, subject in enumerate(SUBJECTS[: self.subjects])
        }
