"""The cortical surface: decimation, projection of volumes, cleaning, and one session's betas.

Surface data are always on fsaverage5 here, 10,242 vertices a hemisphere, left hemisphere first.
"""

from nsd_pipeline.surface.cleaning import clean
from nsd_pipeline.surface.decimate import downsample
from nsd_pipeline.surface.session import SessionStatistics, read_betas, summarise, write_session

__all__ = [
    "SessionStatistics",
    "clean",
    "downsample",
    "read_betas",
    "summarise",
    "write_session",
]
