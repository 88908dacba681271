"""Where NSD's files are read from."""

import os

import dagster as dg
from pydantic import Field

from nsd_pipeline.storage.opening import open_source
from nsd_pipeline.storage.source import Source
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
        """Open the source, once NSD's terms have been accepted where they apply.

        Raises
        ------
        TermsNotAcceptedError
            If the source is a bucket and nobody has accepted the terms on this machine.
        """
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
