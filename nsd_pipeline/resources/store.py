"""Where artifacts are kept."""

import dagster as dg
from pydantic import Field

from nsd_pipeline.launchers import shell
from nsd_pipeline.storage.opening import open_store
from nsd_pipeline.storage.store import Store


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
            shell.sign(context.instance, context.run)

    def open(self) -> Store:
        """Open the store."""
        return open_store(self.url)
