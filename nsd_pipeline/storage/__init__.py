"""Where bytes come from, and where results go.

- ``opening``: opens the source and the store that a person names.
- ``names``: places, keys and paths that somebody else wrote, checked where they are read.
- ``source``, ``s3``: the dataset, in a local mirror or on its bucket, read and never written;
  ``range_file``: one of its objects as a seekable file.
- ``terms``: NSD's terms of use, which must be accepted before the first byte from a bucket.
- ``transfer``: many byte ranges of one object into one file, resumable.
- ``checksums``: whether an object that was read whole is what the server says it is.
- ``store``, ``local_store``, ``s3_store``, ``manifest``: our artifacts, which appear whole or not
  at all; ``zarr_guard``: chunks of a Zarr artifact are checked while they are read.
- ``s3_bucket``: what the store asks of a bucket; ``s3_servers``: how S3 servers differ.
- ``disk``: room on the local disk, what survives a power cut, single files that appear whole.

Nothing here knows what the bytes mean.
"""

from nsd_pipeline.storage.manifest import Manifest, fingerprint
from nsd_pipeline.storage.opening import open_source, open_store
from nsd_pipeline.storage.source import ObjectInfo, Source
from nsd_pipeline.storage.store import Draft, Store
from nsd_pipeline.storage.transfer import TransferReport, fetch

__all__ = [
    "Draft",
    "Manifest",
    "ObjectInfo",
    "Source",
    "Store",
    "TransferReport",
    "fetch",
    "fingerprint",
    "open_source",
    "open_store",
]
