"""The columns of an event table, and its Parquet file.

``EVENT_COLUMNS`` is the only place that says which columns there are, of which type, and what they
mean: the Parquet schema carries the descriptions, and a user interface can show them.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from nsd_pipeline.errors import ArtifactError, NsdError
from nsd_pipeline.storage.disk import replacing

if TYPE_CHECKING:
    import pandas as pd

EVENTS_FILE: Final = "events.parquet"
"""Name of the file in an artifact."""


class EventColumn(NamedTuple):
    """One column of an event table."""

    name: str
    dtype: Literal["string", "Int64", "Float64", "boolean"]
    """Nullable pandas dtype, so that integers with gaps stay integers."""
    description: str
    """What the column holds, with its unit."""


EVENT_COLUMNS: Final[tuple[EventColumn, ...]] = (
    EventColumn("type", "string", "'Fmri' (a recording) or 'Image' (one image shown)"),
    EventColumn("subject", "string", "'subj01' to 'subj08'"),
    EventColumn("session", "Int64", "1-based scan session of the subject"),
    EventColumn(
        "run", "Int64", "1-based task run within the session; null for betas, which are of all"
    ),
    EventColumn("timeline", "string", "one run of one session: 'subj01_ses01_run01'"),
    EventColumn("trial", "Int64", "0-based trial within the session = frame of its beta files"),
    EventColumn(
        "start", "Float64", "image onset in seconds after the run's first volume; 0 for runs"
    ),
    EventColumn("duration", "Float64", "seconds for which the image was shown"),
    EventColumn("space", "string", "space of the recording, such as 'fsaverage'; null for Image"),
    EventColumn(
        "filepath",
        "string",
        "key on the bucket; for surfaces the left hemisphere's ('lh.'), the right one lies beside "
        "it ('rh.'); for images the stimulus file and, after '#', the row in it",
    ),
    EventColumn("image_id", "Int64", "0-based row of the image among NSD's 73,000"),
    EventColumn("image_id_10k", "Int64", "0-based place of the image among the subject's 10,000"),
    EventColumn("repetition", "Int64", "how often the subject had seen the image before: 0, 1, 2"),
    EventColumn("shared", "boolean", "whether the image is one of the 1,000 that all subjects see"),
    EventColumn("split", "string", "'train', 'val' or 'test' (shared images); null for Fmri"),
    EventColumn("is_old", "boolean", "whether the image had been shown before, in any session"),
    EventColumn("is_correct", "boolean", "whether the response (old or new) was right"),
    EventColumn("response_time", "Float64", "milliseconds from image onset to button press"),
    EventColumn("change_mind", "boolean", "whether more than one button was pressed"),
    EventColumn("memory_recent", "Int64", "stimulus trials since the latest showing of the image"),
    EventColumn("memory_first", "Int64", "stimulus trials since the first showing of the image"),
    EventColumn("is_old_current", "boolean", "whether the image had been shown in this session"),
    EventColumn("is_correct_current", "boolean", "whether the response was right for this session"),
    EventColumn("total_1", "Int64", "presses of button 1 ('new')"),
    EventColumn("total_2", "Int64", "presses of button 2 ('old')"),
    EventColumn("button", "Int64", "the button that counted: 1 ('new') or 2 ('old')"),
    EventColumn("missing_data", "boolean", "whether the run's button presses were lost"),
)


def conform(events: "pd.DataFrame") -> "pd.DataFrame":
    """Give a table exactly the columns of ``EVENT_COLUMNS``, in order and with their dtypes.

    An NsdError if a column is missing or is not one of an event table.
    """
    names = [column.name for column in EVENT_COLUMNS]
    missing = [name for name in names if name not in events]
    unknown = [str(name) for name in events if name not in names]
    if missing or unknown:
        raise NsdError(
            f"The table is not an event table: missing columns {missing}, unknown {unknown}.",
            next_step="build it with build_events and leave its columns as they are.",
        )
    return events[names].astype({column.name: column.dtype for column in EVENT_COLUMNS})


def write_events(path: Path, events: "pd.DataFrame") -> None:
    """Write an event table as Parquet, each column with its description in the schema.

    A file that exists is replaced whole. An NsdError if the columns are not ``EVENT_COLUMNS``'.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pandas(conform(events), preserve_index=False)
    fields = [
        field.with_metadata({"description": column.description})
        for field, column in zip(table.schema, EVENT_COLUMNS, strict=True)
    ]
    with replacing(path) as partial:
        pq.write_table(table.cast(pa.schema(fields, metadata=table.schema.metadata)), partial)


def read_events(path: Path) -> "pd.DataFrame":
    """Read an event table.

    Returns
    -------
    DataFrame
        Columns and dtypes of ``EVENT_COLUMNS``.

    Raises
    ------
    ArtifactError
        If the file is missing, unreadable or not an event table.
    """
    import pyarrow.parquet as pq

    try:
        return conform(pq.read_table(path).to_pandas())
    except MemoryError:
        raise
    except Exception as error:  # pyarrow and pandas let through whatever they trip over
        raise ArtifactError(
            f"{path} is not a readable event table: {error}",
            next_step="make the events of this session again.",
        ) from error
