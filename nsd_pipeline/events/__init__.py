"""Event tables: what happened in a session, which of it is kept, and what is trained on.

An event table has one row per event. An ``Fmri`` row says where a recording lies (one per space on
the bucket; for time series, one per run and space), an ``Image`` row says when which image was
shown. Nothing here reads the bucket.
"""

from nsd_pipeline.events.build import build_bold_events as build_bold_events
from nsd_pipeline.events.build import build_events as build_events
from nsd_pipeline.events.selection import DEFAULT_QUERY as DEFAULT_QUERY
from nsd_pipeline.events.selection import assign_validation as assign_validation
from nsd_pipeline.events.selection import check_split as check_split
from nsd_pipeline.events.selection import filter_events as filter_events
from nsd_pipeline.events.selection import sole_recording as sole_recording
from nsd_pipeline.events.selection import sole_recordings as sole_recordings
from nsd_pipeline.events.table import EVENT_COLUMNS as EVENT_COLUMNS
from nsd_pipeline.events.table import read_events as read_events
from nsd_pipeline.events.table import write_events as write_events
from nsd_pipeline.events.windows import window as window
