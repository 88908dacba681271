"""What models retrieve for each test trial, as a table."""

from pathlib import Path

import pandas as pd

from nsd_pipeline.export.model_to_export import ModelToExport
from nsd_pipeline.folders import RANKS_FILE, TOP_FILE

_TRIAL = ["subject", "session", "trial", "image_id"]
_COLUMNS = """\
predictions.csv has a row for each test trial, of the ensemble of the seeds:
  subject, session, trial  which trial; session counts from 1, trial from 0 within its session
  image_id                 the image that was seen: NSD's 73k row, from 0
  place, n_candidates      the place of that image, from 1, among so many; halves are ties
  image_1, score_1, ...    the image that comes first, second, ... tenth, and its score: the dot
                           product of the estimate and its embedding scaled to unit length
"""


def write_predictions(model: ModelToExport, folder: Path, terms: str) -> None:
    """Write ``predictions.csv``, a row for each test trial, and what its columns mean.

    Not the estimates themselves: they are the trial's betas in another form, and
    ``nsd_pipeline.open`` gives them.
    """
    measured = model.store.folder(model.metrics.key)
    ranks, top = (pd.read_parquet(measured / name) for name in (RANKS_FILE, TOP_FILE))
    ranks = ranks[ranks["set"] == "all"].set_index("row")
    table = ranks[_TRIAL].assign(place=ranks["rank"] + 1, n_candidates=ranks["n_candidates"])
    for place, each in top.set_index("row").groupby("place"):
        table[f"image_{place}"] = each["retrieved_image_id"]
        table[f"score_{place}"] = each["score"]
    table.to_csv(folder / "predictions.csv", index=False, float_format="%.7g")
    (folder / "README.txt").write_text(
        f"Test trials of {model.subject}, experiment {model.experiment}, and what is retrieved for"
        f" them.\n\n{terms}\n\n{_COLUMNS}",
        encoding="utf-8",
    )
