"""What every asset does the same way: skip what is done, publish whole artifacts, tell the UI.

An asset says what an artifact is made from (a :class:`Recipe`) and how it is made; this module
decides whether that is still to be done, for one partition or a range of them.
"""

import base64
import functools
import hashlib
import json
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ParamSpec

import dagster as dg
import pandas as pd

from nsd_pipeline.errors import ArtifactError, NsdError, explain
from nsd_pipeline.storage.manifest import Manifest
from nsd_pipeline.storage.store import Draft, Store, fingerprint

P = ParamSpec("P")

Facts = Mapping[str, Any]
"""What is worth knowing of an artifact: JSON values, kept in its manifest and shown in the UI."""

FIGURES = "figures"
"""Folder of an artifact whose PNGs are shown in the UI."""


def ranged_asset(**options: Any) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """`dg.asset` for an asset whose range of partitions is one run.

    What a failed range had finished is skipped by the next.

    Parameters
    ----------
    options
        What `dg.asset` takes, but for ``backfill_policy``.
    """
    with warnings.catch_warnings():
        # Dagster says that it is in beta, and every process that loads the graph would print that
        # once an asset. Ignored here alone: a filter that stays would be the user's as well.
        warnings.filterwarnings("ignore", "Parameter `backfill_policy`", dg.BetaWarning)
        decorate: Callable[[Callable[..., Any]], dg.AssetsDefinition] = dg.asset(
            backfill_policy=dg.BackfillPolicy.single_run(), **options
        )
    return decorate


@dataclass(frozen=True)
class Recipe:
    """All that determines the content of one artifact.

    Parameters
    ----------
    key
        Where the artifact lies in the store.
    inputs
        Fingerprint (or ETag) of everything it is made from.
    config
        Settings that change its content.
    expected_bytes
        Size to check the disk for, before anything is written.
    """

    key: str
    inputs: Mapping[str, str]
    config: Mapping[str, Any] = field(default_factory=dict)
    expected_bytes: int = 0

    @property
    def digest(self) -> str:
        """Short for all that determines the content, but the version of the code."""
        return fingerprint(self.key, "", dict(self.config), dict(self.inputs))


def fails_plainly(function: Callable[P, None]) -> Callable[P, None]:
    """Let an asset that meets an error fail with a message for people, and without a retry."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            function(*args, **kwargs)
        except (dg.Failure, dg.RetryRequested, dg.DagsterError):
            raise
        except Exception as error:
            raise dg.Failure(str(explain(error)), allow_retries=False) from error

    return run


def require(store: Store, key: str, *, asset: str, partition: str | None = None) -> Manifest:
    """Manifest of a complete artifact that another one is made from.

    Raises
    ------
    ArtifactError
        If it has not been materialized, or is damaged.
    """
    manifest = store.find(key)
    if manifest is None:
        option = f" --partition {partition}" if partition else ""
        raise ArtifactError(
            f"{asset}{f' of {partition}' if partition else ''} has not been materialized"
            f" ({store.url}/{key}).",
            next_step=f"run `dagster asset materialize -m nsd_pipeline.definitions"
            f" --select {asset}{option}`, or materialize it in the web UI.",
        )
    return manifest


def require_all(store: Store, partition: str, **keys: Callable[[str], str]) -> dict[str, Manifest]:
    """Manifests, by asset, of what one partition is made from: see `require`.

    Parameters
    ----------
    keys
        For each asset, the key of its artifact by partition.
    """
    return {
        asset: require(store, key(partition), asset=asset, partition=partition)
        for asset, key in keys.items()
    }


def materialize_artifacts(
    context: dg.AssetExecutionContext,
    store: Store,
    *,
    recipe: Callable[[str], Recipe],
    make: Callable[[str, Recipe, Draft], Facts],
) -> None:
    """Bring the artifact of every partition of this run up to date.

    An artifact whose recipe has not changed is left alone. A partition that fails does not keep
    the others of its range from being finished and recorded; the step fails at its end.

    Parameters
    ----------
    recipe
        Recipe of a partition (of ``""`` where the asset has none).
    make
        Writes an artifact into a draft's folder and returns facts about it.

    Raises
    ------
    dagster.Failure
        If any partition ended in an error: with a message for each, which names the artifact,
        the partition and the next step. They are not retried: the same would happen again.
    """
    asset = context.asset_key.to_user_string()
    code_version = context.assets_def.code_versions_by_key[context.asset_key] or "1"
    done: dict[str, dict[str, dg.MetadataValue]] = {}
    versions: list[str] = []
    up_to_date: list[str] = []
    failed: dict[str, NsdError] = {}

    def named(partition: str) -> str:
        return f"{asset} {partition}" if partition else asset

    def bring_up_to_date(partition: str) -> None:
        plan = recipe(partition)
        wanted = fingerprint(asset, code_version, dict(plan.config), dict(plan.inputs))
        manifest = store.manifest(plan.key)
        if manifest is not None and manifest.fingerprint == wanted:
            up_to_date.append(named(partition))
            status = "up to date, nothing was redone"
        else:
            with store.write(
                plan.key,
                asset=asset,
                partition=partition or None,
                fingerprint=wanted,
                code_version=code_version,
                inputs=dict(plan.inputs),
                config=dict(plan.config),
                expected_bytes=plan.expected_bytes,
            ) as draft:
                draft.metadata.update(make(partition, plan, draft))
            manifest = require(store, plan.key, asset=asset, partition=partition or None)
            context.log.info(f"{named(partition)}: written to {store.url}/{plan.key}")
            status = "made"
        versions.append(manifest.fingerprint)
        done[partition] = {"status": dg.MetadataValue.text(status)} | _shown(store, manifest)

    try:
        for partition in context.partition_keys if context.assets_def.partitions_def else [""]:
            try:
                bring_up_to_date(partition)
            except Exception as error:  # whatever it is, it is this partition's alone
                failed[partition] = explain(error)
                context.log.error(f"{named(partition)}: {failed[partition]}")
                if not isinstance(error, NsdError):
                    context.log.debug("".join(traceback.format_exception(error)))
    except BaseException:
        _record(context, done)
        raise
    # One line for all: Dagster commits each line by itself, which takes longer than finding out.
    if up_to_date:
        context.log.info(f"{', '.join(up_to_date)}: up to date, nothing was redone.")
    if failed:
        _record(context, done)
        raise dg.Failure(
            description="\n\n".join(
                f"{named(partition)}: {error}" for partition, error in failed.items()
            ),
            metadata={"failed partitions": dg.MetadataValue.json(sorted(failed))},
            allow_retries=False,
        )
    for partition, metadata in done.items():
        context.add_asset_metadata(metadata, partition_key=partition or None)
    context.set_data_version(context.asset_key, _data_version(context, code_version, versions))


def _data_version(
    context: dg.AssetExecutionContext, code_version: str, fingerprints: Sequence[str]
) -> dg.DataVersion:
    """What the UI compares to find out what is stale.

    Dagster gives all partitions of a run one version. If it were made from their contents, a
    session would look new whenever it is materialized in other company, so where ranges are
    possible it says how the artifacts were made, not what is in them.
    """
    if context.assets_def.backfill_policy is None:
        return dg.DataVersion(fingerprints[0])
    how = json.dumps([code_version, context.op_execution_context.op_config], sort_keys=True)
    return dg.DataVersion(hashlib.sha256(how.encode()).hexdigest())


def _record(
    context: dg.AssetExecutionContext, done: Mapping[str, dict[str, dg.MetadataValue]]
) -> None:
    """Record what a failing or interrupted range had finished, which Dagster would forget."""
    for partition, metadata in done.items():
        context.log_event(
            dg.AssetMaterialization(
                context.asset_key, partition=partition or None, metadata=metadata
            )
        )


def _shown(store: Store, manifest: Manifest) -> dict[str, dg.MetadataValue]:
    """What the UI shows of an artifact: its facts, its figures, and where it lies."""
    shown: dict[str, dg.MetadataValue] = {}
    nested: dict[str, dg.MetadataValue] = {}
    for name, fact in manifest.metadata.items():
        match fact:
            case bool():
                shown[name] = dg.MetadataValue.bool(fact)
            case int():
                shown[name] = dg.MetadataValue.int(fact)
            case float():
                # The manifest has all digits; a table in the web UI is for reading.
                shown[name] = dg.MetadataValue.float(float(f"{fact:.4g}"))
            case str():
                shown[name] = dg.MetadataValue.text(fact)
            case [dict(), *_]:
                shown[name] = dg.MetadataValue.md(pd.DataFrame(fact).to_markdown(index=False))
            case [str(), *_]:
                words = ", ".join(fact)
                # Markdown is a link that opens it: a model can be of 284 sessions.
                kind = dg.MetadataValue.text if len(words) <= 200 else dg.MetadataValue.md
                shown[name] = kind(words)
            case _:
                nested[name] = dg.MetadataValue.json(fact)
    figures = sorted(name for name in manifest.files if name.startswith(f"{FIGURES}/"))
    if figures:
        folder = store.folder(manifest.key)
        for name in figures:
            picture = base64.b64encode((folder / name).read_bytes()).decode()
            title = name.removeprefix(f"{FIGURES}/").removesuffix(".png").replace("_", " ")
            shown[title] = dg.MetadataValue.md(f"![{title}](data:image/png;base64,{picture})")
    shown |= nested  # a line per value in the UI's tables, so below what is read first
    shown["artifact"] = dg.MetadataValue.path(f"{store.url}/{manifest.location}")
    shown["fingerprint"] = dg.MetadataValue.text(manifest.fingerprint)
    shown["bytes"] = dg.MetadataValue.int(manifest.n_bytes)
    return shown


def write_figure(draft: Draft, name: str, png: bytes) -> None:
    """Put a figure into an artifact; the UI shows it under its name."""
    folder = draft.folder / FIGURES
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.png").write_bytes(png)
