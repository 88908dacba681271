"""How well estimates retrieve images: ranks, the reference's metrics, chance, and a verdict.

Arrays and tables come in and go out. Nothing here knows a model, or where artifacts lie.
"""

from nsd_pipeline.evaluation.chance import AgainstChance, Verdict, against_chance, chance_levels
from nsd_pipeline.evaluation.intervals import holm, metric_intervals, paired_differences
from nsd_pipeline.evaluation.metrics import BatchMetrics, retrieval_metrics
from nsd_pipeline.evaluation.ranks import (
    ensemble,
    name_trials,
    query_ranks,
    top_images,
    trial_ranks,
)
from nsd_pipeline.evaluation.seeds import seeds_table

__all__ = [
    "AgainstChance",
    "BatchMetrics",
    "Verdict",
    "against_chance",
    "chance_levels",
    "ensemble",
    "holm",
    "metric_intervals",
    "name_trials",
    "paired_differences",
    "query_ranks",
    "retrieval_metrics",
    "seeds_table",
    "top_images",
    "trial_ranks",
]
