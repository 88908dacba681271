"""Which recording of a session is used."""

import pandas as pd

from nsd_pipeline.nsd.errors import NsdError


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
    if len(spaces) == 1:
        return str(spaces[0])
    found = ", ".join(map(str, spaces)) if spaces else "none"
    raise NsdError(
        f"The filtered events of {session} should hold one recording, but hold"
        f" {len(spaces)}: {found}.",
        next_step="materialize fsaverage_events with a query that keeps the one space to use,"
        " such as \"type != 'Fmri' or space == 'fsaverage'\"; `events` lists the spaces on the"
        " bucket.",
    )
