"""One page across cohorts."""

from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pandas as pd

from nsd_pipeline import partitions, report
from nsd_pipeline.assets import keys
from nsd_pipeline.assets.artifacts import (
    FIGURES,
    Facts,
    Recipe,
    fails_plainly,
    materialize_artifacts,
    require,
    write_figure,
)
from nsd_pipeline.assets.decoding import METRICS_FILE
from nsd_pipeline.automation import CARRY_ON
from nsd_pipeline.nsd.errors import NotEnoughDataError
from nsd_pipeline.resources import StoreResource
from nsd_pipeline.storage.manifest import Manifest
from nsd_pipeline.storage.store import Draft

PAGE_FILE = "report.html"

_FIGURES = {
    "training_curves": ("Training", "The marked epoch's weights are the model's.", False),
    "ranks": ("Ranks of the images seen", "Chance is dashed.", False),
    "retrieval_gallery": (
        "What was seen, and what was retrieved",
        "Test trials from the best to the worst, evenly spaced.",
        True,
    ),
    "where_the_model_finds_it": (
        "Where the model finds it",
        "What each vertex adds to the score of the image that was seen, mean over test trials.",
        False,
    ),
}


@dg.asset(
    group_name="report",
    kinds={"html"},
    code_version="1",
    deps=[
        dg.AssetDep("retrieval_metrics", partition_mapping=dg.AllPartitionMapping()),
        dg.AssetDep("fmri_mlp", partition_mapping=dg.AllPartitionMapping()),
    ],
    automation_condition=CARRY_ON,
)
@fails_plainly
def decoding_report(context: dg.AssetExecutionContext, store: StoreResource) -> None:
    """One HTML page: every cohort's metrics beside chance, figures, how the numbers came about."""
    artifacts = store.open()
    measured = [
        manifest
        for cohort in partitions.COHORTS
        if (manifest := artifacts.find(keys.retrieval_metrics(cohort)))
    ]
    if not measured:
        raise NotEnoughDataError(
            f"No cohort has retrieval metrics in {artifacts.url}.",
            next_step="materialize retrieval_metrics of a cohort first.",
        )

    def cohort_report(metrics: Manifest) -> report.CohortReport:
        cohort = str(metrics.partition)
        model = require(artifacts, keys.fmri_mlp(cohort), asset="fmri_mlp", partition=cohort)
        folders = [artifacts.folder(manifest.key) for manifest in (metrics, model)]
        table = pd.read_parquet(folders[0] / METRICS_FILE).set_index("metric")
        return report.CohortReport(
            cohort,
            {str(name): float(value) for name, value in table["value"].items()},
            {str(name): float(value) for name, value in table["chance"].items()},
            [
                report.PageFigure(title, png, caption, photographs)
                for name, (title, caption, photographs) in _FIGURES.items()
                for png in _figure(folders, name)
            ],
            {
                "Sessions": ", ".join(model.metadata["sessions"]),
                "Trials": model.metadata["trials"],
                "Encoder": model.metadata["encoder"],
                "Training": model.config,
                "Fingerprints": {
                    manifest.key: manifest.fingerprint for manifest in (model, metrics)
                },
            },
        )

    def make(_: str, __: Recipe, draft: Draft) -> Facts:
        cohorts = [cohort_report(manifest) for manifest in measured]
        overview = report.metric_bars(
            {each.cohort: each.metrics for each in cohorts},
            {each.cohort: each.chance for each in cohorts},
        )
        write_figure(draft, "overview", overview)
        page = report.render_page(
            cohorts,
            created=datetime.now(UTC),
            figures=[report.PageFigure("Retrieval of the test images", overview)],
        )
        (draft.folder / PAGE_FILE).write_text(page, encoding="utf-8")
        return {"cohorts": [each.cohort for each in cohorts], "page": PAGE_FILE}

    materialize_artifacts(
        context,
        artifacts,
        recipe=lambda _: Recipe(
            keys.DECODING_REPORT,
            inputs={manifest.key: manifest.fingerprint for manifest in measured},
        ),
        make=make,
    )


def _figure(folders: list[Path], name: str) -> list[bytes]:
    """The PNG of that name, in whichever folder has it."""
    paths = [folder / FIGURES / f"{name}.png" for folder in folders]
    return [path.read_bytes() for path in paths if path.exists()]
