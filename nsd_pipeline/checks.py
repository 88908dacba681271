"""Asset checks: what must be true of the artifacts in the store, whichever run made them.

A check that ends a run looks at what that run made, so that what it costs does not grow with what
is in the store. Executed by itself, without a partition (in the web UI, or by a schedule of your
own), it looks at every artifact of its asset: at what a model would be trained on now.
"""

import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import dagster as dg
import numpy as np
import pandas as pd

from nsd_pipeline import partitions
from nsd_pipeline.dagster_private import partition_span
from nsd_pipeline.decoding.processes import TRIALS_FILE
from nsd_pipeline.nsd import layout
from nsd_pipeline.resources import StoreResource
from nsd_pipeline.steps.decoding import FmriMlp, RetrievalMetrics, read_verdict
from nsd_pipeline.steps.events import Events
from nsd_pipeline.steps.images import Embeddings
from nsd_pipeline.steps.raw import Design
from nsd_pipeline.steps.series_surface import Series
from nsd_pipeline.steps.step import Step
from nsd_pipeline.steps.surface import SurfaceBetas
from nsd_pipeline.storage.manifest import Manifest
from nsd_pipeline.storage.store import Store
from nsd_pipeline.surface import read_session

MAX_NAN_SHARE = 0.1
"""Vertices without data in a session that are still taken for normal: fsaverage has a rim of
vertices outside the scanned volume, not a tenth of the cortex."""


def _manifests(
    context: dg.AssetCheckExecutionContext, store: Store, step: type[Step]
) -> list[Manifest]:
    """Manifests of a step's artifacts, of the partitions that this run is for, or of all."""
    found = store.keys(f"{step.folder()}/")
    if span := partition_span(context.run):
        made = partitions.between(*span)
        found = [key for key in found if "_".join(key.split("/")[1:]) in made]
    # On S3 each is two requests, and there are up to 284.
    with ThreadPoolExecutor(max_workers=16) as threads:
        return [each for each in threads.map(store.find, found) if each is not None]


def _verdict(
    problems: list[dict[str, object]],
    *,
    seen: int,
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR,
) -> dg.AssetCheckResult:
    """Passed when there is no problem; the problems as a table when there are."""
    metadata: dict[str, dg.MetadataValue] = {"artifacts looked at": dg.MetadataValue.int(seen)}
    if problems:
        table = pd.DataFrame(problems).to_markdown(index=False)
        metadata["problems"] = dg.MetadataValue.md(table)
    return dg.AssetCheckResult(passed=not problems, severity=severity, metadata=metadata)


@dg.asset_check(
    asset=Events.name, description="Every session has as many trials as its design says."
)
def trial_counts(
    context: dg.AssetCheckExecutionContext, store: StoreResource
) -> dg.AssetCheckResult:
    """Compare each event table's trials with the experiment design's."""
    artifacts = store.open()
    design = Design.read(artifacts)
    manifests = _manifests(context, artifacts, Events)
    problems: list[dict[str, object]] = []
    for manifest in manifests:
        _, session = layout.parse_session_key(str(manifest.partition))
        designed, found = design.n_trials(session), manifest.metadata["trials"]
        if designed != found:
            problems.append({"session": manifest.partition, "trials": found, "designed": designed})
    return _verdict(problems, seen=len(manifests))


@dg.asset_check(
    asset=Events.name, description="Every event table names the images that the design names."
)
def mapping_agreement(
    context: dg.AssetCheckExecutionContext, store: StoreResource
) -> dg.AssetCheckResult:
    """Compare each stored table's images with the experiment design, trial by trial."""
    artifacts = store.open()
    design = Design.read(artifacts)
    sessions = [str(each.partition) for each in _manifests(context, artifacts, Events)]
    problems: list[dict[str, object]] = []
    for session in sessions:
        events = Events.read(artifacts, session)
        shown = events.loc[events["type"] == "Image", "image_id"].to_numpy(np.int64)
        designed = design.trials(*layout.parse_session_key(session))["image_id"].to_numpy()
        if not np.array_equal(shown, designed):
            problems.append({"session": session, "problem": "images differ from the design's"})
    return _verdict(problems, seen=len(sessions))


@dg.asset_check(
    asset=SurfaceBetas.name,
    description=f"At most {MAX_NAN_SHARE:.0%} of a session's vertices have no data.",
)
def nan_share(context: dg.AssetCheckExecutionContext, store: StoreResource) -> dg.AssetCheckResult:
    """List the sessions that lack more of the cortex than is usual."""
    return _nan_shares(context, store.open(), SurfaceBetas)


def _nan_shares(
    context: dg.AssetCheckExecutionContext, store: Store, step: type[Step]
) -> dg.AssetCheckResult:
    manifests = _manifests(context, store, step)
    problems: list[dict[str, object]] = [
        {"session": manifest.partition, "NaN share": manifest.metadata["nan_share"]}
        for manifest in manifests
        if manifest.metadata["nan_share"] > MAX_NAN_SHARE
    ]
    return _verdict(problems, seen=len(manifests), severity=dg.AssetCheckSeverity.WARN)


@dg.asset_check(
    asset=Series.name,
    name="nan_share",
    description=f"At most {MAX_NAN_SHARE:.0%} of a session's vertices have no data in any run.",
)
def series_nan_share(
    context: dg.AssetCheckExecutionContext, store: StoreResource
) -> dg.AssetCheckResult:
    """List the sessions whose time series lack more of the cortex than is usual."""
    return _nan_shares(context, store.open(), Series)


@dg.asset_check(
    asset=Series.name,
    description="All sessions have one space, one repetition time and one treatment.",
)
def made_alike(context: dg.AssetCheckExecutionContext, store: StoreResource) -> dg.AssetCheckResult:
    """List the kinds of time series that there are, if a model would mix them.

    What a run made is compared with one other session, which was compared with others before.
    """
    artifacts = store.open()
    manifests = _manifests(context, artifacts, Series)
    made = {each.key for each in manifests}
    others = (key for key in artifacts.keys(f"{Series.folder()}/") if key not in made)
    if (first := next(others, None)) and (other := artifacts.manifest(first)):
        manifests.append(other)
    kinds: dict[tuple[object, ...], list[str]] = {}
    for manifest in manifests:
        treatment = {name: each for name, each in manifest.config.items() if name != "query"}
        kind = (manifest.metadata["space"], round(manifest.metadata["tr"], 4), str(treatment))
        kinds.setdefault(kind, []).append(str(manifest.partition))
    problems: list[dict[str, object]] = [
        {"space": space, "TR": tr, "treatment": treatment, "sessions": ", ".join(sessions)}
        for (space, tr, treatment), sessions in kinds.items()
    ]
    return _verdict(problems if len(kinds) > 1 else [], seen=len(manifests))


@dg.asset_check(
    asset=SurfaceBetas.name,
    description="The newest session made, read as a model reads it, is z-scored and finite.",
)
def z_scores(context: dg.AssetCheckExecutionContext, store: StoreResource) -> dg.AssetCheckResult:
    """Read the newest session back: mean 0, standard deviation 1, and no NaN that spread."""
    artifacts = store.open()
    manifests = _manifests(context, artifacts, SurfaceBetas)
    if not manifests:
        return _verdict([], seen=0)
    newest = max(manifests, key=lambda manifest: manifest.created)
    group = artifacts.zarr(newest.key)
    betas = read_session(group)
    valid = group["valid"][...]
    complete = valid & np.isfinite(group["betas"][...]).all(axis=0)
    mean = float(np.abs(betas[:, complete].mean(axis=0)).max())
    std = float(np.abs(betas[:, complete].std(axis=0, ddof=1) - 1).max())
    return dg.AssetCheckResult(
        passed=bool(np.isfinite(betas).all() and mean < 1e-3 and std < 1e-3),
        metadata={
            "session": str(newest.partition),
            "largest |mean|": mean,
            "largest |standard deviation - 1|": std,
            "vertices looked at": int(complete.sum()),
        },
    )


@dg.asset_check(
    asset=Embeddings.name,
    description="Norms are alike, and no two images have the same embedding.",
)
def norms_and_duplicates(
    context: dg.AssetCheckExecutionContext, store: StoreResource
) -> dg.AssetCheckResult:
    """List the stimulus sets with vanishing or exploding norms, or with repeated embeddings."""
    manifests = _manifests(context, store.open(), Embeddings)
    problems: list[dict[str, object]] = []
    for manifest in manifests:
        smallest, largest = (
            manifest.metadata[f"{which} norm"] for which in ("smallest", "largest")
        )
        if not 0 < largest < 10 * smallest:
            problems.append(
                {"set": manifest.partition, "problem": f"norms from {smallest} to {largest}"}
            )
        if duplicates := manifest.metadata["duplicates"]:
            problems.append({"set": manifest.partition, "problem": f"{duplicates} duplicates"})
    return _verdict(problems, seen=len(manifests))


@dg.asset_check(
    asset=FmriMlp.name, description="No image of the test set was shown in a trial of the training."
)
def no_test_image_in_training(
    context: dg.AssetCheckExecutionContext, store: StoreResource
) -> dg.AssetCheckResult:
    """Compare the images of each model's training and validation trials with its test images."""
    artifacts = store.open()
    manifests = _manifests(context, artifacts, FmriMlp)
    problems: list[dict[str, object]] = []
    for manifest in manifests:
        trials = pd.read_parquet(artifacts.folder(manifest.key) / TRIALS_FILE)
        test = trials["split"] == "test"
        leaked = set(trials.loc[test, "image_id"]) & set(trials.loc[~test, "image_id"])
        unshared = int((trials["shared"] != test).sum())
        if leaked or unshared:
            problems.append(
                {
                    "cohort": manifest.partition,
                    "test images in training": len(leaked),
                    "trials on the wrong side": unshared,
                }
            )
    return _verdict(problems, seen=len(manifests))


@dg.asset_check(
    asset=FmriMlp.name, description="Every session that NSD has of a cohort was trained on."
)
def missing_sessions(
    context: dg.AssetCheckExecutionContext, store: StoreResource
) -> dg.AssetCheckResult:
    """List the sessions that the models have not seen, for those who want all of them."""
    manifests = _manifests(context, store.open(), FmriMlp)
    problems: list[dict[str, object]] = []
    for manifest in manifests:
        subjects = partitions.subjects_of_cohort(str(manifest.partition))
        expected = {key for key in partitions.SESSIONS if key.startswith(subjects)}
        missing = sorted(expected - set(manifest.metadata["sessions"]))
        if missing:
            problems.append(
                {
                    "cohort": manifest.partition,
                    "missing": len(missing),
                    "of": len(expected),
                    "first": ", ".join(missing[:5]),
                }
            )
    return _verdict(problems, seen=len(manifests), severity=dg.AssetCheckSeverity.WARN)


class AtChance(dg.Failure):
    """A model was trained and measured, and is no better than guessing."""


def _above_chance(
    context: dg.AssetCheckExecutionContext, store: StoreResource
) -> Iterator[dg.AssetCheckResult]:
    """Test the top-5 accuracy over images against guessing, at p < 0.001."""
    verdict = read_verdict(store.open(), context.partition_key)
    fails = verdict.conclusive and not verdict.above_chance
    yield dg.AssetCheckResult(
        passed=verdict.above_chance,
        severity=dg.AssetCheckSeverity.ERROR if fails else dg.AssetCheckSeverity.WARN,
        description=verdict.message,
        metadata={
            "top-5 over images": verdict.against.accuracy,
            "chance": verdict.against.chance,
            "test images": verdict.against.n_images,
            "p": verdict.against.p_value,
        },
    )
    if fails:
        # After its result is recorded: the run then ends with this, and does not say Success.
        raise AtChance(verdict.message, allow_retries=False)


with warnings.catch_warnings():
    # Partitions of checks are new in Dagster, and every process that loads the graph would say so.
    warnings.simplefilter("ignore", dg.PreviewWarning)
    above_chance = dg.asset_check(
        asset=RetrievalMetrics.name,
        name="above_chance",
        description="The model retrieves test images better than guessing. A run whose model does"
        " not fails; model and metrics are kept.",
        partitions_def=partitions.cohorts,
    )(_above_chance)  # type: ignore[arg-type]  # a generator works, which Dagster's type forgets


checks = [
    trial_counts,
    mapping_agreement,
    nan_share,
    series_nan_share,
    made_alike,
    z_scores,
    norms_and_duplicates,
    no_test_image_in_training,
    missing_sessions,
    above_chance,
]
