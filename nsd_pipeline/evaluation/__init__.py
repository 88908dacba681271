"""How well estimates retrieve images: ranks, the reference's metrics, chance, and a verdict.

Arrays and tables come in and go out. Nothing here knows a model, or where artifacts lie.
"""

from nsd_pipeline.evaluation.ceiling import NoiseCeiling as NoiseCeiling
from nsd_pipeline.evaluation.ceiling import noise_ceiling as noise_ceiling
from nsd_pipeline.evaluation.chance import AgainstChance as AgainstChance
from nsd_pipeline.evaluation.chance import Verdict as Verdict
from nsd_pipeline.evaluation.chance import against_chance as against_chance
from nsd_pipeline.evaluation.chance import batch_chance as batch_chance
from nsd_pipeline.evaluation.chance import table_chance as table_chance
from nsd_pipeline.evaluation.intervals import differences_to as differences_to
from nsd_pipeline.evaluation.intervals import holm as holm
from nsd_pipeline.evaluation.intervals import metric_intervals as metric_intervals
from nsd_pipeline.evaluation.intervals import paired_differences as paired_differences
from nsd_pipeline.evaluation.metrics import BatchMetrics as BatchMetrics
from nsd_pipeline.evaluation.metrics import batch_retrieval as batch_retrieval
from nsd_pipeline.evaluation.metrics import retrieval_metrics as retrieval_metrics
from nsd_pipeline.evaluation.protocols import drawn_retrieval as drawn_retrieval
from nsd_pipeline.evaluation.protocols import hard_negative_ranks as hard_negative_ranks
from nsd_pipeline.evaluation.protocols import image_difficulty as image_difficulty
from nsd_pipeline.evaluation.protocols import repeat_ranks as repeat_ranks
from nsd_pipeline.evaluation.protocols import seen_by_all as seen_by_all
from nsd_pipeline.evaluation.protocols import seen_by_all_ranks as seen_by_all_ranks
from nsd_pipeline.evaluation.ranks import name_trials as name_trials
from nsd_pipeline.evaluation.ranks import query_ranks as query_ranks
from nsd_pipeline.evaluation.ranks import top_images as top_images
from nsd_pipeline.evaluation.ranks import trial_ranks as trial_ranks
from nsd_pipeline.evaluation.seeds import ENSEMBLE as ENSEMBLE
from nsd_pipeline.evaluation.seeds import ensemble as ensemble
from nsd_pipeline.evaluation.seeds import over_seeds as over_seeds
from nsd_pipeline.evaluation.seeds import seeds_and_ensemble as seeds_and_ensemble
