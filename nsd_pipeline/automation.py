"""How changes carry on by themselves: from sessions to images, embeddings, models, metrics, report.

The conditions do something only while the sensor ``carry_on`` runs, which is off by default.
"""

from collections.abc import Iterable
from typing import Any

import dagster as dg

from nsd_pipeline.launchers.base import KUBERNETES_GPU

CARRY_ON: dg.AutomationCondition[Any] = (
    dg.AutomationCondition.any_deps_updated().since_last_handled()
    & ~dg.AutomationCondition.any_deps_in_progress()
    & ~dg.AutomationCondition.in_progress()
).with_label("something upstream is new, and nothing upstream is under way")
"""Like ``eager``, but content with the sessions that are there: most of NSD's may never be.

Runs that wait in the queue count as under way, so that a backfill of forty sessions leads to one
training at its end. A session that failed is not waited for.
"""


def carry_on_after(embeddings: str, fmri: str) -> dg.AutomationCondition[Any]:
    """Condition of models: a new session reaches them through the embeddings of its images.

    Embeddings are brought up to date, and recorded, for every new session, also if it has no new
    image. The shared images concern every cohort that has a session; one whose embeddings did not
    change is found to be up to date. Takes the names of the assets that a model learns to find, and
    learns from.
    """
    return (
        dg.AutomationCondition.any_deps_updated()
        .allow(dg.AssetSelection.assets(embeddings))
        .since_last_handled()
        & dg.AutomationCondition.any_deps_match(~dg.AutomationCondition.missing()).allow(
            dg.AssetSelection.assets(fmri)
        )
        & ~dg.AutomationCondition.any_deps_in_progress()
        & ~dg.AutomationCondition.in_progress()
    ).with_label("embeddings are new, sessions are there, and nothing upstream is under way")


def carry_on_sensor(
    experiments: Iterable[str], *, running: bool
) -> dg.AutomationConditionSensorDefinition:
    """Sensor that acts on the conditions of some experiments, by the groups of their assets.

    It is `running` or not until somebody turns it off or on in the web UI.
    """
    return dg.AutomationConditionSensorDefinition(
        "carry_on",
        target=dg.AssetSelection.groups("raw", "embeddings", "report", *experiments),
        default_status=(
            dg.DefaultSensorStatus.RUNNING if running else dg.DefaultSensorStatus.STOPPED
        ),
        description="When sessions are new: embed their images, train and measure every"
        " experiment's models of the cohorts that they belong to, write the report.",
        # A run per cohort, each with a GPU of its own, instead of a backfill around them.
        emit_backfills=False,
        run_tags=KUBERNETES_GPU,
    )
