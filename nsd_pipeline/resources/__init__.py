"""Configured access to the world outside: thin wrappers that hand plain objects to the assets."""

from nsd_pipeline.resources.gpu import GpuResource
from nsd_pipeline.resources.source import SourceResource
from nsd_pipeline.resources.store import StoreResource

__all__ = ["GpuResource", "SourceResource", "StoreResource"]
