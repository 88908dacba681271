"""Where bytes come from, and where results go.

- ``source``, ``s3``, ``mirror``: the dataset, on its bucket or in a local mirror, read and never
  written.
- ``terms``: NSD's terms of use, which must be accepted before the first byte from a bucket.
- ``transfer``: many byte ranges of one object into one file, resumable.
- ``checksums``: whether what came whole is what the server says it is.
- ``store``, ``local_store``, ``s3_store``, ``manifest``: our artifacts, which appear whole or not
  at all; ``durable``: after a power cut, too; ``zarr_guard``: compared while they are read.
- ``s3_bucket``, ``s3_lacks``, ``s3_probe``, ``s3_versions``: how S3 is asked, also where a server
  lacks something.
- ``places``: what people may write where a folder or a bucket is asked for.
- ``replacing``: a single file that appears whole.

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
