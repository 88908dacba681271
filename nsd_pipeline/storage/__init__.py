"""Where bytes come from, and where results go.

- ``source``, ``s3``: the dataset, on its bucket or in a local mirror, read and never written.
- ``terms``: NSD's terms of use, which must be accepted before the first byte from a bucket.
- ``transfer``: many byte ranges of one object into one file, resumable.
- ``store``, ``s3_store``, ``manifest``: our artifacts, which appear whole or not at all.
- ``replacing``: a single file that does.

Nothing here knows what the bytes mean.
"""

from nsd_pipeline.storage.manifest import Manifest, fingerprint
from nsd_pipeline.storage.source import ObjectInfo, Source, open_source
from nsd_pipeline.storage.store import Draft, Store, open_store
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
