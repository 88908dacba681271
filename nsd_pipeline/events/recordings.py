"""Which recording is used, of a session or of each of its runs."""

import pandas as pd

from nsd_pipeline.errors import NsdError


def sole_recording(events: pd.DataFrame, session: str) -> str:
    """Space of the one recording that a session's filtered events hold.

    Parameters
    ----------
    events
        A session's events after the space filter.
    session
        Name of the session, for the error.

    Returns
    -------
    str
        Its space, such as ``"fsaverage"``.

    Raises
    ------
    NsdError
        If no recording is left, or more than one: trials would count twice.
    """
    spaces = events.loc[events["type"] == "Fmri", "space"].tolist()
    return _only(spaces, session, "one recording", "fsaverage_events", "events")


def sole_recordings(events: pd.DataFrame, session: str) -> dict[int, str]:
    """Space of the one recording that each run of a session has after the space filter.

    Parameters
    ----------
    events, session
        As for `sole_recording`.

    Returns
    -------
    dict
        Space by run, for every run with trials, in order.

    Raises
    ------
    NsdError
        If a run has no recording left, or more than one: trials would count twice.
    """
    recordings = events[events["type"] == "Fmri"]
    spaces = recordings.groupby("run")["space"].agg(list).to_dict()
    return {
        run: _only(
            spaces.get(run, []),
            session,
            f"one recording of run {run}",
            "fsaverage5_series",
            "bold_events",
        )
        for run in sorted(events.loc[events["type"] == "Image", "run"].unique().tolist())
    }


def _only(spaces: list[str], session: str, wanted: str, filtered_by: str, listed_in: str) -> str:
    """The one space there is."""
    if len(spaces) == 1:
        return str(spaces[0])
    found = ", ".join(map(str, spaces)) if spaces else "none"
    raise NsdError(
        f"The filtered events of {session} should hold {wanted}, but hold {len(spaces)}: {found}.",
        next_step=f"materialize {filtered_by} with a query that keeps the one space to use, such as"
        f" \"type != 'Fmri' or space == 'fsaverage'\"; `{listed_in}` lists the spaces that there"
        " are.",
    )
