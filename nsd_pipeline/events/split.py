"""Split events into training, validation and test.

The test set is NSD's own: the images shared by all subjects. Validation is held out of the rest.
"""

from typing import Final

import pandas as pd

from nsd_pipeline.errors import NotEnoughDataError, NsdError

SPLITS: Final = ("train", "val", "test")


def assign_validation(
    events: pd.DataFrame, by: str = "timeline", ratio: float = 0.2, seed: int = 33
) -> pd.DataFrame:
    """Move a part of the training events to validation, in whole groups.

    Parameters
    ----------
    events
        Table with ``split`` ("train" or "test") and the column named by ``by``. For a joint model,
        the events of all its subjects together. Events without a split (recordings) stay so.
    by
        Column whose values stay whole. "timeline" is neuralbench's protocol: a run is either
        trained on or validated on, but repeats of one image fall on both sides. "image_id" is the
        clean alternative: an image is seen in training or in validation, never in both.
    ratio
        Share of the groups that goes to validation, above 0 and below 1.
    seed
        Seed of the shuffle, which takes the groups in order of appearance.

    Returns
    -------
    DataFrame
        A copy with ``split`` one of "train", "val", "test".

    Raises
    ------
    NsdError
        If there is no column ``by``, or ``ratio`` is not a share.
    NotEnoughDataError
        If the training events are of too few groups to leave any on either side.
    """
    from sklearn.model_selection import train_test_split

    if by not in events:
        raise NsdError(
            f"The events have no column {by!r} to split by.",
            next_step=f"choose one of {', '.join(map(str, events.columns))}.",
        )
    if not 0 < ratio < 1:
        raise NsdError(
            f"The validation ratio is {ratio}.", next_step="choose one above 0 and below 1."
        )
    training = events["split"].eq("train").fillna(False).astype(bool)
    groups = events.loc[training, by].dropna().drop_duplicates().tolist()
    try:
        _, validation = train_test_split(groups, test_size=ratio, random_state=seed)
    except ValueError as error:
        raise NotEnoughDataError(
            f"{len(groups)} training {by} values cannot be split into training and {ratio:.0%} "
            "validation.",
            next_step="add sessions, or change the validation ratio.",
        ) from error
    held_out = training & events[by].isin(validation)
    return events.assign(split=events["split"].mask(held_out, "val"))


def check_split(events: pd.DataFrame) -> None:
    """Check that there is something to train on, to stop by and to test on.

    Raises
    ------
    NotEnoughDataError
        If training, validation or test has no event.
    """
    counts = events["split"].value_counts()
    if empty := [split for split in SPLITS if counts.get(split, 0) == 0]:
        raise NotEnoughDataError(
            f"The events hold no {' and no '.join(empty)} trials "
            f"({', '.join(f'{split} {counts.get(split, 0)}' for split in SPLITS)}).",
            next_step="add sessions: the test images are the shared ones, of which a single "
            "session shows few.",
        )
