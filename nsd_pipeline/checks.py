"""Asset checks: what must be true of the artifacts in the store, whichever run made them.

A check that ends a run looks at what that run made, so that what it costs does not grow with what
is in the store. Executed by itself, without a partition (in the web UI, or by a schedule of your
own), it looks at every artifact of its asset: at what a model would be trained on now.
"""

import warnings
from collections.abc import Callable, Iterator

import dagster as dg
import numpy as np

from nsd_pipeline import partitions
from nsd_pipeline.dagster_private import partition_span
from nsd_pipeline.decoding.choice import HELD_OUT, LEARNED
from nsd_pipeline.decoding.processes import TRIALS_FILE
from nsd_pipeline.nsd import layout
from nsd_pipeline.resources import StoreResource
from nsd_pipeline.steps.events import Events
from nsd_pipeline.steps.images import Embeddings
from nsd_pipeline.steps.measurement import Metrics, read_verdict
from nsd_pipeline.steps.raw import Design
from nsd_pipeline.steps.series_surface import Series
from nsd_pipeline.steps.step import Step
from nsd_pipeline.steps.surface import SurfaceBetas
from nsd_pipeline.storage.manifest import Manifest
from nsd_pipeline.storage.store import Store
from nsd_pipeline.surface import read_session

Problem = dict[str, object]
FindProblems = Callable[[Store, list[Manifest]], Iterator[Problem]]

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
        below = len(step.folder()) + 1
        found = [key for key in found if key[below:].replace("/", "_") in made]
    return [each for each in store.at_once(store.find, found) if each is not None]


def _finds_no_problem(
    step: type[Step], description: str, *, name: str | None = None, only_warns: bool = False
) -> Callable[[FindProblems], dg.AssetChecksDefinition]:
    """Check that passes when a function yields no problem, and shows them as a table when it does.

    The function may add to the manifests what it compares them with.
    """

    def decorate(find: FindProblems) -> dg.AssetChecksDefinition:
        @dg.asset_check(asset=step.name, name=name or find.__name__, description=description)
        def check(
            context: dg.AssetCheckExecutionContext, store: StoreResource
        ) -> dg.AssetCheckResult:
            artifacts = store.open()
            manifests = _manifests(context, artifacts, step)
            problems = list(find(artifacts, manifests))
            metadata: dict[str, dg.MetadataValue] = {
                "artifacts looked at": dg.MetadataValue.int(len(manifests))
            }
            if problems:
                import pandas as pd

                table = pd.DataFrame(problems).to_markdown(index=False)
                metadata["problems"] = dg.MetadataValue.md(table)
            severity = dg.AssetCheckSeverity.WARN if only_warns else dg.AssetCheckSeverity.ERROR
            return dg.AssetCheckResult(
                passed=not problems,
                severity=severity,
                metadata=metadata,
                description=_in_words(problems) or None,
            )

        return check

    return decorate


def _in_words(problems: list[Problem]) -> str:
    """The first problems in a line, which the web UI shows without a click."""
    told = [", ".join(f"{key} {value}" for key, value in each.items()) for each in problems[:3]]
    return "; ".join(told + ["..."] * (len(problems) > len(told)))


@_finds_no_problem(Events, "Every session has as many trials as its design says.")
def trial_counts(store: Store, manifests: list[Manifest]) -> Iterator[Problem]:
    """Compare each event table's trials with the experiment design's."""
    design = Design.read(store)
    for manifest in manifests:
        _, session = layout.parse_session_key(str(manifest.partition))
        designed, found = design.n_trials(session), manifest.metadata["trials"]
        if designed != found:
            yield {"session": manifest.partition, "trials": found, "designed": designed}


@_finds_no_problem(Events, "Every event table names the images that the design names.")
def mapping_agreement(store: Store, manifests: list[Manifest]) -> Iterator[Problem]:
    """Compare each stored table's images with the experiment design, trial by trial."""
    design = Design.read(store)
    for session in [str(each.partition) for each in manifests]:
        events = Events.read(store, session)
        shown = events.loc[events["type"] == "Image", "image_id"].to_numpy(np.int64)
        designed = design.trials(*layout.parse_session_key(session))["image_id"].to_numpy()
        if not np.array_equal(shown, designed):
            yield {"session": session, "problem": "images differ from the design's"}


def _nan_shares(_: Store, manifests: list[Manifest]) -> Iterator[Problem]:
    """List the sessions that lack more of the cortex than is usual."""
    for manifest in manifests:
        if (share := manifest.metadata["nan_share"]) > MAX_NAN_SHARE:
            yield {"session": manifest.partition, "share without any value": round(share, 4)}


_FEW = f"At most {MAX_NAN_SHARE:.0%} of a session's vertices have no data"
series_nan_share = _finds_no_problem(
    Series, f"{_FEW} in any run.", name="nan_share", only_warns=True
)(_nan_shares)


@_finds_no_problem(Series, "All sessions have one space, one repetition time and one treatment.")
def made_alike(store: Store, manifests: list[Manifest]) -> Iterator[Problem]:
    """List the kinds of time series that there are, if a model would mix them.

    What a run made is compared with one other session, which was compared with others before.
    """
    made = {each.key for each in manifests}
    others = (key for key in store.keys(f"{Series.folder()}/") if key not in made)
    if (first := next(others, None)) and (other := store.manifest(first)):
        manifests.append(other)
    kinds: dict[tuple[object, ...], list[str]] = {}
    for manifest in manifests:
        treatment = {name: each for name, each in manifest.config.items() if name != "query"}
        kind = (manifest.metadata["space"], round(manifest.metadata["tr"], 4), str(treatment))
        kinds.setdefault(kind, []).append(str(manifest.partition))
    if len(kinds) > 1:
        for (space, tr, how), sessions in kinds.items():
            yield {"space": space, "TR": tr, "treatment": how, "sessions": ", ".join(sessions)}


def betas_checks(step: type[SurfaceBetas]) -> list[dg.AssetChecksDefinition]:
    """Checks of betas on fsaverage5, from whichever space."""
    nan_share = _finds_no_problem(step, f"{_FEW}.", name="nan_share", only_warns=True)(_nan_shares)

    @dg.asset_check(
        asset=step.name,
        description="The newest session made, read as a model reads it, is z-scored and finite.",
    )
    def z_scores(
        context: dg.AssetCheckExecutionContext, store: StoreResource
    ) -> dg.AssetCheckResult:
        """Read the newest session back: mean 0, standard deviation 1, and no NaN that spread."""
        artifacts = store.open()
        manifests = _manifests(context, artifacts, step)
        if not manifests:
            return dg.AssetCheckResult(passed=True, metadata={"artifacts looked at": 0})
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

    return [nan_share, z_scores]


nan_share, z_scores = betas_checks(SurfaceBetas)


@_finds_no_problem(Embeddings, "Norms are alike, and no two images have the same embedding.")
def norms_and_duplicates(_: Store, manifests: list[Manifest]) -> Iterator[Problem]:
    """List the stimulus sets with vanishing or exploding norms, or with repeated embeddings."""
    for manifest in manifests:
        of, found = manifest.partition, manifest.metadata
        smallest, largest = found["smallest norm"], found["largest norm"]
        if not 0 < largest < 10 * smallest:
            yield {"set": of, "problem": f"norms from {smallest} to {largest}"}
        if duplicates := found["duplicates"]:
            yield {"set": of, "problem": f"{duplicates} duplicates"}


class AtChance(dg.Failure):
    """A model was trained and measured, and is no better than guessing."""


def experiment_checks(metrics: type[Metrics]) -> list[dg.AssetChecksDefinition]:
    """Checks of an experiment's models and metrics."""
    model = metrics.model

    @_finds_no_problem(model, "No image of the test set was shown in a trial of the training.")
    def no_test_image_in_training(store: Store, manifests: list[Manifest]) -> Iterator[Problem]:
        """Compare the images of each model's training and validation trials with its test's."""
        import pandas as pd

        for manifest in manifests:
            trials = pd.read_parquet(store.folder(manifest.key) / TRIALS_FILE)
            learned = trials["split"].isin(LEARNED)
            leaked = set(trials.loc[~learned, "image_id"]) & set(trials.loc[learned, "image_id"])
            wrong = trials["shared"] != (trials["split"] == "test")
            unshared = int(wrong[trials["split"] != HELD_OUT].sum())
            if leaked or unshared:
                yield {
                    "cohort": manifest.partition,
                    "test images in training": len(leaked),
                    "trials on the wrong side": unshared,
                }

    def above_chance(
        context: dg.AssetCheckExecutionContext, store: StoreResource
    ) -> Iterator[dg.AssetCheckResult]:
        """Test the top-5 accuracy over images against guessing, at p < 0.001."""
        verdict = read_verdict(store.open(), metrics, context.partition_key)
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
        # Partitions of checks are new in Dagster, and every process that loads the graph would say.
        warnings.simplefilter("ignore", dg.PreviewWarning)
        decorate = dg.asset_check(
            asset=metrics.name,
            description="The models retrieve test images better than guessing. A run whose models"
            " do not fails; models and metrics are kept.",
            partitions_def=metrics.partitions,
        )
        # A generator works, which Dagster's type forgets.
        return [no_test_image_in_training, decorate(above_chance)]  # type: ignore[arg-type]
