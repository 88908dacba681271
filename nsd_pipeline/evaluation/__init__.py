"""How well estimates retrieve images: ranks, the reference's metrics, chance, and a verdict.

Arrays and tables come in and go out. Nothing here knows a model, or where artifacts lie.
"""

from nsd_pipeline.evaluation.chance import AgainstChance, Verdict, against_chance, chance_levels
from nsd_pipeline.evaluation.metrics import BatchMetrics, retrieval_metrics
from nsd_pipeline.evaluation.ranks import name_trials, top_images, trial_ranks
from nsd_pipeline.evaluation.seeds import ensemble, seeds_table

__all__ = [
    "AgainstChance",
    "BatchMetrics",
    "Verdict",
    "against_chance",
    "chance_levels",
    "ensemble",
    "name_trials",
    "retrieval_metrics",
    "seeds_table",
    "top_images",
    "trial_ranks",
]
