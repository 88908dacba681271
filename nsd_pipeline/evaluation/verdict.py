"""Whether a model retrieves better than guessing, in words."""

from dataclasses import dataclass
from typing import Final

from nsd_pipeline.evaluation.chance import AgainstChance

LEVEL: Final = 0.001
"""Models that know nothing pass with this probability at most."""


@dataclass(frozen=True)
class Verdict:
    """What the top-5 accuracy over images says about a model.

    Parameters
    ----------
    cohort
        Whose model it is.
    against
        Its accuracy over images, compared with guessing.
    seed
        Seed of the model's weights.
    n_sessions
        Sessions that it was trained on.
    """

    cohort: str
    against: AgainstChance
    seed: int
    n_sessions: int

    @property
    def above_chance(self) -> bool:
        """Whether the model is better than guessing."""
        return self.against.p_value < LEVEL

    @property
    def conclusive(self) -> bool:
        """Whether there are enough test images for any model to show that it is better."""
        return self.against.least_p_value < LEVEL

    @property
    def message(self) -> str:
        """The verdict; for a model at chance with what usually causes it."""
        found = self.against
        numbers = (
            f"top-5 of {found.n_images} test images {found.accuracy:.1%}, chance"
            f" {found.chance:.1%}, p = {found.p_value:.2g}"
        )
        if self.above_chance:
            return f"The model of {self.cohort} is better than guessing: {numbers}."
        if not self.conclusive:
            return (
                f"{found.n_images} test images are too few to tell the model of {self.cohort} from"
                f" guessing: {numbers}. More sessions show more of the shared images."
            )
        sessions = f"{self.n_sessions} session{'s' * (self.n_sessions > 1)}"
        return (
            f"The model of {self.cohort} is no better than guessing: {numbers}. What usually causes"
            f" this: the seed (this is seed {self.seed}: train with another one and compare); too"
            f" few sessions (there are {sessions}); a wrong mapping from trials to images (see the"
            " checks trial_counts and mapping_agreement of events). The model and its metrics are"
            " kept."
        )
