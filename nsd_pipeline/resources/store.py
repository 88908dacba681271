"""Where artifacts are kept."""

import dagster as dg
from pydantic import Field

from nsd_pipeline.storage.store import Store, open_store


class StoreResource(dg.ConfigurableResource[Store]):
    """A folder or an S3 prefix that holds every artifact of the pipeline."""

    url: str = Field(
        default="./artifacts", description="a folder, or s3://bucket/prefix (credentials as AWS's)"
    )

    def open(self) -> Store:
        """Open the store."""
        return open_store(self.url)
