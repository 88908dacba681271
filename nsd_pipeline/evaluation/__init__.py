"""How well estimates retrieve images: ranks, the reference's metrics, chance, and a verdict.

Arrays and tables come in and go out. Nothing here knows a model, or where artifacts lie.
"""

from nsd_pipeline.evaluation.ceiling import NoiseCeiling, noise_ceiling
from nsd_pipeline.evaluation.chance import (
    AgainstChance,
    Verdict,
    against_chance,
    batch_chance,
    table_chance,
)
from nsd_pipeline.evaluation.intervals import (
    differences_to,
    holm,
    metric_intervals,
    paired_differences,
)
from nsd_pipeline.evaluation.metrics import BatchMetrics, batch_retrieval, retrieval_metrics
from nsd_pipeline.evaluation.protocols import (
    drawn_retrieval,
    hard_negative_ranks,
    image_difficulty,
    repeat_ranks,
    seen_by_all,
    seen_by_all_ranks,
)
from nsd_pipeline.evaluation.ranks import name_trials, query_ranks, top_images, trial_ranks
from nsd_pipeline.evaluation.seeds import ENSEMBLE, ensemble, over_seeds, seeds_and_ensemble

__all__ = [
    "ENSEMBLE",
    "AgainstChance",
    "BatchMetrics",
    "NoiseCeiling",
    "Verdict",
    "against_chance",
    "batch_chance",
    "batch_retrieval",
    "differences_to",
    "drawn_retrieval",
    "ensemble",
    "hard_negative_ranks",
    "holm",
    "image_difficulty",
    "metric_intervals",
    "name_trials",
    "noise_ceiling",
    "over_seeds",
    "paired_differences",
    "query_ranks",
    "repeat_ranks",
    "retrieval_metrics",
    "seeds_and_ensemble",
    "seen_by_all",
    "seen_by_all_ranks",
    "table_chance",
    "top_images",
    "trial_ranks",
]
