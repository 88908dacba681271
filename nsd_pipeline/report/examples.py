"""Which trials a gallery shows."""

from typing import Final, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

_ROWS: Final = 8
_RETRIEVED: Final = 5


class Example(NamedTuple):
    """A trial of the gallery, by image ids.

    Attributes
    ----------
    image_id
        The image seen.
    rank
        Its 0-based rank.
    retrieved
        The images ranked first, best first.
    correct
        Index of the image seen within ``retrieved``; None if it is not there.
    """

    image_id: int
    rank: float
    retrieved: NDArray[np.int64]
    correct: int | None


def gallery_examples(ranks: pd.DataFrame, top: pd.DataFrame) -> list[Example]:
    """Choose trials from the best to the worst, evenly: a gallery that is not picked to please.

    Parameters
    ----------
    ranks
        ``row``, ``image_id`` and ``rank`` of every trial.
    top
        ``row``, ``place`` and ``retrieved_image_id`` of the images that came first for it.
    """
    ordered = ranks.sort_values("rank", kind="stable")
    places = np.linspace(0, len(ordered) - 1, min(_ROWS, len(ordered))).round().astype(int)
    first = top[top["place"] <= _RETRIEVED].sort_values("place")
    examples = []
    chosen = ordered.iloc[places]
    for row, image_id, rank in zip(chosen["row"], chosen["image_id"], chosen["rank"], strict=True):
        retrieved = first.loc[first["row"] == row, "retrieved_image_id"].to_numpy(np.int64)
        hit = np.flatnonzero(retrieved == image_id)
        examples.append(
            Example(
                int(image_id),
                float(rank),
                retrieved,
                int(hit[0]) if len(hit) else None,
            )
        )
    return examples
