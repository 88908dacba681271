"""How well estimates retrieve images: ranks, the reference's metrics, chance, and a verdict.

Arrays and tables come in and go out. Nothing here knows a model, or where artifacts lie.
"""

from nsd_pipeline.evaluation.chance import AgainstChance, Verdict, against_chance, chance_levels
from nsd_pipeline.evaluation.intervals import holm, metric_intervals, paired_differences
from nsd_pipeline.evaluation.metrics import BatchMetrics, retrieval_metrics
from nsd_pipeline.evaluation.ranks import name_trials, query_ranks, top_images, trial_ranks

__all__ = [
    "AgainstChance",
    "BatchMetrics",
    "Verdict",
    "against_chance",
    "chance_levels",
    "holm",
    "metric_intervals",
    "name_trials",
    "paired_differences",
    "query_ranks",
    "retrieval_metrics",
    "top_images",
    "trial_ranks",
]
