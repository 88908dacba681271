"""Steps as Dagster assets: what a run does, records and shows."""

import base64
import hashlib
import inspect
import json
import traceback
import warnings
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final, NamedTuple

import dagster as dg

from nsd_pipeline import partitions
from nsd_pipeline.dagster_private import is_last_of_its_run, record_some_partitions
from nsd_pipeline.errors import NsdError, explain
from nsd_pipeline.report import Picture
from nsd_pipeline.resources import GpuResource
from nsd_pipeline.steps.step import Step, Tools
from nsd_pipeline.storage.manifest import Manifest
from nsd_pipeline.storage.store import Draft, Store

FIGURES: Final = "figures"
"""Folder of an artifact's figures, of which the UI shows the PNGs."""


def step_asset(
    step: type[Step],
    *,
    ranged: bool = True,
    columns: Sequence[dg.TableColumn] = (),
    **options: Any,
) -> dg.AssetsDefinition:
    """Asset of a step, with its name, the version of its code, its partitions and its docstring.

    An error fails its run with a message for people, and no retry. If it is `ranged`, one run makes
    a range of partitions; what a failed range had finished is skipped by the next. Where artifacts
    are tables, `columns` says of what. Options are what `dg.asset` takes beside that.
    """
    if ranged and step.partitions:
        options["backfill_policy"] = dg.BackfillPolicy.single_run()
    options.setdefault("code_version", step.code_version)
    options.setdefault("description", inspect.getdoc(step))
    if columns:
        options["metadata"] = {"dagster/column_schema": dg.TableSchema(columns)}

    # Only who waits for a GPU is given one.
    needed = {"source", "store", *(["gpu"] if "pool" in options else [])}

    def run(context: dg.AssetExecutionContext, config: dg.Config | None = None) -> None:
        given = context.resources
        gpu = given.gpu if "gpu" in needed else GpuResource()
        try:
            tools = Tools(given.store.open(), given.source.open, gpu, context.log.info)
            with closing(step(tools, config)) as opened:
                materialize(context, opened)
        except (dg.Failure, dg.RetryRequested, dg.DagsterError):
            raise
        except Exception as error:
            raise dg.Failure(in_words(error), allow_retries=False) from error

    # Dagster reads off a function's parameters whether a run may set something.
    def plain(context: dg.AssetExecutionContext) -> None:
        run(context)

    def with_settings(
        context: dg.AssetExecutionContext,
        config: step.set_in_runs,  # type: ignore[name-defined]
    ) -> None:
        run(context, config)

    with warnings.catch_warnings():
        # Dagster says that it is in beta, and every process that loads the graph would print
        # that once an asset. Ignored here alone: a filter that stays would be the user's too.
        warnings.filterwarnings("ignore", "Parameter `backfill_policy`", dg.BetaWarning)
        decorate = dg.asset(
            name=step.name,
            partitions_def=step.partitions,
            required_resource_keys=needed,
            **options,
        )
        asset: dg.AssetsDefinition = decorate(with_settings if step.set_in_runs else plain)
    return asset


def in_words(error: Exception) -> str:
    """Any error as a message, with the command that makes again what has to be made again."""
    explained = explain(error)
    if (again := explained.remake) is None:
        return str(explained)
    partition = f" --partition {again.partition}" if again.partition else ""
    return (
        f"{explained}\nTo make it: `dagster asset materialize -m nsd_pipeline.definitions"
        f" --select {again.step}{partition}`, or in the web UI."
    )


class _Failed(NamedTuple):
    """A partition of an asset that ended in an error."""

    partition: str
    asset: str
    error: NsdError

    @property
    def named(self) -> str:
        return f"{self.asset} {self.partition}" if self.partition else self.asset

    @property
    def kind(self) -> tuple[str, str]:
        """Asset and next step, which failures of one reason share."""
        return self.asset, self.error.next_step

    @property
    def message(self) -> str:
        return in_words(self.error)


_failures: Final[dict[str, dict[str, _Failed]]] = {}
"""What failed in a run that goes on, by the run's id and the partition."""


def _told_once(failed: Iterable[_Failed]) -> str:
    """Every reason once, with all partitions that it holds for."""
    kinds: dict[tuple[str, str], list[_Failed]] = {}
    for each in failed:
        kinds.setdefault(each.kind, []).append(each)
    told = []
    for first, *others in kinds.values():
        told.append(f"{first.named}: {first.message}")
        if others:
            names = partitions.in_words([each.partition for each in others])
            told[-1] += f"\nThe same next step for {len(others)} more: {names}."
    return "\n\n".join(told)


def materialize(context: dg.AssetExecutionContext, step: Step) -> None:
    """Bring the artifact of every partition of this run up to date.

    One that is current is left alone. A partition that fails keeps no other one of its range from
    being finished: they go on to the assets after this one, and are recorded; the failed one is not
    tried by these. The run fails with its last asset, which says what failed, each once.

    A dagster.Failure if any partition ended in an error, and no other one goes on: with a message
    for each reason, which names the artifact, the partitions and the next step. They are not
    retried: the same would happen again.
    """
    done: dict[str, dict[str, Any]] = {}
    fingerprints: list[str] = []
    up_to_date: list[str] = []
    failed = _failures.setdefault(context.run.run_id, {})

    def named(partition: str) -> str:
        return f"{step.name} {partition}" if partition else step.name

    def version() -> dg.DataVersion:
        return _data_version(context, step, fingerprints)

    try:
        for partition in context.partition_keys if step.partitions else [""]:
            if partition in failed:
                continue
            try:
                manifest, before = step.bring_up_to_date(partition)
                if before.change is None:
                    up_to_date.append(named(partition))
                    status = "up to date, nothing was redone"
                else:
                    where = f"{step.store.url}/{manifest.key}"
                    context.log.info(f"{named(partition)}: written to {where}")
                    status = "made"
                fingerprints.append(manifest.fingerprint)
                done[partition] = {"status": status} | _shown(step.store, manifest)
            except Exception as error:  # whatever it is, it is this partition's alone
                new = _Failed(partition, step.name, explain(error))
                if new.kind not in {each.kind for each in failed.values()}:
                    context.log.error(f"{named(partition)}: {new.message}")
                failed[partition] = new
                if not isinstance(error, NsdError):
                    context.log.info("".join(traceback.format_exception(error)))
        # One line for all: Dagster commits each line by itself, which takes longer than the look.
        if up_to_date:
            context.log.info(f"{', '.join(up_to_date)}: up to date, nothing was redone.")
    except BaseException:
        # Interrupted: Dagster would forget what the range had finished.
        if done:
            record_some_partitions(context, done, version(), goes_on=False)
        raise
    if last := is_last_of_its_run(context):
        del _failures[context.run.run_id]
    if failed:
        goes_on = bool(done) and not last
        if done:
            record_some_partitions(context, done, version(), goes_on=goes_on)
        if goes_on:
            return
        raise dg.Failure(
            description=_told_once(failed.values()),
            metadata={
                "failed partitions": dg.MetadataValue.json(
                    {each.named: each.message for each in failed.values()}
                )
            },
            allow_retries=False,
        )
    for partition, metadata in done.items():
        context.add_asset_metadata(metadata, partition_key=partition or None)
    context.set_data_version(context.asset_key, version())


def _data_version(
    context: dg.AssetExecutionContext, step: Step, fingerprints: Sequence[str]
) -> dg.DataVersion:
    """What the UI compares to find out what is stale.

    Dagster gives all partitions of a run one version. If it were made from their contents, a
    session would look new whenever it is materialized in other company, so where ranges are
    possible it says how the artifacts were made, not what is in them.
    """
    if context.assets_def.backfill_policy is None:
        return dg.DataVersion(fingerprints[0])
    settings = context.op_execution_context.op_config
    how = json.dumps([step.code_version, settings], sort_keys=True)
    return dg.DataVersion(hashlib.sha256(how.encode()).hexdigest())


_READ_AS: Final = {
    "n_trials": "trials",
    "n_vertices": "vertices",
    "n_valid": "vertices with a z-score",
    "n_nan": "vertices without any value",
    "n_partly_nan": "vertices that lack some trials",
    "n_constant": "vertices whose value never changes",
    "n_missing": "missing values (of a vertex in a trial)",
    "nan_share": "share of vertices without any value",
    "valid_share": "share of vertices with a z-score",
    "etags": "versions of the files",
}
"""Names that the UI has for metadata, which code reads by the names in manifests."""


def _shown(store: Store, manifest: Manifest) -> dict[str, Any]:
    """What the UI shows of an artifact: its metadata, its figures, and where it lies."""
    shown: dict[str, Any] = {}
    nested: dict[str, Any] = {}
    for key, value in manifest.metadata.items():
        name = _READ_AS.get(key, key)
        match value:
            case bool() | int() | str():
                shown[name] = value
            case float():
                # The manifest has all digits; a table in the web UI is for reading.
                shown[name] = float(f"{value:.4g}")
            case [dict(), *_]:
                import pandas as pd  # 0.3 s, and few artifacts have a table

                shown[name] = dg.MetadataValue.md(
                    pd.DataFrame(value).to_markdown(index=False, floatfmt=".4g")
                )
            case [str(), *_]:
                words = ", ".join(value)
                # Markdown is a link that opens it: a model can be of 284 sessions.
                kind = dg.MetadataValue.text if len(words) <= 200 else dg.MetadataValue.md
                shown[name] = kind(words)
            case _:
                nested[name] = dg.MetadataValue.json(value)
    figures = sorted(
        name for name in manifest.files if name.startswith(f"{FIGURES}/") and name.endswith(".png")
    )
    if figures:
        folder = store.folder(manifest.key)
        for name in figures:
            picture = base64.b64encode((folder / name).read_bytes()).decode()
            title = name.removeprefix(f"{FIGURES}/").removesuffix(".png").replace("_", " ")
            shown[title] = dg.MetadataValue.md(f"![{title}](data:image/png;base64,{picture})")
    shown |= nested  # a line per value in the UI's tables, so below what is read first
    shown["artifact"] = dg.MetadataValue.path(f"{store.url}/{manifest.location}")
    return shown | {"fingerprint": manifest.fingerprint, "bytes": manifest.n_bytes}


def write_figure(draft: Draft, name: str, picture: Picture) -> None:
    """Put a figure into an artifact, in each of its formats; the UI shows it under its name."""
    folder = draft.folder / FIGURES
    folder.mkdir(exist_ok=True)
    for ending, content in picture._asdict().items():
        if content:
            (folder / f"{name}.{ending}").write_bytes(content)


def read_figure(folder: Path, name: str) -> Picture | None:
    """What a page shows of a figure, by the artifact's folder and its name; None if there is none.

    That is a third of the figure's bytes: a report has 1,000 of them in its hands.
    """
    for ending in ("webp", "svg", "png"):  # of which earlier versions wrote the last alone
        path = folder / FIGURES / f"{name}.{ending}"
        if path.exists():
            return Picture(**{ending: path.read_bytes()})
    return None
