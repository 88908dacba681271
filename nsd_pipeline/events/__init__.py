"""Event tables: what happened in a session, which of it is kept, and what is trained on.

An event table has one row per event. An ``Fmri`` row says where a recording lies (one per space on
the bucket; for time series, one per run and space), an ``Image`` row says when which image was
shown. Nothing here reads the bucket.
"""

from nsd_pipeline.events.build import build_bold_events, build_events
from nsd_pipeline.events.selection import (
    DEFAULT_QUERY,
    assign_validation,
    check_split,
    filter_events,
    sole_recording,
    sole_recordings,
)
from nsd_pipeline.events.table import EVENT_COLUMNS, read_events, write_events
from nsd_pipeline.events.windows import window

__all__ = [
    "DEFAULT_QUERY",
    "EVENT_COLUMNS",
    "assign_validation",
    "build_bold_events",
    "build_events",
    "check_split",
    "filter_events",
    "read_events",
    "sole_recording",
    "sole_recordings",
    "window",
    "write_events",
]
