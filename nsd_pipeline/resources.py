"""Configured access to the world outside: thin wrappers that hand plain objects to the assets."""

import os
from contextlib import AbstractContextManager

import dagster as dg
from pydantic import Field

from nsd_pipeline.launchers import run_processes
from nsd_pipeline.launchers.devices import leased_device
from nsd_pipeline.storage.opening import open_source, open_store
from nsd_pipeline.storage.source import Source
from nsd_pipeline.storage.store import Store
from nsd_pipeline.storage.terms import require_acceptance

ENDPOINT = os.environ.get("NSD_SOURCE_ENDPOINT")
"""Server of the source where boto3's variables name another one, which has the artifacts."""

SIGNED = os.environ.get("NSD_SOURCE_SIGNED") == "1"
"""Whether the source is a private copy, which boto3's credentials open."""


class SourceResource(dg.ConfigurableResource[Source]):
    """NSD's public bucket, another bucket with the same layout, or a local mirror."""

    url: str = Field(
        default="s3://natural-scenes-dataset",
        description="s3://bucket[/prefix], or the folder of a local mirror, which is read in place",
    )
    region: str = Field(default="us-east-2", description="AWS region of the bucket")
    endpoint_url: str | None = Field(
        default=ENDPOINT,
        description="S3 server that has the bucket; the default is NSD_SOURCE_ENDPOINT's, else"
        " boto3's own (AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, AWS itself)",
    )
    signed: bool = Field(
        default=SIGNED,
        description="sign requests with boto3's credentials, for a private copy of the bucket;"
        " the default is whether NSD_SOURCE_SIGNED is 1",
    )
    max_concurrency: int = Field(
        default=32, ge=1, le=256, description="requests in flight at the same time"
    )

    def open(self) -> Source:
        """Open the source; a TermsNotAcceptedError if NSD's terms apply and are not accepted."""
        source = open_source(
            self.url,
            region=self.region,
            endpoint_url=self.endpoint_url,
            max_concurrency=self.max_concurrency,
            signed=self.signed,
        )
        if source.requires_terms:
            require_acceptance(source.url)
        return source


class StoreResource(dg.ConfigurableResource[Store]):
    """A folder or an S3 prefix that holds every artifact of the pipeline."""

    url: str = Field(
        default="./artifacts", description="a folder, or s3://bucket/prefix (credentials as AWS's)"
    )

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Note in the run's tags which process it is, before its first step begins.

        Here, because every run has a store, and nothing else of ours is called in a shell's run.
        """
        if context.run is not None and context.instance is not None:  # not in a schedule's tick
            run_processes.sign(context.instance, context.run)

    def open(self) -> Store:
        """Open the store."""
        return open_store(self.url)


class GpuResource(dg.ConfigurableResource["GpuResource"]):
    """A GPU for the time that an asset needs one.

    A run that the launcher gave a device to uses that one. `dagster asset materialize`, which no
    launcher sees, waits for a free device, so that two shells do not share one.
    """

    timeout: float | None = Field(
        default=None, description="seconds to wait for a free GPU before failing; no limit if unset"
    )

    def lease(self) -> AbstractContextManager[str | None]:
        """Hold a GPU for the length of a ``with`` block: see `leased_device`."""
        return leased_device(self.timeout)
